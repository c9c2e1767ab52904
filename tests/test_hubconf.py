"""The entry points, through torch.hub and by plain import, from here and from another folder."""

import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

import hubconf
from models.autoshape import AutoShape
from models.runtimes.backends import DetectMultiBackend
from models.yolo import DetectionModel
from tests.waiting import HANG
from utils.console import LOGGER
from utils.paths import ROOT, check_file


@pytest.fixture(scope="module")
def weights(tmp_path_factory, narrow_model, write_checkpoint):
    """Checkpoint that is called as one that can be downloaded."""
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "yolov5n.pt", narrow_model, dict(enumerate("abc")))


@pytest.mark.slow
def test_torch_hub_finds_in_another_folder_what_the_import_finds(weights, tmp_path):
    code = (
        "import sys, torch, numpy as np\n"
        "settings = {'source': 'local', 'device': 'cpu', '_verbose': False}\n"
        "model = torch.hub.load(sys.argv[1], 'custom', path=sys.argv[2], **settings)\n"
        "found = model(np.full((64, 96, 3), 90, np.uint8), size=96)\n"
        "found.save(save_dir='out')\n"
        "print(found.xyxy[0][:, 4].tolist())\n"
    )
    command = [sys.executable, "-c", code, str(ROOT), str(weights)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=HANG, check=False)
    assert done.returncode == 0, done.stderr
    model = hubconf.custom(weights, device="cpu")
    found = model(torch.full((64, 96, 3), 90, dtype=torch.uint8).numpy(), size=96)
    listed = [float(x) for x in done.stdout.strip("[]\n").split(",")]
    assert listed == pytest.approx(found.xyxy[0][:, 4].tolist(), abs=1e-4)
    assert len(listed) > 0
    assert (tmp_path / "out" / "image0.jpg").is_file()


def test_entry_points_are_listed():
    names = {f"yolov5{size}{kind}" for size in "nsmlx" for kind in ("", "6", "_swinv2")}
    public = {name for name, value in vars(hubconf).items() if callable(value)}
    assert public >= names | {"custom"}
    assert all("pretrained:" in getattr(hubconf, name).__doc__ for name in names)
    assert all(check_file(f"{name.replace('_', '-')}.yaml").is_file() for name in names)


def test_without_autoshape_the_network_can_be_trained(weights):
    model = hubconf.custom(weights, autoshape=False, device="cpu")
    assert isinstance(model, DetectMultiBackend)
    assert isinstance(model.model, DetectionModel)
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert model.names == dict(enumerate("abc"))


def hubconf_load(name, **settings):
    return torch.hub.load(str(ROOT), name, source="local", device="cpu", **settings)


@pytest.mark.parametrize("name", ["yolov5n", "yolov5n6", "yolov5n_swinv2"])
def test_untrained_model(name, caplog):
    level = LOGGER.level
    model = hubconf_load(name, pretrained=False, classes=5, channels=1, _verbose=False)
    assert (model.nc, model.yaml["ch"], model.training) == (5, 1, True)
    assert model.yaml_file == f"{name.replace('_', '-')}.yaml"
    assert [y.shape for y in model(torch.rand(2, 1, 64, 64))][0] == (2, 3, 8, 8, 10)
    assert not caplog.records
    assert LOGGER.level == level


def test_pretrained_needs_a_file(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"yolov5s-swinv2\.pt: there are no pretrained .* pretrained=False"):
        hubconf.yolov5s_swinv2()
    with pytest.raises(FileNotFoundError, match=r"yolov5s\.pt: not found in .*refused.* pretrained=False"):
        hubconf.yolov5s()
    monkeypatch.chdir(weights.parent)
    assert isinstance(hubconf.yolov5n(pretrained=True, classes=3, device="cpu"), AutoShape)
    other = hubconf.yolov5n(pretrained=True, classes=4, device="cpu", verbose=False)
    assert (other.nc, other.training) == (4, True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub/yolov5n.pt").symlink_to(weights)
    assert isinstance(hubconf_load("yolov5n", classes=3, autoshape=False), DetectMultiBackend)


def test_custom_takes_the_forms_of_all_releases(weights):
    image = torch.full((64, 96, 3), 90, dtype=torch.uint8).numpy()
    expected = hubconf.custom(weights, device="cpu")(image, size=96).xyxy[0]
    network = hubconf.custom(weights, autoshape=False, device="cpu").model
    for given in (
        {"path": weights.with_suffix("")},
        {"path_or_model": str(weights), "verbose": False},
        {"path_or_model": network},
        {"path_or_model": {"model": network}},
    ):
        found = hubconf.custom(**given, device="cpu")(image, size=96)
        torch.testing.assert_close(found.xyxy[0], expected, atol=1e-3, rtol=0)


def test_run_as_a_script(weights, monkeypatch, caplog):
    caplog.set_level("INFO", logger="yolov5")
    monkeypatch.setattr(sys, "argv", ["hubconf.py", "--model", str(weights)])
    hubconf.main()
    assert "image 1/1: 480x640" in caplog.text
    monkeypatch.setattr(sys, "argv", ["hubconf.py", "--model", "yolov5z"])
    with pytest.raises(FileNotFoundError, match=r"yolov5z\.pt: there are no pretrained weights of this name"):
        hubconf.main()


def test_missing_file():
    with pytest.raises(FileNotFoundError, match=r"absent\.pt"):
        hubconf.custom("absent.pt", device="cpu")


# Programs with packages of the same names -----------------------------------------------------------------------------
LOAD = """
import copy, pickle, sys, torch

def load():
    return torch.hub.load(sys.argv[1], "custom", path=sys.argv[2], source="local", device="cpu", _verbose=False)

def check(model):
    import models.host, utils
    assert utils.helper() == models.host.NAME == "of the program"
    assert "models.host" in sys.modules and sys.path.count(sys.argv[1]) == 0
    image = torch.full((64, 96, 3), 90, dtype=torch.uint8).numpy()
    for same in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        found = same(image, size=96)
        assert len(found.xyxy[0]) > 0
        found.save(save_dir="out")
    try:
        import utils.absent
    except ModuleNotFoundError:
        return
    raise AssertionError("a module that nobody has")
"""
PROGRAMS = {
    "has imported them": """
        import multiprocessing, threading, models.host, utils
        model = load()
        child = multiprocessing.get_context("fork").Process(target=check, args=(model,))
        child.start()
        child.join()
        assert child.exitcode == 0
    """,
    "imports them later": """
        one = load()
        check(one)
        two = load()
        assert type(one) is type(two)
        check(two)
    """,
    "imports hubconf": """
        import utils
        sys.path.append(sys.argv[1])
        import hubconf
        sys.path.pop()
        check(hubconf.custom(sys.argv[2], device="cpu"))
    """,
    "fails at first": """
        import utils
        sys.modules["cv2"] = None
        try:
            load()
        except ImportError:
            del sys.modules["cv2"]
        assert utils is sys.modules["utils"] and "models.yolo" not in sys.modules
        check(load())
    """,
    "has none": """
        sys.path[0] = sys.argv[3]
        model = load()
        from models.autoshape import AutoShape
        assert type(model) is AutoShape
    """,
}


@pytest.fixture
def program(tmp_path):
    """Folder of a program that has a package `utils` and a package `models`."""
    for name in ("utils", "models"):
        (tmp_path / name).mkdir()
    (tmp_path / "utils/__init__.py").write_text("def helper():\n    return 'of the program'\n")
    (tmp_path / "models/host.py").write_text("NAME = 'of the program'\n")  # without __init__.py
    return tmp_path


# Each in a child of its own of a process that has imported what is not ours, which takes seconds.
CHILDREN = """
import os, traceback, cv2, numpy, torchvision

for name, code in PROGRAMS.items():
    if child := os.fork():
        print(name, "ends with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    try:
        exec(code, {**globals(), "__name__": "__main__"})
        os._exit(0)
    finally:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
"""


@pytest.mark.slow
def test_programs_keep_their_own_packages_and_find_ours_if_they_have_none(program, weights):
    programs = {name: textwrap.dedent(code) for name, code in PROGRAMS.items()}
    (program / "main.py").write_text(f"{LOAD}\nPROGRAMS = {programs}\n{CHILDREN}")
    (program / "empty").mkdir()
    command = [sys.executable, "main.py", str(ROOT), str(weights), str(program / "empty")]
    done = subprocess.run(command, cwd=program, capture_output=True, text=True, timeout=HANG, check=False)
    ends = [line for line in done.stdout.splitlines() if " ends with " in line]
    assert ends == [f"{name} ends with 0" for name in programs], done.stderr
