"""What a detector gets of a frame: as little as it takes, by what the file can do and not by its kind."""

from types import SimpleNamespace

import numpy as np
import pytest

from engine.inference.pipeline import Frame
from engine.inference.predictor import Predictor, Settings


def shapes(sizes, pt, imgsz):
    model = SimpleNamespace(pt=pt, stride=32, nc=3, imgsz=imgsz, batch_size=None, fp16=False, device="cpu")
    predictor = Predictor(model, Settings(imgsz or (320, 320)))
    frames = [Frame(np.zeros((*size, 3), np.uint8), str(i)) for i, size in enumerate(sizes)]
    return [x.shape for x in predictor.prepare(frames).inputs]


@pytest.mark.parametrize("pt", [True, False])
def test_only_files_of_one_size_get_more_than_the_frame_needs(pt):
    assert shapes([(100, 320)], pt, None) == [(3, 128, 320)]
    assert shapes([(100, 320), (110, 320)], pt, None) == [(3, 128, 320)] * 2
    assert shapes([(100, 320), (320, 100)], pt, None) == [(3, 320, 320)] * 2
    assert shapes([(100, 320)], pt, (320, 320)) == [(3, 320, 320)]
    assert shapes([(100, 320)], pt, (96, 160)) == [(3, 96, 160)]
