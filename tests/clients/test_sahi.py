"""SAHI: what its model for YOLOv5 takes, and the example, each slice against the detections of that part alone."""

import runpy
import sys

import cv2
import numpy as np
import pytest

from tests.same_boxes import assert_same
from utils.paths import ROOT

pytest.importorskip("sahi")
from sahi import AutoDetectionModel
from sahi.predict import get_prediction, get_sliced_prediction

from tests.clients.conftest import CONF, SIZE

EXAMPLE = ROOT / "examples/sahi/detect.py"


@pytest.fixture(scope="module")
def make():
    """Class of the example: (model or model_path) -> SAHI's model."""
    return runpy.run_path(str(EXAMPLE))["HubModel"]


def with_area(boxes):
    """SAHI drops the others."""
    boxes = np.asarray(boxes)
    return boxes[((boxes[:, 2:4] - boxes[:, :2]) > 0).all(1)]


def rows(result):
    return [[*p.bbox.to_xyxy(), p.score.value, p.category.id] for p in result.object_prediction_list]


@pytest.mark.parametrize("kind", ["model", "pt", "onnx"])
def test_whole_image(kind, make, hub_model, weights, image, found, request):
    source = {"model": hub_model} if kind == "model" else {"model_path": str(weights)}
    if kind == "onnx":
        source = {"model_path": str(request.getfixturevalue("onnx_file"))}
    model = make(**source, confidence_threshold=CONF, device="cpu", image_size=max(SIZE))
    result = get_prediction(str(image), model)
    assert_same(rows(result), with_area(found), pixels=0.05)
    assert {p.category.name for p in result.object_prediction_list} == {
        hub_model.names[int(c)] for c in with_area(found)[:, 5]
    }


def test_slices(make, hub_model, image):
    model = make(model=hub_model, confidence_threshold=CONF, device="cpu", image_size=64)
    result = get_sliced_prediction(
        str(image), model, slice_height=64, slice_width=64, overlap_height_ratio=0.5, overlap_width_ratio=0.5,
        perform_standard_pred=False, postprocess_type="NMS", postprocess_match_threshold=1.1, verbose=0,
    )  # fmt: skip
    pixels = cv2.imread(str(image))[..., ::-1]
    expected = []
    for y in (0, 32):
        for x in (0, 32, 64):
            part = hub_model(np.ascontiguousarray(pixels[y : y + 64, x : x + 64]), size=64).xyxy[0].numpy()
            part[:, :4] = part[:, :4].clip(0, 64) + [x, y, x, y]
            expected.append(part)
    assert_same(rows(result), with_area(np.vstack(expected)), pixels=0.05)


def test_example_as_a_program(weights, image, hub_model, found, tmp_path, monkeypatch, capsys):
    call = [str(EXAMPLE), str(weights), str(image), "--slice", "128", "--conf", str(CONF), "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", call)
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(str(image))]
    assert lines
    best = lines[0].removeprefix(f"{image} ").rsplit(" ", 5)
    assert best[0] in hub_model.names.values()
    assert (tmp_path / "blobs.png").is_file()


def test_unchanged_where_the_check_for_its_package_is_off(hub_model, image, found, monkeypatch):
    """All that keeps SAHI's own class from our model is its search for a package named yolov5."""
    with pytest.raises(ImportError, match="yolov5"):
        AutoDetectionModel.from_pretrained("yolov5", model=hub_model, device="cpu")
    monkeypatch.setattr("sahi.models.base.check_requirements", lambda packages: None)
    model = AutoDetectionModel.from_pretrained(
        "yolov5", model=hub_model, confidence_threshold=CONF, device="cpu", image_size=max(SIZE)
    )
    assert_same(rows(get_prediction(str(image), model)), with_area(found), pixels=0.05)
