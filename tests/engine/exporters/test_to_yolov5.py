"""Checkpoints for tools of YOLOv5: read back here, by plain torch.load, and by classes made from a description."""

import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import export
from engine.exporters.to_yolov5 import check_blocks
from models.experimental import attempt_load
from models.yolo import DetectionModel

TABLE = {
    **{"nc": 2, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": [[10, 13, 16, 30], [30, 61, 62, 45]]},
    "backbone": [
        *([-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "C3", [16]], [-1, 1, "Conv", [16, 3, 2]]),
        *([-1, 1, "SPPF", [16, 5]], [-1, 1, "nn.Upsample", [None, 2, "nearest"]]),
    ],
    "head": [[[-1, 2], 1, "Concat", [1]], [-1, 1, "Conv", [16, 1, 1]], [[7, 4], 1, "Detect", ["nc", "anchors"]]],
}
NAMES = {0: "a", 1: "it's"}


class Stub(nn.Module):
    """A class of the original, known by its description alone."""


class Conv(Stub):
    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class Bottleneck(Stub):
    def forward(self, x):
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


class C3(Stub):
    def forward(self, x):
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class SPPF(Stub):
    def forward(self, x):
        x = [self.cv1(x)]
        for _ in range(3):
            x.append(self.m(x[-1]))
        return self.cv2(torch.cat(x, 1))


class Concat(Stub):
    def forward(self, x):
        return torch.cat(x, self.d)


class Detect(Stub):
    def forward(self, x):
        rows = []
        for i, feature in enumerate(x):
            b, _, h, w = (y := self.m[i](feature)).shape
            y = y.view(b, self.na, self.no, h, w).permute(0, 1, 3, 4, 2).sigmoid()
            assert self.grid[i].shape[2:4] != (h, w)  # of no call: to be made anew
            place = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(h), indexing="xy"), -1)
            xy = (y[..., :2] * 2 - 0.5 + place) * self.stride[i]
            wh = (y[..., 2:4] * 2) ** 2 * (self.anchors[i] * self.stride[i]).view(1, self.na, 1, 1, 2)
            rows.append(torch.cat((xy, wh, y[..., 4:]), -1).view(b, -1, self.no))
        return torch.cat(rows, 1)


class Model(Stub):
    def forward(self, x):
        y = []
        for m in self.model:
            if m.f != -1:
                x = y[m.f] if isinstance(m.f, int) else [x if j == -1 else y[j] for j in m.f]
            x = m(x)
            y.append(x if m.i in self.save else None)
        return x


class Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if not module.startswith("models."):
            return super().find_class(module, name)
        at = "models.yolo" if name in ("Detect", "DetectionModel") else "models.common"
        assert module == at
        return {"DetectionModel": Model}.get(name) or globals()[name]


STAND_IN = SimpleNamespace(__name__="stand_in", Unpickler=Unpickler, load=pickle.load)


@pytest.fixture(scope="module")
def weights(write_checkpoint, tmp_path_factory):
    torch.manual_seed(0)
    model = DetectionModel(TABLE, verbose=False)
    with torch.no_grad():
        model.train()(torch.rand(4, 3, 64, 64))
        for conv in model.detect.m:
            conv.weight.normal_(0, 0.5)
    return write_checkpoint(tmp_path_factory.mktemp("of ours") / "bést.pt", model, NAMES)


@pytest.fixture(scope="module")
def written(weights):
    (file,) = export.run(weights=weights, include=["yolov5"], imgsz=64)
    return file


@torch.no_grad()
def test_all_readers_give_the_same_boxes(weights, written):
    images = torch.rand(2, 3, 64, 96)
    expected = attempt_load(weights, fuse=False)(images)[0]
    assert written.name == "bést_yolov5.pt"
    ours = attempt_load(written, fuse=False)
    assert torch.equal(ours(images)[0], expected)
    assert ours.names == NAMES
    plain = torch.load(written, weights_only=False)["model"]
    assert type(plain) is DetectionModel
    assert torch.equal(plain(images)[0], expected)
    theirs = torch.load(written, weights_only=False, pickle_module=STAND_IN)
    assert (theirs["epoch"], theirs["ema"], theirs["optimizer"]) == (-1, None, None)
    model = theirs["model"]
    torch.testing.assert_close(model(images), expected)
    assert type(model.model[2]) is C3
    assert (model.names, model.yaml["nc"], model.stride.tolist(), model.save) == (NAMES, 2, [4.0, 8.0], [2, 4, 7])
    first, head = model.model[0], model.model[-1]
    assert (first.i, first.f, first.type, first.np) == (0, -1, "models.common.Conv", 8 * 27 + 16)
    assert not (vars(model).keys() | vars(head).keys()) & {"licence", "thresholds", "trained_size", "export"}
    assert set(head._buffers) == {"anchors"}
    assert torch.equal(vars(head)["stride"], model.stride)


def test_half_is_stored_as_the_original_does(weights, tmp_path):
    copy = tmp_path / "half.pt"
    copy.write_bytes(weights.read_bytes())
    (file,) = export.run(weights=copy, include=["yolov5"], imgsz=64, half=True)
    model = torch.load(file, weights_only=False, pickle_module=STAND_IN)["model"]
    kinds = {value.dtype for key, value in model.state_dict().items() if "num_batches" not in key}
    assert kinds == {torch.float16}
    assert model.model[-1].anchors.dtype == torch.float16


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            {2: [-1, 2, "C3SwinV2", [16, 2]]},
            "Swin models have blocks that are not written .*: C3SwinV2, .*Attention",
        ),
        ({2: [-1, 1, "C3TR", [32]]}, "this model has blocks that are not written .*: C3TR, TransformerBlock"),
        ({0: [-1, 1, "Conv", [8, 3, 2, {"act": False}]]}, "its YAML gives blocks keywords"),
    ],
    ids=["swin", "transformer", "keywords"],
)
def test_models_that_the_original_cannot_run(change, match):
    rows = [change.get(i, row) for i, row in enumerate(TABLE["backbone"])]
    model = DetectionModel(TABLE | {"backbone": rows}, verbose=False)
    with pytest.raises(ValueError, match=match):
        check_blocks(model)
    check = DetectionModel(TABLE, verbose=False)
    check.yaml["bits"] = 16
    with pytest.raises(ValueError, match="more than 8 bits"):
        check_blocks(check)
