"""A run that is resumed on other data or with other options: it goes on rightly, or says why it does not."""

import random
import shutil
from argparse import Namespace

import numpy as np
import pytest
import torch
import yaml

import train
from engine.training import state as training
from models.weights.checkpoint import load_checkpoint, save_checkpoint
from models.yolo import DetectionModel
from tests.stops import stopping
from utils.callbacks import Callbacks
from utils.datasets import demo
from utils.files import yaml_load, yaml_save
from utils.hyp import Hyp
from utils.optim import build_optimizer, same_warmup
from utils.options.train import TrainOptions
from utils.torch_utils import EarlyStopping, ModelEMA

MODEL = """
nc: 4
depth_multiple: 1.0
width_multiple: 1.0
anchors: [[10, 13, 16, 30], [30, 61, 62, 45]]
backbone:
  - [-1, 1, Conv, [8, 3, 4]]
  - [-1, 1, Conv, [16, 3, 2]]
head:
  - [-1, 1, Conv, [16, 3, 2]]
  - [[1, 2], 1, Detect, [nc, anchors]]
"""
IMAGES, BATCH, EPOCHS = 8, 2, 4  # four batches an epoch


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder with a dataset and two runs broken off by a signal: in the middle of epoch 1, and at its end."""
    root = tmp_path_factory.mktemp("runs")
    demo.draw_demo(root / "set", n_train=IMAGES, n_val=4, size=64, seed=0)
    data = {"path": "set", "train": "images/train", "val": "images/val", "names": list(demo.CLASSES)}
    (root / "set.yaml").write_text(yaml.safe_dump(data))
    (root / "model.yaml").write_text(MODEL)

    def stop_after_save(epoch, **_):
        if epoch == 1:
            raise KeyboardInterrupt

    after_save = Callbacks()
    after_save.register("on_model_save", stop_after_save)
    for name, callbacks in {"middle": stopping("on_train_batch_end", ni=4), "end": after_save}.items():
        opt = train.parse_opt(
            f"--data {root}/set.yaml --cfg {root}/model.yaml --img 64 --batch-size {BATCH} --epochs {EPOCHS} "
            f"--workers 0 --device cpu --noplots --noval --project {root} --name {name}".split()
        )
        with pytest.raises(KeyboardInterrupt):
            train.main(opt, callbacks)
    return root


@pytest.fixture
def copy(runs, tmp_path, monkeypatch):
    """The same in a folder of its own, which tests may change."""
    root = tmp_path / "copy"
    shutil.copytree(runs, root)
    for name in ("middle", "end"):
        file = root / name / "opt.yaml"
        yaml_save(file, yaml_load(file) | {"data": str(root / "set.yaml")})
    return root


def resume(folder, **options):
    """Resume a run; returns (epoch, batch) of each of its optimizer steps and the paths of the images it saw."""
    steps, seen, callbacks = [], [], Callbacks()
    real = train.optimizer_step

    def step(state, *args):
        steps.append((state.epoch, state.batch))
        return real(state, *args)

    callbacks.register("on_train_batch_end", lambda paths, **_: seen.extend(paths))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "optimizer_step", step)
        opt = train.parse_opt([])
        for key, value in options.items():
            setattr(opt, key, value)
        opt.resume, opt.given = str(folder / "weights/last.pt"), [*options, "resume"]
        train.main(opt, callbacks)
    return steps, seen


def remove_images(root, keep):
    for file in sorted((root / "set/images/train").iterdir())[keep:]:
        file.unlink()


@pytest.mark.parametrize("name", ["middle", "end"])
def test_a_run_on_fewer_images_makes_its_steps(copy, name, caplog):
    remove_images(copy, 2)
    steps, seen = resume(copy / name)
    first = 1 if name == "middle" else 2
    assert [epoch for epoch, _ in steps] == list(range(first, EPOCHS))  # one batch, so one step, an epoch
    assert len(seen) == 2 * (EPOCHS - first)
    assert "2 images now, 8 then" in caplog.text
    assert ("epoch 1 was interrupted after 1 batches of the previous data: it restarts" in caplog.text) == (first == 1)


@pytest.mark.parametrize("name", ["middle", "end"])
def test_a_run_on_more_images_sees_all_of_them(copy, name, caplog):
    folder = copy / "set/images/train"
    for file in sorted(folder.iterdir()):
        shutil.copy(file, folder / f"again-{file.name}")
        label = copy / "set/labels/train" / f"{file.stem}.txt"
        shutil.copy(label, label.with_name(f"again-{label.name}"))
    steps, seen = resume(copy / name)
    first = 1 if name == "middle" else 2
    assert {epoch for epoch, _ in steps} == set(range(first, EPOCHS))
    assert len(seen) == 2 * IMAGES * (EPOCHS - first)
    assert "16 images now, 8 then" in caplog.text


def test_other_images_in_the_same_number_begin_the_epoch_again(copy, caplog):
    file = min((copy / "set/images/train").iterdir())
    file.rename(file.with_name("z-" + file.name))
    _, seen = resume(copy / "middle")
    assert len(seen) == IMAGES * 3
    assert "epoch 1 was interrupted" in caplog.text


def test_a_dataset_that_was_moved_goes_on_in_the_middle(copy, caplog):
    (copy / "set").rename(copy / "elsewhere")
    data = yaml_load(copy / "set.yaml")
    yaml_save(copy / "moved.yaml", data | {"path": "elsewhere"})
    _, seen = resume(copy / "middle", data=str(copy / "moved.yaml"))
    assert len(seen) == IMAGES * 3 - BATCH
    assert "other data" not in caplog.text


def test_other_validation_images_begin_the_search_for_the_best_epoch_again(copy, caplog):
    ckpt = load_checkpoint(copy / "end/weights/last.pt")
    ckpt |= {"best_fitness": 0.99, "stopper": {"best_fitness": 0.99, "best_epoch": 0, "waited": 1}}
    save_checkpoint(copy / "end/weights/last.pt", ckpt)
    best = (copy / "end/weights/best.pt").read_bytes()
    min((copy / "set/images/val").iterdir()).unlink()
    resume(copy / "end")
    assert "best.pt is chosen among the epochs from now on" in caplog.text
    assert (copy / "end/weights/best.pt").read_bytes() != best


def test_a_best_checkpoint_that_is_gone_is_written_again(copy):
    (copy / "end/weights/best.pt").unlink()
    resume(copy / "end")
    assert load_checkpoint(copy / "end/weights/best.pt")["epoch"] == -1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["square", "circle"]}, "2 classes, but the resumed run has 4"),
        ({"names": "reversed"}, "has index 0, but 3 in the resumed run"),
        (
            {"epochs": 1},
            "--epochs 1: the resumed run has finished 1 epochs and begun the next; give at least 2",
        ),
        ({"hyp": {"weight_decay": 0.1}}, "hyp.yaml: changed since the run was stopped: weight_decay"),
        ({"hyp": {"anchors": 3}}, "hyp.yaml: changed since the run was stopped: anchors"),
        ({"opt": {"batch_size": 4}}, "opt.yaml: batch_size is 4, but the run was trained with 2"),
        ({"opt": {"batch_size": -1}}, "opt.yaml: batch_size is -1, but the run was trained with 2"),
        ({"opt": {"freeze": [1]}}, r"opt.yaml: freeze is \[1\], but the run was trained with \[0\]"),
        ({"opt": {"optimizer": "AdamW"}}, "opt.yaml: optimizer is AdamW, but"),
        ({"opt": {"imgsz": 1000000}}, r"opt.yaml:\d+: --imgsz is 1000000, but must be at most 16000"),
        ({"opt": {"epochs": "4"}}, r"opt.yaml:\d+: --epochs is '4', but must be an integer"),
        ({"opt": {"seed": 1}}, "opt.yaml: seed is 1, but"),
    ],
)
def test_what_cannot_go_on_is_refused_and_kept(copy, change, message):
    names = list(demo.CLASSES)[::-1] if change.get("names") == "reversed" else change.get("names", list(demo.CLASSES))
    yaml_save(copy / "set.yaml", yaml_load(copy / "set.yaml") | {"names": names})
    for name in ("hyp", "opt"):
        file = copy / f"middle/{name}.yaml"
        yaml_save(file, yaml_load(file) | change.get(name, {}))
    before = (copy / "middle/weights/last.pt").read_bytes()
    with pytest.raises(ValueError, match=message):
        resume(copy / "middle", **{key: change[key] for key in ("epochs",) if key in change})
    assert (copy / "middle/weights/last.pt").read_bytes() == before


def test_the_folder_of_a_stranger_does_not_begin_an_evolution(copy, tmp_path):
    """Its `storage` would be a database that is written at any path."""
    file = copy / "middle/opt.yaml"
    storage = f"sqlite:///{tmp_path / 'anywhere.db'}"
    yaml_save(file, yaml_load(file) | {"evolve": 1, "tuner": "optuna", "storage": storage})
    steps, _ = resume(copy / "middle")
    assert steps
    assert not (tmp_path / "anywhere.db").exists()
    assert not list(copy.rglob("*evolve*"))


@pytest.mark.parametrize("change", [{"data": {"train": {}}}, {"data": {"other": {"images": 1}}}, {"last_step": None}])
def test_damaged_counters_of_a_run_are_an_error_that_says_so(copy, change):
    last = copy / "middle/weights/last.pt"
    save_checkpoint(last, load_checkpoint(last) | change)
    with pytest.raises(ValueError, match="the training state in this checkpoint is damaged"):
        resume(copy / "middle")


def test_a_class_may_be_renamed(copy, caplog):
    names = ["disc", *list(demo.CLASSES)[1:]]
    yaml_save(copy / "set.yaml", yaml_load(copy / "set.yaml") | {"names": names})
    resume(copy / "end")
    assert "is now disc" in caplog.text
    assert load_checkpoint(copy / "end/weights/last.pt")["names"][0] == "disc"


@pytest.mark.parametrize("name", ["middle", "end"])
def test_a_checkpoint_of_an_older_program_goes_on(copy, name):
    last = copy / name / "weights/last.pt"
    save_checkpoint(last, load_checkpoint(last) | dict.fromkeys(("iteration", "warmup", "data")))
    _, seen = resume(copy / name)
    assert len(seen) == (IMAGES * 3 - BATCH if name == "middle" else IMAGES * 2)


def test_a_checkpoint_of_an_older_program_goes_on_with_fewer_images(copy):
    last = copy / "end/weights/last.pt"
    save_checkpoint(last, load_checkpoint(last) | dict.fromkeys(("iteration", "warmup", "data")))
    remove_images(copy, 2)
    assert [epoch for epoch, _ in resume(copy / "end")[0]] == [2, 3]


def test_damaged_progress_is_an_error_of_the_file(copy):
    last = copy / "middle/weights/last.pt"
    ckpt = load_checkpoint(last)
    save_checkpoint(last, ckpt | {"progress": {**ckpt["progress"], "grads": {"nowhere": torch.zeros(1)}}})
    with pytest.raises(ValueError, match="training state in this checkpoint is damaged or belongs to another model"):
        resume(copy / "middle")


# Parts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ni", "nw", "new", "expected"),
    [
        (30, 120, 120, 30),
        (30, 120, 40, 10),
        (30, 120, 240, 60),
        (120, 120, 240, 240),
        (500, 120, 240, 500),
        (7, 0, 0, 7),
    ],
)
def test_the_place_in_the_warmup_is_kept(ni, nw, new, expected):
    assert same_warmup(ni, nw, new) == expected


@pytest.mark.parametrize("new", [1, 40, 120, 1000])
def test_batches_since_the_last_step_are_kept(new):
    state = Namespace(epoch=2, batch=0, stopper=EarlyStopping(9), best_fitness=0.5)
    data = {split: {"images": 3, "digest": split} for split in ("train", "val")}
    plan = Namespace(options=TrainOptions(data="set.yaml", patience=9), data=data, batches=5, warmup=new)
    ckpt = {"epoch": 1, "progress": None, "data": data, "iteration": 50, "warmup": 120, "last_step": 46}
    training.fit_to_data(state, plan, ckpt)
    assert (state.iteration, state.iteration - state.last_step) == (50 * new // 120, 4)
    assert state.best_fitness == 0.5


@pytest.mark.parametrize(("before", "now"), [(1024.0, 1.0), (1.0, 1024.0), (64.0, 64.0)])
def test_gradients_follow_the_scale_of_the_scaler(before, now):
    """Gradients kept under float16 mean the same when the run goes on without it."""
    model = torch.nn.Linear(2, 1)
    state = Namespace(model=model, epoch=0, batch=0)
    grads = {"weight": torch.tensor([[1.0, 2.0]]) * before}
    rng = [{"torch": torch.get_rng_state(), "cuda": []}]
    progress = {"batch": 1, "best_saved": False, "losses": torch.zeros(3), "grads": grads, "rng": rng}
    training.restore_progress(state, progress, now / before)
    assert (model.weight.grad / now).tolist() == [[1.0, 2.0]]


def fresh_state(seed):
    torch.manual_seed(seed)
    model = DetectionModel(yaml.safe_load(MODEL), verbose=False)
    optimizer = build_optimizer(model, "SGD", 0.1, 0.9, 0.0)
    scaler, stopper = torch.amp.GradScaler("cpu", enabled=False), EarlyStopping(9)
    return training.State(model, model, ModelEMA(model), optimizer, scaler, stopper, None)


def same(a, b):
    """Equality of nested containers with tensors."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return len(a) == len(b) and all(map(same, a, b)) if isinstance(a, list | tuple) else a == b


def test_every_part_of_a_state_comes_back(tmp_path):
    """What a restored state would save is what was saved."""
    data = {split: {"images": 3, "digest": split} for split in ("train", "val")}
    options = TrainOptions(data="set.yaml", patience=9)
    plan = training.Plan(options, Hyp(), torch.device("cpu"), None, 64, 32, 5, 120, data, [], tmp_path, None)
    state = fresh_state(1)
    for p in state.model.parameters():
        p.grad = torch.randn_like(p)
    state.optimizer.step()
    state.ema.update(state.model)
    state.stopper(3, 0.5)
    state.stopper(5, 0.4)
    state.epoch, state.iteration, state.last_step, state.best_fitness, state.rollbacks = 5, 29, 27, 0.5, 2
    state.maps = np.array([0.1, 0.2, 0.3, 0.4])
    for begun in (False, True):
        torch.manual_seed(7)
        random.seed(7)
        progress = training.progress_of(state, plan) if begun else None
        saved = training.to_checkpoint(state, plan, progress)
        save_checkpoint(tmp_path / "last.pt", saved)
        other = fresh_state(2)
        training.restore(other, plan, load_checkpoint(tmp_path / "last.pt"))
        assert other.epoch == (5 if progress else 6)
        counters = (other.iteration, other.last_step, other.best_fitness, other.rollbacks, other.ema.updates)
        assert counters == (29, 27, 0.5, 2, 1)
        other.epoch = state.epoch
        again = training.to_checkpoint(other, plan, progress and training.progress_of(other, plan))
        assert [key for key in saved if not same(saved[key], again[key])] == []
    older = fresh_state(3)
    training.restore(older, plan, load_checkpoint(tmp_path / "last.pt") | {"iteration": None})
    assert (older.iteration, older.last_step) == (28, 27)
