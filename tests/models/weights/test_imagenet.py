"""Published weights: three layouts against the models they come from, the report, what is refused."""

import hashlib
import http.server
import logging
import math
import re
import threading
from functools import partial

import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models
from torchvision.models import swin_transformer as torchvision_swin

from models.weights.imagenet import (
    PUBLISHED,
    backbone_keys,
    load_published,
    read_published,
    recognise,
    strip_prefixes,
    trained_window,
)
from models.yolo import DetectionModel
from utils.downloads import official_weights
from utils.downloads.official_weights import IMAGENET, Official

SIZES = ["t", pytest.param("s", marks=pytest.mark.slow), pytest.param("b", marks=pytest.mark.slow)]
TIMM = {"t": "swinv2_tiny_window8_256", "s": "swinv2_small_window8_256", "b": "swinv2_base_window8_256"}
STEPS = ["embedding", "stage 1", "stage 2", "stage 3", "stage 4", "last norm"]
MICROSOFT_ONLY = {
    "relative_coords_table": (1, 15, 15, 2),
    "relative_position_index": (64, 64),
    "attn_mask": (64, 64, 64),
}


def randomise(model):
    """Random numbers where each matters: gains about 1, wide biases, temperatures on both sides of the bound."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("logit_scale"):
                p.normal_(2.3, 2, generator=generator)
            elif re.search(r"norm\d?\.weight$|features\.0\.2\.weight$", name):
                p.normal_(1, 0.3, generator=generator)
            else:
                deviation = 0.3 if p.ndim == 1 else 1 / math.sqrt(math.prod(p.shape[1:]))
                p.uniform_(-deviation, deviation, generator=generator)
    return model.eval()


def build(size):
    """Our detector with a window of 8 everywhere, as the published models run at 256 pixels."""
    model = DetectionModel(f"yolov5-swinv2{size}.yaml", nc=2, verbose=False).eval()
    model.set_window(8)
    return model


@torch.inference_mode()
def features(model, image):
    """Our maps after the embedding, each stage and the last norm, channel-last."""
    found, x = [], image
    for i in range(8):
        x = model.model[i](x)
        if i == 0 or i % 2:
            found.append(x)
    found.append(model.model[10](x))
    return [x.permute(0, 2, 3, 1) for x in found]


@torch.inference_mode()
def torchvision_features(theirs, image):
    found, x = [], image
    for i, layer in enumerate(theirs.features):
        x = layer(x)
        if i == 0 or i % 2:
            found.append(x)
    return [*found, theirs.norm(x)]


@torch.inference_mode()
def timm_features(theirs, image):
    found = [theirs.patch_embed(image)]
    for layer in theirs.layers:
        found.append(layer(found[-1]))
    return [*found, theirs.norm(found[-1])]


def to_microsoft(state):
    """timm's names to the authors': merging at the end of the stage before, plain head, buffers, container."""
    named = {}
    for key, value in state.items():
        key = re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", key)
        named[key.replace("head.fc.", "head.")] = value
    for name, shape in MICROSOFT_ONLY.items():
        named[f"layers.0.blocks.1.attn.{name}".replace("attn.attn_mask", "attn_mask")] = torch.ones(shape)
    named["layers.0.blocks.1.attn.relative_coords_table"][:] = math.log2(9) / 3
    return {"model": named, "epoch": 299}


def assert_equal(ours, theirs, record):
    for step, a, b in zip(STEPS, ours, theirs, strict=True):
        magnitude = b.abs().max().item()
        assert a.shape == b.shape
        assert magnitude > 1
        error = (a - b).abs().max().item() / magnitude
        record(step, f"{error:.1e}")
        assert error <= 1e-5, step


@pytest.mark.parametrize("size", SIZES)
def test_torchvision_file_gives_torchvisions_features(size, tmp_path, record_property):
    theirs = randomise(getattr(torchvision_swin, f"swin_v2_{size}")())
    torch.save(theirs.state_dict(), tmp_path / "vision.pth")
    model = build(size)
    published = read_published(str(tmp_path / "vision.pth"))
    assert published.layout == "torchvision"
    report = load_published(model, published)
    assert (report.missing, report.unexpected) == ([], [])
    assert set(report.taken) == set(backbone_keys(model).values())
    image = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    assert_equal(features(model, image), torchvision_features(theirs, image), record_property)


@pytest.mark.parametrize("layout", [pytest.param("timm", marks=pytest.mark.slow), "Microsoft"])
@pytest.mark.parametrize("size", SIZES)
def test_timm_and_microsoft_files_give_timms_features(size, layout, tmp_path, record_property):
    timm = pytest.importorskip("timm.models.swin_transformer_v2")
    theirs = randomise(getattr(timm, TIMM[size])(num_classes=1000))
    state = theirs.state_dict()
    torch.save(to_microsoft(state) if layout == "Microsoft" else state, tmp_path / "weights.pth")
    model = build(size)
    published = read_published(str(tmp_path / "weights.pth"))
    assert published.layout == layout
    report = load_published(model, published)
    assert (report.missing, report.unexpected) == ([], [])
    assert len(report.dropped) == (5 if layout == "Microsoft" else 2)
    image = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(1))
    assert_equal(features(model, image), timm_features(theirs, image), record_property)


# Small files: a backbone of 8 to 64 channels -------------------------------------------------------------------------


def small_table(depths=(2, 2, 2, 2), width=8):
    rows = [[-1, 1, "PatchEmbed", [width, 4]]]
    for s, depth in enumerate(depths):
        c = width * 2**s
        rows += [[-1, 1, "PatchMerging", [c]]] if s else []
        rows += [[-1, depth, "SwinV2Stage", [c, 4, 1, {"pretrained_window": 8}]]]
    rows += [[3, 1, "LayerNorm2d", []], [7, 1, "LayerNorm2d", []]]
    head = [[[8, 9], 1, "Detect", ["nc", "anchors"]]]
    base = {"nc": 2, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": [[10, 13], [16, 30]]}
    return base | {"backbone": rows, "head": head}


def small(**keys):
    return DetectionModel(small_table(**keys), verbose=False)


def small_vision(window=8):
    return randomise(
        torchvision_swin.SwinTransformer(
            [4, 4], 8, [2, 2, 2, 2], [1, 1, 1, 1], [window, window], num_classes=3,
            block=torchvision_swin.SwinTransformerBlockV2, downsample_layer=torchvision_swin.PatchMergingV2,
        )
    )  # fmt: skip


@pytest.fixture
def vision_file(tmp_path):
    torch.save(small_vision().state_dict(), tmp_path / "small.pth")
    return tmp_path / "small.pth"


def test_report_names_what_was_left_and_what_is_too_much(tmp_path, caplog):
    state = small_vision().state_dict()
    del state["norm.weight"]
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in state.items()} | {"module.extra.weight": torch.ones(2)}},
        tmp_path / "x.pth",
    )
    model = small()
    before = model.model[9].bias.clone(), model.model[8].weight.clone()
    with caplog.at_level(logging.INFO):
        report = load_published(model, read_published(str(tmp_path / "x.pth")))
    assert report.missing == ["model.9.weight"]
    assert report.unexpected == ["extra.weight"]
    assert len(report.dropped) == 2 + 2 * 8  # classifier; table and index of every block
    assert f"Backbone: {len(report.taken)}/{len(report.taken) + 1} tensors from" in caplog.text
    assert "not in the file: model.9.weight" in caplog.text
    assert "in the file, but not in the model: extra.weight" in caplog.text
    assert torch.equal(model.model[9].bias, state["norm.bias"])
    assert not torch.equal(model.model[9].bias, before[0])
    assert torch.equal(model.model[8].weight, before[1])  # the norm of P3 is not in any file


def test_window_of_the_file_becomes_the_trained_window_of_model_and_table(tmp_path):
    torch.save(small_vision(12).state_dict(), tmp_path / "w12.pth")
    model = small()
    load_published(model, read_published(str(tmp_path / "w12.pth")))
    attentions = [block.attn for stage in model.swin_stages for block in stage.blocks]
    assert {attn.pretrained_window for attn in attentions} == {(12, 12)}
    assert {attn.window for attn in attentions} == {(4, 4)}
    again = DetectionModel(model.yaml, verbose=False)
    again.load_state_dict(model.state_dict())
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again.eval()(x)[0], model.eval()(x)[0])


@pytest.mark.parametrize(("window", "trained"), [(8, 8), (16, 12), (8, 6), (24, 12), (1, 1)])
def test_trained_window_is_read_from_the_table_of_offsets(window, trained):
    offsets = 8 * torch.arange(1 - window, window) / max(trained - 1, 1)
    t = offsets.sign() * torch.log2(1 + offsets.abs()) / math.log2(8)
    table = torch.stack(torch.meshgrid(t, t, indexing="ij"), -1)[None]
    assert trained_window(table) == trained


def test_window_table_outside_the_stages_is_left_out():
    state = small_vision().state_dict()
    published = recognise(state | {"other.relative_coords_table": torch.zeros(1, 15, 15, 2)}, "a file")
    assert "other.relative_coords_table" in published.dropped
    assert set(published.trained_windows) == {0, 1, 2, 3}


def test_prefixes_are_stripped_in_any_order():
    assert strip_prefixes("module.model.encoder.layers.0.x") == "layers.0.x"
    assert strip_prefixes("layers.0.model.x") == "layers.0.model.x"


def refused(change, tmp_path, model=None):
    state = small_vision().state_dict()
    path = tmp_path / "bad.pth"
    torch.save(change(state), path)
    load_published(model or small(), read_published(str(path)))


REFUSED = [
    (
        lambda s: s | {"features.1.0.attn.relative_position_bias_table": torch.ones(1)},
        "weights of Swin V1, another architecture",
    ),
    (lambda s: {"layers.0.blocks.0.attn.meta_mlp.fc1.weight": torch.ones(1)}, "weights of timm's swinv2_cr"),
    (lambda s: {"conv1.weight": torch.ones(1), "bn1.bias": torch.ones(1)}, r"keys begin with conv1.weight, bn1.bias\)"),
    (
        lambda s: {k: v for k, v in s.items() if not k.startswith("features.5.1")},
        r"8-16-32-64 / 2-2-1-2, but .* 2-2-2-2",
    ),
    (lambda s: s | {"features.2.reduction.weight": torch.ones(2, 2)}, r"stages.1.merge.reduction.weight does not fit"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_wrong_weights_are_refused(change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        refused(change, tmp_path)


def test_wrong_models_are_refused(vision_file):
    published = read_published(str(vision_file))
    with pytest.raises(ValueError, match="yolov5n-swinv2.yaml: published weights are for the backbones of the paper"):
        load_published(DetectionModel("yolov5n-swinv2.yaml", verbose=False), published)
    with pytest.raises(ValueError, match="8-16-32-64 / 2-2-2-2, but the model has 8-16-32-64 / 2-2-4-2"):
        load_published(small(depths=(2, 2, 4, 2)), published)


class Payload:
    def __reduce__(self):
        return print, ("run",)


def test_other_files_are_left_to_the_loader_of_checkpoints(tmp_path, capsys):
    cases = {
        "own": {"format": 1, "model": {"a": torch.ones(1)}},
        "list": [1],
        "numbers": {"a": 1},
        "code": {"a": Payload()},
    }
    for name, content in cases.items():
        torch.save(content, tmp_path / name)
        assert read_published(str(tmp_path / name)) is None
    (tmp_path / "text").write_text("no checkpoint")
    assert read_published(str(tmp_path / "text")) is None
    assert capsys.readouterr().out == ""


def test_safetensors_files_are_read(tmp_path, vision_file):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(torch.load(vision_file), tmp_path / "x.safetensors")
    assert read_published(str(tmp_path / "x.safetensors")).state.keys() == read_published(str(vision_file)).state.keys()


# The named files: in the folder of torch.hub, or fetched --------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    return tmp_path / "hub/checkpoints"


def publish(monkeypatch, name, digest):
    """Let a name stand for a file with this digest."""
    url = f"https://example.invalid/models/{name}-{digest}.pth"
    monkeypatch.setitem(IMAGENET, name, Official(url, 1_000_000, digest))
    return url.rpartition("/")[2]


def test_names_stand_for_torchvisions_files():
    for name, cfg in PUBLISHED.items():
        weights = torchvision_models.get_weight(f"Swin_V2_{name[-1].upper()}_Weights.IMAGENET1K_V1")
        assert IMAGENET[name].url == weights.url
        assert IMAGENET[name].sha256 == weights.url[-12:-4]
        assert IMAGENET[name].size == pytest.approx(weights.meta["_file_size"] * 2**20, rel=0.01)
        assert cfg == f"models/yolov5-swinv2{name[-1]}.yaml"


def test_file_in_the_folder_of_torch_hub_is_used_without_the_network(hub, vision_file, monkeypatch):
    file = publish(monkeypatch, "swinv2_t", hashlib.sha256(vision_file.read_bytes()).hexdigest()[:8])
    monkeypatch.setattr(official_weights, "resume", lambda *a: pytest.fail("fetched"))
    vision_file.rename(hub / file)
    assert read_published("swinv2_t").layout == "torchvision"


def test_damaged_file_in_the_folder_is_refused(hub, monkeypatch):
    file = publish(monkeypatch, "swinv2_t", "0badc0de")
    (hub / file).write_bytes(b"half a file")
    with pytest.raises(ValueError, match=f"{file}: damaged or another file .*delete it"):
        read_published("swinv2_t")


@pytest.fixture
def served(tmp_path, monkeypatch):
    """The folder that a mirror has for these files."""
    folder = tmp_path / "served/models"
    folder.mkdir(parents=True)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("YOLOV5_SWINV2_MIRROR", f"http://127.0.0.1:{server.server_port}/;only")
    yield folder
    server.shutdown()
    server.server_close()


def test_named_file_is_fetched_with_its_checksum(hub, vision_file, monkeypatch, served, caplog):
    file = publish(monkeypatch, "swinv2_t", hashlib.sha256(vision_file.read_bytes()).hexdigest()[:8])
    wrong = publish(monkeypatch, "swinv2_s", "00000000")
    absent = publish(monkeypatch, "swinv2_b", "11111111")
    vision_file.rename(served / file)
    (served / wrong).write_bytes(b"something else")
    assert read_published("swinv2_t").layout == "torchvision"
    with pytest.raises(
        FileNotFoundError, match=r"another file, none of PyTorch: sha256 [0-9a-f]{64} \(14 bytes\), expected 00000000"
    ):
        read_published("swinv2_s")
    with pytest.raises(FileNotFoundError, match=rf"answers 404.* Put .*/models/{absent} .* at {hub / absent}"):
        read_published("swinv2_b")
    assert [path.name for path in hub.iterdir()] == [file]
    assert "AGPL" not in caplog.text


def test_backbone_keys_cover_the_backbone_and_nothing_else():
    model = small()
    keys = backbone_keys(model)
    rows = nn.ModuleList([*model.model[:8], model.model[9]])
    assert len(keys) == len(rows.state_dict())
    assert keys["stages.2.merge.reduction.weight"] == "model.4.reduction.weight"
    assert keys["norm.bias"] == "model.9.bias"
