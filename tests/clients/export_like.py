"""Exports of one's own, such as those of DeepStream-Yolo and tensorrtx, and of the script, in forms of 6.1 and 7.0."""

import struct
import sys
from pathlib import Path

import onnxruntime
import torch

from export import export_formats, export_onnx
from models.common import Conv
from models.experimental import attempt_load
from models.yolo import Detect
from utils.activations import SiLU

weights, folder = sys.argv[1:]
model = attempt_load(weights, map_location="cpu", inplace=True, fuse=True)
model.eval()
for _, m in model.named_modules():
    if isinstance(m, Conv) and isinstance(m.act, torch.nn.SiLU):
        m.act = SiLU()
    elif isinstance(m, Detect):
        m.inplace, m.dynamic, m.export = False, False, True
im = torch.rand(1, 3, 64, 96)
expected = model(im)[0]
own = Path(folder, "own.onnx")
torch.onnx.export(model, (im,), str(own), input_names=["images"], output_names=["output0"])
file, _ = export_onnx(model, im, Path(folder, "ours.pt"), 12, False, False)
for written in (own, file):
    found = onnxruntime.InferenceSession(str(written)).run(None, {"images": im.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-2)
assert list(export_formats().columns) == ["Format", "Argument", "Suffix", "CPU", "GPU"]
assert ".onnx" in list(export_formats()["Suffix"])

# DeepStream-Yolo: labels, and a module after the model that splits its boxes
Path(folder, "labels.txt").write_text("".join(f"{name}\n" for name in model.names.values()))
assert Path(folder, "labels.txt").read_text().splitlines() == [model.names[i] for i in range(len(model.names))]


class Split(torch.nn.Module):
    """Corners, best score and class of each box."""

    def forward(self, x):
        x = x[0] if isinstance(x, tuple | list) else x
        scores, labels = (x[:, :, 5:] * x[:, :, 4:5]).max(2, keepdim=True)
        return torch.cat((x[:, :, :2] - x[:, :, 2:4] / 2, x[:, :, :2] + x[:, :, 2:4] / 2, scores, labels.float()), 2)


found = torch.nn.Sequential(model, Split())(im)
torch.testing.assert_close(found[..., 4:5], (expected[..., 5:] * expected[..., 4:5]).amax(2, keepdim=True))

# tensorrtx: anchors in pixels as a buffer of the head, then all tensors in their order, in hexadecimal
head = model.model[-1]
pixels = head.anchors * head.stride[:, None, None]
delattr(head, "anchor_grid")
head.register_buffer("anchor_grid", pixels)
head.register_buffer("strides", head.stride)
state = model.to("cpu").eval().state_dict()
with open(Path(folder, "model.wts"), "w") as file:
    file.write(f"{len(state)}\n")
    for key, value in state.items():
        numbers = [struct.pack(">f", float(n)).hex() for n in value.reshape(-1).cpu().numpy()]
        file.write(" ".join([key, str(len(numbers)), *numbers]) + "\n")
lines = [line.split(" ") for line in Path(folder, "model.wts").read_text().splitlines()]
last = len(model.model) - 1
assert lines[1][0] == "model.0.conv.weight"
assert lines[2][0] == "model.0.conv.bias"
table = {line[0]: line[2:] for line in lines[1:]}
assert [key for key in table if key.startswith(f"model.{last}.m.")] == [
    f"model.{last}.m.{i}.{part}" for i in range(head.nl) for part in ("weight", "bias")
]
assert len(table[f"model.{last}.m.0.weight"]) == head.na * head.no * head.m[0].in_channels
grid = [struct.unpack(">f", bytes.fromhex(n))[0] for n in table[f"model.{last}.anchor_grid"]]
assert grid == pixels.flatten().tolist()
assert [struct.unpack(">f", bytes.fromhex(n))[0] for n in table[f"model.{last}.strides"]] == head.stride.tolist()
torch.testing.assert_close(model(im)[0], expected)
