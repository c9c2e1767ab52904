"""Class names and file names that a terminal, matplotlib, a spreadsheet or a file system would misread, at every sink.

Each name must come out as it is spelled, with `?` for control characters; folders are named by `file_names`.
"""

import csv
import json
import logging
import re
import unicodedata

import cv2
import numpy as np
import pytest
import torch
import yaml
from matplotlib.figure import Figure

import detect
import val
from engine.inference.pipeline import Frame
from engine.results import images as pictures
from engine.results.files import CsvFile
from engine.results.images import Crops, Windows
from engine.results.report import DetectReport
from engine.validation.evaluation import ImageResult, Tally, log_table
from models.autoshape import AutoShape
from models.detections import Detections
from models.experimental import attempt_load
from models.weights.class_names import fit_names, parse_names
from utils.annotate import Annotator, plot_images
from utils.callbacks import Callbacks
from utils.files import yaml_load, yaml_save
from utils.loggers.run_logs import RunLogs
from utils.plots import plot_confusion_matrix, plot_labels, plot_mc_curve, plot_pr_curve, plot_studies
from utils.text import csv_text, printable

HOSTILE = [
    "cat", "cat", "Cat", "$1_$5", "$", "_x", "a\nb", "a\rb", "\x1b[2Jx", "\x9b31mx", "\0", "\u202egpj.exe", "a" * 300,
    "白细胞", "👩‍🚀", "=1+1", "@SUM(A1)", "-2+3", "'=1", "..", "../../up", "a/b", "a\\b", "NUL", "com1.txt", "x.", "",
    " ", "%s %d", "{0} {name}",
    "[a-z]*", "<b>&amp;</script>", "@@SUMMARY@@", "\\frac{1}{2}", '"quoted"', "a,b;c", "\udc80",
]  # fmt: skip
NAMES = dict(enumerate(HOSTILE))
NC = len(NAMES)
SHOWN = [printable(name) for name in HOSTILE]
CUT = [name if len(name) <= 20 else name[:19] + "…" for name in SHOWN]  # in figures


def is_harmless(text):
    """Whether a terminal shows a line of text as it is."""
    return all(unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") and c not in "\u202e\u2066" for c in text)


def image(h=64, w=96):
    return np.random.default_rng(0).integers(0, 256, (h, w, 3), np.uint8)


def one_box_per_class():
    """(NC, 6) `[xyxy_img, confidence, class]`."""
    return torch.tensor([[10.0, 20, 50, 60, 0.9 - 0.01 * i, i] for i in range(NC)])


@pytest.fixture
def log(caplog):
    """Function that returns the messages so far, which must not hold anything that a terminal obeys."""
    caplog.set_level(logging.INFO, logger="yolov5")

    def messages():
        for message in caplog.messages:
            assert all(map(is_harmless, message.lstrip("\n").split("\n"))), ascii(message)
        return caplog.messages

    return messages


@pytest.fixture
def figures(monkeypatch):
    """Figures in the order in which they were saved; they are written too."""
    saved, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kw: (saved.append(self), save(self, *args, **kw)))
    return saved


# Doors ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [str, json.dumps], ids=["literal", "json"])
def test_metadata_of_a_model_file_bring_the_names_back(write):
    assert list(parse_names(write(NAMES), "x").values()) == SHOWN


def test_metadata_in_yaml_bring_the_names_back(tmp_path):
    yaml_save(tmp_path / "metadata.yaml", {"names": dict(enumerate(SHOWN))})
    assert list(parse_names(yaml_load(tmp_path / "metadata.yaml")["names"], "x").values()) == SHOWN


@pytest.mark.parametrize(
    "value", [{0: "a", 7: "b"}, ["a"], ["a", "b", "c", "d"], {"0": "a", "x": "b"}, {0.5: "a"}, None, 7]
)
def test_a_checkpoint_has_a_name_for_each_class(value, log):
    names = fit_names(value, 3, "a\x1b.pt")
    assert list(names) == [0, 1, 2]
    assert names[2] == ("c" if isinstance(value, list) and len(value) > 2 else "class2")
    (message,) = log()
    assert message.startswith("a?.pt: it has 3 classes, 0 to 2, but these names: ")


@pytest.mark.parametrize("names", [["x" * 1001], ["x"] * 100_001])
def test_names_beyond_all_bounds_are_refused(names):
    with pytest.raises(ValueError, match="over 100000 classes, or one of over 1000 characters"):
        fit_names(names, len(names), "x.pt")


# Figures and images ---------------------------------------------------------------------------------------------------


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def legend(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


@pytest.mark.filterwarnings("ignore:Glyph")  # no font of this machine has them all
def test_figures_show_the_names(figures, tmp_path):
    labels = np.concatenate((np.arange(NC)[:, None], np.full((NC, 4), 0.3)), 1)
    plot_labels(labels, NAMES, tmp_path)
    plot_confusion_matrix(np.eye(NC + 1), NAMES, tmp_path / "matrix.png")
    counts, _, matrix = figures
    assert ticks(counts.axes[0].xaxis) == CUT
    assert ticks(matrix.axes[0].xaxis) == ticks(matrix.axes[0].yaxis) == [*CUT, "background"]
    assert (tmp_path / "labels.jpg").stat().st_size > 10_000


@pytest.mark.parametrize("first", range(0, NC, 20))  # a legend has names up to 20 classes
@pytest.mark.filterwarnings("ignore:Glyph")
def test_legends_show_the_names(first, figures, tmp_path):
    px, names = np.linspace(0, 1, 50), dict(enumerate(HOSTILE[first : first + 20]))
    py = np.tile(1 - px, (len(names), 1))
    plot_mc_curve(px, py, tmp_path / "F1.png", names, ylabel="$F_1$\n")
    plot_pr_curve(px, py, np.full((len(names), 10), 0.5), tmp_path / "PR.png", names)
    curve, pr = figures
    shown = CUT[first : first + 20]
    assert legend(curve)[1:] == shown
    assert legend(pr)[1:] == [f"{name} 0.500" for name in shown]
    assert curve.axes[0].get_ylabel() == "$F_1$?"


def test_figures_do_not_change_the_settings_of_matplotlib(tmp_path):
    import matplotlib  # noqa: PLC0415

    with matplotlib.rc_context({"text.parse_math": True, "text.usetex": True}):  # usetex: LaTeX would run the names
        plot_confusion_matrix(np.eye(3), {0: "\\input{x}", 1: "$"}, tmp_path / "a.png")
        assert matplotlib.rcParams["text.parse_math"]
        assert matplotlib.rcParams["text.usetex"]


def test_study_names_the_files(figures, tmp_path):
    files = [tmp_path / name for name in ("_a.txt", "$b_$.txt", "c\nd.txt")]
    for file in files:
        np.savetxt(file, np.ones((2, 10)))
    plot_studies(files, [64, 96], tmp_path / "study.png")
    assert legend(figures[0]) == ["_a", "$b_$", "c?d"]


def test_labels_in_images_are_drawn(tmp_path):
    for i, name in enumerate(HOSTILE):
        drawn = Annotator(image())
        drawn.box_label((10, 30, 50, 60), name)
        expected = Annotator(image())
        expected.box_label((10, 30, 50, 60), printable(name))
        np.testing.assert_array_equal(drawn.result(), expected.result())
        if name.strip():  # the tag stands above the box
            assert (drawn.result()[:25] != image()[:25]).any()
        target = np.array([[0, 0, 0.5, 0.5, 0.3, 0.3]])
        plot_images(torch.rand(1, 3, 64, 96), target, [f"{name}.jpg"], tmp_path / f"{i}.jpg", {0: name})
        assert (tmp_path / f"{i}.jpg").stat().st_size


def test_windows_have_titles_that_a_window_system_takes(monkeypatch):
    titles = set()
    monkeypatch.setattr(pictures, "cv2", cv2_without_windows(titles))
    windows = Windows()
    for source in ("a\x1b[2J", "\udc80.png", "图"):
        assert windows.show(Frame(image(), source), image())
    assert titles == {"a?[2J", "?.png", "图"}


def cv2_without_windows(titles):
    class Fake:
        WINDOW_NORMAL = WINDOW_KEEPRATIO = 0
        namedWindow = staticmethod(lambda title, _: titles.add(title))
        resizeWindow = imshow = staticmethod(lambda title, *_: titles.add(title))
        waitKey = staticmethod(lambda _: 255)

    return Fake


# Files ----------------------------------------------------------------------------------------------------------------


def check_crops(folder):
    """Each class has one folder of its own, directly below, with one crop."""
    groups = list(folder.iterdir())
    assert len({group.name.casefold() for group in groups}) == NC
    assert sorted(str(file.relative_to(folder)) for file in folder.rglob("*.jpg")) == sorted(
        f"{group.name}/a.jpg" for group in groups
    )
    assert {"cat", "cat-2", "$1_$5", "白细胞", "_NUL", "=1+1", "{0} {name}"} <= {group.name for group in groups}


def test_crops_have_a_folder_per_class(tmp_path):
    crops = Crops(tmp_path / "crops", {"a.png": "a"}, NAMES)
    crops.add(Frame(image(), "a.png"), one_box_per_class())
    check_crops(tmp_path / "crops")


def test_a_table_gives_the_names_back_and_holds_no_formula(tmp_path):
    titles = {name: f"{name}.jpg" for name in HOSTILE}
    for _ in range(2):  # the second run replaces the rows of the first
        table = CsvFile(tmp_path / "a.csv", titles, NAMES)
        for name in titles:
            table.add(one_box_per_class(), name, (64, 96))
        table.close()
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        _, *rows = csv.reader(file)
    assert len(rows) == NC * len(titles)
    assert [csv_text(row[1]) for row in rows[:NC]] == SHOWN[::-1]
    assert [csv_text(row[0]) for row in rows[::NC]] == [printable(title) for title in titles.values()]
    assert not [cell for row in rows for cell in row if re.match(r"\s*[=+\-@].", cell)]
    assert all(is_harmless(cell) for row in rows for cell in row)


def test_a_report_holds_the_names_as_they_are_spelled(tmp_path):
    report = DetectReport(tmp_path, NAMES, title="@@CONFIG@@ <b>")
    report.add(image(), "@@SCRIPT@@</script>.jpg", one_box_per_class())
    text = report.close().read_text(encoding="ascii")
    config, item = (
        json.loads(re.search(rf'{mark}">(.*?)</script>', text)[1]) for mark in ('id="config', 'class="item')
    )
    assert list(config["names"].values()) == HOSTILE
    assert item["name"] == "@@SCRIPT@@</script>.jpg"
    assert text.count("<h1>@@CONFIG@@ &lt;b&gt;</h1>") == 1
    assert text.count("</script>") == 5


def test_tensorboard_shows_a_curve_per_class(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for first in range(0, NC, 20):  # so many classes have curves of their own
        names = dict(enumerate(HOSTILE[first : first + 20]))
        tally = Tally(len(names))
        boxes = torch.tensor([[10.0, 20, 50, 60, 0.9, i] for i in names])
        tally.add(ImageResult(boxes, torch.cat((boxes[:, 5:], boxes[:, :4]), 1), (64, 96), "a.jpg"))
        callbacks = Callbacks()
        RunLogs(tmp_path / str(first), csv=False, settings={"name": "\udc80"}).register(callbacks)
        callbacks.run("on_val_metrics", result=tally.compute(), counts=tally.label_counts(), names=names)
        file = tmp_path / "\udc80.pt"
        callbacks.run("on_train_end", last=file, best=file, epoch=0, results=[0.1] * 7)
        events = accumulator.EventAccumulator(str(tmp_path / str(first)))
        events.Reload()
        found = {tag.removeprefix("PR/") for tag in events.Tags()["tensors"] if tag.startswith("PR/")}
        expected = set(SHOWN[first : first + 20]) | {"all classes"}
        assert found == (expected - {"cat"} | {"cat (0)", "cat (1)"} if first == 0 else expected)


# Text on the terminal, programs ---------------------------------------------------------------------------------------


def test_tables_and_summaries_show_the_names(log):
    tally = Tally(NC)
    boxes = one_box_per_class()
    tally.add(ImageResult(boxes, torch.cat((boxes[:, 5:], boxes[:, :4]), 1), (64, 96), "a.jpg"))
    log_table(tally, tally.compute(), NAMES, every_class=True)
    starts = [line[: max(len(name), 22)].strip() for line, name in zip(log()[1:], SHOWN, strict=True)]
    assert starts == [name.strip() for name in SHOWN]


def test_results_of_the_hub(tmp_path, log, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = Detections([image()], [one_box_per_class()], ["a.jpg"], names=NAMES, shape=(1, 3, 64, 96))
    results.print()
    assert log()[-1] == str(results)
    (line, _) = str(results).split("\n")
    assert line == f"image 1/1: 64x96 {', '.join(f'1 {name}' for name in SHOWN)}"
    crops = results.crop(save_dir="out")
    check_crops(tmp_path / "out/crops")
    weakest_first = [f"{name} {0.9 - 0.01 * i:.2f}" for i, name in reversed(NAMES.items())]
    assert [crop["label"] for crop in crops] == weakest_first
    results.save(save_dir="drawn")
    assert (tmp_path / "drawn/a.jpg").stat().st_size
    pytest.importorskip("pandas")
    assert results.pandas().xyxy[0]["name"].tolist() == HOSTILE


@pytest.mark.parametrize("name", ["\x1b[2Ja\nb", "a" * 300, "..", "=1+1", ""])
def test_detect_and_hub_with_a_checkpoint(name, narrow_model, write_checkpoint, tmp_path, log):
    weights = write_checkpoint(tmp_path / "a.pt", narrow_model, {0: name, 1: name, 2: "b"})
    source = tmp_path / "in" / "=1+1\x1b[2J\nERROR: x.png"
    source.parent.mkdir()
    source.write_bytes(cv2.imencode(".png", image())[1].tobytes())
    savers = {f"save_{what}": True for what in ("txt", "csv", "json", "crop")}
    run = {"imgsz": (64, 64), "conf_thres": 0.0, "max_det": 20, "project": tmp_path / "out", "device": "cpu"}
    detect.run(weights, source, report=True, **savers, **run)
    folder = tmp_path / "out/exp"
    assert cv2.imdecode(np.fromfile(folder / source.name, np.uint8), 1).shape == (64, 96, 3)
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    assert {csv_text(row[0]) for row in rows} == {"=1+1?[2J?ERROR: x.png"}
    assert printable(name) in {csv_text(row[1]) for row in rows} <= {printable(name), "b"}
    assert len(list((folder / "crops").rglob("*.jpg"))) == len(rows)
    assert all(group.parent == folder / "crops" for group in (folder / "crops").iterdir())
    assert any(printable(name) in message for message in log())

    model = AutoShape(attempt_load(weights))
    model.conf = 0.0
    results = model(source, size=64)
    assert printable(name) in str(results)
    assert results.save(save_dir=tmp_path / "hub").is_dir()


def test_a_validation_with_hostile_names(narrow_model, write_checkpoint, tmp_path, log):
    names = dict(enumerate(("$1_$5", "_x\x1b[2J\nERROR: y", "=1+1")))
    weights = write_checkpoint(tmp_path / "a.pt", narrow_model, names)
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"images/{i}.png"), image())
        (tmp_path / f"labels/{i}.txt").write_text(f"{i} 0.5 0.5 0.4 0.4\n")
    data = {"path": str(tmp_path), "train": "images", "val": "images", "names": names}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(data))
    val.run(tmp_path / "a.yaml", weights, imgsz=64, batch_size=3, workers=0, project=tmp_path / "out", device="cpu")
    found = {file.name for file in (tmp_path / "out/exp").iterdir()}
    assert {"confusion_matrix.png", "PR_curve.png", "F1_curve.png", "val_batch0_pred.jpg"} <= found
    assert not [message for message in log() if "differ from those of the dataset" in message]
    assert [m.split()[0] for m in log() if m.strip().startswith(("$", "_", "="))] == ["$1_$5", "_x?[2J?ERROR:", "=1+1"]
