"""Malformed YAML of datasets, models and hyperparameters: the cases of tests/malformed.py."""

from pathlib import Path

import yaml

from tests.malformed_files import Case

MODEL = {
    "nc": 2,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[10, 13, 16, 30], [30, 61, 62, 45]],
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]]],
    "head": [[[0, 1], 1, "Detect", ["nc", "anchors"]]],
}


# YAML -----------------------------------------------------------------------------------------------------------------
def yaml_case(group: str, name: str, outcome: str, where: str, change: dict | str | bytes) -> Case:
    """A case of the YAML of its group: changes of the sound one (None removes a key), or the whole text."""

    def build(folder: Path) -> None:
        file = folder / f"{group}.yaml"
        if isinstance(change, dict):
            content = yaml.safe_load(file.read_text()) | change
            file.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
        else:
            file.write_bytes(change.encode() if isinstance(change, str) else change)

    return Case(group, name, outcome, where, build)


SYNTAX = [
    ("not closed", "a: [1, 2\n", r":\d+: "),
    ("a key twice", "names: [a]\nnames: [b]\n", r":2: key 'names' appears twice"),
    ("tabs", "a:\n\t- 1\n", r":2: "),
    ("a list", "- 1\n- 2\n", ":1: expected"),
    ("a text", "hello\n", ":1: expected"),
    ("a Python object", "a: !!python/object/apply:os.system ['true']\n", r":1: "),
    ("a tag of its own", "a: !thing 1\n", r":1: "),
    ("an alias of nothing", "a: *b\n", r":1: "),
    ("a folder as a key", "? [a, b]\n: 1\n", r"[:.]"),
    ("UTF-16", "a: 1\n".encode("utf-16"), "not UTF-8 text"),
    ("binary", bytes(range(256)), "."),
    ("control characters", "a: \x07\n", "."),
]


def syntax_cases(group: str) -> list[Case]:
    return [
        yaml_case(group, f"syntax: {name}", "refused", rf"{group}\.yaml{where}|{group}\.yaml.*{where}", text)
        for name, text, where in SYNTAX
    ]


def data_cases() -> list[Case]:
    def refused(name, change, where):
        return yaml_case("data", name, "refused", rf"data\.yaml(:\d+)?: .*{where}", change)

    cases = [refused(f"no {key}", {key: None}, f"key '{key}' is missing") for key in ("train", "val", "names")]
    cases += [
        refused(f"{key} is {value!r}", {key: value}, f"{key}: ")
        for key in ("train", "val")
        for value in (7, {"a": 1}, [1], True)
    ]
    cases += [refused(f"path is {value!r}", {"path": value}, "path: ") for value in (7, ["a"], {"a": 1}, True)]
    cases += [refused(f"nc is {value!r}", {"nc": value}, "nc") for value in (3, 0, -1, "2", 2.5, [2], True)]
    for title, names in (
        ("with a gap", {0: "a", 2: "b"}),
        ("from 1", {1: "a", 2: "b"}),
        ("a text", "a"),
        ("a number", 2),
        ("keys are texts", {"0": "a", "1": "b"}),
        ("nested", [["a"], "b"]),
        ("with nothing", ["a", None]),
        ("with true", ["a", True]),
        ("a mapping of lists", {0: ["a"], 1: "b"}),
        ("negative keys", {-1: "a", 0: "b"}),
    ):
        cases.append(refused(f"names {title}", {"names": names}, "names"))
    cases += [
        refused("format unknown", {"format": "csv"}, "format: 'csv' is unknown"),
        refused("format is a list", {"format": ["yolo"]}, "format"),
        refused("generate unknown", {"generate": "cats"}, "generate: 'cats' is unknown"),
        refused("annotations with yolo", {"annotations": {"train": "a.json"}}, "'annotations' is for format: coco"),
        refused("annotations is a text", {"format": "coco", "annotations": "a.json"}, "annotations must name"),
        refused("annotations is a number", {"format": "coco", "annotations": 5}, "annotations must name"),
        refused("annotations is a list", {"format": "coco", "annotations": [{"a": 1}]}, "annotations must name"),
        refused("annotations with a number", {"format": "coco", "annotations": {"train": 5}}, "annotations must name"),
        refused("first_pixel is 2", {"format": "voc", "first_pixel": 2}, "first_pixel: 2 is not 0 or 1"),
        refused("val that does not exist", {"val": "nowhere"}, "validation images are missing"),
        refused("path that does not exist", {"path": "nowhere"}, "validation images are missing"),
        refused("path of an unknown user", {"path": "~nobody-of-this-name/x"}, "validation images are missing"),
        yaml_case(
            "data",
            "train that does not exist",
            "refused",
            "nowhere: no such folder or image list",
            {"train": "nowhere"},
        ),
        yaml_case("data", "train without images", "refused", "no images in .*labels", {"train": "labels"}),
        yaml_case("data", "test that does not exist", "named", "test: .*nowhere: no such folder", {"test": "nowhere"}),
        yaml_case("data", "a path of 5,000 letters", "refused", ".", {"val": "x" * 5000}),
        yaml_case("data", "empty", "refused", r"data\.yaml: key 'train' is missing", ""),
        yaml_case("data", "a name twice", "accepted", "", {"names": ["a", "a"]}),
        yaml_case("data", "names that are numbers", "accepted", "", {"names": [1, 2.5]}),
        yaml_case("data", "a mapping of names", "accepted", "", {"names": {1: "b", 0: "a"}}),
        yaml_case("data", "a key of its own", "accepted", "", {"author": {"name": "me"}}),
    ]
    return cases + syntax_cases("data")


def model_cases() -> list[Case]:
    def refused(name, change, where=""):
        return yaml_case("model", name, "refused", rf"model\.yaml.*{where}", change)

    def row(i, column, value):
        rows = [list(r) for r in MODEL["backbone"]]
        rows[i][column] = value
        return {"backbone": rows}

    cases = [refused(f"no {key}", {key: None}, f"missing key '{key}'") for key in MODEL if key != "nc"]
    for value in (None, "two", 0, -1, 2.5, [2]):  # the dataset says how many classes there are
        cases.append(yaml_case("model", f"nc is {value!r}", "accepted", "", {"nc": value}))
    for key, values in {
        "depth_multiple": ("a", 0, -1, [1], float("nan"), float("inf")),
        "width_multiple": ("a", 0, -1, [1], float("nan"), float("inf")),
        "anchors": (
            "a",
            0,
            -3,
            2.5,
            [],
            [[1]],
            [[1, 2], [3]],
            [[1, "a"], [1, 2]],
            [[0, 1], [1, 2]],
            [[1, 2]],
            {"a": 1},
        ),
        "backbone": ("Conv", [], 5, {"a": 1}, [[-1, 1, "Conv"]], ["Conv"]),
        "head": ("Detect", [], 5, [[-1, 1, "Conv", [8]]]),
        "ch": ("three", 0, 1),
        "drop_path": ("a", 1.5, -1, [1]),
        "channel_multiple": ("a", -3, 2.5, [1]),
    }.items():
        cases += [refused(f"{key} is {value!r}", {key: value}) for value in values]
    cases += [
        refused("unknown block", row(1, 2, "Konv"), "unknown module 'Konv'"),
        refused("block that is code", row(1, 2, "__import__('os').system('true')"), "unknown module"),
        refused("block that is a number", row(1, 2, 5), "unknown module 5"),
        refused("from a later row", row(1, 0, 5), "can only read layers"),
        refused("from far before", row(1, 0, -9), "can only read layers"),
        refused("from is a text", row(1, 0, "a"), "'from' must be"),
        refused("from is an empty list", row(1, 0, []), "'from'"),
        refused("number is a text", row(1, 1, "a"), "'number' must be"),
        refused("number 0", row(1, 1, 0), "'number' must be"),
        refused("args is a number", row(1, 3, 8), "'args' must be"),
        refused("no channels", row(1, 3, []), "number of channels"),
        refused("channels are a text", row(1, 3, ["a"]), "number of channels"),
        refused("channels below 0", row(1, 3, [-8]), "number of channels"),
        refused("too many arguments", row(1, 3, [8] * 20), "cannot take the arguments"),
        refused("kernel is a text", row(1, 3, [8, "a"])),
        refused("keyword that is not there", row(1, 3, [8, 3, 2, {"colour": 1}]), "cannot take the arguments"),
        refused("a row of five", {"backbone": [[-1, 1, "Conv", [8], 1]]}, "a layer is"),
        refused("a key twice in a row", "nc: 2\nnc: 3\n", "appears twice"),
    ]
    return cases + syntax_cases("model")


def hyp_cases() -> list[Case]:
    def refused(name, change, where=""):
        return yaml_case("hyp", name, "refused", rf"hyp\.yaml:\d+: .*{where}", change)

    cases = []
    for key, values in {
        "lr0": (0, -1, 2, "a", float("nan"), float("inf"), True, [0.1], {"a": 1}, "0.1"),
        "momentum": (1, -0.1, "much"),
        "mosaic": (1.5, -1, "yes"),
        "anchor_t": (1, 0, -4),
        "optimizer": ("Adamax", 5, ["SGD"]),
        "clip_norm": (0, float("nan")),
        "nominal_batch": (0, 2.5, "many"),
        "degrees": (181,),
        "scale": (1,),
        "drop_path": (1,),
        "anchors": (0.5, "three"),
        "label_smoothing": (1,),
        "warmup_epochs": (-1, float("inf")),
    }.items():
        cases += [refused(f"{key} is {value!r}", {key: value}, key) for value in values]
    cases += [
        refused("key misspelt", {"mosiac": 1.0}, "unknown key 'mosiac'. Did you mean 'mosaic'"),
        refused("key of another program", {"learning_rate": 0.1}, "unknown key"),
        refused("key that is a number", {7: 0.1}, "unknown key 7"),
        yaml_case("hyp", "keys left out", "accepted", "", {"lr0": 0.02}),
        yaml_case("hyp", "empty", "accepted", "", ""),
        yaml_case("hyp", "whole numbers", "accepted", "", {"mosaic": 1, "mixup": 0}),
        yaml_case("hyp", "numbers like 1e-3", "accepted", "", "lr0: 1e-3\n"),
    ]
    return cases + syntax_cases("hyp")
