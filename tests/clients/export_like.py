"""An ONNX export of one's own, and the one of the export script, in the forms of 6.1 and 7.0."""

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
