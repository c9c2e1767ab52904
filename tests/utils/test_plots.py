"""Figures of a run: what they show, that no text is cut off, and that thin data does not stop them."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from utils import plots
from utils.metrics import measure_ap, plot_metric_curves
from utils.plots import plot_confusion_matrix, plot_labels, plot_mc_curve, plot_pr_curve, plot_results

pytestmark = pytest.mark.filterwarnings("error")  # a missing glyph or a layout that does not fit is a warning

PX = np.linspace(0, 1, 1000)
COLUMNS = (
    "epoch,train/box_loss,train/obj_loss,train/cls_loss,metrics/precision,metrics/recall,metrics/mAP_0.5,"
    "metrics/mAP_0.5:0.95,val/box_loss,val/obj_loss,val/cls_loss,x/lr0,x/lr1,x/lr2"
).split(",")
SHOWN = [*COLUMNS[1:6], *COLUMNS[8:11], *COLUMNS[6:8]]


@pytest.fixture
def figures(monkeypatch, tmp_path):
    """Figures in the order in which they were saved, instead of files (the empty ones that stay are in a folder)."""
    monkeypatch.chdir(tmp_path)
    saved = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: saved.append(self))
    return saved


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def assert_no_text_is_cut(figure):
    FigureCanvasAgg(figure).draw()  # puts the layout in place
    width, height = figure.canvas.get_width_height()
    hidden = {text for ax in figure.axes if not ax.axison for text in ax.findobj(Text)}
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text() and text not in hidden:
            box = text.get_window_extent()
            inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
            tick_out_of_view = text.get_text().replace("−", "-").lstrip("-").replace(".", "").isdigit()
            assert inside or tick_out_of_view, (text.get_text(), box)


def numbers(ax):
    """Texts inside an axes by place."""
    return {tuple(int(v) for v in text.get_position()): text.get_text() for text in ax.texts}


def some_labels(m=50, nc=3):
    rng = np.random.default_rng(0)
    return np.concatenate([rng.integers(0, nc, (m, 1)), rng.uniform(0.1, 0.9, (m, 4))], axis=1)


def results(path, rows, columns=COLUMNS):
    lines = [",".join(f"{c:>20}" for c in columns)]
    lines += [",".join(f"{v:>20.5g}" if np.isfinite(v) else f"{'nan':>20}" for v in row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def draw_all(folder, nc):
    """One call per kind of figure, for nc classes: {name of the first file: function}."""
    names = [f"class number {i}" if nc > 1 else "a name of twenty let" for i in range(nc)]
    return {
        "pr.png": lambda: plot_pr_curve(PX, np.tile(1 - PX, (nc, 1)), np.full((nc, 9), 0.5), folder / "pr.png", names),
        "f1.png": lambda: plot_mc_curve(PX, np.tile(PX, (nc, 1)), folder / "f1.png", names, ylabel="F1"),
        "matrix.png": lambda: plot_confusion_matrix(np.eye(nc + 1), names, folder / "matrix.png"),
        "labels.jpg": lambda: plot_labels(some_labels(nc=nc), names, folder),
        "results.png": lambda: plot_results(results(folder / "results.csv", np.random.default_rng(0).random((4, 14)))),
    }


FIGURES = ["pr.png", "f1.png", "matrix.png", "labels.jpg", "results.png"]


@pytest.mark.parametrize("name", FIGURES)
def test_files_are_written(name, tmp_path):
    draw_all(tmp_path, 3)[name]()
    start = {".png": b"\x89PNG", ".jpg": b"\xff\xd8"}[name[-4:]]
    assert (tmp_path / name).read_bytes().startswith(start)
    if name == "labels.jpg":
        assert (tmp_path / "labels_correlogram.jpg").read_bytes().startswith(start)


@pytest.mark.parametrize(("suffix", "start"), [("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_the_suffix_chooses_the_format(suffix, start, tmp_path):
    plot_pr_curve(PX, [1 - PX], [[0.5] * 9], tmp_path / f"pr.{suffix}", ["cat"])
    assert (tmp_path / f"pr.{suffix}").read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("name", "nc"),
    [("pr.png", 20), ("f1.png", 1), ("matrix.png", 1), ("matrix.png", 80), ("labels.jpg", 1), ("labels.jpg", 80)],
)
def test_no_text_is_cut(name, nc, figures, tmp_path):
    draw_all(tmp_path, nc)[name]()
    assert_no_text_is_cut(figures[0])


def test_pr_curve_names_each_class_with_its_ap(figures):
    py = np.stack([1 - PX, 1 - PX**2])
    plot_pr_curve(PX, py, np.array([[0.5] + [0.1] * 9, [0.75] + [0.1] * 9]), names={0: "cat", 4: "dog"}, classes=[0, 4])
    (figure,) = figures
    ax = figure.axes[0]
    assert legend(ax) == ["mean, mAP@0.5 0.625", "cat 0.500", "dog 0.750"]
    mean, first, second = ax.lines
    np.testing.assert_allclose(mean.get_ydata(), py.mean(axis=0))
    np.testing.assert_array_equal(second.get_ydata(), py[1])
    np.testing.assert_allclose(second.get_color(), np.array(plots.colors(4)) / 255)  # colour of the class, not the row


def test_metric_curve_marks_the_best_confidence(figures):
    plot_mc_curve(PX, [1 - (PX - 0.3) ** 2, 0.5 - (PX - 0.3) ** 2], names=["cat", "dog"], ylabel="F1")
    ax = figures[0].axes[0]
    assert legend(ax) == ["mean, best 0.75 at 0.300", "cat", "dog"]
    (x,), (y,) = ax.lines[-1].get_data()
    assert (x, y) == (pytest.approx(0.3, abs=1e-3), pytest.approx(0.75))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("confidence", "F1")


def test_metric_curve_marks_a_given_confidence_or_none_and_says_its_setting(figures):
    plot_mc_curve(PX, [PX], ylabel="F1", mark=0.4, note="NMS IoU 0.45")
    ax = figures[0].axes[0]
    assert legend(ax)[0] == "mean, best 0.40 at 0.400"
    assert ax.lines[-1].get_xydata().tolist() == [[0.4, pytest.approx(0.4)]]  # on its curve
    assert [text.get_text() for text in ax.texts] == ["NMS IoU 0.45"]
    plot_mc_curve(PX, [PX], ylabel="recall", mark=None)
    ax = figures[1].axes[0]
    assert legend(ax)[0] == "mean"
    assert all(len(line.get_xdata()) > 1 for line in ax.lines)


def test_only_the_f1_curve_has_a_best_confidence(figures, tmp_path):
    conf = np.linspace(0.99, 0.01, 50)
    zeros = np.zeros(50)
    plot_metric_curves(measure_ap(conf[:, None] > 0.5, conf, zeros, zeros[:30]), tmp_path, ["a"])
    marked = {figure.axes[0].get_ylabel(): "best" in legend(figure.axes[0])[0] for figure in figures[1:]}
    assert marked == {"F1": True, "precision": False, "recall": False}


def test_one_lucky_confidence_is_not_the_best(figures):
    """The mean is smoothed before its maximum is taken: a spike of one point loses against a broad hill."""
    y = np.exp(-(((PX - 0.6) / 0.1) ** 2))
    y[100] = 1.0001
    plot_mc_curve(PX, [y])
    assert legend(figures[0].axes[0])[0] == "mean, best 1.00 at 0.600"


def test_many_classes_share_one_grey_entry(figures):
    plot_pr_curve(PX, np.tile(1 - PX, (80, 1)), np.full((80, 10), 0.5))
    assert legend(figures[0].axes[0]) == ["mean, mAP@0.5 0.500", "80 classes"]
    plot_mc_curve(PX, np.tile(1 - PX, (20, 1)))
    assert len(legend(figures[1].axes[0])) == 21


def test_of_very_many_classes_some_curves_are_drawn(figures):
    py = np.tile(1 - PX, (2000, 1)) * np.linspace(0, 1, 2000)[:, None]
    plot_mc_curve(PX, py)
    ax = figures[0].axes[0]
    assert legend(ax)[1] == f"2000 classes ({plots.CURVES} drawn)"
    drawn = ax.collections[0].get_segments()
    assert len(drawn) == plots.CURVES
    np.testing.assert_array_equal(drawn[-1][:, 1], py[-1])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), py.mean(0))  # the mean is of all


def test_curves_without_classes_say_so(figures):
    plot_pr_curve(PX, np.zeros((0, 1000)), np.zeros((0, 10)), names=["a"], classes=[])
    plot_mc_curve(PX, np.zeros((0, 1000)), names=["a"], classes=[])
    for figure in figures:
        assert [text.get_text() for text in figure.axes[0].texts] == ["no labels"]


def test_curves_and_classes_must_agree():
    with pytest.raises(ValueError, match="1 curves for 2 classes"):
        plot_pr_curve(PX, [PX], [[1.0]], classes=[0, 3])
    with pytest.raises(ValueError, match="1 curves for 2 classes"):
        plot_mc_curve(PX, [PX], classes=[0, 3])


def test_confusion_matrix_shows_shares_of_columns(figures):
    matrix = np.array([[30, 1, 0], [10, 999, 4], [0, 0, 0]])
    before = matrix.copy()
    plot_confusion_matrix(matrix, ["cat", "dog"])
    ax = figures[0].axes[0]
    assert numbers(ax) == {(0, 0): "0.75", (0, 1): "0.25", (1, 1): "1.00", (2, 1): "1.00"}  # (column, row); 0.001 blank
    assert [t.get_text() for t in ax.get_xticklabels()] == ["cat", "dog", "background"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("true", "predicted")
    np.testing.assert_array_equal(matrix, before)


def test_confusion_matrix_shows_counts_beside_shares(figures):
    matrix = np.array([[30, 1, 0], [10, 999, 4], [0, 0, 0]])
    plot_confusion_matrix(matrix, ["cat", "dog"], counts=True)
    expected = {(0, 0): "0.75\n30", (0, 1): "0.25\n10", (1, 0): "0.00\n1", (1, 1): "1.00\n999", (2, 1): "4"}
    assert numbers(figures[0].axes[0]) == expected
    plot_confusion_matrix(matrix, ["cat", "dog"], note="confidence > 0.25")
    assert "confidence > 0.25" in [text.get_text() for text in figures[1].axes[0].texts]


def test_confusion_matrix_shows_counts(figures):
    plot_confusion_matrix([[30, 1], [0, 0]], ["cat"], normalize=False)
    assert numbers(figures[0].axes[0]) == {(0, 0): "30", (1, 0): "1"}


@pytest.mark.parametrize(("nc", "named", "numbered"), [(29, True, True), (30, True, False), (99, False, False)])
def test_confusion_matrix_writes_what_stays_legible(nc, named, numbered, figures):
    plot_confusion_matrix(np.eye(nc + 1), [f"n{i}" for i in range(nc)])
    ax = figures[0].axes[0]
    assert ("background" in [t.get_text() for t in ax.get_xticklabels()]) == named
    assert bool(ax.texts) == numbered


def test_confusion_matrix_of_blocks_has_no_names(figures):
    plot_confusion_matrix(np.eye(4), ["a", "b", "c"], classes_per_cell=5)
    ax = figures[0].axes[0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("true class / 5", "predicted class / 5")
    assert "background" not in [t.get_text() for t in ax.get_xticklabels()]


def test_confusion_matrix_of_nothing(figures):
    plot_confusion_matrix(np.zeros((2, 2)), ["cat"])
    assert not figures[0].axes[0].texts


@pytest.mark.parametrize("matrix", [np.zeros((2, 3)), np.zeros(4), np.zeros((0, 0))])
def test_confusion_matrix_is_square(matrix):
    with pytest.raises(ValueError, match="confusion matrix is"):
        plot_confusion_matrix(matrix, [])


def test_label_figure_counts_classes(figures, tmp_path):
    labels = some_labels(nc=2)
    plot_labels(labels, {0: "cat", 1: "dog", 2: "never seen"}, tmp_path)
    ax = figures[0].axes[0]
    heights = [bar.get_height() for bar in ax.patches]
    assert heights == [np.sum(labels[:, 0] == i) for i in range(3)]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["cat", "dog", "never seen"]


@pytest.mark.parametrize("names", [None, {0: "cat", 5: "dog"}])
def test_label_figure_without_labels(names, figures, tmp_path):
    plot_labels(np.zeros((0, 5)), names, tmp_path)
    assert len(figures) == 2
    assert all(bar.get_height() == 0 for bar in figures[0].axes[0].patches)


def test_label_figure_of_very_many_classes_is_one_shape(figures, tmp_path):
    labels = np.tile([0, 0.5, 0.5, 0.2, 0.2], (3000, 1))
    labels[:, 0] = np.arange(3000)
    labels[-5:, 0] = 7
    plot_labels(labels, {i: str(i) for i in range(3000)}, tmp_path)
    ax = figures[0].axes[0]
    (shape,) = ax.patches
    counts, edges, _ = shape.get_data()
    assert (counts[7], counts[8], counts[2999], counts.sum()) == (6, 1, 0, 3000)
    assert (edges[0], edges[-1]) == (-0.5, 2999.5)


def test_results_panels_show_the_columns_against_the_epoch(figures, tmp_path):
    rows = np.random.default_rng(0).random((5, 14)).round(3)
    rows[:, 0] = range(5)
    plot_results(results(tmp_path / "results.csv", rows))
    axes = figures[0].axes
    assert [ax.get_title() for ax in axes] == SHOWN
    for ax in axes:
        np.testing.assert_allclose(ax.lines[0].get_xdata(), range(5))
        np.testing.assert_allclose(ax.lines[0].get_ydata(), rows[:, COLUMNS.index(ax.get_title())])
        smoothed = ax.lines[1].get_ydata()
        assert np.ptp(smoothed) < np.ptp(ax.lines[0].get_ydata())


def test_results_leave_out_epochs_without_validation(figures, tmp_path):
    rows = np.arange(42.0).reshape(3, 14)
    rows[:2, 4:11] = np.nan
    rows[:, 6] = np.nan
    plot_results(results(tmp_path / "results.csv", rows))
    precision, mean_ap = figures[0].axes[3], figures[0].axes[8]
    np.testing.assert_array_equal(precision.lines[0].get_ydata(), [rows[2, 4]])
    assert [text.get_text() for text in mean_ap.texts] == ["not measured"]


def test_results_of_several_runs_share_the_panels(figures, tmp_path):
    plot_results(results(tmp_path / "results.csv", np.ones((2, 14))))
    results(tmp_path / "results2.csv", np.ones((3, 14)))
    plot_results(tmp_path / "results.csv")
    assert len(figures[0].axes[0].lines) == 1
    assert {line.get_label() for line in figures[1].axes[0].lines} == {"results", "results2", "smoothed"}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "0 epochs"),
        (",".join(COLUMNS), "0 epochs"),
        ("a,b\n1,2", "2 columns"),
        (",".join(COLUMNS) + "\nx,2", r"results\.csv:2: 2 cells in a table of 14 columns"),
        (
            "\n".join([",".join(COLUMNS), ",".join("1" * 14), "", ",".join(["one", *"1" * 13])]),
            r"results\.csv:4: 'one' is not a number; correct or remove this line",
        ),
    ],
)
def test_results_that_are_none_are_refused_by_name(text, match, tmp_path):
    file = tmp_path / "results.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=match) as caught:
        plot_results(file)
    assert str(file) in str(caught.value)


def test_results_that_do_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="results.csv does not exist"):
        plot_results(tmp_path / "results.csv")


def test_smoothing_keeps_a_constant_and_the_length():
    np.testing.assert_allclose(plots._smooth(np.full(4, 2.5), np.ones(101)), np.full(4, 2.5))
    np.testing.assert_allclose(plots._smooth(np.array([0.0, 3, 0]), np.ones(3)), [1, 1, 1])
