"""Every figure of a run: batches with their boxes, label statistics, curves, confusion matrix, training history."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from utils import annotate
from utils.annotate import (
    CROP_GAIN,
    CROP_PAD,
    Color,
    Names,
    class_names,
    colors,
    crop_box,
    find_font,
    text_color,
    write_image,
)
from utils.annotate import Annotator as Annotator
from utils.annotate import Colors as Colors
from utils.annotate import output_to_target as output_to_target
from utils.files import table_numbers, write_whole
from utils.paths import increment_path
from utils.text import printable

if TYPE_CHECKING:  # matplotlib takes half a second to load: by the first figure
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

LEGEND_CLASSES = 20  # up to here each class has its own colour and a legend entry
TICK_CLASSES = 98  # up to here each class has its name at an axis
CURVES = 500  # of more classes only so many curves are drawn, evenly chosen
CELL_CLASSES = 29  # up to here the cells of a confusion matrix carry numbers
BLUE, ORANGE, GREY, BLACK = "#1F5FD1", "#E8730C", "#555555", "#222222"
COUNTS = "YlGnBu"  # colour map of every two-dimensional histogram
RESULT_PANELS = (1, 2, 3, 4, 5, 8, 9, 10, 6, 7)  # columns of results.csv in the order of the panels
STUDY_SIZES = tuple(range(256, 1536 + 1, 128))  # pixels, of `val.py --task study`


def __getattr__(name: str) -> Any:
    """Return YOLOv5's functions for plots that are in the engine, which imports this file."""
    if name == "feature_visualization":
        from engine.results.feature_maps import feature_visualization  # noqa: PLC0415

        return feature_visualization
    if name == "plot_evolve":
        from engine.training.evolve import plot_evolve  # noqa: PLC0415

        return plot_evolve
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def plot_images(*args: Any, **settings: Any) -> Thread:
    """Draw a batch as `annotate.plot_images` does, but in a thread, YOLOv5's form: who needs the file calls `join`."""
    thread = Thread(target=annotate.plot_images, args=args, kwargs=settings)
    thread.start()
    return thread


def save_one_box(
    xyxy: ArrayLike | Tensor,
    im: NDArray,
    file: str | Path = "im.jpg",
    gain: float = CROP_GAIN,
    pad: float = CROP_PAD,
    square: bool = False,
    BGR: bool = False,
    save: bool = True,
) -> NDArray:
    """Cut out what a box shows and save it as JPEG.

    Args:
        xyxy: (4,) or (1, 4) corners in pixels of the image.
        im: (H, W, 3) BGR uint8.
        file: target; its suffix becomes .jpg, and a name that exists gets a number. The folder is made.
        gain: see `utils.annotate.crop_box`.
        pad: see `utils.annotate.crop_box`.
        square: see `utils.annotate.crop_box`.
        BGR: return the crop as BGR.
        save: write the file.

    Returns:
        The crop, (h, w, 3) RGB unless `BGR`.
    """
    box = np.array([float(v) for v in (xyxy[0] if len(xyxy) == 1 else xyxy)])
    crop = crop_box(im, box, gain, pad, square)
    if save:
        write_image(increment_path(Path(file).with_suffix(".jpg")), crop)
    return crop if BGR else crop[..., ::-1]


def plot_one_box(
    x: ArrayLike | Tensor,
    img: NDArray,
    color: Color | None = None,
    label: str | None = None,
    line_thickness: int | None = None,
) -> None:
    """Draw a box and its label on an array itself, as YOLOv5 up to 5.0 did.

    Args:
        x: xyxy in pixels.
        img: (H, W, 3) BGR uint8, contiguous.
        color: BGR; by default a random one of the palette.
        label: drawn with it.
        line_thickness: in pixels; by default it follows the size of the image.
    """
    thickness = line_thickness or round(0.001 * sum(img.shape[:2])) + 1
    chosen = colors(np.random.default_rng().integers(colors.n), bgr=True) if color is None else color
    b, g, r = (int(c) for c in chosen)
    Annotator(img, thickness).box_label(x, label, (b, g, r))


def plot_one_box_PIL(
    box: ArrayLike | Tensor,
    im: NDArray,
    color: Color = (128, 128, 128),
    label: str | None = None,
    line_thickness: int | None = None,
) -> NDArray:
    """Do what `plot_one_box` does, but return a drawn copy; see there for the arguments."""
    annotator = Annotator(im.copy(), line_thickness, pil=True)
    annotator.box_label(box, label or "", color)
    return annotator.result()


def color_list() -> list[Color]:
    """Return ten colours as RGB bytes."""
    return colors.palette[:10]


def _write(places: Sequence[Text], texts: Sequence[str], size: float) -> None:
    """Write each text in its place, in the font that has its script, so that class names in any language are legible.

    Args:
        places: texts of matplotlib, such as the labels of ticks.
        texts: what to write.
        size: of the letters in points.
    """
    from matplotlib.font_manager import FontProperties

    for place, text in zip(places, map(printable, texts), strict=True):
        place.set(text=text, fontproperties=FontProperties(fname=find_font(text, 12).path, size=size))


@contextmanager
def _saved_figure(file: str | Path, width: float, height: float, dpi: int = 150) -> Iterator[Figure]:
    """Give an empty figure and save it when the block ends; every figure of this file is made here.

    Texts keep clear of each other and of the edge, and are drawn as they are spelled: a `$` is no markup.

    Args:
        file: image to write; the suffix chooses the format.
        width: in inches.
        height: in inches.
        dpi: pixels per inch.

    Raises:
        OSError: the file cannot be written; names it.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with rc_context({"text.parse_math": False, "text.usetex": False}):
        figure = Figure(figsize=(width, height), dpi=dpi)
        yield figure
        # not given to the figure, which would draw twice to save once
        ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12).execute(figure)
        data = BytesIO()
        figure.savefig(data, dpi=dpi, format=Path(file).suffix[1:])
    write_whole(file, data.getvalue())


def _legend(ax: Axes, handles: Sequence[Artist], texts: Sequence[str], size: float, **options: Any) -> None:
    """Add a legend with one text per handle; matplotlib itself would omit texts that begin with `_`."""
    legend = ax.legend(handles, ["?"] * len(texts), frameon=False, fontsize=size, **options)
    _write(legend.get_texts(), texts, size)


def _style(ax: Axes, title: str = "", xlabel: str = "", ylabel: str = "", grid: bool = True, note: str = "") -> None:
    """Give an axes the common look: title, a note below it, axis names, a light grid, no upper and right frame."""
    ax.set_title(printable(title), fontsize=12, pad=22 if note else None)
    if note:
        ax.text(0.5, 1, note, transform=ax.transAxes, ha="center", va="bottom", fontsize=9, color=GREY)
    ax.set_xlabel(printable(xlabel), fontsize=11)
    ax.set_ylabel(printable(ylabel), fontsize=11)
    ax.tick_params(labelsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    if grid:
        ax.grid(color="#DDDDDD", linewidth=0.6)
        ax.set_axisbelow(True)


def _smooth(y: NDArray, weights: NDArray) -> NDArray:
    """Weighted moving mean with an odd number of weights, the ends repeated; same length as y."""
    half = len(weights) // 2
    return np.convolve(np.pad(y, half, mode="edge"), weights / weights.sum(), mode="valid")


def _name_ticks(ax: Axes, texts: Sequence[str], width: float, both: bool = False) -> None:
    """Write names at the x axis (and y axis), in letters that fit; upright where they would touch each other.

    Args:
        ax: axes whose tick i belongs to text i.
        texts: one name per tick.
        width: length of the x axis in points.
        both: name the y axis too.
    """
    size = min(11.0, max(0.9 * width / len(texts), 5.0))
    flat = 0.55 * size * (max(map(len, texts)) + 1) < width / len(texts)
    ax.set_xticks(range(len(texts)), texts, rotation=0 if flat else 90)
    _write(ax.get_xticklabels(), texts, size)
    if both:
        ax.set_yticks(range(len(texts)), texts)
        _write(ax.get_yticklabels(), texts, size)


def _plot_class_counts(ax: Axes, classes: NDArray, names: Names) -> None:
    """Bars of labels per class; names at the axis and numbers on the bars as long as they stay legible."""
    named = max(names, default=-1) if isinstance(names, Mapping) else len(names or ()) - 1
    nc = max(int(classes.max(initial=-1)), named) + 1
    counts = np.bincount(classes.astype(int), minlength=nc)
    bars = None
    if nc <= TICK_CLASSES:
        bars = ax.bar(np.arange(nc), counts, width=0.8, color=[np.array(colors(i)) / 255 for i in range(nc)])
    else:  # one shape instead of one for each class
        ax.stairs(counts, np.arange(nc + 1) - 0.5, fill=True, color=BLUE)
        ax.set_xlabel("class")
    _style(ax, f"labels per class, {len(classes)} in all", "", "labels")
    ax.grid(visible=False, axis="x")  # the bars have names
    ax.set_xlim(-0.6, nc - 0.4)
    if 0 < nc <= TICK_CLASSES:
        _name_ticks(ax, class_names(names, range(nc)), width=410)
    if bars and nc <= LEGEND_CLASSES:
        ax.bar_label(bars, fontsize=8, color=GREY, padding=1)


def _plot_first_boxes(ax: Axes, labels: NDArray) -> None:
    """Outlines of the first 1000 boxes, all moved to one centre."""
    canvas = np.full((1000, 1000, 3), 255, np.uint8)
    for cls, _, _, w, h in labels[:1000]:
        corner = np.array([w, h]) * 500
        low, high = np.rint(500 - corner).astype(int), np.rint(500 + corner).astype(int)
        cv2.rectangle(canvas, low.tolist(), high.tolist(), colors(int(cls)), 1, cv2.LINE_AA)
    ax.imshow(canvas, extent=(-0.5, 0.5, 0.5, -0.5))
    title = f"{min(len(labels), 1000)} boxes, centres together"
    _style(ax, title, "width / image width", "height / image height", grid=False)


def _plot_counts_2d(ax: Axes, x: NDArray, y: NDArray) -> None:
    """Two-dimensional histogram of values 0 to 1 in 50 x 50 cells, logarithmic colours, empty cells white."""
    from matplotlib.colors import LogNorm

    counts, _, _ = np.histogram2d(x, y, bins=50, range=[[0, 1], [0, 1]])
    norm = LogNorm(0.3, max(counts.max(), 2))
    ax.imshow(np.where(counts > 0, counts, np.nan).T, origin="lower", extent=(0, 1, 0, 1), cmap=COUNTS, norm=norm)


def plot_labels(labels: ArrayLike, names: Names = (), save_dir: str | Path = "") -> None:
    """Save labels.jpg (class counts, boxes, centres, sizes) and labels_correlogram.jpg (x, y, width, height in pairs).

    Args:
        labels: labels of all images, (M, 5) `[class, xywhn]`; M may be 0.
        names: class names by index.
        save_dir: existing folder.
    """
    labels = np.asarray(labels, np.float64).reshape(-1, 5)
    with _saved_figure(Path(save_dir) / "labels.jpg", 13, 12) as figure:
        (top_left, top_right), (low_left, low_right) = figure.subplots(2, 2)
        _plot_class_counts(top_left, labels[:, 0], names)
        _plot_first_boxes(top_right, labels)
        _plot_counts_2d(low_left, labels[:, 1], labels[:, 2])
        low_left.invert_yaxis()
        _style(low_left, "centres", "x / image width", "y / image height", grid=False)
        _plot_counts_2d(low_right, labels[:, 3], labels[:, 4])
        _style(low_right, "sizes", "width / image width", "height / image height", grid=False)

    with _saved_figure(Path(save_dir) / "labels_correlogram.jpg", 10, 10, dpi=120) as figure:
        variables = ("x", "y", "width", "height")
        for row, column in np.argwhere(np.tri(4)).tolist():
            ax = figure.add_subplot(
                4, 4, 1 + 4 * row + column, box_aspect=1, xlim=(0, 1), xticks=(0, 0.5, 1), yticks=()
            )
            if column == row:
                ax.hist(labels[:, 1 + row], bins=50, range=(0, 1), color=BLUE)
            else:
                _plot_counts_2d(ax, labels[:, 1 + column], labels[:, 1 + row])
                ax.set_yticks((0, 0.5, 1))
            below, beside = row == 3, column == 0 and row > 0  # only the outer panels carry names
            _style(ax, "", variables[column] * below, variables[row] * beside, grid=row == column)


def _read_results(file: Path) -> tuple[list[str], NDArray]:
    """Column names and numbers, (epochs, columns), of a results.csv; empty cells are nan."""
    with file.open(newline="", encoding="utf-8") as stream:
        reader = csv.reader(stream)
        lines = [(reader.line_num, cells) for cells in reader if cells]
    header, rows = ([name.strip() for name in lines[0][1]], lines[1:]) if lines else ([], [])
    if len(header) <= max(RESULT_PANELS) or not rows:
        raise ValueError(
            f"{file}: {len(rows)} epochs and {len(header)} columns; at least 1 epoch and 11 columns are needed"
        )
    return header, np.array([table_numbers(cells, len(header), f"{file}:{number}") for number, cells in rows])


def plot_results(file: str | Path = "results.csv", dir: str | Path = "") -> None:
    """Save results.png beside a results.csv: losses, precision, recall and mAP by epoch.

    All `results*.csv` of the folder are drawn, each with a dotted line smoothed by a Gaussian of 3 epochs.

    Args:
        file: the results.csv of a run.
        dir: its folder, instead of `file`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a file is no results table or has no epochs.
    """
    file = Path(dir) / "results.csv" if dir else Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; training writes it, one row per epoch")
    files = sorted(file.parent.glob("results*.csv"))
    with _saved_figure(file.with_name("results.png"), 16, 7) as figure:
        panels = figure.subplots(2, 5).ravel()
        gaussian = np.exp(-0.5 * (np.arange(-9, 10) / 3) ** 2)
        for number, source in enumerate(files):
            header, values = _read_results(source)
            color = BLUE if len(files) == 1 else np.array(colors(number)) / 255
            for ax, column in zip(panels, RESULT_PANELS, strict=True):
                drawn = np.isfinite(values[:, column])
                epoch, y = values[drawn, 0], values[drawn, column]
                _style(ax, header[column], "epoch" if ax in panels[5:] else "")
                if not len(y):
                    ax.text(0.5, 0.5, "not measured", ha="center", transform=ax.transAxes, fontsize=12, color=GREY)
                    continue
                ax.plot(epoch, y, color=color, linewidth=1.6, marker="." if len(y) < 50 else "", label=source.stem)
                if len(y) > 2:
                    ax.plot(epoch, _smooth(y, gaussian), ":", color=ORANGE, linewidth=2, label="smoothed")
        handles, texts = panels[0].get_legend_handles_labels()
        _legend(panels[0], handles, texts, size=9)


def _row_classes(py: NDArray, classes: ArrayLike | None) -> NDArray:
    """Class index of each curve, (K,); checks that there are as many classes as curves."""
    classes = np.arange(len(py)) if classes is None else np.asarray(classes).ravel().astype(int)
    if len(classes) != len(py):
        raise ValueError(f"{len(py)} curves for {len(classes)} classes: give the class index of each curve")
    return classes


def _plot_curves(ax: Axes, px: NDArray, py: NDArray, classes: NDArray, texts: Sequence[str], mean_text: str) -> None:
    """Curves over 0 to 1: a bold mean, and one line per class, in its colour and named up to 20 classes, else grey.

    Of more than `CURVES` classes an even choice is drawn.
    """
    from matplotlib.collections import LineCollection

    ax.set(xlim=(0, 1), ylim=(0, 1.01))
    if not len(py):
        ax.text(0.5, 0.5, "no labels", ha="center", va="center", fontsize=12, color=GREY)
        return
    handles = ax.plot(px, py.mean(axis=0), linewidth=3, color=BLACK, zorder=3)
    if len(py) <= LEGEND_CLASSES:
        for y, cls in zip(py, classes, strict=True):
            handles += ax.plot(px, y, linewidth=1.2, color=np.array(colors(cls)) / 255)
    else:
        chosen = np.linspace(0, len(py) - 1, min(len(py), CURVES)).round().astype(int)
        texts = [f"{len(py)} classes" + (f" ({len(chosen)} drawn)" if len(chosen) < len(py) else "")]
        lines = [np.stack((px, py[i]), 1) for i in chosen]
        handles.append(ax.add_collection(LineCollection(lines, colors="#AAAAAA", linewidths=0.6)))
    texts = [mean_text, *texts]
    _legend(ax, handles, texts, size=10, bbox_to_anchor=(1.01, 1), loc="upper left", borderaxespad=0)


def plot_pr_curve(
    px: ArrayLike,
    py: ArrayLike,
    ap: ArrayLike,
    save_path: str | Path = "PR_curve.png",
    names: Names = None,
    classes: ArrayLike | None = None,
    *,
    note: str = "",
) -> None:
    """Save precision over recall at IoU 0.5 for each class and their mean.

    Args:
        px: recall, (P,), rising from 0 to 1.
        py: precision of each class at these recalls, (K, P); K may be 0.
        ap: average precision, (K, 10); the first column (IoU 0.5) is written in the legend.
        save_path: image file to write.
        names: class names by index.
        classes: class index of each row of py, (K,); None means row i is class i.
        note: setting of the detections, below the title.

    Raises:
        ValueError: classes and py differ in length.
    """
    px, py, ap = np.asarray(px), np.asarray(py).reshape(-1, len(px)), np.asarray(ap)
    classes = _row_classes(py, classes)
    texts = [f"{text} {value:.3f}" for text, value in zip(class_names(names, classes), ap[:, 0], strict=True)]
    mean_text = f"mean, mAP@0.5 {ap[:, 0].sum() / max(len(ap), 1):.3f}"
    with _saved_figure(save_path, 10, 6.5) as figure:
        ax = figure.subplots()
        _style(ax, "precision over recall", "recall", "precision", note=note)
        _plot_curves(ax, px, py, classes, texts, mean_text)


def plot_mc_curve(
    px: ArrayLike,
    py: ArrayLike,
    save_path: str | Path = "F1_curve.png",
    names: Names = None,
    xlabel: str = "confidence",
    ylabel: str = "metric",
    classes: ArrayLike | None = None,
    *,
    mark: float | Literal["best"] | None = "best",
    note: str = "",
) -> None:
    """Save a metric over confidence for each class and their mean, with a confidence marked on the mean.

    Args:
        px: confidence, (P,), rising from 0 to 1.
        py: metric of each class at these confidences, (K, P); K may be 0.
        save_path: image file to write.
        names: class names by index.
        xlabel: name of px.
        ylabel: name of the metric.
        classes: class index of each row of py, (K,); None means row i is class i.
        mark: the confidence to mark; "best" is where the mean, smoothed by a box filter over a tenth of px, is highest.
        note: setting of the detections, below the title.

    Raises:
        ValueError: classes and py differ in length.
    """
    px, py = np.asarray(px), np.asarray(py).reshape(-1, len(px))
    classes = _row_classes(py, classes)
    mean = py.sum(axis=0) / max(len(py), 1)
    if mark == "best":
        mark = float(px[_smooth(mean, np.ones(round(len(px) * 0.1) // 2 * 2 + 1)).argmax()])
    mean_text = "mean" if mark is None else f"mean, best {np.interp(mark, px, mean):.2f} at {mark:.3f}"
    with _saved_figure(save_path, 10, 6.5) as figure:
        ax = figure.subplots()
        _style(ax, f"{ylabel} over {xlabel}", xlabel, ylabel, note=note)
        _plot_curves(ax, px, py, classes, class_names(names, classes), mean_text)
        if len(py) and mark is not None:
            ax.plot(mark, np.interp(mark, px, mean), "o", color=BLACK, markersize=10, clip_on=False, zorder=4)


def plot_confusion_matrix(
    matrix: ArrayLike,
    names: Names,
    save_path: str | Path = "confusion_matrix.png",
    normalize: bool = True,
    classes_per_cell: int = 1,
    *,
    counts: bool = False,
    note: str = "",
) -> None:
    """Plot a confusion matrix and save it.

    Args:
        matrix: counts, (classes + 1, classes + 1), rows predicted, columns true, background last.
        names: class names by index.
        save_path: image file to write.
        normalize: divide each column by its sum; cells below 0.005 stay empty.
        classes_per_cell: classes that a row or column represents, see `metrics.ConfusionMatrix.blocks`; names are left
            out if it is not 1.
        counts: with `normalize`, write the count too, however small the fraction; in the last column it alone, as a
            fraction of the false boxes says little.
        note: setting of the detections, below the title.

    Raises:
        ValueError: the matrix is not square.
    """
    matrix = np.asarray(matrix, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(f"a confusion matrix is (classes + 1, classes + 1), got {matrix.shape}")
    shown = matrix / (matrix.sum(axis=0, keepdims=True) + 1e-9) if normalize else matrix
    shown = np.where(shown >= 0.005 if normalize and not counts else matrix > 0, shown, np.nan)
    nc = len(matrix) - 1
    side = min(max(6.0, 3 + 0.42 * nc), 15.0)  # inches
    with _saved_figure(save_path, side + 1.2, side) as figure:
        ax = figure.subplots()
        top = 1.0 if normalize else max(float(matrix.max()), 1.0)
        image = ax.imshow(shown, cmap="Blues", vmin=0, vmax=top)
        title = "Confusion matrix, fraction of each true class" if normalize else "Confusion matrix"
        unit = "" if classes_per_cell == 1 else f" class / {classes_per_cell}"
        _style(ax, title, f"true{unit}", f"predicted{unit}", grid=False, note=note)
        figure.colorbar(image, ax=ax, shrink=0.8, use_gridspec=False).outline.set_visible(False)
        if 0 < nc <= TICK_CLASSES and classes_per_cell == 1:
            _name_ticks(ax, [*class_names(names, range(nc)), "background"], width=58 * side - 50, both=True)
        if nc <= CELL_CLASSES:
            size = min(11, 28 * side / (nc + 6))
            for row, column in np.argwhere(np.isfinite(shown)):
                value = shown[row, column]
                ink = np.array(text_color(255 * np.array(image.cmap(value / top)[:3]))) / 255
                text = f"{value:.2f}" if normalize else f"{value:.0f}"
                if normalize and counts:
                    text = f"{text}\n{matrix[row, column]:.0f}" if column < nc else f"{matrix[row, column]:.0f}"
                ax.text(column, row, text, ha="center", va="center", fontsize=size, color=ink)


def plot_genes(genes: Mapping[str, Sequence[float]], score: ArrayLike, fname: str | Path) -> None:
    """Draw each hyperparameter of an evolution against the fitness; the best generation is marked.

    Args:
        genes: for each name its value in all generations.
        score: fitness of the generations.
        fname: image file to write.
    """
    score = np.asarray(score)
    best = int(score.argmax())
    columns = 6
    rows = math.ceil(len(genes) / columns)
    with _saved_figure(fname, 3 * columns, 2.6 * rows, dpi=120) as figure:
        for i, (name, values) in enumerate(genes.items()):
            ax = figure.add_subplot(rows, columns, i + 1)
            _style(ax, f"{name} = {values[best]:.3g}", ylabel="fitness" if i % columns == 0 else "")
            ax.scatter(values, score, c=np.arange(len(score)), cmap=COUNTS, edgecolors=GREY, linewidths=0.4, s=22)
            ax.plot(values[best], score[best], "+", color=ORANGE, markersize=15, markeredgewidth=2.5)


def plot_val_study(file: str | Path = "", dir: str | Path = "", x: Sequence[int] | None = None) -> None:
    """Save study.png beside the tables of `val.py --task study`, see `plot_studies`.

    Args:
        file: a table; "" takes all `study*.txt` of `dir`.
        dir: folder of the tables.
        x: image sizes in pixels, one for each row; None for those of `val.py --task study`.

    Raises:
        FileNotFoundError: there is no table.
        ValueError: a table has other rows or columns.
    """
    files = [Path(file)] if file else sorted(Path(dir).glob("study*.txt"))
    if not files:
        raise FileNotFoundError(f"{Path(dir).absolute()}: no study*.txt; val.py --task study writes them")
    plot_studies(files, STUDY_SIZES if x is None else x, files[0].with_name("study.png"))


def plot_studies(files: Sequence[str | Path], sizes: Sequence[int], save_path: str | Path) -> None:
    """Plot the metrics and times of detectors at several image sizes.

    Args:
        files: tables of `val.py --task study`, one for each detector: a row for each size, 10 columns.
        sizes: image sizes in pixels, one for each row.
        save_path: image file to write.

    Raises:
        ValueError: a table has other rows or columns.
    """
    with _saved_figure(save_path, 16, 8) as figure:
        panels = figure.subplots(2, 4).ravel()
        titles = ("precision", "recall", "mAP50", "mAP50-95", "pre-processing", "inference", "NMS")
        for number, file in enumerate(files):
            table = np.loadtxt(file, ndmin=2)
            if table.shape != (len(sizes), 10):
                raise ValueError(f"{file}: a table of {table.shape} rows and columns, expected {(len(sizes), 10)}")
            look = {"color": np.array(colors(number)) / 255, "marker": ".", "linewidth": 1.6}
            for ax, column, title in zip(panels, (0, 1, 2, 3, 7, 8, 9), titles, strict=False):
                _style(ax, title, "image size, pixels", "" if column < 7 else "ms per image")
                ax.plot(sizes, table[:, column], **look)
            last = panels[-1]
            _style(last, "mAP50-95 over time", "ms per image", "mAP50-95")
            last.plot(table[:, 7:].sum(1), table[:, 3], **look)
        _legend(panels[0], panels[0].lines, [Path(file).stem for file in files], size=9)
