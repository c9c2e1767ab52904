"""Labels and YAML: what was written is read; whatever else stands in a file gives labels in bounds, or an error."""

import json
import math

import numpy as np
import pytest

pytest.importorskip("hypothesis")
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from utils.datasets.coco import join_parts, read_tables
from utils.datasets.reader import parse_labels, verify_objects
from utils.datasets.voc import read_voc
from utils.files import yaml_load, yaml_save

NC = 4
CLASSES = {"a": 0, "b": 1, "it's ß": 2}
WORDS = st.one_of(
    st.integers(-2, 9).map(str),
    st.floats(width=32).map(str),
    st.floats(-0.1, 1.1).map(lambda x: f"{x:.6g}"),
    st.sampled_from(["nan", "inf", "-0", "1e-46", "1e400", "1_0", "x", "\u00bd", "\u0663", "0x1", "1e-3", "1.0005"]),
)
LINES = st.one_of(
    st.lists(WORDS, max_size=12).map(" ".join),
    st.tuples(st.integers(0, 9), *[st.floats(0, 1)] * 8).map(lambda row: " ".join(f"{x:g}" for x in row)),
    st.text(max_size=20),
)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    file = tmp_path_factory.mktemp("images") / "image.png"
    Image.new("RGB", (40, 20)).save(file)
    return str(file)


def check(labels, segments, messages):
    """What the rest of the program counts on."""
    assert labels.dtype == np.float32
    assert labels.shape == (len(labels), 5)
    assert np.isfinite(labels).all()
    assert ((labels[:, 0] >= 0) & (labels[:, 0] < NC) & (labels[:, 0] % 1 == 0)).all()
    assert ((labels[:, 1:] >= 0) & (labels[:, 1:] <= 1)).all()
    assert (labels[:, 3:] > 0).all()
    assert len(np.unique(labels, axis=0)) == len(labels)
    assert len(segments) in (0, len(labels))
    for segment in segments:
        assert segment.shape == (len(segment), 2)
        assert ((segment >= 0) & (segment <= 1)).all()
    assert not any("\n" in message for message in messages)


def named_error(read, file):
    """What is read, or None where the file is refused with an error that begins with its name."""
    refused = []
    try:
        return read(file)
    except ValueError as error:
        refused.append(str(error))
    assert refused[0].startswith(f"{file}:")
    return None


@given(st.lists(LINES, max_size=8))
def test_any_text_gives_labels_in_bounds_and_a_message_for_each_other_line(lines):
    text = "\n".join(lines)
    labels, segments, messages = parse_labels(text, "a.txt", NC)
    check(labels, segments, messages)
    assert all(message.startswith("a.txt:") for message in messages)
    filled = sum(bool(line.strip()) for line in text.splitlines())
    assert len(labels) <= filled
    assert messages or len(labels) == filled


@given(
    st.lists(
        st.tuples(st.integers(0, NC - 1), *[st.floats(0.01, 0.99)] * 2, *[st.floats(1e-4, 1)] * 2),
        unique=True,
        max_size=6,
    ),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([" ", "\t", "  "]),
)
def test_boxes_that_were_written_are_read(rows, end, gap):
    text = end.join(gap.join(map(repr, row)) for row in rows)
    labels, segments, messages = parse_labels(text, "a.txt", NC)
    expected = np.array(rows, np.float32).reshape(-1, 5)
    if len(np.unique(expected, axis=0)) == len(expected):  # two rows may be one in float32
        np.testing.assert_array_equal(labels, expected)
        assert not messages
    assert segments == []


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=8))
def test_a_polygon_lies_in_the_box_that_is_its_label(points):
    numbers = " ".join(f"{x:.6f} {y:.6f}" for x, y in points)
    labels, segments, _ = parse_labels(f"1 {numbers}", "a.txt", NC)
    written = np.array(numbers.split(), np.float64).reshape(-1, 2)
    size = np.ptp(written, axis=0)
    assert len(labels) == int((size > 0).all())
    for label, segment in zip(labels, segments, strict=True):
        np.testing.assert_allclose(segment, written, atol=1e-6)
        np.testing.assert_allclose(label[1:], [*(written.min(0) + size / 2), *size], atol=1e-6)


JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 50),
        st.sampled_from([10**400, 1e308, math.nan, math.inf, -math.inf, 1e-300, 2**63]),
        st.floats(),
        st.text(max_size=3),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=8,
)


def perhaps(usual):
    """Mostly a value of the kind that belongs there."""
    return st.one_of(usual, usual, usual, JSON)


NUMBER = perhaps(st.floats(0, 20))
COCO = st.fixed_dictionaries(
    {
        "images": st.lists(
            st.fixed_dictionaries(
                {
                    "id": perhaps(st.integers(0, 2)),
                    "file_name": perhaps(st.just("image.png")),
                    "width": perhaps(st.just(40)),
                    "height": perhaps(st.just(20)),
                }
            ),
            max_size=2,
        ),
        "categories": st.lists(
            st.fixed_dictionaries({"id": perhaps(st.integers(0, 2)), "name": perhaps(st.sampled_from(list(CLASSES)))}),
            max_size=3,
        ),
        "annotations": st.lists(
            st.fixed_dictionaries(
                {"image_id": perhaps(st.integers(0, 2)), "category_id": perhaps(st.integers(0, 2))},
                optional={
                    "bbox": perhaps(st.lists(NUMBER, min_size=4, max_size=4)),
                    "segmentation": perhaps(st.lists(st.lists(NUMBER, max_size=8), max_size=2)),
                    "iscrowd": perhaps(st.just(0)),
                    "id": JSON,
                },
            ),
            max_size=4,
        ),
    }
)


@given(st.one_of(COCO, perhaps(COCO)))
def test_any_coco_file_gives_labels_in_bounds_or_a_named_error(image, tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "coco.json"
    file.write_text(json.dumps(content))
    entries, _ = named_error(read_tables, file) or ({}, {})
    for annotation in entries.values():
        found = verify_objects(image, str(file), annotation, CLASSES)
        check(found.labels, found.segments, found.messages)


@given(
    st.lists(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=3, max_size=6), min_size=1, max_size=4)
)
def test_joined_parts_keep_area_and_corners(polygons):
    def area(points):
        x, y = points.T
        return (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2

    parts = [np.array(points) for points in polygons]
    outline = join_parts(parts)
    assert area(outline) == pytest.approx(sum(map(area, parts)), abs=1e-6)
    assert {tuple(point) for point in outline} == {tuple(point) for part in parts for point in part}


NUMERAL = st.one_of(st.floats(0, 40).map(str), WORDS)
TAGS = ("xmin", "ymin", "xmax", "ymax")


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "z", " it's ß "]), *[NUMERAL] * 4), max_size=4),
    st.tuples(NUMERAL, NUMERAL) | st.just(("40", "20")),
    st.sampled_from(["utf-8", "utf-16", "latin-1", "ascii", "utf-7", "cp037", "big5", "base64", "nothing"]),
)
def test_any_voc_file_gives_labels_in_bounds_or_an_error(image, tmp_path_factory, objects, size, encoding):
    boxes = "".join(
        f"<object><name>{name}</name><bndbox>"
        + "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(TAGS, numbers, strict=True))
        + "</bndbox></object>"
        for name, *numbers in objects
    )
    text = f'<?xml version="1.0" encoding="{encoding}"?><annotation><size><width>{size[0]}</width><height>{size[1]}'
    text += f"</height></size>{boxes}</annotation>"
    known = encoding not in ("base64", "nothing")
    file = tmp_path_factory.getbasetemp() / "voc.xml"
    file.write_bytes(text.encode(encoding if known else "utf-8", "replace"))
    try:
        annotation = read_voc(file)
    except ValueError:
        assert encoding not in ("utf-8", "utf-16", "latin-1", "ascii")
        return
    found = verify_objects(image, str(file), annotation, CLASSES)
    check(found.labels, found.segments, found.messages)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(
        ["no", "on", "~", "", "1e3", "010", "0o7", "12:30", "2026-01-31", "<<", "=", "- a", "a: b", "#", " x "]
    ),
)
PLAIN = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3), max_leaves=8
)


@given(st.dictionaries(SCALARS, PLAIN, max_size=4))
def test_yaml_that_was_written_is_read(tmp_path_factory, data):
    file = tmp_path_factory.getbasetemp() / "data.yaml"
    yaml_save(file, data)
    assert repr(yaml_load(file)) == repr(data)  # True is not 1, and the order stays


WORDS = "a : - [ ] { } &a *a !!int !!timestamp !!set !!bool !!float !!python/object:os.system | > ' x ? 1e3 0x %"
YAML_PIECES = [*WORDS.split(), " ", "\n", "- ", "<<: ", "? ", "---", "\t", '"', "#", ",", "~"]


@given(
    st.one_of(
        st.text(max_size=40),
        st.lists(
            st.sampled_from(YAML_PIECES),
            max_size=14,
        ).map("".join),
        st.sampled_from(["{:s}" * 40 + "x", "a: !!binary {:s}", "a: !!float {:s}"]).flatmap(
            lambda form: st.text(max_size=5).map(lambda text: form.replace("{:s}", text))
        ),
    )
)
def test_any_yaml_is_a_mapping_or_an_error_that_names_the_file(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    found = named_error(yaml_load, file)
    assert found is None or isinstance(found, dict)
