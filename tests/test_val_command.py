"""The command line of val.py: what its options ask for, with a stand-in for the run."""

import pytest
import yaml

import val


def test_short_forms():
    opt = val.parse_opt("--weights a.pt --img 320 --batch 4 --conf 0.1 --iou 0.5".split())
    assert (opt.imgsz, opt.batch_size, opt.conf_thres, opt.iou_thres) == (320, 4, 0.1, 0.5)


def test_main_of_speed(monkeypatch):
    calls = []
    monkeypatch.setattr(val, "run", lambda **settings: calls.append(settings))
    val.main(val.parse_opt("--weights a.pt b.pt --task speed --device cpu --conf 0.001 --save-json".split()))
    assert [c["weights"] for c in calls] == ["a.pt", "b.pt"]
    for c in calls:
        assert (c["conf_thres"], c["iou_thres"], c["save_json"], c["plots"], c["half"]) == (
            0.25,
            0.45,
            False,
            False,
            False,
        )


def test_main_of_study(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(val, "run", lambda **settings: calls.append(settings) or ((0.1,) * 7, None, (1.0, 2.0, 3.0)))
    (tmp_path / "exp").mkdir()
    common = f"--weights x/a.pt b.pt --task study --device cpu --data d/my.yaml --project {tmp_path}".split()
    val.main(val.parse_opt(common))
    assert [(c["weights"], c["imgsz"]) for c in calls] == [
        (w, s) for w in ("x/a.pt", "b.pt") for s in range(256, 1537, 128)
    ]
    assert all((c["task"], c["plots"], c["half"]) == ("val", False, False) for c in calls)
    assert all((c["project"], c["name"], c["exist_ok"]) == (tmp_path, "exp2", True) for c in calls)
    files = {file.name for file in (tmp_path / "exp2").iterdir()}
    assert files == {"study_my_a.txt", "study_my_b.txt", "study.zip", "study.png"}
    with pytest.raises(ValueError, match="remove save_txt"):
        val.main(val.parse_opt([*common, "--save-txt"]))


@pytest.mark.parametrize("given", [[], ["--window", "4"], ["--window", "4", "8"]])
def test_window_option(monkeypatch, given):
    calls = []
    monkeypatch.setattr(val, "run", lambda **settings: calls.append(settings["window"]))
    val.main(val.parse_opt(["--weights", "a.pt", *given]))
    assert calls == [[None, None, 4, [4, 8]][len(given)]]


def test_backend_gets_names_window_and_dnn(tiny_dataset, tmp_path, monkeypatch):
    asked = {}

    class Stop(Exception):
        pass

    def backend(weights, device, **settings):
        asked.update(settings)
        raise Stop

    monkeypatch.setattr(val, "DetectMultiBackend", backend)
    with pytest.raises(Stop):
        val.run(tiny_dataset, "a.onnx", dnn=True, window=4, device="cpu", project=tmp_path)
    assert asked == {"dnn": True, "data": tiny_dataset, "fp16": False, "window": 4}


@pytest.mark.parametrize(("file", "expected"), [("x/coco.yaml", True), ("coco128.yaml", False)])
def test_json_comes_with_coco(monkeypatch, file, expected):
    calls = []
    monkeypatch.setattr(val, "run", lambda **settings: calls.append(settings))
    val.main(val.parse_opt(["--weights", "a.pt", "--data", file]))
    assert calls[0]["save_json"] is expected


def test_dataset_from_python_needs_only_the_split(tiny_dataset, narrow_weights, tmp_path):
    folder = yaml.safe_load(tiny_dataset.read_text())["path"]
    settings = {"imgsz": 96, "workers": 0, "device": "cpu", "project": tmp_path, "plots": False, "single_cls": True}
    found = val.run({"val": f"{folder}/images/val"}, narrow_weights, **settings)
    assert found.results[:4] == val.run(tiny_dataset, narrow_weights, **settings).results[:4]
    with pytest.raises(ValueError, match="key 'test' is missing"):
        val.run({"val": f"{folder}/images/val"}, narrow_weights, **settings, task="test")
    with pytest.raises(ValueError, match="no dataset given: pass a dataset YAML"):
        val.run(None, narrow_weights, **settings)
