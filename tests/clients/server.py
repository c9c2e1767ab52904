"""What a Flask server for YOLOv5 does in its request handler; the framework around it does not matter here."""

import io
import sys

import torch
from PIL import Image

root, weights, image, out = sys.argv[1:]
model = torch.hub.load(root, "custom", path=weights, source="local", device="cpu", force_reload=True)
model.conf, model.iou, model.classes = 0.2, 0.5, None
model.eval()


def predict(data):
    im = Image.open(io.BytesIO(data))
    results = model(im, size=320)
    results.render()
    for array in results.imgs:  # `ims` since 7.0
        Image.fromarray(array).save(out + ".jpg", format="JPEG")
    return results.pandas().xyxy[0].to_json(orient="records")


with open(image, "rb") as file, open(out, "w") as answer:
    answer.write(predict(file.read()))
