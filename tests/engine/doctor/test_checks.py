"""Checks that need labels and sizes only, on splits written down here: right values, places, and what stays silent."""

import numpy as np
import pytest

from engine.doctor import balance, boxes, formats
from engine.doctor.checks import CHECKS, IDS, chosen_ids, skipped
from engine.doctor.dataset import Dataset, DoctorSplit

RIGHT = np.random.default_rng(0).uniform(0.1, 0.4, (40, 4))  # boxes inside: x, y above, w and h below half of them


def split(labels, sizes=(640, 480), name="train", yolo=False):
    """A split of images with these labels, each a list of `[class, xywhn]`; sizes of all or of each."""
    labels = [np.array(x, np.float64).reshape(-1, 5) for x in labels]
    sizes = np.array(sizes if isinstance(sizes, list) else [sizes] * len(labels), np.int64)
    files = [f"{name}/{i}.jpg" for i in range(len(labels))]
    return DoctorSplit(name, name, yolo, files, files, [f"{f}.txt" for f in files], labels, sizes, [])


def dataset(*splits, names=("a", "b"), **settings):
    return Dataset("my.yaml", {}, dict(enumerate(names)), {s.name: s for s in splits}, **settings)


def found(check, *splits, **settings):
    """{id: finding} of one check."""
    findings = list(check(dataset(*splits, **settings)))
    assert {f.id for f in findings} <= {id for c in CHECKS if c.function is check for id in c.ids}
    return {f.id: f for f in findings}


def with_class(rows, cls=0):
    return [[cls, *row] for row in np.asarray(rows).tolist()]


def test_size_in_net_pixels_decides_what_is_tiny():
    """T10: 1920 x 1080 at 640: .004 x .02 has 2.56 x 7.2 net pixels, .002 x .02 has 1.28."""
    one = split([[[0, 0.5, 0.5, 0.004, 0.02], [0, 0.5, 0.5, 0.002, 0.02]]], (1920, 1080))
    assert dataset(one).net_sides(one) == pytest.approx(np.array([[2.56, 7.2], [1.28, 7.2]]))
    got = found(boxes.check_tiny, one)
    assert [p.note for p in got["boxes.tiny"].places] == ["1.3 pixels"]
    assert [p.note for p in got["boxes.below_stride"].places] == ["2.6 pixels"]
    assert found(boxes.check_tiny, one, imgsz=1280).keys() == {"boxes.below_stride"}
    assert not found(boxes.check_tiny, split([with_class([[0.5, 0.5, 0.1, 0.1]])]))


def test_anchors():
    """T11: (400, 40) and (640, 640) fit the P5 anchors at a factor of 4, (600, 30) and (8, 3) do not."""
    sides = np.array([(400, 40), (600, 30), (8, 3), (640, 640)]) / 640
    one = split([with_class([[0.5, 0.5, w, h] for w, h in sides])], (640, 640))
    finding = found(boxes.check_anchors, one)["boxes.no_anchor"]
    assert (finding.count, finding.total) == (2, 4)
    assert [p.note for p in finding.places] == ["600 x 30 pixels", "8 x 3 pixels"]
    assert not found(boxes.check_anchors, one, anchors=None)


def test_double_labels():
    """T11: .5 .5 .2 .2 against .505 has IoU .9512, against .512 .8868."""
    twice = [[0, 0.5, 0.5, 0.2, 0.2], [1, 0.1, 0.1, 0.1, 0.1], [0, 0.505, 0.5, 0.2, 0.2]]
    near = [[0, 0.5, 0.5, 0.2, 0.2], [0, 0.512, 0.5, 0.2, 0.2], [0, 0.1, 0.1, 0.1, 0.1]]
    names = [[0, 0.5, 0.5, 0.2, 0.2], [1, 0.505, 0.5, 0.2, 0.2]]
    got = found(boxes.check_double, split([[], near, twice, names]))
    assert got["boxes.double"].count == got["boxes.two_names"].count == 1
    place = got["boxes.double"].places[0]
    assert place.value == pytest.approx(0.9512, abs=1e-4)
    assert place.image == "train/2.jpg"
    assert place.box == (0.5, 0.5, 0.2, 0.2)
    assert got["boxes.two_names"].places[0].note == "IoU 0.951, a and b"


def test_pairs_do_not_depend_on_how_many_are_compared_at_a_time(monkeypatch):
    rng = np.random.default_rng(1)
    one = split([np.c_[np.zeros(n), rng.uniform(0.4, 0.6, (n, 4))] for n in (3, 7, 3, 3, 12)])
    whole = boxes.overlapping_pairs(one, 0.6)
    monkeypatch.setattr("utils.boxes.PAIRS", 1)
    for a, b in zip(whole, boxes.overlapping_pairs(one, 0.6), strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(whole[0]) > 3


def as_corners(rows):
    x, y, w, h = rows.T
    return np.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), 1)


def test_notations():
    rows = RIGHT * (2.2, 2.2, 0.3, 0.3)  # all over the image
    left = np.concatenate((rows[:, :2] - rows[:, 2:] / 2, rows[:, 2:]), 1)
    assert formats.suspected_notations(rows) == []
    assert formats.suspected_notations(as_corners(rows)) == ["corners"]
    assert formats.suspected_notations(left * (0.05, 0.05, 1, 1)) == ["top_left"]
    large = np.array([[0.5, 0.5, 0.9, 0.9]] * 30) + np.linspace(-0.04, 0.04, 30)[:, None]  # w > x is usual there
    assert formats.suspected_notations(large.clip(0, 0.94)) == []


def test_few_lines_name_the_edge_and_not_the_notation():
    """T13: line 1 of shared/cases/data/xyxy-labels has edges -.20, -.25, .40, .45."""
    line = [0.1, 0.1, 0.6, 0.7]
    np.testing.assert_allclose(formats.edges(np.array([line])), [[-0.2, -0.25, 0.4, 0.45]])
    finding = found(formats.check_outside, split([with_class([line])]))["labels.outside"]
    assert finding.places[0].note == "top edge at -0.25"
    assert "labels.corners" in found(formats.check_outside, split([with_class(as_corners(RIGHT))]))


def test_key_points_and_polygons_are_told_apart():
    rng = np.random.default_rng(0)
    box = np.c_[rng.uniform(0.3, 0.7, (50, 2)), rng.uniform(0.05, 0.2, (50, 2))]
    points = box[:, None, :2] + box[:, None, 2:] * rng.uniform(-0.5, 0.5, (50, 4, 2))
    assert formats.key_points_fit(np.c_[np.zeros(50), box, points.reshape(50, -1)])
    visible = np.concatenate((points, np.full((50, 4, 1), 2.0)), 2)
    assert formats.key_points_fit(np.c_[np.zeros(50), box, visible.reshape(50, -1)])
    angle = np.linspace(0, 2 * np.pi, 6, endpoint=False)
    outline = box[:, None, :2] + box[:, None, 2:] / 2 * np.stack((np.cos(angle), np.sin(angle)), 1)
    assert not formats.key_points_fit(np.c_[np.zeros(50), outline.reshape(50, -1)])


def test_shapes():
    rows = [[0.5, 0.5, 0.9, 0.001], [0.5, 0.5, 0.9, 0.03], [0.5, 0.5, 0.99, 0.98]]
    findings = list(boxes.check_shapes(dataset(split([with_class(rows)], (1000, 1000)))))
    assert [(f.id, f.severity, f.count) for f in findings] == [
        ("boxes.thin", "error", 1), ("boxes.thin", "note", 1), ("boxes.whole_image", "warning", 1),
    ]  # fmt: skip
    edge = with_class([[0.1, 0.5, 0.2, 0.2]])
    assert found(boxes.check_shapes, split([edge]))["boxes.at_border"].count == 1


def test_crowded_and_copied():
    many = with_class(np.tile([0.5, 0.5, 0.1, 0.1], (301, 1)))
    finding = found(boxes.check_crowded, split([many, many[:300]]))["boxes.crowded"]
    assert (finding.count, finding.places[0].note) == (1, "301 labels")
    same = split([many[:2]] * 5 + [many[:1]] * 4, yolo=True)
    assert found(boxes.check_copied_labels, same)["boxes.copied_files"].count == 5


def test_classes():
    train = split([with_class(RIGHT[:20]), with_class(RIGHT[:2], 1), *[with_class(RIGHT[:1])] * 200])
    val = split([with_class(RIGHT[:20], 1)] * 5, name="val")
    got = list(balance.check_absent(dataset(train, val, names=("a", "b", "never"))))
    texts = {(f.id, f.split): f.message for f in got}
    assert texts["balance.absent", "train"] == "no label of class 2 (never): 0 in val"
    assert texts["balance.absent", "val"] == "no label of class 0 (a): 220 in train"
    assert texts["balance.few", "train"].endswith("1 (b): 2 in 1 images")
    assert ("balance.few", "val") not in texts
    (alone, *_) = balance.check_absent(dataset(train, names=("a", "b", "never")))
    assert alone.message == "no label of class 2 (never)"
    got = found(balance.check_ratio, train, val)
    assert got["balance.ratio"].severity == "warning"
    assert "110.0 times" in got["balance.ratio"].message
    assert got["balance.drift"].count == 1
    assert not found(balance.check_ratio, split([with_class(RIGHT[:20]) + with_class(RIGHT[:20], 1)]))


def test_numbers_of_splits():
    val = split([with_class(RIGHT)] * 3 + [[]] * 4, name="val")
    assert found(balance.check_backgrounds, val)["balance.background"].count == 4
    assert found(balance.check_size, val)["balance.small_val"].severity == "note"
    assert not found(balance.check_size, split([with_class(RIGHT)] * 50, name="val"))


def test_choice_of_checks():
    assert chosen_ids((), ()) == set(IDS)
    assert len(IDS) == len(set(IDS))
    assert chosen_ids(["boxes.double", "balance"], ["balance.few"]) >= {"boxes.double", "balance.ratio"}
    with pytest.raises(ValueError, match="--skip 'box': no such check"):
        chosen_ids((), ["box"])
    with pytest.raises(ValueError, match="no check is left"):
        chosen_ids(["boxes.double"], ["boxes"])
    assert skipped({}) == []
    assert skipped({"doctor": {"skip": ["boxes"]}}) == ["boxes"]
    with pytest.raises(ValueError, match=r"'doctor' must be a mapping such as doctor: \{skip: \[boxes.thin\]\}"):
        skipped({"doctor": {"only": ["boxes"]}})
