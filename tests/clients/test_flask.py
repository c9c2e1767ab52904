"""Flask: the REST service that tutorials build around the hub model."""

import io

import pytest
from PIL import Image

from tests.clients.conftest import SIZE
from tests.same_boxes import assert_same

flask = pytest.importorskip("flask")


@pytest.fixture
def client(hub_model):
    app = flask.Flask(__name__)
    app.testing = True  # errors come here

    @app.route("/v1/object-detection/<model>", methods=["POST"])
    def predict(model):
        im = Image.open(io.BytesIO(flask.request.files["image"].read()))
        return hub_model(im, size=max(SIZE)).pandas().xyxy[0].to_json(orient="records")

    return app.test_client()


def test_boxes_come_as_json(client, hub_model, image, found):
    with open(image, "rb") as file:
        answer = client.post("/v1/object-detection/yolov5s", data={"image": (file, "blobs.png")})
    assert answer.status_code == 200
    boxes = flask.json.loads(answer.data)
    assert [box["name"] for box in boxes] == [hub_model.names[box["class"]] for box in boxes]
    keys = ("xmin", "ymin", "xmax", "ymax", "confidence", "class")
    assert_same([[box[key] for key in keys] for box in boxes], found, pixels=0.05)
