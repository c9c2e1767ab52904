"""The report page: what is in the file, and what a browser makes of it (headless Chromium, where there is one)."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
import tracemalloc
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
import torch

from engine.results.report import DetectReport, ValReport
from engine.validation.errors import KINDS
from tests.waiting import HANG
from utils.metrics import ConfusionMatrix

NAMES = {0: "cat", 1: "dog", 2: "bird"}
HOSTILE = (
    "</script><script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">&'\"\u2028<!--.jpg"
)
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1200,800 --virtual-time-budget=4000 --dump-dom"
).split()


def picture(height=60, width=80, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def box(conf, cls, x=10.0):
    return [x, 10.0, x + 20, 30.0, conf, cls]


def blocks(page, name):
    """Contents of the script elements of a class."""
    return re.findall(rf'<script type="[a-z/]+" class="{name}">(.*?)</script>', page.read_text(encoding="ascii"))


def items(page):
    return [json.loads(text) for text in blocks(page, "item")]


@pytest.fixture
def dump(tmp_path):
    """Open a page in the browser and return the document that its program made.

    On a busy machine the browser may print the document before its first frame, when no card has its image yet: such
    a document is asked for again.
    """
    if BROWSER is None:
        pytest.skip("no chromium")

    def run(page, fragment=""):
        command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"file://{page}#{fragment}"]
        for _ in range(5):
            done = subprocess.run(command, capture_output=True, text=True, timeout=HANG, check=True)
            dom = Dom(done.stdout)
            if dom.all(class_="frame") or not dom.all(class_="card"):
                break
        return dom

    return run


class Dom(HTMLParser):
    """The text of elements by id, class or data attribute, as the browser left them."""

    VOID = {"meta", "input", "img", "br", "link"}

    def __init__(self, source):
        super().__init__()
        self.source, self.open, self.elements = source, [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "text": "", **dict(attrs)}
        self.elements.append(element)
        if tag not in self.VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        while self.open and self.open.pop()["tag"] != tag:
            pass

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, **wanted):
        wanted = {key.rstrip("_").replace("_", "-"): value for key, value in wanted.items()}
        return [e for e in self.elements if all(v in (e.get(k) or "").split() for k, v in wanted.items())]

    def one(self, **wanted):
        (element,) = self.all(**wanted)
        return element

    def counts(self):
        """Class number to the boxes shown, and kind of box likewise."""
        found, row = {}, None
        for element in self.elements:
            row = element.get("data-cls") or element.get("data-kind") or row
            if element.get("class") == "n":
                found[row] = int(element["text"].replace(",", ""))
        return found


# The file -------------------------------------------------------------------------------------------------------------


def test_page_holds_pictures_and_boxes(tmp_path):
    report = DetectReport(tmp_path / "new" / "run", NAMES)
    image = picture(300, 1200)
    before = image.copy()
    report.add(image, "wide.jpg", torch.tensor([[1.26, 2, 30.5, 40, 0.123456789, 2]], dtype=torch.float16))
    report.add(picture(7, 5), tmp_path / "small.png", np.zeros((0, 6)))
    report.add(picture(3000, 2), "thin", [])
    page = report.close()
    assert page == tmp_path / "new" / "run" / "report.html"
    assert report.close() == page
    np.testing.assert_array_equal(image, before)

    wide, small, thin = items(page)
    assert wide == {"name": "wide.jpg", "boxes": [[1.3, 2, 30.5, 40, 0.12347, 2]], "size": [1200, 300]}
    assert (small["name"], small["boxes"], thin["size"]) == (str(tmp_path / "small.png"), [], [2, 3000])
    shapes = []
    for text in blocks(page, "jpeg"):
        shapes.append(cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), 1).shape)
    assert shapes == [(120, 480, 3), (7, 5, 3), (480, 1, 3)]


def test_colours_of_the_thumbnail_are_those_of_the_picture(tmp_path):
    report = DetectReport(tmp_path, NAMES)
    report.add(np.full((50, 50, 3), (200, 20, 90), np.uint8), "a", [])
    (text,) = blocks(report.close(), "jpeg")
    found = cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), 1)
    np.testing.assert_allclose(found.reshape(-1, 3).mean(0), (200, 20, 90), atol=3)


def test_nothing_is_loaded_and_only_our_program_may_run(tmp_path):
    report = DetectReport(tmp_path, {0: HOSTILE}, title=HOSTILE)
    report.add(picture(), HOSTILE, [box(0.5, 0)])
    text = report.close().read_text(encoding="ascii")
    assert not re.findall(r"https?:|//[a-z]|<link|@import|url\(", text.partition('id="config"')[0])
    assert text.count("<script") == text.count("</script") == 5  # config, item, jpeg, summary, program
    program = text.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}';" in text
    assert items(tmp_path / "report.html")[0]["name"] == HOSTILE


def test_marks_of_the_template_in_names_stay_names(tmp_path):
    report = DetectReport(tmp_path, {0: "@@TITLE@@", 1: "@@SCRIPT@@ @@SUMMARY@@"})
    text = report.close().read_text(encoding="ascii")
    assert '"names":{"0":"@@TITLE@@","1":"@@SCRIPT@@ @@SUMMARY@@"}' in text
    assert text.count('"use strict"') == 1


def test_earlier_report_stays_until_close(tmp_path):
    (tmp_path / "report.html").write_text("earlier")
    report = DetectReport(tmp_path, ["a"])
    report.add(picture(), "a.jpg", [])
    assert (tmp_path / "report.html").read_text() == "earlier"
    report.close()
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(ValueError, match=r"report\.html: this report is closed"):
        report.add(picture(), "b.jpg", [])


def test_memory_does_not_grow_with_the_pictures(tmp_path):
    report = DetectReport(tmp_path, NAMES)
    image = picture(200, 300)
    tracemalloc.start()
    for i in range(120):
        report.add(image, f"{i}.jpg", [box(0.5, 0)])
        if i == 20:
            early = tracemalloc.get_traced_memory()[0]
    late = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert report.close().stat().st_size > 5e6
    assert late - early < 2e5


@pytest.mark.parametrize(
    ("image", "detections", "message"),
    [
        (picture()[..., 0], [], r"x\.jpg: an image of a report is \(H, W, 3\) uint8, got \(60, 80\) uint8"),
        (picture().astype(np.float32), [], "got .* float32"),
        (picture(), [[1, 2, 3, 4, 0.5]], r"x\.jpg: boxes of a report are \(N, 6\), got \(1, 5\)"),
    ],
)
def test_wrong_shapes_are_refused(tmp_path, image, detections, message):
    report = DetectReport(tmp_path, NAMES)
    with pytest.raises(ValueError, match=message):
        report.add(image, "x.jpg", detections)


def test_validation_needs_a_readable_image(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    report = ValReport(tmp_path, NAMES)
    with pytest.raises(ValueError, match=r"bad\.jpg: this image cannot be decoded"):
        report.add(torch.zeros(0, 6), torch.zeros(0, 5), tmp_path / "bad.jpg")


# In the browser -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    report = DetectReport(tmp_path_factory.mktemp("page"), NAMES | {1: HOSTILE})
    report.add(picture(), "first 图像.jpg", [box(0.95, 0), box(0.6, 0, 40), box(0.59, 1)])
    report.add(picture(90, 40, 1), HOSTILE, [box(0.3, 1), box(0.7, 7)])
    report.add(picture(40, 90, 2), "empty.jpg", [])
    return report.close()


def test_slider_filters_boxes_and_counts(dump, page):
    dom = dump(page)
    assert (dom.one(id="totals")["data-pictures"], dom.one(id="totals")["data-boxes"]) == ("3", "5")
    assert dom.counts() == {"0": 2, "1": 2, "7": 1}
    assert len(dom.all(class_="box")) == 5
    dom = dump(page, "conf=0.6")
    assert dom.one(id="totals")["text"] == "3 images, 3 boxes shown"
    assert dom.counts() == {"0": 2, "1": 0, "7": 1}
    assert len(dom.all(class_="box")) == 3


def test_classes_search_and_order_come_from_the_address(dump, page):
    dom = dump(page, "classes=1,7&only=1&sort=most&theme=dark")
    assert dom.one(id="totals")["text"] == "2 of 3 images, 3 boxes shown"
    assert [e["text"] for e in dom.all(class_="name", title=HOSTILE.split()[0]) if e["tag"] == "div"] == [HOSTILE]
    assert dom.one(tag="html")["class"] == "dark"
    dom = dump(page, "q=图像")
    assert dom.one(id="totals")["text"] == "1 of 3 images, 3 boxes shown"
    assert [e["text"] for e in dom.all(class_="chips", tag="div")] == [f"2 cat1 {HOSTILE}"]


def test_doubt_is_largest_near_the_chosen_confidence(dump, tmp_path):
    """The numbers are worked out by hand: (1 - d)² of each box, d its distance to 0.6 on a scale from 0 to 1."""
    report = DetectReport(tmp_path, NAMES)
    boxes = {
        "sure": [box(1.0, 0)] * 9,  # d = 1
        "near": [box(0.6, 0)],  # d = 0
        "both sides": [box(0.7, 0), box(0.45, 1)],  # d = 0.25 of each: 2 * 0.5625
        "none": [],
        "far": [box(0.3, 1), box(0.8, 1)],  # d = 0.5 of each
    }
    for name, rows in boxes.items():
        report.add(picture(), name, rows)
    page = report.close()

    def order(fragment):
        cards = dump(page, fragment).all(class_="chips", tag="div")
        return [float(e["text"].partition("doubt ")[2]) for e in cards]

    assert order("conf=0.6&sort=doubt") == pytest.approx([1.125, 1.0, 0.5, 0, 0], abs=0.006)
    assert order("conf=1&sort=doubt")[0] == 9.0


def test_hostile_names_are_text(dump, page):
    dom = dump(page, "open=1")
    assert dom.one(tag="title")["text"] == "Detections"
    assert HOSTILE in [e["text"] for e in dom.all(class_="name")]
    assert {e["src"][:15] for e in dom.elements if e["tag"] == "img"} == {"data:image/jpeg"}
    assert not [e for e in dom.elements if "onerror" in e]
    assert "open" in dom.one(id="big")


def test_no_pictures(dump, tmp_path):
    dom = dump(DetectReport(tmp_path, NAMES).close())
    assert dom.one(id="empty")["text"] == "This run had no images."
    assert "hidden" not in dom.one(id="empty")
    assert dom.one(id="totals")["text"] == "0 images, 0 boxes shown"


def test_many_pictures_are_drawn_only_near_the_screen(dump, tmp_path):
    report = DetectReport(tmp_path, NAMES)
    image = np.full((40, 40, 3), 99, np.uint8)
    for i in range(1500):
        report.add(image, f"{i}.jpg", [box(0.2 + i % 2 / 2, i % 3)])
    dom = dump(report.close(), "conf=0.5")
    assert dom.one(id="totals")["text"] == "1,500 images, 750 boxes shown"
    assert dom.counts() == {"0": 250, "1": 250, "2": 250}
    assert len(dom.all(class_="card")) == 1500
    assert 5 < len(dom.all(tag="img")) < 100


def test_validation_counts_are_those_of_the_confusion_matrix(dump, tmp_path):
    rng = np.random.default_rng(5)
    matrix = ConfusionMatrix(3)
    report = ValReport(tmp_path, NAMES)
    mistakes = {}
    for i in range(6):
        cv2.imwrite(str(tmp_path / f"{i}.png"), picture(100, 120, i))
        corner, size = rng.uniform(0, 60, (5 + i, 2)), rng.uniform(15, 40, (5 + i, 2))
        xyxy = np.concatenate((corner, corner + size), 1)
        labels = np.concatenate((rng.integers(0, 3, (5 + i, 1)), xyxy), 1)[: 5 * i]  # the first image has none
        near = xyxy[rng.integers(0, len(xyxy), 12)] + rng.normal(0, 3, (12, 4))
        cls = rng.integers(0, 3, (12, 1))
        detections = np.concatenate((near, rng.uniform(0.01, 1, (len(near), 1)), cls), 1)
        detections = torch.tensor(detections[np.argsort(-detections[:, 4])]).float()
        labels = torch.tensor(labels).float()
        before = matrix.matrix.copy()
        matrix.process_batch(detections, labels)
        report.add(detections, labels, str(tmp_path / f"{i}.png"))
        new = matrix.matrix - before
        mistakes[f"{i}.png"] = new.sum() - np.trace(new)
    dom = dump(report.close([("all", 6, 30, 0.5, 0.25, 0.125, 0.0625), ("cat", 6, 12, *np.float32([1, 0, 0, 0]))]))
    m, counts = matrix.matrix, dom.counts()
    assert counts["missed"] == m[3, :3].sum() > 0
    assert counts["false"] == m[:3, 3].sum() > 0
    assert counts["wrong"] == m[:3, :3].sum() - np.trace(m[:3, :3]) > 0
    assert counts["correct"] == np.trace(m[:3, :3]) > 0
    assert [counts[str(c)] for c in range(3)] == np.diag(m)[:3].tolist()
    shown = [e["text"] for e in dom.all(class_="name", tag="div")]
    assert shown == sorted(mistakes, key=lambda name: -mistakes[name])
    assert [e["text"] for e in dom.all(tag="td")][:8] == ["all", "6", "30", "0.500", "0.250", "0.125", "0.063", "cat"]
    assert len(dom.all(class_="missed", tag="div")) == counts["missed"]


def test_maps_of_a_box_lie_over_the_large_image(dump, tmp_path):
    png = base64.b64encode(cv2.imencode(".png", np.zeros((2, 3, 4), np.uint8))[1].tobytes()).decode()
    maps = {"area": [-8, 0, 88, 60], "layers": ["Stage 1", "Class"], "boxes": [[png, png], [png, png]]}
    report = DetectReport(tmp_path, NAMES)
    report.add(picture(), "a.jpg", [box(0.9, 0), box(0.6, 1, 40), box(0.5, 2)], maps)
    report.add(picture(), "b.jpg", [box(0.9, 0)])
    page = report.close()
    dom = dump(page, "open=0&map=1&look=1")
    (heat,) = dom.all(class_="heat")
    assert heat["alt"] == "Class"
    assert heat["style"] == "left: -10%; top: 0%; width: 120%; height: 100%;"
    assert len(dom.all(class_="clickable")) == 2
    assert dom.one(class_="chosen")["data-box"] == "1"
    assert dom.one(id="maps-hint")["text"].endswith("the best 2 boxes of 1 image.")
    for none in ("open=0", "open=1&map=1&look=0", "open=0&map=1&look=2", "open=0&map=1&look=1&conf=0.7"):
        assert not dump(page, none).all(class_="heat"), none


LABELS = [[0, 10, 10, 50, 50], [0, 60, 10, 100, 50], [1, 10, 60, 50, 100], [1, 60, 60, 100, 100], [0, 110, 10, 150, 50]]
ONE_OF_EACH = [
    [10, 10, 50, 50, 0.95, 0], [12, 10, 52, 50, 0.90, 0], [60, 10, 100, 50, 0.85, 1],
    [10, 60, 50, 78, 0.80, 1], [60, 60, 100, 78, 0.75, 0], [150, 150, 190, 190, 0.30, 0],
]  # fmt: skip


@pytest.fixture
def report_of_errors(tmp_path):
    cv2.imwrite(str(tmp_path / "x.png"), picture(200, 200))
    report = ValReport(tmp_path, NAMES)
    report.add(torch.tensor(ONE_OF_EACH), torch.tensor(LABELS).float(), str(tmp_path / "x.png"))
    kinds = {kind: {"count": 1, "costs_map50": 0.1} for kind in KINDS}
    bins = [{"boxes": 0, "confidence": None, "precision": None, "low": None, "high": None}] * 9
    bins.append({"boxes": 12, "confidence": 0.93, "precision": 0.5, "low": 0.3, "high": 0.7})
    size = {"map": None, "labels": 0}
    details = {
        "map75": 0.25, "sizes": {"small": size, "medium": {"map": 0.125, "labels": 5}, "large": size},
        "errors": {"map50_of_coco": 0.5, "kinds": kinds},
        "classes": {0: {"map75": 0.75, "map_small": None, "map_medium": 0.375, "map_large": None}},
        "calibration": {
            "boxes": 12, "from_conf": 0.05, "error": 0.43, "chance_high": 0.2, "overconfident_by": 0.43, "bins": bins,
            "sizes": {}, "classes": {},
        },
    }  # fmt: skip
    thresholds = {"conf": 0.5, "f1": 0.8, "for_precision": {}}
    rows = [("all", 1, 5, 1, 1, 1, 1), ("cat", 1, 3, 1, 1, 1, 1)]
    return report.close(rows, thresholds, "", details)


def test_boxes_have_their_kind_of_error(report_of_errors):
    (item,) = items(report_of_errors)
    assert [KINDS[box[8]] for box in item["boxes"]] == [
        "correct", "duplicate", "class", "localisation", "both", "background",
    ]  # fmt: skip
    assert [box[9] for box in item["boxes"]] == [0, -1, 1, 2, -1, -1]


def test_errors_are_counted_at_the_best_confidence_and_filter_the_page(dump, report_of_errors):
    dom = dump(report_of_errors)
    rows = [e["text"] for e in dom.all(tag="tr") if "data-error" in e]
    counts = ["correct1", "wrong class10.100", "badly placed10.100", "wrong class, badly placed10.100"]
    assert [row[: len(text)] for row, text in zip(rows, counts, strict=False)] == counts
    assert rows[5].startswith("no label there0")  # below the best confidence, where the page starts
    assert rows[6].startswith("missed20.100")
    cells = [e["text"] for e in dom.all(tag="td")]
    assert cells[7:11] == ["0.250", "-", "0.125", "-"]
    assert cells[18:22] == ["0.750", "-", "0.375", "-"]
    assert "0.430 over 12 boxes above 0.05" in dom.one(id="calibration")["text"]
    assert len(dom.all(tag="rect")) == 1
    assert {e["text"] for e in dom.all(class_="box")} == {"cat", "dog"}  # names on the small image

    dom = dump(report_of_errors, "error=localisation&open=0")
    assert dom.one(id="totals")["text"] == "1 image, 1 box shown"
    texts = {e["title"] for e in dom.all(class_="box")}
    assert texts == {"dog 0.80: badly placed", "label: dog"}
    dom = dump(report_of_errors, "error=background")
    assert dom.one(id="totals")["text"] == "0 of 1 image, 0 boxes shown"


@pytest.mark.parametrize("conf", [0.6, "0.6", 7, None])
def test_detections_start_at_the_best_confidence_of_the_weights(tmp_path, conf):
    page = DetectReport(tmp_path, NAMES, thresholds={"conf": conf}).close()
    config = json.loads(re.findall(r'id="config">(.*?)</script>', page.read_text(encoding="ascii"))[0])
    assert config["conf"] == (conf if isinstance(conf, float) else 0)
