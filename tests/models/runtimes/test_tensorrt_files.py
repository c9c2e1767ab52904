"""The TensorRT backend on a pretended TensorRT: sizes, profiles, order of outputs. On a GPU: the real one."""

import sys
from types import SimpleNamespace

import pytest
import torch

from engine.exporters import EXPORTERS
from models.runtimes import tensorrt_files
from models.runtimes.backends import DetectMultiBackend
from models.yolo import DetectionModel
from utils.model_files.engine import write_engine
from utils.options.export import ExportOptions

METADATA = {"stride": 32, "names": {0: "a", 1: "b"}, "half": False}


class FakeStream:
    cuda_stream = 7

    def wait_stream(self, other):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False


class FakeContext:
    """Gives each image's mean as every value of 2 boxes, or of 3 detections with NMS."""

    def __init__(self, engine):
        self.engine, self.shape, self.addresses = engine, engine.profile[1], {}

    def set_input_shape(self, name, shape):
        self.shape = tuple(shape)
        self.engine.shapes.append(self.shape)
        return True

    def get_tensor_shape(self, name):
        batch = self.shape[0]
        return {"images": self.shape, "output0": (batch, 2, 7), "detections": (batch, 3, 6), "num": (batch,)}[name]

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        assert stream == FakeStream.cuda_stream
        buffers = self.engine.backend.buffers
        assert {name: buffer.data_ptr() for name, buffer in buffers.items()} == self.addresses
        count = torch.Size(self.shape).numel()
        means = buffers["images"].reshape(-1)[:count].view(self.shape).mean((1, 2, 3))
        for name in self.engine.names[1:]:
            shape = self.get_tensor_shape(name)
            values = torch.ones(shape) if name == "num" else means.view(-1, 1, 1).expand(shape)
            buffers[name].view(-1)[: values.numel()] = values.reshape(-1).to(buffers[name].dtype)
        return True


class FakeEngine:
    def __init__(self, profile, names=("images", "output0")):
        self.profile, self.names, self.shapes = profile, names, []
        self.num_io_tensors = len(names)

    def get_tensor_name(self, i):
        return self.names[i]

    def get_tensor_mode(self, name):
        return "in" if name == "images" else "out"

    def get_tensor_dtype(self, name):
        return "int32" if name == "num" else "float32"

    def get_tensor_shape(self, name):
        if name == "images":
            low, high = self.profile
            return tuple(a if a == b else -1 for a, b in zip(low, high, strict=True))
        return {"output0": (-1, -1, 7), "detections": (-1, 3, 6), "num": (-1,)}[name]

    def get_tensor_profile_shape(self, name, index):
        return self.profile[0], self.profile[0], self.profile[1]

    def create_execution_context(self):
        return FakeContext(self)


@pytest.fixture
def opened(monkeypatch, tmp_path):
    """A function that opens a pretended engine on a device that calls itself CUDA and is the CPU."""

    def open_engine(engine, metadata=METADATA, version="10.3.0"):
        file = tmp_path / "best.engine"
        write_engine(file, metadata, b"engine")

        def deserialize(data):
            assert data == b"engine"
            return engine

        module = SimpleNamespace(
            __version__=version,
            float32="float32",
            float16="float16",
            int32="int32",
            int64="int64",
            TensorIOMode=SimpleNamespace(INPUT="in"),
            Logger=type("Logger", (), {"WARNING": 1, "__init__": lambda self, level: None}),
            Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=deserialize),
        )
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        monkeypatch.setattr(tensorrt_files, "require", lambda packages, purpose: None)
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: FakeStream())
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: FakeStream())
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: None)
        empty = torch.empty
        monkeypatch.setattr(torch, "empty", lambda *a, device=None, **k: empty(*a, **k))
        backend = tensorrt_files.TensorRtBackend(file, torch.device("cuda", 0))
        if engine is not None:
            engine.backend = backend
        return backend

    return open_engine


def test_fixed_engine_takes_its_size_and_any_count(opened):
    engine = FakeEngine(((2, 3, 64, 64), (2, 3, 64, 64)))
    backend = opened(engine)
    assert (backend.batch_size, backend.imgsz, backend.names, backend.stride) == (2, (64, 64), {0: "a", 1: "b"}, 32)
    images = torch.rand(5, 3, 64, 64)
    torch.testing.assert_close(backend(images)[:, 0, 0], images.mean((1, 2, 3)))
    with pytest.raises(ValueError, match="takes images of 64x64"):
        backend(torch.rand(1, 3, 64, 96))


def test_profile_bounds_sizes_and_splits_batches(opened):
    engine = FakeEngine(((1, 3, 32, 32), (4, 3, 128, 160)))
    backend = opened(engine)
    assert (backend.batch_size, backend.imgsz) == (None, None)
    images = torch.rand(6, 3, 64, 96)
    torch.testing.assert_close(backend(images)[:, 1, 6], images.mean((1, 2, 3)))
    assert engine.shapes == [(4, 3, 128, 160), (4, 3, 64, 96), (2, 3, 64, 96)]  # allocation, then two parts
    for size in ((160, 160), (64, 192), (16, 64)):
        with pytest.raises(ValueError, match=r"built for images of 32\.\.128 x 32\.\.160"):
            backend(torch.rand(1, 3, *size))


def test_detections_come_before_their_number(opened):
    engine = FakeEngine(((1, 3, 32, 32), (2, 3, 64, 64)), ("images", "num", "detections"))
    engine.names = ("images", "num", "detections")
    backend = opened(engine, METADATA | {"nms": True})
    rows = backend(torch.full((2, 3, 32, 32), 0.5))
    assert rows.shape == (2, 3, 7)
    assert rows[:, 0, 4].tolist() == [0.5, 0.5]
    assert rows[:, 1:, 4].abs().sum() == 0  # beyond the number


def test_engine_that_cannot_be_used(opened):
    with pytest.raises(ValueError, match="cannot read this engine"):
        opened(None)
    with pytest.raises(ValueError, match=r"TensorRT 10 or newer is needed, this is 8\.6\.1"):
        opened(FakeEngine(((1, 3, 32, 32), (1, 3, 32, 32))), version="8.6.1")


@pytest.mark.gpu
def test_engine_on_a_gpu(tmp_path):
    pytest.importorskip("tensorrt")
    table = {"nc": 2, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": [[10, 13], [30, 61]]}
    table["backbone"] = [[-1, 1, "Conv", [8, 3, 2]]] * 5
    table["head"] = [[-1, 1, "Conv", [16, 3, 2]], [[4, 5], 1, "Detect", ["nc", "anchors"]]]
    model = DetectionModel(table, verbose=False).eval().fuse().requires_grad_(False).cuda()
    model.detect.export = True
    options = ExportOptions(imgsz=(64, 64), batch=2)
    images = torch.rand(3, 3, 64, 64, device="cuda")
    file = EXPORTERS["engine"](model, images[:2], tmp_path / "best.engine", options, METADATA | {"stride": 64})
    torch.testing.assert_close(DetectMultiBackend(file, "cuda:0")(images), model(images)[0], atol=0.05, rtol=0.01)
