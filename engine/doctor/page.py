"""One HTML page of what was found: findings with thumbnails, charts of the labels, and images to look at.

The page holds everything, loads nothing, needs no JavaScript, and is light or dark as the reader's system is.
"""

import base64
import html
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from engine.doctor.dataset import Dataset, DoctorSplit
from engine.doctor.findings import Finding, Place, count_by_severity, in_words
from engine.results.report import thumbnail
from utils.dataloaders import REDUCED
from utils.datasets.images import decode_image
from utils.files import write_whole
from utils.text import printable

SIDE = 320  # pixels of a thumbnail
MOST_BYTES = 3_600_000  # of all thumbnails before they are written as text, a third longer
SHOWN = 6  # thumbnails of a finding
SAMPLES = 24  # images of each split
BINS = 24  # of the map of centres
CLASSES = 40  # most frequent ones that are drawn
SIZES = (0, 2, 4, 8, 16, 32, 64, 96, 128, 256, 512, np.inf)  # of the shorter side in net pixels
RATIOS = (0, 1 / 8, 1 / 4, 1 / 2, 2 / 3, 1.5, 2, 4, 8, np.inf)  # of width and height
RATIO_NAMES = (
    "below 1:8", "1:8 to 1:4", "1:4 to 1:2", "1:2 to 2:3", "2:3 to 3:2", "3:2 to 2:1", "2:1 to 4:1", "4:1 to 8:1",
    "above 8:1",
)  # fmt: skip
CROWDS = (0, 1, 2, 3, 5, 10, 20, 50, 100, 300, np.inf)  # labels of an image


def text(value: object) -> str:
    """Return a text for HTML: no control characters, no markup, ASCII."""
    return html.escape(printable(str(value))).encode("ascii", "xmlcharrefreplace").decode()


class Thumbnails:
    """Images with their boxes as HTML, until all of them together are too large for a page.

    Args:
        data: whose labels are drawn.
    """

    def __init__(self, data: Dataset) -> None:
        self.left, self.pixels = MOST_BYTES, data.pixels
        self.where = {file: (s, i) for s in data.splits.values() for i, file in enumerate(s.im_files)}

    def draw(self, file: str, box: Sequence[float] | None = None) -> str:
        """Return an image with its boxes, one of them in another colour; "" if it cannot be drawn any more."""
        split, i = self.where.get(file, (None, 0))
        size = split.sizes[i] if split else (1, 1)
        flags = next((flags for factor, flags in REDUCED if min(size) >= factor * SIDE), cv2.IMREAD_COLOR)
        try:
            image = decode_image(file, flags, self.pixels) if self.left > 0 else None
        except OSError:
            image = None
        if image is None:
            return ""
        data = thumbnail(image, SIDE)
        self.left -= len(data)
        rows = split.labels[i][:, 1:].tolist() if split else []
        rects = [_rect(row, kind) for kind in ("under", "") for row in rows]
        rects += [_rect(box, "this")] if box else []
        return (
            f'<div class="frame"><img alt="" '
            f'src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'
            f'<svg viewBox="0 0 1 1" preserveAspectRatio="none">{"".join(rects)}</svg></div>'
        )

    def figure(self, place: Place) -> str:
        """Return the images of a place with what there is to say."""
        first = self.draw(place.image, place.box) if place.image else ""
        if not first:
            return ""
        other = self.draw(place.other) if place.other else ""
        inner = f'<div class="pair">{first}{other}</div>' if other else first
        width = ' style="max-width:670px"' if other else ""
        return f"<figure{width}>{inner}<figcaption>{text(_short(place))}</figcaption></figure>"


def _rect(box: Sequence[float], kind: str) -> str:
    x, y, w, h = box
    return f'<rect class="{kind}" x="{x - w / 2:.4f}" y="{y - h / 2:.4f}" width="{w:.4f}" height="{h:.4f}"/>'


def _short(place: Place) -> str:
    """Return a place with file names in place of paths."""
    line = f":{place.line}" if place.line else ""
    other = f" and {Path(place.other).parent.name}/{Path(place.other).name}" if place.other else ""
    file = Path(place.file)
    return f"{file.parent.name}/{file.name}{line}{other}{f' ({place.note})' if place.note else ''}"


def finding_html(finding: Finding, thumbnails: Thumbnails) -> str:
    """Return one finding with its places and their images."""
    split = f" [{text(finding.split)}]" if finding.split else ""
    places = "".join(f"<li><code>{text(place)}</code></li>" for place in finding.places)
    more = f"<li>and {finding.more} more</li>" if finding.more else ""
    images = "".join(thumbnails.figure(place) for place in finding.places[:SHOWN])
    return (
        f'<article class="finding {finding.severity}"><p><span class="badge">{finding.severity}</span>'
        f"<code>{finding.id}{split}</code></p><p>{text(finding.message)}.</p>"
        f'<p class="soft">{text(finding.advice)}</p>'
        + (f"<details><summary>Places</summary><ul>{places}{more}</ul></details>" if places else "")
        + (f'<div class="images">{images}</div>' if images else "")
        + "</article>\n"
    )


# Charts ---------------------------------------------------------------------------------------------------------------
def bars(title: str, names: Sequence[str], counts: dict[str, Sequence[int]]) -> str:
    """Return a chart of horizontal bars, one for each split below a name; each split's longest bar has full length."""
    rows = []
    for k, name in enumerate(names):
        lines = "".join(
            f'<i class="{split}" style="width:{100 * n[k] / max(*n, 1):.2f}%"></i>' for split, n in counts.items()
        )
        numbers = " / ".join(str(int(n[k])) for n in counts.values())
        rows.append(
            f'<div class="bar"><span title="{text(name)}">{text(name)}</span><div class="track">{lines}</div>'
            f"<b>{numbers}</b></div>"
        )
    return f'<section class="panel"><h3>{title}</h3>{"".join(rows)}</section>'


def _pixels(edges: Sequence[float]) -> list[str]:
    """Return the names of the bins between edges in pixels."""
    return [f"{a} to {b}" for a, b in zip(edges[:-2], edges[1:-1], strict=True)] + [f"from {edges[-2]}"]


def _whole(edges: Sequence[float]) -> list[str]:
    """Return the names of the bins between edges for whole numbers."""
    pairs = zip(edges[:-2], edges[1:-1], strict=True)
    return [f"{a}" if b == a + 1 else f"{a} to {b - 1}" for a, b in pairs] + [f"from {edges[-2]}"]


def _heat(split: DoctorSplit) -> str:
    """Return the map of where the centres of boxes are, as an image."""
    counts = np.histogram2d(split.flat[:, 2], split.flat[:, 1], BINS, ((0, 1), (0, 1)))[0]
    levels = (255 * np.sqrt(counts / max(counts.max(), 1))).astype(np.uint8)
    png = cv2.imencode(".png", cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS))[1].tobytes()
    return (
        f'<section class="panel"><h3>Centres of the boxes, {split.name}</h3><img class="heat" alt="" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode()}"></section>'
    )


def charts(data: Dataset) -> str:
    """Return all charts of labels and images."""
    splits = data.splits
    classes = {name: split.classes(len(data.names))[0] for name, split in splits.items()}
    most = sorted(data.names, key=lambda c: -sum(int(n[c]) for n in classes.values()))[:CLASSES]
    left = f", the {CLASSES} most frequent of {len(data.names)}" if len(data.names) > CLASSES else ""
    sides = {name: data.net_sides(split) for name, split in splits.items()}
    sizes = Counter((int(w), int(h)) for split in splits.values() for w, h in split.sizes)
    rows = "".join(f"<tr><td>{w} x {h}</td><td>{n}</td></tr>" for (w, h), n in sizes.most_common(10))
    return "".join(
        (
            bars(f"Labels of each class{left}", [f"{c} {data.names[c]}" for c in most],
                 {name: [int(n[c]) for c in most] for name, n in classes.items()}),
            bars(f"Shorter side of the boxes in pixels at {data.settings}", _pixels(SIZES),
                 {name: np.histogram(s.min(1), SIZES)[0].tolist() for name, s in sides.items()}),
            bars("Width to height of the boxes", RATIO_NAMES,
                 {name: np.histogram(s[:, 0] / s[:, 1], RATIOS)[0].tolist() for name, s in sides.items()}),
            bars("Labels of an image", _whole(CROWDS),
                 {name: np.histogram(split.per_image, CROWDS)[0].tolist() for name, split in splits.items()}),
            f'<section class="panel"><h3>Sizes of the images, the most frequent of {len(sizes)}</h3>'
            f"<table><tr><th>pixels</th><th>images</th></tr>{rows}</table></section>",
            *(_heat(split) for split in splits.values() if len(split.flat)),
        )
    )  # fmt: skip


# The page -------------------------------------------------------------------------------------------------------------
def samples(data: Dataset, thumbnails: Thumbnails) -> str:
    """Return images of each split with their boxes: the check that no program can do. The same ones every time."""
    parts = []
    for split in data.splits.values():
        chosen = np.random.default_rng(0).permutation(len(split.im_files))[:SAMPLES]
        figures = [thumbnails.figure(Place(split.im_files[i], image=split.im_files[i])) for i in sorted(chosen)]
        if any(figures):
            parts.append(
                f"<h2>{text(split.name)}: do the boxes fit?</h2>"
                f'<p class="soft">{len(chosen)} of {len(split.im_files)} images, chosen at random.</p>'
                f'<div class="images">{"".join(figures)}</div>\n'
            )
    return "".join(parts)


def table(data: Dataset) -> str:
    """Return the numbers of the splits."""
    rows = []
    for split in data.splits.values():
        missing, empty = split.backgrounds
        numbers = (
            len(split.im_files), len(split.flat), len(empty), len(missing), len(split.listed) - len(split.im_files)
        )  # fmt: skip
        rows.append(f"<tr><td>{text(split.name)}</td>{''.join(f'<td>{n}</td>' for n in numbers)}</tr>")
    heads = ("split", "images", "labels", "empty label files", "no label file", "left out")
    return f"<table><tr>{''.join(f'<th>{h}</th>' for h in heads)}</tr>{''.join(rows)}</table>"


def verdict(findings: Sequence[Finding], unusable: Sequence[str]) -> str:
    """Return a sentence about the whole dataset."""
    if unusable:
        return f"The dataset cannot be used: {'; '.join(unusable)}."
    counts = count_by_severity(findings)
    words = {
        True: "Correct the errors before a training: images or labels are lost or learned wrongly.",
        False: "It can be used; look at the warnings first." if counts["warning"] else "It can be used as it is.",
    }
    return f"{in_words(counts)}. {words[counts['error'] > 0]}"


def write_page(file: str, data: Dataset, findings: Sequence[Finding], unusable: Sequence[str]) -> None:
    """Write the page.

    Raises:
        OSError: it cannot be written.
    """
    thumbnails = Thumbnails(data)
    marks = {
        "TITLE": text(data.file),
        "VERDICT": text(verdict(findings, unusable)),
        "SETTINGS": f"Judged for {data.settings} and a smallest stride of {data.stride} pixels.",
        "SPLITS": table(data),
        "FINDINGS": "".join(finding_html(f, thumbnails) for f in findings) or "<p>None.</p>",
        "KEYS": "".join(f'<span class="key {name}">{name}</span>' for name in data.splits),
        "CHARTS": charts(data),
        "SAMPLES": samples(data, thumbnails),
    }
    frame = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    write_whole(file, re.sub("@@([A-Z]+)@@", lambda mark: marks[mark[1]], frame).encode())  # names may look like marks
