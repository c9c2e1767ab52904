"""Every name that scripts import from YOLOv5 is at its address and takes its arguments, or is listed with a reason.

yolov5_names.txt holds the names and call forms, by how often public scripts use them. `python -m
tests.utils.test_doors_names` prints how many of each kind work unchanged.
"""

import ast
import importlib
import inspect
import warnings
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# There, with another call form: what differs. docs/coming-from-yolov5.md says the same.
DIFFERS = {
    "utils.general.yaml_load": "no file by default",
    "utils.general.yaml_save": "no file by default",
    "utils.general.scale_coords": "the second argument by position, as scripts give it",
    "utils.general.clip_coords": "the second argument by position, as scripts give it",
    "utils.torch_utils.select_device": "no empty line after the log line by default",
    "utils.torch_utils.smart_inference_mode": "takes no argument, as scripts call it",
    "utils.metrics.plot_pr_curve": "the file is called save_path, by position it is the same argument",
    "utils.metrics.plot_mc_curve": "the file is called save_path, by position it is the same argument",
    "models.common.DetectMultiBackend": "no file by default: nothing is fetched without a name",
    "utils.downloads.is_url": "asks the server only with check=True",
    "hubconf._create": "the sixth argument is called _verbose too, as of the entry points",
    "detect.run": "line_thickness follows the size of the image",
    "val.run": "half is off by default, and model and what follows are given by name",
    "train.train": "our own form; train.run and train.main are YOLOv5's",
    "export.run": "opset 20, and ONNX alone, by default",
}
# Not there: why.
MISSING = {
    "utils.dataloaders.SmartDistributedSampler": "the sampler of this project shares batches out by itself",
    "utils.dataloaders.extract_boxes": "--save-crop cuts out boxes",
    "utils.dataloaders.flatten_recursive": "folders are searched with their subfolders",
    "utils.dataloaders.HUBDatasetStats": "removed from YOLOv5 itself",
    "utils.augmentations.replicate": "unused in YOLOv5",
    "utils.augmentations.hist_equalize": "unused in YOLOv5",
    "utils.plots.hist2d": "plot_labels draws with matplotlib's",
    "utils.plots.plot_lr_scheduler": "removed from YOLOv5 itself",
    "utils.plots.butter_lowpass_filtfilt": "removed from YOLOv5 itself",
    "utils.plots.plot_targets_txt": "removed from YOLOv5 itself",
    "utils.plots.plot_val_txt": "removed from YOLOv5 itself",
    "utils.plots.profile_idetection": "removed from YOLOv5 itself",
    "utils.plots.check_pil_font": "removed from YOLOv5 itself",
    "utils.plots.plot_evolution": "plot_evolve",
    "utils.plots.plot_study_txt": "plot_val_study",
    "utils.plots.plot_test_txt": "removed from YOLOv5 itself",
    "utils.plots.plot_results_overlay": "plot_results draws all results*.csv",
    "utils.torch_utils.profile": "model(x, profile=True) logs the time of each layer",
    "utils.torch_utils.device_count": "torch.cuda.device_count",
    "utils.torch_utils.smart_hub_load": "torch.hub.load",
    "utils.torch_utils.init_torch_seeds": "init_seeds",
    "utils.torch_utils.date_modified": "utils.general.file_date",
    "utils.loss.BCEBlurWithLogitsLoss": "unused in YOLOv5",
    "utils.downloads.gsutil_getsize": "no program gsutil is run",
    "utils.downloads.curl_download": "no program curl is run",
    "utils.google_utils.gsutil_getsize": "no program gsutil is run",
    "models.experimental.Sum": "no published model uses it",
    "models.common.Flatten": "belongs to classification",
    "models.yolo.Model.nms": "models.common.NMS",
    "utils.triton.TritonRemoteModel": "no Triton",
}


def read_forms():
    """(use, module, name, arguments or None) of each line of yolov5_names.txt."""
    for line in Path(__file__).with_name("yolov5_names.txt").read_text().splitlines():
        if not line.startswith("#"):
            use, module, form = line.split(" ", 2)
            name, bracket, arguments = form.partition("(")
            yield use, module, name, arguments.removesuffix(")") if bracket else None


def find(module, name):
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def difference(found, form, method):
    """How the call form of a function differs from `form`; "" if every call of that form means the same."""
    ours = inspect.signature(found)
    ours = ours.replace(parameters=list(ours.parameters.values())[method:])
    arguments = ast.parse(f"def f({form.replace('...', 'ANY')}): pass").body[0].args
    names, keywords = ([a.arg for a in group] for group in (arguments.args, arguments.kwonlyargs))
    defaults = dict(zip(reversed(names), reversed(arguments.defaults), strict=False))
    required = names[: len(names) - len(defaults)]
    try:
        by_position = ours.bind(*names).arguments
        ours.bind(*required, **dict.fromkeys([*defaults, *keywords]))
        ours.bind(**dict.fromkeys(required))
    except TypeError as error:
        return str(error)
    for own, name in by_position.items():
        if name != own and isinstance(name, str) and name not in ours.parameters:
            return f"{own} instead of {name}"
    for name, node in defaults.items():
        default = ours.parameters[name].default if name in ours.parameters else Ellipsis  # in **kwargs
        if ast.unparse(node) != "ANY" and default is not Ellipsis and not same(default, ast.literal_eval(node)):
            return f"{name}={default!r} instead of {ast.unparse(node)}"
    return ""


def same(one, other):
    """Whether two defaults are equal; a list may stand for a tuple, and for one side."""
    one, other = (tuple(v) if isinstance(v, list) else v for v in (one, other))
    return one == other or (isinstance(one, tuple) and isinstance(other, tuple) and one * 2 == other)


def judge(module, name, form):
    """What is wrong with a name: "missing", a difference, or ""."""
    try:
        found = find(module, name)
    except (ImportError, AttributeError):
        return "missing"
    return difference(found, form, "." in name) if form not in (None, "...") else ""


FORMS = list(read_forms())


@pytest.mark.parametrize("module", sorted({module for _, module, *_ in FORMS}))
def test_names_work_unchanged_or_are_listed(module):
    for _, _, name, form in (f for f in FORMS if f[1] == module):
        expected, found = f"{module}.{name}", judge(module, name, form)
        assert (found == "missing") == (expected in MISSING), f"{expected}: {found}"
        assert (found not in ("", "missing")) == (expected in DIFFERS), f"{expected}: {found}"


def test_lists_hold_nothing_else():
    names = {f"{module}.{name}" for _, module, name, _ in FORMS}
    assert set(DIFFERS) | set(MISSING) <= names
    assert not set(DIFFERS) & set(MISSING)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("a, b=1, *, c=2", ""),
        ("a, b=ANY", ""),
        ("a, b=2", "b=1 instead of 2"),
        ("a", ""),
        ("a, b=1, d=3", "too many positional arguments"),
        ("x, b=1", "missing a required argument: 'a'"),
        ("a, *, d=1", "unexpected keyword argument 'd'"),
        ("b, a=1", "multiple values"),
    ],
)
def test_differences_are_found(form, expected):
    def function(a, b=1, *, c=2): ...

    found = difference(function, form, method=False)
    assert expected in found if expected else found == ""


def test_star_imports_give_the_libraries_and_the_lazy_names():
    code = (
        "from utils.general import *\n"
        "from utils.plots import *\n"
        "from utils.torch_utils import *\n"
        "used = (np, torch, nn, cv2, Path, math, os, time, glob, yaml, random, strip_optimizer, Annotator, colors,\n"
        "        select_device, non_max_suppression, plot_images, save_one_txt)\n"
    )
    names = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(code, names)  # noqa: S102
    assert len(names["used"]) == 18


@pytest.mark.parametrize("module", ["utils.general", "utils.plots"])
def test_what_is_not_there_is_an_import_error(module):
    with pytest.raises(ImportError, match="no_such_name"):
        exec(f"from {module} import no_such_name")  # noqa: S102


if __name__ == "__main__":
    counted = Counter()
    for use, module, name, form in read_forms():
        found = judge(module, name, form)
        counted[use, {"": "unchanged", "missing": "missing"}.get(found, "differs")] += 1
        if found:
            print(f"{use} {module}.{name}: {found}")  # noqa: T201
    for use in "HSRTO-":
        print(use, {kind: counted[use, kind] for kind in ("unchanged", "differs", "missing")})  # noqa: T201
