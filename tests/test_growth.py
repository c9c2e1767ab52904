"""What must not grow faster than its input, by counts of pairs, comparisons, objects and bytes; no clock is read."""

import sys
import tracemalloc

import numpy as np
import pytest
import torch

from engine.doctor.boxes import DOUBLE, overlapping_pairs
from engine.doctor.dataset import DoctorSplit
from engine.inference.slicing import merge_tiles
from engine.validation.class_map import match_classes
from engine.validation.evaluation import ImageResult, Tally
from utils.boxes import touching_pairs
from utils.datasets.dataset import check_dataset
from utils.datasets.label_cache import NO_LABELS, LabelSet, Pieces, read_cache, write_cache
from utils.datasets.output_names import image_ids
from utils.datasets.tiles import cut_labels, tile_grid
from utils.metrics import ConfusionMatrix, Rows


def boxes_on(side, n, seed=0):
    """(n, 4) xyxy of 5 to 50 pixels in a square."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform(0, side, (n, 2))
    return np.concatenate((xy, xy + rng.uniform(5, 50, (n, 2))), 1)


def peak_bytes(function):
    """Most memory that arrays of a call had."""
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("at_once", [7, 1 << 20])
def test_touching_pairs_are_those_of_the_whole_table(monkeypatch, at_once):
    monkeypatch.setattr("utils.boxes.PAIRS", at_once)
    a, b = boxes_on(300, 40), np.concatenate((boxes_on(300, 60, 1), [[-900, -900, 900, 900], [10, 10, 10, 10]]))
    a[0] = [*a[1, 2:], *(a[1, 2:] + 9)]  # touches in a corner
    b[0] = a[1]
    rng = np.random.default_rng(2)
    group_a, group_b = rng.integers(0, 3, len(a)), rng.integers(0, 3, len(b))
    near = ((a[:, None, :2] <= b[None, :, 2:]) & (b[None, :, :2] <= a[:, None, 2:])).all(2)
    expected = np.argwhere(near & (group_a[:, None] == group_b))
    found = np.concatenate([np.stack(part, 1) for part in touching_pairs(a, b, group_a, group_b)])
    assert (np.diff(found[:, 0]) >= 0).all()
    assert found[np.lexsort(found.T[::-1])].tolist() == expected.tolist()
    assert len(expected) > 20
    assert list(touching_pairs(a[:0], b, group_a[:0], group_b)) == []


def labels_twice(n):
    rng = np.random.default_rng(0)
    xywh = rng.uniform((0.1, 0.1, 0.01, 0.01), (0.9, 0.9, 0.03, 0.03), (n, 4))
    xywh[:, 2:] /= (n / 1000) ** 0.5
    labels = np.concatenate((np.zeros((n, 1)), xywh), 1).astype(np.float32)
    split = DoctorSplit("train", "", True, [], ["a"], ["a"], [labels], np.array([[640, 480]]), [])
    return lambda: overlapping_pairs(split, DOUBLE)


def tiles_of(n):
    side = round(320 * (n / 50) ** 0.5)
    return tile_grid(side, side, 320), side


def cut(n):
    windows, side = tiles_of(n)
    boxes = boxes_on(side - 50, n) / side
    xywhn = np.concatenate(((boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]), 1)
    labels = np.concatenate((np.zeros((n, 1)), xywhn), 1).astype(np.float32)
    return lambda: cut_labels(labels, [], (side, side), windows)


@pytest.mark.parametrize("made", [labels_twice, cut])
def test_boxes_of_a_crowded_image_need_no_table_of_all_pairs(made):
    few, many = (peak_bytes(made(n)) for n in (300, 1200))
    assert many < 6 * few  # a table would take 16 times as much


@pytest.mark.parametrize("agnostic", [False, True])
def test_many_detections_in_tiles_are_merged_as_few(monkeypatch, agnostic):
    windows, side = tiles_of(600)
    found = []
    for k, (x1, y1, x2, y2) in enumerate(windows):
        rng = np.random.default_rng(k)
        boxes = boxes_on(side - 50, 600)[::2] + rng.normal(0, 1, (300, 1))
        boxes = boxes.clip((x1, y1, x1, y1), (x2, y2, x2, y2))
        rows = np.concatenate((boxes, rng.uniform(0, 1, (300, 1)).round(2), np.arange(300)[:, None] % 3), 1)
        found.append(torch.from_numpy(rows[((boxes[:, 2:] - boxes[:, :2]) > 3).all(1)]).float())
    few = merge_tiles(found, windows, (side, side), 0.45, agnostic, 1000)
    monkeypatch.setattr("engine.inference.slicing.MANY", 0)
    many = merge_tiles(found, windows, (side, side), 0.45, agnostic, 1000)
    assert torch.equal(few, many)
    assert 200 < len(few) < sum(map(len, found)) - 100
    assert len(merge_tiles([f[:0] for f in found], windows, (side, side), 0.45, agnostic, 1000)) == 0


def counted(tally, images):
    for i in range(images):
        rng = np.random.default_rng(i)
        boxes = torch.from_numpy(boxes_on(600, 8, i)).float()
        found = torch.cat((boxes, torch.from_numpy(rng.random((8, 1))).float(), torch.zeros(8, 1)), 1)
        tally.add(ImageResult(found, torch.cat((torch.zeros(8, 1), boxes), 1), (640, 640), "a.jpg", found[:4]))
    return tally


@pytest.mark.parametrize("details", [False, True])
def test_validation_keeps_no_objects_for_an_image(details):
    counted(Tally(3, None, details), 10)
    tally = counted(Tally(3, None, details), 100)
    before = sys.getallocatedblocks()
    counted(tally, 100)
    assert sys.getallocatedblocks() - before < 100 * 4  # those of the confusion matrix wait for their count


def test_rows_are_joined_and_stay_what_they_were():
    rows, parts = Rows(), [np.arange(2 * n).reshape(n, 2) for n in (0, 3, 1, 40, 0, 5)]
    for part in parts:
        rows.add(part, part[:, 0] > 1)
    pairs, large = rows.columns()
    expected = np.concatenate(parts)
    assert (len(rows), pairs.tolist(), large.tolist()) == (49, expected.tolist(), (expected[:, 0] > 1).tolist())
    assert pairs.dtype == expected.dtype
    rows.add(parts[1], parts[1][:, 0] > 1)
    assert pairs.tolist() == expected.tolist()


def test_cells_of_a_confusion_matrix_are_merged_seldom(monkeypatch):
    calls, unique = [], np.unique
    monkeypatch.setattr("utils.metrics.WAITING_CELLS", 10)
    monkeypatch.setattr("utils.metrics.np.unique", lambda x, **k: calls.append(len(x)) or unique(x, **k))
    matrix = ConfusionMatrix(1000)
    for c in range(1000):  # a new cell each time
        matrix.process_batch(None, torch.tensor([c]))
    assert matrix.blocks(1000)[0].sum() == 1000
    assert sum(calls) < 10 * 1000


class Name(str):
    """A class name that counts how often it is compared."""

    compared = 0

    def __eq__(self, other):
        Name.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_choice_of_classes_compares_each_name_a_few_times(tmp_path):
    n = 500
    names = {i: Name(f"class {i}") for i in range(n)}
    data = {"train": ".", "val": ".", "names": dict(names), "path": str(tmp_path)}
    found = check_dataset(data, classes=[Name(f"class {i}") for i in reversed(range(n))])
    selection = found["selection"]
    assert match_classes(selection, names, False, "best.pt").parts[:n] == [[n - 1 - i] for i in range(n)]
    assert Name.compared < 30 * n


def polygons_of(n):
    """n lists of up to 3 polygons."""
    rng = np.random.default_rng(0)
    return [[rng.random((int(k), 2), np.float32) for k in rng.integers(0, 5, rng.integers(0, 4))] for _ in range(n)]


def test_pieces_are_the_lists_that_they_are_made_of():
    lists = polygons_of(30)
    pieces = Pieces.nested(lists)
    assert [[p.tolist() for p in part] for part in pieces] == [[p.tolist() for p in part] for part in lists]
    assert (len(pieces), len(pieces[-1]), len(pieces[3:5])) == (30, len(lists[-1]), 2)
    pieces[4] = []
    order = np.array([7, 4, 4, 0, 29])
    taken = pieces.take(order)
    lists[4] = []
    assert [[p.tolist() for p in part] for part in taken] == [[p.tolist() for p in lists[i]] for i in order]
    pieces[10:12] = [lists[0], []]
    lists[10:12] = [lists[0], []]
    for joined, expected in ((pieces + lists, lists + lists), ([] + pieces, lists), (pieces + taken, [*lists, *taken])):
        assert [[p.tolist() for p in part] for part in joined] == [[p.tolist() for p in part] for part in expected]
    with pytest.raises(ValueError, match="shorter"):
        pieces[0:2] = [[]]
    for i in (30, -31):
        with pytest.raises(IndexError):
            pieces[i]
    for lengths in ([2, 2], [4, -1], [1.5, 1.5], [[3]]):
        with pytest.raises(ValueError, match="3 rows for lengths"):
            Pieces(np.zeros((3, 5)), np.array(lengths))


def test_labels_from_the_cache_are_no_objects(tmp_path):
    def blocks(n):
        files = [f"{i}.jpg" for i in range(n)]
        labels = Pieces.of(
            [np.float32([0, 1, 1, 1, 1]) * np.full((len(p), 5), 0.1, np.float32) for p in polygons_of(n)], NO_LABELS
        )
        counts = dict.fromkeys(("found", "missing", "empty", "corrupt"), 0)
        label_set = LabelSet(files, files, labels, Pieces.nested(polygons_of(n)), np.full((n, 2), 9), counts, [])
        write_cache(tmp_path / "a.cache", "key", label_set, files)
        before = sys.getallocatedblocks()
        found = read_cache(tmp_path / "a.cache", "key", files, files)
        held = sys.getallocatedblocks() - before
        assert [len(x) for x in found.segments] == [len(x) for x in found.labels] == [len(x) for x in polygons_of(n)]
        return held

    blocks(10)
    assert blocks(400) < blocks(200) + 100


def test_ids_of_images_compare_each_name_a_few_times():
    n, before = 500, Name.compared
    names = {Name(f"{i:03}.jpg"): f"{i:03}" for i in range(n)}
    assert image_ids(names, [Name("000.jpg")]) == {f"{i:03}.jpg": i or "000" for i in range(n)}
    assert Name.compared - before < 30 * n
