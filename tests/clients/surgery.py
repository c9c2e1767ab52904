"""What pruning, weight converters and slicing recipes do to a network: python surgery.py WEIGHTS CFG FOLDER."""

import struct
import sys
from copy import deepcopy
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from models.common import C3, SPPF, AutoShape, Bottleneck, Concat, Conv, DetectMultiBackend
from models.experimental import attempt_load
from models.yolo import BaseModel, Detect, DetectionModel, Model, parse_model
from utils.torch_utils import (
    copy_attr,
    fuse_conv_and_bn,
    initialize_weights,
    intersect_dicts,
    model_info,
    prune,
    scale_img,
    sparsity,
    time_sync,
)

weights, cfg, folder = sys.argv[1:]
device = torch.device("cpu")

# A converter writes every tensor of the state dict, the anchor grid of the head among them
model = attempt_load(weights, device=device, inplace=True, fuse=False)
head = model.model[-1]
assert isinstance(head, Detect)
anchor_grid = head.anchors * head.stride[..., None, None]
delattr(head, "anchor_grid")
head.register_buffer("anchor_grid", anchor_grid)
model.to(device).eval()
with open(Path(folder, "tiny.wts"), "w") as f:
    f.write(f"{len(model.state_dict().keys())}\n")
    for k, v in model.state_dict().items():
        vr = v.reshape(-1).cpu().numpy()
        f.write(f"{k} {len(vr)} " + " ".join(struct.pack(">f", float(vv)).hex() for vv in vr) + "\n")
assert "model.24.anchor_grid" in Path(folder, "tiny.wts").read_text()

# A pruner looks at batch normalisation, copies what fits into a new network, and measures it
model = attempt_load(weights, map_location=device, fuse=False).float()
bn = {name: m.weight.abs() for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
assert {"model.0.bn", "model.2.cv1.bn", "model.2.m.0.cv1.bn"} <= set(bn)
kinds = {type(m) for m in model.modules()}
assert {Conv, C3, Bottleneck, SPPF, Concat, Detect} <= kinds
new = Model(model.yaml, ch=3, nc=model.nc).to(device)
csd = intersect_dicts(model.state_dict(), new.state_dict(), exclude=("anchor",))
new.load_state_dict(csd, strict=False)
copy_attr(new, model, include=("yaml", "nc", "hyp", "names", "stride"), exclude=())
initialize_weights(new)
pruned = deepcopy(model)
prune(pruned, 0.3)
assert 0.2 < sparsity(pruned) < 0.4
model_info(new, verbose=False, imgsz=64)
new.info(verbose=False, img_size=64)
t = time_sync()
fused = deepcopy(new).eval().fuse()
assert not any(hasattr(m, "bn") for m in fused.modules() if isinstance(m, Conv))
assert isinstance(fuse_conv_and_bn(new.model[0].conv, new.model[0].bn), nn.Conv2d)
assert time_sync() > t
layers, save = parse_model(deepcopy(new.yaml), [3])
assert [m.i for m in layers] == list(range(len(layers)))
assert all(hasattr(m, name) for m in layers for name in ("f", "type", "np"))
y = new.train()(scale_img(torch.zeros(1, 3, 64, 64), 1.5, gs=32))
assert [tuple(x.shape[1:]) for x in y] == [(3, s, s, 8) for s in (12, 6, 3)]


# A fork with a forward of its own
class Fork(DetectionModel):
    def __init__(self, cfg="yolov5s.yaml", ch=3, nc=None, anchors=None):
        super().__init__(cfg, ch, nc, anchors)
        self.features = []

    def forward(self, x, augment=False, profile=False, visualize=False):
        return self._forward_once(x, profile, visualize)

    def _forward_once(self, x, profile=False, visualize=False):
        y = []
        for m in self.model:
            if m.f != -1:
                x = y[m.f] if isinstance(m.f, int) else [x if j == -1 else y[j] for j in m.f]
            x = m(x)
            y.append(x if m.i in self.save else None)
        return x


fork = Fork(cfg, nc=3).eval()
assert isinstance(fork, BaseModel)
assert fork(torch.zeros(1, 3, 64, 64))[0].shape == (1, 252, 8)

# Objects of older releases: AutoShape from a model, boxes in the form that converters of results read
auto = attempt_load(weights, map_location=device).autoshape()
image = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8), (128, 96), None, 0, 0, 2)
auto.conf, auto.max_det = 0.2, 50
results = auto([image[..., ::-1], image[..., ::-1]], size=128)
detections = results.pred[0].cpu().numpy()
assert detections[:, 5].astype(int).max() < len(results.names)
assert len(results) == len(results.tolist()) == 2
assert results.xyxyn[0][:, :4].max() <= 1
assert list(results.pandas().xywh[0].columns)[:4] == ["xcenter", "ycenter", "width", "height"]
results.print()
for crop in results.crop(save=False):
    assert set(crop) == {"box", "conf", "cls", "label", "im"}
backend = DetectMultiBackend(weights, device, False, None, False, True)
out = backend(torch.zeros(1, 3, 64, 64))
assert isinstance(out, list)
assert out[0].shape == (1, 252, 8)
assert AutoShape(backend).model is backend
