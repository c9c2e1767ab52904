"""A whole conversion of a narrow model: errors fall, stops are survived, the file says what was done."""

import signal
from dataclasses import replace

import pytest
import torch

import export
from engine.conversion import run
from engine.conversion.check import Check
from engine.conversion.imitation import (
    PHASES,
    Imitation,
    head_maps,
    phases_of,
    rate_at,
    relative_error,
    stage_maps,
    variance,
)
from engine.conversion.progress import Progress
from engine.conversion.run import Settings, convert
from engine.conversion.stem import fit_stem_
from models.runtimes.backends import DetectMultiBackend
from models.weights.checkpoint import build_model, load_checkpoint
from models.weights.twin import build_twin, derive_table
from models.yolo import DetectionModel
from utils.datasets.demo import CLASSES, draw_demo
from utils.downloads.official_weights import LICENCE, LICENCE_NOTICE
from utils.files import yaml_load
from utils.paths import ROOT

SIZE = 64
IMAGES = torch.rand(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "demo"
    draw_demo(root, n_train=32, n_val=2, size=SIZE, seed=0)
    return root


@pytest.fixture(scope="module")
def teacher_file(tmp_path_factory, write_checkpoint):
    table = yaml_load(ROOT / "models/yolov5n.yaml") | {"width_multiple": 0.125, "depth_multiple": 0.1, "nc": 4}
    torch.manual_seed(0)
    model = DetectionModel(table, verbose=False)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # statistics of all batches, so that maps have the scale of a trained model's
    with torch.no_grad():
        for _ in range(4):
            model.train()(torch.rand(4, 3, SIZE, SIZE))
    return write_checkpoint(tmp_path_factory.mktemp("teacher") / "teacher.pt", model, dict(enumerate(CLASSES)))


@pytest.fixture(scope="module")
def settings():
    return Settings(imgsz=SIZE, batch_size=4, passes=80, seed=0)


@pytest.fixture(scope="module")
def whole(teacher_file, folder, settings, tmp_path_factory):
    """Path of a conversion that nothing stopped."""
    return convert(
        teacher_file,
        "twin",
        folder / "images/train",
        out=tmp_path_factory.mktemp("whole") / "twin.pt",
        settings=settings,
    )


def converted(teacher_file, folder, out, settings):
    return load_checkpoint(convert(teacher_file, "twin", folder / "images/train", out=out, settings=settings))


def test_stages_learn_and_everything_else_stays(teacher_file, whole):
    ckpt, theirs = load_checkpoint(whole), load_checkpoint(teacher_file)["model"]
    shared = [key for key in theirs if key in ckpt["model"]]
    assert len(shared) > 200
    for key in shared:  # stored as a stripped checkpoint stores them
        assert torch.equal(ckpt["model"][key], theirs[key].to(ckpt["model"][key].dtype)), key
    record = ckpt["converted"]
    stages = [row for row in record["layers"] if row["kind"] == "stage"]
    assert [row["layer"] for row in stages] == [2, 4, 6, 8]
    assert all(row["own"] < row["copied"] for row in stages)
    assert record["teacher"] == "teacher.pt"
    assert record["images"] == 32
    assert record["steps"] == {"teacher inputs": 10, "own inputs": 5, "whole network": 5}
    assert ckpt["names"] == dict(enumerate(CLASSES))
    assert yaml_load(whole.with_suffix(".yaml"))["backbone"] == ckpt["yaml"]["backbone"]
    assert not whole.with_name("twin.conversion.pt").exists()
    assert not build_model(ckpt).training


def test_stopped_conversion_goes_on_to_the_same_weights(
    teacher_file, folder, tmp_path, settings, monkeypatch, caplog, whole
):
    step, steps, stops = Imitation.step, 0, (6, 13, 18)  # in each phase

    def step_until(self, *args):
        nonlocal steps
        steps += 1
        if steps in stops:
            signal.raise_signal(signal.SIGTERM)
        return step(self, *args)

    monkeypatch.setattr(Imitation, "step", step_until)
    for stop in stops:
        with pytest.raises(SystemExit) as end:
            converted(teacher_file, folder, tmp_path / "twin.pt", settings)
        assert (end.value.code, steps) == (143, stop)
        assert (tmp_path / "twin.conversion.pt").is_file()
        assert not (tmp_path / "twin.pt").exists()
    resumed = converted(teacher_file, folder, tmp_path / "twin.pt", settings)
    assert steps == 20
    assert all(f"going on after {stop} of 20 steps" in caplog.text for stop in stops)
    assert all(torch.equal(resumed["model"][key], value) for key, value in load_checkpoint(whole)["model"].items())


def test_state_of_another_conversion_is_not_taken_up(teacher_file, folder, tmp_path, settings, monkeypatch, caplog):
    monkeypatch.setattr(run.Conversion, "run_phase", lambda *_: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit):
        converted(teacher_file, folder, tmp_path / "twin.pt", settings)
    monkeypatch.undo()
    converted(teacher_file, folder, tmp_path / "twin.pt", replace(settings, seed=1, passes=8))
    assert "of a conversion that differs in images, settings, so this one starts anew" in caplog.text


def test_damaged_state_is_reported_and_replaced(teacher_file, folder, tmp_path, settings, caplog):
    (tmp_path / "twin.conversion.pt").write_bytes(b"nothing")
    converted(teacher_file, folder, tmp_path / "twin.pt", replace(settings, passes=8))
    assert "not the state of a conversion" in caplog.text


def test_converted_checkpoint_is_not_converted_again(folder, tmp_path, settings, whole):
    with pytest.raises(ValueError, match=r"twin.pt has been converted already, from teacher.pt"):
        convert(whole, images=folder / "images/train", out=tmp_path / "b.pt", settings=settings)


def test_validation_images_are_never_learned_from(teacher_file, folder, tmp_path, settings, monkeypatch):
    used = []
    monkeypatch.setattr(run, "Images", lambda files, *_: used.extend(files))
    with pytest.raises(AttributeError):  # nothing follows the images here
        convert(teacher_file, images=folder / "images", data=data_of(folder), out=tmp_path / "a.pt", settings=settings)
    assert len(used) == 32
    assert not any("/val/" in file for file in used)


def data_of(folder):
    return {
        "path": str(folder), "train": "images/train", "val": "images/val", "names": dict(enumerate(CLASSES)),
    }  # fmt: skip


def test_labels_of_the_same_classes_measure_teacher_and_twin(teacher_file, folder, tmp_path, settings):
    out = convert(teacher_file, data=data_of(folder), out=tmp_path / "a.pt", settings=replace(settings, passes=8))
    assert set(load_checkpoint(out)["converted"]["labels"]) == {"teacher", "copied", "converted"}
    names = load_checkpoint(teacher_file)["names"]
    assert run.same_classes(data_of(folder), names)
    assert not run.same_classes(data_of(folder) | {"names": dict(enumerate("abcd"))}, names)


def test_no_images_and_the_file_of_the_teacher_are_refused(teacher_file, folder):
    with pytest.raises(ValueError, match="no images: pass --images FOLDER, or --data"):
        convert(teacher_file)
    with pytest.raises(ValueError, match="is the file of the teacher"):
        convert(teacher_file, images=folder / "images/train", out=teacher_file)


@pytest.mark.parametrize("suffix", [".pt", ".yaml"])
def test_existing_files_are_not_replaced(teacher_file, folder, tmp_path, suffix):
    mine = (tmp_path / "twin").with_suffix(suffix)
    mine.write_text("mine")
    with pytest.raises(ValueError, match=f"twin{suffix} exists already: move it away, or choose another --out"):
        convert(teacher_file, images=folder / "images/train", out=tmp_path / "twin.pt")
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("name", ["v5", "v7", "fused"])
def test_files_of_the_original_are_converted_with_their_licence(foreign, folder, tmp_path, settings, name, caplog):
    out = convert(
        foreign / f"{name}.pt", "twin", folder / "images/train", None, tmp_path / "a.pt", replace(settings, passes=8)
    )
    ckpt = load_checkpoint(out)
    assert [row["kind"] for row in ckpt["converted"]["layers"]].count("stage") >= 1
    assert ckpt["converted"]["licence"] == build_model(ckpt).licence == LICENCE
    assert caplog.text.count(LICENCE_NOTICE) == 1


def test_model_without_c3_says_why_it_has_no_twin(foreign, folder, tmp_path, settings, caplog):
    with pytest.raises(ValueError, match="it has no C3SwinV2 in place of a C3 of the teacher"):
        convert(foreign / "v3.pt", "twin", folder / "images/train", None, tmp_path / "a.pt", settings)
    assert "stays BottleneckCSP: only C3 has a Swin twin" in caplog.text


@pytest.mark.parametrize("kind", ["torchscript", pytest.param("onnx", marks=pytest.mark.slow)])
def test_exported_twin_gives_the_boxes_of_the_checkpoint(whole, kind):
    pytest.importorskip("onnxruntime" if kind == "onnx" else "torch")
    (file,) = export.run(weights=str(whole), imgsz=[SIZE], include=[kind])
    model = build_model(load_checkpoint(whole), fuse=True)
    with torch.no_grad():
        expected = model(IMAGES[:1])[0]
    found = DetectMultiBackend(file)(IMAGES[:1])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert any(row["own"] != row["copied"] for row in load_checkpoint(whole)["converted"]["layers"] if "own" in row)


# Parts ----------------------------------------------------------------------------------------------------------------
@pytest.fixture
def pair(teacher_file):
    teacher = build_model(load_checkpoint(teacher_file))
    torch.manual_seed(0)
    twin, pairing = build_twin(teacher, derive_table(teacher, SIZE)[0])
    return teacher, twin, pairing


def test_best_state_is_kept():
    progress = Progress({}, [1, 1])
    for k, error in enumerate((0.4, 0.1, 0.2)):
        progress.add(Check([1.0], [1.0], [error, error], (0.5, 0.5)), {"k": k})
    assert progress.best == 1
    assert progress.best_stages == {"k": 1}
    assert Check([0.1], [0.3], [], None).score > Check([0.1], [0.4], [], None).score  # without a head


def test_memory_is_saved_by_parts_with_the_same_gradients(pair, monkeypatch, caplog):
    teacher, twin, pairing = pair
    images = torch.rand(8, 3, SIZE, SIZE)
    for block in twin.model[2].m.blocks:  # not the identity, so that every parameter has a gradient
        torch.nn.init.ones_(block.norm1.weight)
        torch.nn.init.ones_(block.norm2.weight)
    whole = Imitation(teacher, twin, pairing.stages, IMAGES)
    errors = whole.gradients(images, kind="teacher")
    expected = [p.grad.clone() for p in whole.stages.parameters()]
    whole.optimizer.zero_grad()

    stage, seen = whole.stages[0], []
    forward = type(stage).forward

    def scarce(x):
        seen.append(len(x))
        if len(x) > 2:
            raise torch.OutOfMemoryError
        return forward(stage, x)

    monkeypatch.setattr(stage, "forward", scarce)
    parts = whole.gradients(images, kind="teacher")
    assert seen == [8, 4, 2, 2, 2, 2]
    assert whole.parts == {"the stage of layer 2": 4}
    assert parts == pytest.approx(errors, rel=1e-5)
    for p, grad in zip(whole.stages.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, grad, rtol=1e-4, atol=1e-6)
    assert "the stage of layer 2 is out of memory, so a batch is cut into 4 parts" in caplog.text


def test_joint_phase_is_cut_into_parts_too(pair, monkeypatch):
    teacher, twin, pairing = pair
    imitation = Imitation(teacher, twin, pairing.stages, IMAGES)
    errors = imitation.gradients(IMAGES, kind="joint")
    expected = [p.grad.clone() for p in imitation.stages.parameters() if p.grad is not None]
    assert any(grad.any() for grad in expected)
    with torch.no_grad():
        maps = [head_maps(model, IMAGES) for model in (twin, teacher)]
    assert errors == pytest.approx([float(relative_error(*level)) for level in zip(*maps, strict=True)], rel=1e-4)
    imitation.optimizer.zero_grad()
    first, forward = twin.model[0], type(twin.model[0]).forward

    def scarce(x):
        if len(x) > 1:
            raise torch.OutOfMemoryError
        return forward(first, x)

    monkeypatch.setattr(first, "forward", scarce)
    assert imitation.gradients(IMAGES, kind="joint") == pytest.approx(errors, rel=1e-4)
    assert imitation.parts == {"the whole network": 4}
    for p, grad in zip((p for p in imitation.stages.parameters() if p.grad is not None), expected, strict=True):
        torch.testing.assert_close(p.grad, grad, rtol=1e-3, atol=1e-5)


def test_one_image_too_large_for_memory_is_an_error(pair, monkeypatch):
    teacher, twin, pairing = pair
    imitation = Imitation(teacher, twin, pairing.stages, IMAGES)

    def none(_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(imitation.stages[1], "forward", none)
    with pytest.raises(ValueError, match="the stage of layer 4 cannot take one image: use a smaller --img"):
        imitation.gradients(torch.rand(2, 3, SIZE, SIZE), kind="teacher")


def test_loss_that_is_not_finite_goes_back_and_ends_after_some_times(
    teacher_file, folder, tmp_path, settings, monkeypatch, caplog
):
    step, calls = Imitation.step, []

    def sometimes(self, images, kind, rate):
        calls.append(self.rate)
        return [float("nan")] * 4 if len(calls) == 3 else step(self, images, kind, rate)

    monkeypatch.setattr(Imitation, "step", sometimes)
    settings = replace(settings, passes=24)  # six steps and one more, as every phase has a whole number
    converted(teacher_file, folder, tmp_path / "a.pt", settings)
    assert "a loss is not finite: back to step 2 with half the learning rate" in caplog.text
    assert calls[2:4] == [1.0, 0.5]
    monkeypatch.setattr(Imitation, "step", lambda *_: [float("inf")] * 4)
    with pytest.raises(ValueError, match="teacher.pt: the loss of the imitation is not finite, even at lower rates"):
        converted(teacher_file, folder, tmp_path / "b.pt", settings)


def test_batch_statistics_stay_in_both_models(pair):
    teacher, twin, pairing = pair
    imitation = Imitation(teacher, twin, pairing.stages, IMAGES)
    before = [{k: v.clone() for k, v in model.named_buffers()} for model in (teacher, twin)]
    for kind in ("teacher", "own", "joint"):
        imitation.step(torch.rand(2, 3, SIZE, SIZE), kind, 0.01)
    for model, buffers in zip((teacher, twin), before, strict=True):
        assert all(torch.equal(value, buffers[key]) for key, value in model.named_buffers())
    names = [name for name, p in twin.named_parameters() if p.requires_grad]
    assert names == [name for name, _ in twin.named_parameters() if ".m.blocks." in name]


def test_inputs_of_the_second_phase_are_those_of_the_twin(pair):
    teacher, twin, pairing = pair
    images = torch.rand(2, 3, SIZE, SIZE)
    theirs, own = (stage_maps(model, images, pairing.stages) for model in (teacher, twin))
    assert torch.equal(theirs[2][0], own[2][0])  # nothing differs before the first stage
    assert not torch.equal(theirs[4][0], own[4][0])
    assert torch.equal(own[4][0], own[4][1])  # still the identity
    assert [phase.kind for phase in PHASES] == ["teacher", "own", "joint"]
    assert [phase.kind for phase in phases_of(whole=False)] == ["teacher", "own"]
    assert sum(phase.share for phase in phases_of(whole=False)) == sum(phase.share for phase in PHASES) == 1


def test_errors_on_own_inputs_are_those_of_the_maps(pair):
    teacher, twin, pairing = pair
    imitation = Imitation(teacher, twin, pairing.stages, IMAGES)
    theirs, own = (stage_maps(model, IMAGES, pairing.stages) for model in (teacher, twin))
    expected = []
    for layer, weight in zip(pairing.stages, imitation.weights, strict=True):
        maps = [torch.nn.functional.conv2d(x, weight) for x in (own[layer][1], theirs[layer][1])]
        expected.append(float(relative_error(*maps)))
    assert imitation.gradients(IMAGES, kind="own") == pytest.approx(expected, rel=1e-4)


def test_relative_error_by_hand():
    target = torch.tensor([0.0, 2.0])  # variance 1
    assert relative_error(torch.tensor([0.0, 0.0]), target) == 2
    assert relative_error(target, target) == 0
    assert relative_error(torch.ones(2), torch.full((2,), 3.0)) == pytest.approx(4 / (9 * 1e-6))  # constant: the floor
    assert variance(torch.zeros(3)) > 0


def test_rate_rises_and_falls():
    rates = [rate_at(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.002)
    assert max(rates) == rates[9] == rates[10] == 0.02
    assert rates[11:] == sorted(rates[11:], reverse=True)
    assert rates[-1] == pytest.approx(0.0002, rel=0.05)


def test_fitted_stem_finds_the_kernel(folder):
    torch.manual_seed(0)
    teacher = DetectionModel(yaml_load(ROOT / "models/yolov5n.yaml") | {"nc": 3}, verbose=False).eval()
    table = derive_table(teacher, SIZE)[0]
    table["backbone"][0] = [-1, 1, "Conv", [64, 3, 2]]
    twin, pairing = build_twin(teacher, table)
    assert pairing.stem
    theirs, own = teacher.model[0], twin.model[0]
    outside = torch.ones(6, 6, dtype=torch.bool)
    outside[1:4, 1:4] = False  # padding 2 there, 1 here: what the smaller kernel sees
    with torch.no_grad():
        theirs.conv.weight[..., outside] = 0
    images = run.Images(sorted(map(str, (folder / "images/train").iterdir())), SIZE)
    assert fit_stem_(teacher, twin, images) < 1e-3
    x = torch.rand(1, 3, SIZE, SIZE)
    with torch.no_grad():
        torch.testing.assert_close(own(x), theirs(x), rtol=0, atol=0.02)
