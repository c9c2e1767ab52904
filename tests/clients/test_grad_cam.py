"""pytorch-grad-cam: its recipe for YOLOv5 (EigenCAM on the layer before the head), and methods that need gradients."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from tests.same_boxes import assert_same
from utils.paths import ROOT

pytest.importorskip("pytorch_grad_cam")
from pytorch_grad_cam import EigenCAM, GradCAM
from pytorch_grad_cam.utils.image import scale_cam_image, show_cam_on_image

from tests.clients.conftest import SIZE


@pytest.fixture(scope="module")
def pixels(image):
    return np.array(Image.open(image))


def test_recipe(hub_model, pixels, found):
    """As its documentation has it: the map, the table of boxes, the map within each box."""
    rgb_img = pixels.copy()
    img = np.float32(rgb_img) / 255
    tensor = torch.from_numpy(img).permute(2, 0, 1).unsqueeze(0)
    results = hub_model([rgb_img], size=max(SIZE))
    detections = results.pandas().xyxy[0]
    boxes = detections[["xmin", "ymin", "xmax", "ymax", "confidence", "class"]].to_numpy()
    assert_same(boxes, found, pixels=0.05)

    target_layers = [hub_model.model.model.model[-2]]
    cam = EigenCAM(hub_model, target_layers)
    grayscale_cam = cam(tensor, targets=None)[0, :, :]  # 1.5.7 has no default for it any more
    assert grayscale_cam.shape == SIZE
    assert show_cam_on_image(img, grayscale_cam, use_rgb=True).shape == (*SIZE, 3)

    kept = []
    handle = target_layers[0].register_forward_hook(lambda module, inputs, output: kept.append(output))
    hub_model(tensor)
    handle.remove()
    features = kept[0][0].flatten(1).T.numpy()  # (H * W, C)
    features -= features.mean(0)
    projection = (features @ np.linalg.svd(features, full_matrices=False)[2][0]).reshape(kept[0].shape[2:])
    expected = scale_cam_image(np.maximum(projection, 0)[None], SIZE[::-1])
    expected = scale_cam_image(expected)[0]  # of each layer, then of all
    assert expected.max() > 0.9
    np.testing.assert_allclose(grayscale_cam, expected, atol=1e-3)

    renormalized = np.zeros_like(grayscale_cam)
    for x1, y1, x2, y2 in boxes[:, :4].astype(int).clip(0):
        if x2 > x1 and y2 > y1:
            renormalized[y1:y2, x1:x2] = scale_cam_image(grayscale_cam[y1:y2, x1:x2].copy()[None])[0]
    assert renormalized.max() > 0.9


def test_gradients_of_a_box(weights, pixels):
    """AutoShape computes without gradients, as YOLOv5's does: the model without it has them."""
    model = torch.hub.load(
        str(ROOT), "custom", path=weights, source="local", device="cpu", autoshape=False, _verbose=False
    )
    tensor = torch.from_numpy(np.float32(pixels) / 255).permute(2, 0, 1).unsqueeze(0)
    layer = model.model.model[-2]

    def best_box(output):
        """Score of the best box, of the rows (R, 5 + classes)."""
        return (output[:, 4:5] * output[:, 5:]).max()

    class Boxes(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            out = self.model(images)
            return out if isinstance(out, torch.Tensor) else out[0]

    heat = GradCAM(Boxes(), [layer])(tensor, targets=[best_box])[0]
    assert heat.shape == SIZE
    assert heat.max() == pytest.approx(1, abs=0.01)
    assert heat.std() > 0.01
    assert cv2.resize(heat, (8, 8)).shape == (8, 8)
