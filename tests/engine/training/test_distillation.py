"""Training with a teacher: what it changes, what it must not, how it is resumed, and which teachers are refused."""

import csv
import shutil
from itertools import pairwise

import pytest
import torch
import yaml

import train
from engine.training import state as training
from engine.training.distillation import CALIBRATION, Distillation
from models.weights.checkpoint import build_model, load_checkpoint
from models.yolo import DetectionModel
from tests.stops import stopping
from utils.datasets.demo import CLASSES
from utils.files import file_sha256, yaml_load, yaml_save
from utils.hyp import Hyp
from utils.loggers.to_csv import RESULT_COLUMNS
from utils.loss import ComputeLoss

TABLE = {
    "nc": 4,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[10, 13, 16, 30], [30, 61, 62, 45]],
    "backbone": [[-1, 1, "Conv", [8, 3, 4]], [-1, 1, "Conv", [16, 3, 2]]],
    "head": [[-1, 1, "Conv", [16, 3, 2]], [[1, 2], 1, "Detect", ["nc", "anchors"]]],
}
NAMES = dict(enumerate(CLASSES))


def model(**changes):
    return DetectionModel(TABLE | changes, verbose=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_dataset, write_checkpoint):
    """Teacher, table and hyperparameters, and finished runs `alone`, `taught` (gain 1) and `unmoved` (gain 0)."""
    root = tmp_path_factory.mktemp("taught")
    torch.manual_seed(5)
    write_checkpoint(root / "teacher.pt", model(), NAMES)
    (root / "model.yaml").write_text(yaml.safe_dump(TABLE))
    for gain in (0, 1):
        (root / f"hyp{gain}.yaml").write_text(yaml.safe_dump(Hyp(nominal_batch=4, distill=gain).to_dict()))
    run(root, tiny_dataset, "alone", teacher="")
    run(root, tiny_dataset, "taught")
    run(root, tiny_dataset, "unmoved", gain=0)
    return root


def run(root, data, name, callbacks=None, gain=1, **options):
    """Train two epochs of two batches and return what the run was built of."""
    built = []
    real = training.prepare

    def prepare(*args):
        built.append(real(*args))
        return built[-1]

    base = {"data": str(data), "cfg": str(root / "model.yaml"), "hyp": str(root / f"hyp{gain}.yaml"), "epochs": 2}
    base |= {"imgsz": 64, "batch_size": 4, "workers": 0, "noplots": True, "noval": True, "noautoanchor": True}
    base |= {"project": str(root), "name": name, "teacher": str(root / "teacher.pt")}
    opt = train.parse_opt([])
    opt.given = list(options)
    for key, value in (({} if "resume" in options else base) | options).items():
        setattr(opt, key, value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "prepare", prepare)
        train.main(opt, callbacks)
    return built[0][0]


def weights(folder):
    return load_checkpoint(folder / "weights/last.pt")["model"]


def rows(folder):
    """The cells of results.csv but for the time."""
    with (folder / "results.csv").open() as file:
        return [[cell.strip() for cell in row[:-1]] for row in csv.reader(file)]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


# The run --------------------------------------------------------------------------------------------------------------
def test_without_gain_the_run_is_that_without_a_teacher(folder):
    assert same(weights(folder / "unmoved"), weights(folder / "alone"))
    assert [row[:-1] for row in rows(folder / "unmoved")] == rows(folder / "alone")


def test_the_teacher_moves_the_student_and_has_a_column(folder):
    assert not same(weights(folder / "taught"), weights(folder / "alone"))
    header, *body = rows(folder / "taught")
    assert header == [*RESULT_COLUMNS, "train/dis_loss"]
    assert all(float(row[-1]) > 0 for row in body)
    assert rows(folder / "alone")[0] == list(RESULT_COLUMNS)


def test_checkpoints_hold_the_student_and_name_the_teacher(folder):
    ckpt = load_checkpoint(folder / "taught/weights/best.pt")
    assert ckpt["model"].keys() == model().state_dict().keys()
    assert ckpt["teacher"]["file"] == str(folder / "teacher.pt")
    assert ckpt["teacher"]["sha256"] == file_sha256(folder / "teacher.pt")
    assert load_checkpoint(folder / "alone/weights/best.pt")["teacher"] is None


@pytest.mark.parametrize(("learns", "amp"), [("maps", "off"), ("both", "bf16")])
def test_the_teacher_itself_stays_as_it_is(folder, tiny_dataset, tmp_path, learns, amp):
    state = run(folder, tiny_dataset, "run", project=str(tmp_path), distill_from=learns, amp=amp, epochs=1)
    read = build_model(load_checkpoint(folder / "teacher.pt")).state_dict()
    assert same(state.distillation.teacher.state_dict(), read)
    assert all(p.grad is None for p in state.distillation.teacher.parameters())
    assert not state.ema.ema.detect._forward_pre_hooks  # an average that kept maps would keep a batch of them


def test_a_frozen_copy_of_the_start_teaches(folder, tiny_dataset, tmp_path):
    own = {"weights": str(folder / "taught/weights/best.pt"), "cfg": "", "teacher": "start", "epochs": 1}
    run(folder, tiny_dataset, "run", project=str(tmp_path), **own)
    kept = load_checkpoint(tmp_path / "run/weights/teacher.pt")
    start = load_checkpoint(own["weights"])["model"]
    assert same(kept["model"], {key: x.float() for key, x in start.items()})
    assert load_checkpoint(tmp_path / "run/weights/last.pt")["teacher"]["file"].endswith("run/weights/teacher.pt")


def test_the_student_takes_the_anchors_of_its_teacher(folder, tiny_dataset, tmp_path, write_checkpoint, caplog):
    anchors = [[12, 13, 16, 30], [30, 61, 62, 45]]
    own = {"project": str(tmp_path), "teacher": str(write_checkpoint(tmp_path / "t.pt", model(anchors=anchors), NAMES))}
    with pytest.raises(ValueError, match=r"its anchors are not those of this model, which --noautoanchor keeps"):
        run(folder, tiny_dataset, "run", **own)
    state = run(folder, tiny_dataset, "run", **own, noautoanchor=False, epochs=1)
    assert torch.equal(state.model.detect.anchors, state.distillation.anchors)
    assert "its anchors are used" in caplog.text


# Resuming -------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def stopped(folder, tiny_dataset):
    """A run like `taught` that a signal broke off in its second epoch."""
    with pytest.raises(KeyboardInterrupt):
        run(folder, tiny_dataset, "stopped", stopping("on_train_batch_end", ni=2))
    return folder / "stopped"


@pytest.fixture
def copy(stopped, tmp_path):
    """The same for a test alone, with a teacher of its own."""
    shutil.copytree(stopped, tmp_path / "run")
    shutil.copy(stopped.parent / "teacher.pt", tmp_path)
    options = yaml_load(tmp_path / "run/opt.yaml") | {"teacher": str(tmp_path / "teacher.pt")}
    yaml_save(tmp_path / "run/opt.yaml", options)
    return tmp_path / "run"


def resume(folder, **options):
    return run(folder.parent, "", "", resume=str(folder / "weights/last.pt"), **options)


def test_a_resumed_run_ends_as_the_unbroken_one(copy, folder):
    resume(copy)
    assert same(weights(copy), weights(folder / "taught"))
    assert rows(copy) == rows(folder / "taught")
    ends = [load_checkpoint(run / "weights/last.pt")["teacher"] for run in (copy, folder / "taught")]
    assert ends[0]["sums"] == ends[1]["sums"]
    assert ends[0]["batches"] == 4


def test_a_resumed_run_needs_its_teacher(copy, folder):
    teacher = copy.parent / "teacher.pt"
    teacher.unlink()
    with pytest.raises(FileNotFoundError, match=r"no such file; restore it, or pass its new path with --teacher"):
        resume(copy)
    with pytest.raises(ValueError, match=r"another file than the resumed run was taught by: its SHA-256 is"):
        resume(copy, teacher=str(folder / "alone/weights/best.pt"))
    with pytest.raises(ValueError, match=r"the resumed run has a teacher, .*; start a new run without one"):
        resume(copy, teacher="")
    resume(copy, teacher=str(folder / "teacher.pt"))
    assert yaml_load(copy / "opt.yaml")["teacher"] == str(folder / "teacher.pt")


def test_a_run_without_a_teacher_is_not_resumed_with_one(folder, tiny_dataset, tmp_path):
    own = {"project": str(tmp_path), "teacher": ""}
    with pytest.raises(KeyboardInterrupt):
        run(folder, tiny_dataset, "run", stopping("on_train_batch_end", ni=2), **own)
    with pytest.raises(ValueError, match=r"the resumed run has no teacher; start a new run with it"):
        resume(tmp_path / "run", teacher=str(folder / "teacher.pt"))


# Teachers that do not fit ---------------------------------------------------------------------------------------------
OTHER_STRIDES = {"backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]]]}
WIDER = {"head": [[-1, 1, "Conv", [24, 3, 2]], [[1, 2], 1, "Detect", ["nc", "anchors"]]]}
MAPS = {"distill_from": "maps"}


@pytest.mark.parametrize(
    ("changes", "names", "options", "message"),
    [
        (
            {"nc": 2},
            {0: "a", 1: "b"},
            {},
            r"the number of classes: 4 here, 2 in the teacher; --distill-from maps is possible$",
        ),
        ({}, NAMES | {2: "cat"}, {}, rf"the name of class 2: {CLASSES[2]} here, cat in the teacher"),
        (OTHER_STRIDES, NAMES, {}, r"the strides of the levels: \[8.0, 16.0\] here, \[4.0, 8.0\] in the teacher$"),
        ({"anchors": 3}, NAMES, {}, r"anchors per level: 2 here, 3 in the teacher"),
        (
            WIDER,
            NAMES,
            MAPS,
            r"channels of the feature maps: \[16, 16\] here, \[16, 24\] in the teacher; --distill-from outputs is",
        ),
        ({}, NAMES, {"batch_size": -1}, r"with --teacher give the batch size"),
        ({}, NAMES, {"teacher": "start"}, r"--teacher start is a frozen copy of --weights"),
        ({}, NAMES, {"teacher": "", **MAPS}, r"--distill-from maps is about a teacher: add --teacher"),
        ({}, NAMES, {"teacher": "none.pt"}, r"--teacher none.pt: no such file; pass a checkpoint"),
    ],
    ids=["classes", "names", "strides", "anchors", "widths", "batch", "start", "none", "file"],
)
def test_what_does_not_fit_is_refused(
    folder, tiny_dataset, tmp_path, write_checkpoint, changes, names, options, message
):
    teacher = write_checkpoint(tmp_path / "teacher.pt", model(**changes), names)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(folder, tiny_dataset, "run", **{"project": str(tmp_path), "teacher": str(teacher), **options})


def test_other_classes_can_teach_their_maps(folder, tiny_dataset, tmp_path, write_checkpoint):
    teacher = write_checkpoint(tmp_path / "teacher.pt", model(nc=2), {0: "a", 1: "b"})
    own = {"project": str(tmp_path), "teacher": str(teacher), "epochs": 1}
    assert run(folder, tiny_dataset, "run", **own, **MAPS).distillation.batches == 2


# The scale ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("learns", ["outputs", "maps", "both"])
def test_the_term_is_scaled_over_the_first_batches_and_falls_to_nothing(learns, caplog):
    hyp = Hyp(distill=0.5)
    student, teacher = model(), model().requires_grad_(False).eval()
    teacher.detect.train()
    student.hyp = hyp.to_dict()
    detection = ComputeLoss(student)
    targets = torch.tensor([[0, 1, 0.5, 0.5, 0.4, 0.6], [1, 2, 0.3, 0.4, 0.3, 0.2]])
    distillation = Distillation(teacher, student, {}, learns, hyp, None)
    images = torch.rand(CALIBRATION + 2, 2, 3, 64, 64)

    def batch(x, progress=0.0):
        preds = student(x)
        loss, items = detection(preds, targets)
        total, parts = distillation(loss, items, x, preds, progress)
        assert torch.equal(parts[:3], items)
        assert total.item() == pytest.approx(2 * parts.sum().item(), rel=1e-5)  # of two images
        return parts

    parts = [batch(x) for x in images[:CALIBRATION]]
    assert parts[0][3].item() == pytest.approx(0.5 * parts[0][:3].sum().item(), rel=1e-5)
    assert f"over the first {CALIBRATION} batches the detection loss was" in caplog.text
    state = distillation.state_dict()
    assert state["batches"] == CALIBRATION
    assert state["sums"][0] == pytest.approx(sum(x[:3].sum().item() for x in parts), rel=1e-5)
    falling = [batch(images[-1], progress)[3].item() for progress in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert distillation.state_dict() == state  # fixed from then on
    assert all(a > b for a, b in pairwise(falling))
    assert falling[2] == pytest.approx(falling[0] / 2, rel=1e-4)
    assert falling[-1] == 0


def test_a_copy_of_its_teacher_is_not_held_by_an_endless_scale():
    teacher = model().requires_grad_(False).eval()
    student = model().eval()
    student.load_state_dict(teacher.state_dict())
    teacher.detect.train()
    student.detect.train()
    distillation = Distillation(teacher, student, {}, "maps", Hyp(), None)
    images = torch.rand(2, 3, 64, 64)
    preds = student(images)
    total, parts = distillation(torch.ones(1), torch.ones(3) / 3, images, preds, 0.0)
    assert parts[3] == 0
    total.backward()
    assert all(p.grad is None or p.grad.abs().max() < 1 for p in student.parameters())
