"""Gradio: the demo page that tutorials build around the hub model, called over HTTP."""

import os

import numpy as np
import pytest
from PIL import Image

from tests.clients.conftest import SIZE
from tests.same_boxes import assert_same

os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
gr = pytest.importorskip("gradio")
gradio_client = pytest.importorskip("gradio_client")


@pytest.fixture
def page(hub_model):
    def yolo(im):
        results = hub_model(im, size=max(SIZE))
        table = results.pandas().xyxy[0].drop(columns="name").to_numpy().tolist()
        return Image.fromarray(results.render()[0]), table

    inputs = gr.Image(type="pil", label="Original Image", format="png")
    outputs = [gr.Image(type="pil", label="Output Image", format="png"), gr.JSON()]
    demo = gr.Interface(fn=yolo, inputs=inputs, outputs=outputs, title="YOLOv5")
    _, address, _ = demo.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    yield address
    demo.close()


def test_page_gives_the_drawn_image_and_the_boxes(page, hub_model, image, found):
    client = gradio_client.Client(page, verbose=False)
    drawn, table = client.predict(gradio_client.handle_file(str(image)), fn_index=0)
    assert_same(table, found, pixels=0.05)
    expected = hub_model(Image.open(image), size=max(SIZE)).render()[0]
    np.testing.assert_array_equal(np.array(Image.open(drawn).convert("RGB")), expected)
