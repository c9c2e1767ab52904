"""Write checkpoints as the original YOLOv5 pickles them; run as a program, it is no test.

    python foreign_writer.py FOLDER

The classes below are look-alikes of the original ones, written from their description and homed at the official paths,
so that the files name `models.common.Conv` and so on. They must not meet the real `models` of this repository: hence a
process of its own. Beside each NAME.pt lies NAME.out, an image batch and what the model made of it before it was saved.
"""

import copy
import pathlib
import sys
import types

import numpy as np
import torch
from torch import nn

ACT = {"now": nn.SiLU()}


def home(path):
    """Move a class to a module of the original program."""
    module = sys.modules.setdefault(path, types.ModuleType(path))

    def move(cls):
        cls.__module__ = path
        setattr(module, cls.__name__, cls)
        return cls

    return move


common = home("models.common")


@common
class Conv(nn.Module):
    def __init__(self, c1, c2, k=1, s=1, p=None, g=1):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2 if p is None else p, groups=g, bias=False)
        self.bn = nn.BatchNorm2d(c2)
        self.act = ACT["now"]

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))

    def forward_fuse(self, x):
        return self.act(self.conv(x))


@common
class Focus(nn.Module):
    def __init__(self, c1, c2, k=1):
        super().__init__()
        self.conv = Conv(c1 * 4, c2, k)

    def forward(self, x):
        a, b, c, d = x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]
        return self.conv(torch.cat([a, b, c, d], 1))


@common
class Bottleneck(nn.Module):
    def __init__(self, c1, c2, shortcut=True, g=1, e=0.5):
        super().__init__()
        self.cv1 = Conv(c1, int(c2 * e), 1)
        self.cv2 = Conv(int(c2 * e), c2, 3, g=g)
        self.add = shortcut and c1 == c2

    def forward(self, x):
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


@common
class BottleneckCSP(nn.Module):
    def __init__(self, c1, c2, n=1, shortcut=True):
        super().__init__()
        h = c2 // 2
        self.cv1 = Conv(c1, h, 1)
        self.cv2 = nn.Conv2d(c1, h, 1, bias=False)
        self.cv3 = nn.Conv2d(h, h, 1, bias=False)
        self.cv4 = Conv(2 * h, c2, 1)
        self.bn = nn.BatchNorm2d(2 * h)
        self.act = nn.LeakyReLU(0.1, inplace=True)
        self.m = nn.Sequential(*[Bottleneck(h, h, shortcut, e=1.0) for _ in range(n)])

    def forward(self, x):
        return self.cv4(self.act(self.bn(torch.cat((self.cv3(self.m(self.cv1(x))), self.cv2(x)), 1))))


@common
class TransformerLayer(nn.Module):
    def __init__(self, c, heads):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(c, c, bias=False) for _ in range(3))
        self.ma = nn.MultiheadAttention(c, heads)
        self.fc1, self.fc2 = nn.Linear(c, c, bias=False), nn.Linear(c, c, bias=False)

    def forward(self, x):
        x = self.ma(self.q(x), self.k(x), self.v(x))[0] + x
        return self.fc2(self.fc1(x)) + x


@common
class TransformerBlock(nn.Module):
    def __init__(self, c, heads, layers):
        super().__init__()
        self.conv = None
        self.linear = nn.Linear(c, c)
        self.tr = nn.Sequential(*[TransformerLayer(c, heads) for _ in range(layers)])

    def forward(self, x):
        b, c, h, w = x.shape
        p = x.flatten(2).permute(2, 0, 1)
        return self.tr(p + self.linear(p)).permute(1, 2, 0).reshape(b, c, h, w)


@common
class C3(nn.Module):
    def __init__(self, c1, c2, n=1, shortcut=True):
        super().__init__()
        h = c2 // 2
        self.cv1, self.cv2, self.cv3 = Conv(c1, h, 1), Conv(c1, h, 1), Conv(2 * h, c2, 1)
        self.m = nn.Sequential(*[Bottleneck(h, h, shortcut, e=1.0) for _ in range(n)])

    def forward(self, x):
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


@common
class C3TR(C3):
    def __init__(self, c1, c2, n=1, shortcut=True):
        super().__init__(c1, c2, n, shortcut)
        self.m = TransformerBlock(c2 // 2, 4, n)


@common
class SPP(nn.Module):
    def __init__(self, c1, c2, k=(5, 9, 13)):
        super().__init__()
        self.cv1, self.cv2 = Conv(c1, c1 // 2, 1), Conv(c1 // 2 * (len(k) + 1), c2, 1)
        self.m = nn.ModuleList([nn.MaxPool2d(side, 1, side // 2) for side in k])

    def forward(self, x):
        x = self.cv1(x)
        return self.cv2(torch.cat([x] + [m(x) for m in self.m], 1))


@common
class SPPF(nn.Module):
    def __init__(self, c1, c2, k=5):
        super().__init__()
        self.cv1, self.cv2 = Conv(c1, c1 // 2, 1), Conv(c1 // 2 * 4, c2, 1)
        self.m = nn.MaxPool2d(k, 1, k // 2)

    def forward(self, x):
        y = [self.cv1(x)]
        for _ in range(3):
            y.append(self.m(y[-1]))
        return self.cv2(torch.cat(y, 1))


@common
class Concat(nn.Module):
    def __init__(self, dim=1):
        super().__init__()
        self.d = dim

    def forward(self, x):
        return torch.cat(x, self.d)


@home("models.yolo")
class Detect(nn.Module):
    def __init__(self, nc, anchors, ch, old):
        super().__init__()
        self.nc, self.no, self.nl, self.na, self.inplace = nc, nc + 5, len(anchors), len(anchors[0]) // 2, True
        self.stride = torch.tensor([8.0, 16.0])
        pixels = torch.tensor(anchors).float().view(self.nl, -1, 2)
        self.register_buffer("anchors", pixels / self.stride.view(-1, 1, 1))
        if old:
            self.register_buffer("anchor_grid", pixels.view(self.nl, 1, -1, 1, 1, 2))
            self.grid = [torch.zeros(1)] * self.nl
        else:
            self.grid = self.anchor_grid = [torch.rand(1, 3, 99, 99, 2)] * self.nl  # stale, as a validation leaves them
        self.m = nn.ModuleList([nn.Conv2d(c, self.no * self.na, 1) for c in ch])

    def forward(self, x):
        z = []
        for i, conv in enumerate(self.m):
            b, _, h, w = (y := conv(x[i])).shape
            y = y.view(b, self.na, self.no, h, w).permute(0, 1, 3, 4, 2).sigmoid()
            gy, gx = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            grid = torch.stack((gx, gy), 2).float()
            xy = (y[..., 0:2] * 2.0 - 0.5 + grid) * self.stride[i]
            wh = (y[..., 2:4] * 2) ** 2 * (self.anchors[i] * self.stride[i]).view(1, -1, 1, 1, 2)
            z.append(torch.cat((xy, wh, y[..., 4:]), 4).view(b, -1, self.no))
        return torch.cat(z, 1)


class Body(nn.Module):
    def __init__(self, table, names, old=False):
        super().__init__()
        self.yaml, self.names, self.inplace = copy.deepcopy(table), names, True
        layers, ch = [], [3]
        for i, (f, n, kind, args) in enumerate(table["backbone"] + table["head"]):
            c1 = ch[f] if isinstance(f, int) else sum(ch[j if j < 0 else j + 1] for j in f)
            if kind == "Detect":
                layer = Detect(table["nc"], table["anchors"], [ch[j + 1] for j in f], old)
            elif kind == "nn.Upsample":
                layer = nn.Upsample(*args)
            elif kind == "Concat":
                layer = Concat(*args)
            else:
                inside = [n] if kind in ("C3", "C3TR", "BottleneckCSP") else []
                layer, c1 = globals()[kind](c1, args[0], *inside, *args[1:]), args[0]
            layer.i, layer.f, layer.type, layer.np = i, f, str(type(layer))[8:-2], 1
            layers.append(layer)
            ch.append(c1)
        self.model, self.save = nn.Sequential(*layers), [1, 2, 3, 4]
        self.stride = layers[-1].stride
        for m in self.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.eps, m.momentum = 1e-3, 0.03
                nn.init.uniform_(m.running_var, 0.5, 2.0)
                nn.init.normal_(m.running_mean, std=0.2)
                nn.init.uniform_(m.weight, 0.5, 1.5)
                nn.init.normal_(m.bias, std=0.2)

    def forward(self, x):
        y = []
        for m in self.model:
            if m.f != -1:
                x = y[m.f] if isinstance(m.f, int) else [x if j == -1 else y[j] for j in m.f]
            x = m(x)
            y.append(x)
        return x


@home("models.yolo")
class Model(Body):
    """Up to v6.1."""


@home("models.yolo")
class DetectionModel(Body):
    """From v6.2."""


sys.modules["models"] = types.ModuleType("models")
ANCHORS = [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45, 59, 119]]


def table(stem, block, pyramid, deep="C3", **keys):
    """A small PAN of two levels; width 1, so that the rows give the channels."""
    backbone = [
        [-1, 1, *stem],
        [-1, 1, "Conv", [24, 3, 2]],
        [-1, 1, "Conv", [32, 3, 2]],
        [-1, 2, block, [32]],  # 3, stride 8
        [-1, 1, "Conv", [48, 3, 2]],
        [-1, 1, *pyramid],
        [-1, 1, deep, [48, False]],  # 6, stride 16
    ]
    head = [
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 3], 1, "Concat", [1]],
        [-1, 1, block, [32, False]],  # 9
        [[9, 6], 1, "Detect", ["nc", "anchors"]],
    ]
    base = {"nc": 2, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": ANCHORS, "ch": 3}
    return base | {"backbone": backbone, "head": head} | keys


def fuse(model):
    for m in model.modules():
        if isinstance(m, Conv):
            scale = m.bn.weight / (m.bn.running_var + m.bn.eps).sqrt()
            conv = nn.Conv2d(m.conv.in_channels, m.conv.out_channels, m.conv.kernel_size, m.conv.stride, m.conv.padding)
            conv.weight.data = m.conv.weight.data * scale.view(-1, 1, 1, 1)
            conv.bias.data = m.bn.bias - m.bn.running_mean * scale
            m.conv = conv
            del m.bn
            m.forward = m.forward_fuse
    return model


def main(folder):
    def write(name, model, content, **how):
        x = torch.rand(2, 3, 96, 64)
        with torch.no_grad():
            out = copy.deepcopy(content["ema"] or model if "ema" in content else model).float().eval()(x)
        torch.save({"x": x, "out": out}, folder / f"{name}.out")
        torch.save(content, folder / f"{name}.pt", **how)

    def released(model):
        model = model.half().eval()
        for p in model.parameters():
            p.requires_grad = False
        model.model[-1].stride = model.model[-1].stride.half()
        if isinstance(model.model[-1].grid, list):
            model.model[-1].grid = [g.half() for g in model.model[-1].grid]
        return model

    names = ["cat", "dog"]
    focus, spp = ("Focus", [16, 3]), ("SPP", [48, [5, 9, 13]])
    model = released(Model(table(focus, "C3", spp), names, old=True))
    keys = {"best_fitness": None, "training_results": "", "ema": None, "updates": None, "optimizer": None}
    write("v5", model, {"epoch": -1, **keys, "model": model, "wandb_id": None})

    conv, sppf = ("Conv", [16, 6, 2, 2]), ("SPPF", [48, 5])
    rows = table(conv, "C3", sppf)
    mapping = dict(enumerate(names))
    model = released(DetectionModel(rows, mapping))
    model.model[-1].anchors *= 1.25  # found anew in training: the table is outdated
    model.hyp = {"box": 0.05, "cls": 0.0125, "lr0": np.float64(0.01)}
    opt = {"cfg": "", "save_dir": pathlib.PosixPath("runs/train/exp"), "hyp": {"lr0": 0.01}, "freeze": [0]}
    git = {"remote": "https://example.org/x", "branch": "main", "commit": "abc"}
    release = {"epoch": -1, "best_fitness": None, "ema": None, "updates": None, "optimizer": None}
    write("v7", model, release | {"model": model, "opt": opt, "git": git, "date": "2023-01-02T03:04:05"})
    write("v7-protocol4", model, release | {"model": model}, pickle_protocol=4)

    model = DetectionModel(table(conv, "C3", sppf, deep="C3TR"), mapping)
    average = DetectionModel(table(conv, "C3", sppf, deep="C3TR"), mapping).half().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    sum(p.square().sum() for p in model.parameters()).backward()
    optimizer.step()
    optimizer.param_groups[0]["lr"] = np.float64(0.05)
    running = {"epoch": 3, "best_fitness": np.array([0.25]), "updates": 7, "optimizer": optimizer.state_dict()}
    write("running", model, running | {"model": copy.deepcopy(model).half(), "ema": average, "opt": opt})

    ACT["now"] = nn.LeakyReLU(0.1, inplace=True)
    model = released(Model(table(focus, "BottleneckCSP", spp, deep="BottleneckCSP"), names, old=True))
    old = {"epoch": -1, "best_fitness": None, "training_results": None, "optimizer": None}
    write("v3", model, old | {"model": model}, _use_new_zipfile_serialization=False)

    ACT["now"] = nn.Hardswish()
    model = fuse(Model(table(conv, "C3", sppf, anchors=ANCHORS), names))
    write("fused", model, {"model": model})

    ACT["now"] = nn.LeakyReLU(0.2)
    model = released(DetectionModel(table(conv, "C3", sppf, activation="nn.LeakyReLU(0.2)"), mapping))
    write("activation", model, release | {"model": model})

    ACT["now"] = nn.SiLU()
    model = DetectionModel(rows, mapping)
    model.model[4].conv.stride = (1, 1)  # the tensors are the same, the network is another one
    torch.save({"model": model}, folder / "other.pt")
    DetectionModel.__qualname__ = DetectionModel.__name__ = "SegmentationModel"
    sys.modules["models.yolo"].SegmentationModel = DetectionModel
    torch.save({"model": model}, folder / "segmentation.pt")


if __name__ == "__main__":
    torch.manual_seed(0)
    main(pathlib.Path(sys.argv[1]))
