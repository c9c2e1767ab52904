"""The program on small folders: what it finds, in which order, as JSON, with which exit status; nothing changes."""

import base64
import json
import logging
import runpy
import sys
from html.parser import HTMLParser
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from engine.doctor import page
from engine.doctor import run as program
from engine.doctor.checks import start_line
from engine.doctor.files import check_folders, check_missing
from engine.doctor.formats import check_columns
from engine.doctor.run import run
from models.yolo import DetectionModel
from tests.malformed import fingerprint
from utils.console import LOGGER
from utils.dataloaders import create_dataloader
from utils.datasets.dataset import check_dataset
from utils.options.doctor import parse_opt

LINE = "0 0.5 0.5 0.4 0.4\n"


def image(seed):
    return cv2.resize(np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8), (64, 48))


@pytest.fixture
def folder(tmp_path):
    """A dataset of six sound images in train, three in val, with two classes."""
    for name, n in (("train", 6), ("val", 3)):
        (tmp_path / f"images/{name}").mkdir(parents=True)
        (tmp_path / f"labels/{name}").mkdir(parents=True)
        for i in range(n):
            cv2.imwrite(str(tmp_path / f"images/{name}/{i}.png"), image(10 * n + i))
            (tmp_path / f"labels/{name}/{i}.txt").write_text(f"{LINE}1 0.3 0.{i + 2} 0.2 0.2\n")
    write_yaml(tmp_path)
    return tmp_path


def write_yaml(folder, **changes):
    data = {"path": str(folder), "train": "images/train", "val": "images/val", "names": ["a", "b"]}
    (folder / "my.yaml").write_text(yaml.safe_dump(data | changes))


def findings(folder, **options):
    return {(f.id, f.split): f for f in run(str(folder / "my.yaml"), **options)}


def test_sound_files(folder):
    before = fingerprint(folder)
    found = findings(folder)
    assert {id for id, _ in found} == {"balance.few", "balance.small_val"}
    assert fingerprint(folder) == before
    assert not list(folder.rglob("*.cache"))


def test_faults_of_files(folder):
    labels, images = folder / "labels/train", folder / "images/train"
    (labels / "0.txt").rename(labels / "0.png.txt")
    (labels / "1.txt").rename(labels / "1.TXT")
    (labels / "2.txt").rename(images / "2.txt")
    (labels / "nobody.txt").write_text(LINE)
    (labels / "classes.txt").write_text("a\nb\n")
    (images / "x.heic").write_bytes(b"123")
    (labels / "x.txt").write_text(LINE)
    cv2.imwrite(str(images / "3.jpg"), image(99))
    (images / "5.png").write_bytes(b"no image")
    (labels / "4.txt").write_text(f"{LINE}\n7 .5 .5 .2 .2\n{LINE}0 .5 .5 .2\n")
    write_yaml(folder, names=["a", "A", "b"], kpt_shape=[3, 2], task="segment")
    found = findings(folder, limit=0)
    orphans = found["files.orphan_label", None]
    assert orphans.severity == "error"
    assert {p.file: p.note for p in orphans.places} == {
        str(labels / "0.png.txt"): f"image without label: {images / '0.png'}",
        str(labels / "1.TXT"): f"image without label: {images / '1.png'}",
        str(images / "2.txt"): f"image without label: {images / '2.png'}",
        str(labels / "nobody.txt"): "no image of that name",
    }
    assert orphans.places[-1].file == str(labels / "nobody.txt")
    assert "1 .heic), 1 of them with a label file" in found["files.unread_suffix", None].message
    assert found["files.one_label_two", None].places[0].other.endswith("3.png")
    assert found["files.no_label", "train"].count == 3
    assert found["files.bad_image", "train"].places[0].file == str(images / "5.png")
    lines = found["labels.bad_line", "train"]
    assert [place.line for place in lines.places] == [3, 5]
    assert "1 with a class that does not exist" in lines.message
    assert found["labels.repeated", "train"].places[0].line == 4
    assert found["yaml.names_twice", None].places[0].line
    assert "'task' is 'segment'" in found["yaml.other_task", None].message
    assert found["balance.absent", "train"].message.startswith("no label of class 2 (b)")


def test_lists_and_copies(folder, monkeypatch):
    (folder / "train.txt").write_text("".join(f"./images/train/{i}.png\n" for i in range(5)) + "images/lost.png\n")
    val = "".join(f"{folder}/images/val/{i}.png\n" for i in range(3))
    (folder / "val.txt").write_text(f"{val}./images/train/0.png\n")
    (folder / "images/val/1.png").write_bytes((folder / "images/train/1.png").read_bytes())
    cv2.imwrite(str(folder / "images/val/2.png"), cv2.convertScaleAbs(image(62), alpha=0.9))
    (folder / "labels/val/1.txt").write_text(LINE)
    write_yaml(folder, train="train.txt", val="val.txt")
    monkeypatch.chdir(folder)
    found = findings(folder)
    missing = found["files.listed_missing", "train"]
    assert missing.places[0].file == "images/lost.png"
    assert f"working directory, {folder}" in missing.advice
    assert ("files.bad_image", "train") not in found
    assert found["files.unlisted", None].places[0].file == str(folder / "images/train/5.png")
    assert found["yaml.same_split", "val"].message == "1 of 4 images (25 %) are also in train"
    exact = found["copies.exact_across", "val"]
    assert (exact.count, exact.severity, exact.places[0].file) == (1, "error", str(folder / "images/val/1.png"))
    assert exact.places[0].note == "equal bytes, but other labels"
    assert exact.message == "1 of 4 images (25 %) are copies of images of train, 1 of them with other labels"
    near = found["copies.near_across", "val"]
    assert (near.count, near.severity) == (1, "warning")
    assert (near.places[0].file, near.places[0].other) == (f"{folder}/images/val/2.png", f"{folder}/images/train/2.png")


def test_label_files_of_other_tasks(folder):
    train = folder / "labels/train"
    (train / "0.txt").write_text("0 .5 .5 .2 .2 0.9\n" * 1 + "0 .5 .5 .3 .2 1.57\n")
    (train / "1.txt").write_text("0 .1 .1 .2 .1 .2 .3\n")
    (train / "2.txt").write_text("0 300 200 50 60\n1 30 40 20 20\n" * 20)
    data = program.read_dataset(check_dataset(str(folder / "my.yaml")))
    found = {f.id: f for f in check_columns(data)}
    assert found["labels.angle"].places[0].line == 2
    assert found["labels.mixed_columns"].message == "6 boxes and 1 polygons"
    assert "pixels" in found["labels.pixels"].message
    for i in range(6):
        (train / f"{i}.txt").write_text("0 .1 .1 .2 .1 .2 .3 .1 .3\n0 .5 .5 .2 .2 .1 .1 .3 .1\n" * 1)
    data = program.read_dataset(check_dataset(str(folder / "my.yaml")))
    assert {f.id for f in check_columns(data)} == {"labels.quads"}


def test_depth_turn_and_pages(folder):
    images = folder / "images/train"
    cv2.imwrite(str(images / "0.png"), image(1).astype(np.uint16) * 16)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(image(2)).save(images / "a.jpg", exif=exif)
    Image.fromarray(image(3)).save(images / "b.tif", save_all=True, append_images=[Image.fromarray(image(4))])
    (folder / "labels/train/a.txt").write_text(LINE)
    cv2.imwrite(str(images / "flat.png"), np.full((20, 700, 3), 7, np.uint8))
    found = findings(folder)
    assert "of 65535" in found["images.deep", "train"].message
    assert "Multiply the values by 16" in found["images.deep", "train"].advice
    assert found["images.exif", "train"].severity == "warning"
    assert found["images.exif", "train"].places[0].note == "orientation 6"
    assert found["images.pages", "train"].places[0].file == str(images / "b.tif")
    assert found["images.flat", "train"].places[0].file == str(images / "flat.png")
    assert found["images.odd_size", "train"].places[0].note == "700 x 20"
    fast = findings(folder, fast=True)
    assert found.keys() - fast.keys() == {("images.deep", "train"), ("images.flat", "train")}


@pytest.mark.parametrize(
    ("line", "size", "id", "words"),
    [
        ("0 300 200 50 60\n", 640, "labels.pixels", "seem to be pixels"),
        ("0 30 20 50 60\n", 640, "labels.pixels", "seem to be per cent"),
        ("0 30 20 50 60\n", 64, "labels.pixels", "seem to be pixels"),
        ("0 30 20 50 60 70 80\n", 640, "labels.pixels", "seem to be per cent"),
        ("0 .5 .5 .4 .4 .5 .5 2 .4 .4 1 .5 .6 0\n", 640, "labels.key_points", "14 columns"),  # even: all left out
    ],
)
def test_formats_are_told_where_every_line_is_left_out(folder, line, size, id, words):
    for name in ("train", "val"):
        for file in (folder / f"labels/{name}").iterdir():
            file.write_text(line * 4)
            cv2.imwrite(str(folder / f"images/{name}/{file.stem}.png"), cv2.resize(image(1), (size, size)))
    data = program.read_dataset(check_dataset(str(folder / "my.yaml")))
    (found,) = (f for f in check_columns(data) if f.split == "train")
    assert (found.id, found.severity, found.count, found.total) == (id, "error", 24, 24)
    assert words in found.message
    assert (found.places[0].file, found.places[0].line) == (str(folder / "labels/train/0.txt"), 1)


def test_labels_elsewhere_are_found(folder):
    def advice():
        data = program.read_dataset(check_dataset(str(folder / "my.yaml")))
        return next(f.advice for f in check_missing(data) if f.split == "train")

    labels = folder / "labels/train"
    for i in range(6):
        (labels / f"{i}.txt").rename(labels / f"{i}.xml")
    looked = f"Looked for {labels / '0.txt'}; there are 6 files .xml, of Pascal VOC, which are read with format: voc"
    assert looked in advice()
    for i in range(6):
        (labels / f"{i}.xml").rename(labels / f"{i}.txt")
    (folder / "labels").rename(folder / "Annotations")
    assert advice().endswith(f"; the labels of {folder / 'images'} are read from 'labels': rename Annotations.")


def test_voc_files_elsewhere_are_found(folder):
    def advice():
        data = program.read_dataset(check_dataset(str(folder / "my.yaml")))
        return next(f.advice for f in check_missing(data) if f.split == "train")

    write_yaml(folder, format="voc")
    assert advice().endswith(f" Looked for {folder / 'images/train/0.xml'}.")
    (folder / "images").rename(folder / "JPEGImages")
    xml = folder / "Annotations/train/0.xml"
    xml.parent.mkdir(parents=True)
    xml.write_text("<annotation/>")
    write_yaml(folder, train="JPEGImages/train", val="JPEGImages/val")
    assert advice().endswith(f"; there is {xml}, of Pascal VOC, which is read with format: voc in the YAML.")


def test_kinds_of_pixels(folder):
    assert ("images.channels", "train") not in findings(folder)
    for name, mode in (("0", "L"), ("1", "RGBA"), ("2", "P")):
        Image.fromarray(image(1)).convert(mode).save(folder / f"images/train/{name}.png")
    found = findings(folder, only=["images.channels"])
    assert found.keys() == {("images.channels", "train")}
    finding = found["images.channels", "train"]
    assert finding.severity == "note"
    assert "3 colour, 1 grey, 1 with alpha, 1 palette" in finding.message
    assert [place.note for place in finding.places] == ["grey", "with alpha", "palette"]


def test_labels_for_the_unturned_image(folder):
    """Of two photographs of 48 x 64 pixels one is turned by EXIF; the labels of both are for 64 x 48 pixels."""
    images = folder / "images/train"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(image(2)).save(images / "turned.jpg", exif=exif)
    Image.fromarray(image(3)).rotate(90, expand=True).save(images / "other.jpg")
    entries = [
        {"id": i, "file_name": p.name, "width": 64, "height": 48} for i, p in enumerate(sorted(images.iterdir()))
    ]
    boxes = [{"id": e["id"], "image_id": e["id"], "category_id": 1, "bbox": [8, 8, 24, 24]} for e in entries]
    content = {"images": entries, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}
    (folder / "train.json").write_text(json.dumps(content))
    write_yaml(folder, format="coco", val="images/train", annotations={"train": "train.json", "val": "train.json"})
    found = findings(folder, fast=True)
    finding = found["images.exif_frame", "train"]
    assert (finding.severity, finding.count, finding.total) == ("error", 1, 8)
    assert "turned.jpg" in str(finding)
    assert "other.jpg" in str(found["labels.bad_line", "train"])


def test_weights_bring_their_anchors(narrow_weights):
    data = program.model_settings("", str(narrow_weights))
    assert data["stride"] == 8
    assert data["anchors"].shape == (9, 2)
    with pytest.raises(ValueError, match="give one of them"):
        program.model_settings("a.yaml", "a.pt")


def test_order_text_and_status(folder, caplog):
    (folder / "labels/train/0.txt").rename(folder / "labels/train/0.TXT")
    (folder / "labels/train/1.txt").write_text("0 .1 .5 .6 .2\n0 .5 .5 .2 .2\n0 .5 .5 .201 .2\n")
    file = str(folder / "my.yaml")
    found = run(file)
    assert [f.severity for f in found] == sorted((f.severity for f in found), key=["error", "warning", "note"].index)
    with pytest.raises(ValueError, match=r"my.yaml: \d problems, see above"):
        run(file, strict=True)
    with pytest.raises(ValueError, match="1 problems, see above"):
        run(file, strict="errors")
    run(file, strict="errors", skip=["files"])
    write_yaml(folder, doctor={"skip": ["files.orphan_label"]})
    caplog.clear()
    caplog.set_level(logging.INFO, LOGGER.name)
    run(file, only=["files", "labels"])
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        "labels.outside [train]: 1 of 11 boxes (9 %) reach out of their image, e.g. "
        f"{folder}/labels/train/1.txt:1 (left edge at -0.20). They are cut at the edge. Labels of hidden parts may do "
        "that on purpose; else correct them: a line is the centre and the size."
    ]
    assert (
        caplog.records[-1]
        .getMessage()
        .startswith(
            "all: 9 images, 17 labels, 1 backgrounds, 0 images left out, 1 problems, 0 errors, 1 warning, 1 note, "
        )
    )


def test_nothing_usable_is_an_error(folder):
    for file in (folder / "images/train").iterdir():
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="nothing usable is left: train has no usable image"):
        run(str(folder / "my.yaml"))
    write_yaml(folder, train="images/lost")
    with pytest.raises(ValueError, match="nothing usable is left: train cannot be read"):
        run(str(folder / "my.yaml"))


def test_json(folder, tmp_path, capsys):
    (folder / "labels/train/1.txt").write_text("0 .5 .5 .2 .2\n0 .5 .5 .201 .2\n")
    found = run(str(folder / "my.yaml"), json=str(tmp_path / "found.json"), cfg="models/yolov5n.yaml")
    content = json.loads((tmp_path / "found.json").read_text())
    assert content["counts"] == {"error": 0, "warning": 3, "note": 1}
    assert [f["id"] for f in content["findings"]] == [f.id for f in found]
    double = next(f for f in content["findings"] if f["id"] == "boxes.double")
    assert double["places"] == [{
        "file": str(folder / "labels/train/1.txt"), "line": 1, "box": [0.5, 0.5, 0.2, 0.2], "other": None,
        "value": 0.995, "note": "and line 2, IoU 0.995",
    }]  # fmt: skip
    train = content["splits"]["train"]
    assert train["classes"]["0"] == {"name": "a", "labels": 7, "images": 6}
    assert sum(train["net_side"]["counts"]) == train["labels"] == 12
    assert (content["stride"], content["img"], content["status"]) == (8, 640, 0)
    run(str(folder / "my.yaml"), json="-", only=["boxes"])
    assert json.loads(capsys.readouterr().out)["skipped"]


def test_command_line():
    assert parse_opt(["my.yaml", "--strict"]).strict == "warnings"
    assert parse_opt(["CHECK", "my.yaml", "--strict", "errors"]).strict == "errors"
    assert parse_opt(["--data", "my.yaml"]).data == "my.yaml"
    for wrong in ([], ["a.yaml", "b.yaml"], ["a.yaml", "--data", "b.yaml"]):
        with pytest.raises(SystemExit) as end:
            parse_opt(wrong)
        assert end.value.code == 2


def test_the_module_is_a_command(folder, monkeypatch, caplog):
    monkeypatch.setattr("sys.argv", ["doctor", "CHECK", str(folder / "my.yaml"), "--fast", "--strict"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("engine.doctor", run_name="__main__")
    assert end.value.code == 1
    assert caplog.records[-1].getMessage() == f"{folder}/my.yaml: 2 problems, see above"


def test_earlier_address_of_the_command(monkeypatch):
    started = []
    monkeypatch.setattr(
        "subprocess.run", lambda command, check: started.append(command) or SimpleNamespace(returncode=7)
    )
    monkeypatch.setattr("sys.argv", ["labels.py", "CHECK", "my.yaml"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("utils.labels", run_name="__main__")
    assert end.value.code == 7
    assert started == [[sys.executable, "-m", "engine.doctor", "CHECK", "my.yaml"]]


class _Tags(HTMLParser):
    """Checks that elements nest, and collects what they refer to."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.text = [], [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.links += [value for key, value in attrs if key in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_page(folder, tmp_path):
    (folder / "labels/train/1.txt").write_text("0 .5 .5 .2 .2\n0 .5 .5 .201 .2\n")
    (folder / "images/val/1.png").write_bytes((folder / "images/train/1.png").read_bytes())
    (folder / "images/train/4.png").rename(folder / "images/train/<b>&.png")
    write_yaml(folder, names=["a", "<script>@@TITLE@@</script>"])
    run(str(folder / "my.yaml"), html=str(tmp_path / "page.html"))
    html = (tmp_path / "page.html").read_text(encoding="ascii")
    read = _Tags(html)
    assert "<script" not in html
    assert "1 <script>@@TITLE@@</script>" in read.text
    assert "train/<b>&.png" in read.text
    assert "train/1.txt:1 (and line 2, IoU 0.995)" in read.text
    assert {link.partition(",")[0] for link in read.links} == {"data:image/jpeg;base64", "data:image/png;base64"}
    jpegs = [base64.b64decode(link.partition(",")[2]) for link in read.links if "jpeg" in link]
    assert len(jpegs) == 9 + 4  # all images as samples; a double label, no label, a pair of copies
    assert cv2.imdecode(np.frombuffer(jpegs[0], np.uint8), 1).shape == (48, 64, 3)
    assert html.count('<rect class="this" x="0.4000" y="0.4000" width="0.2000" height="0.2000"/>') == 1


@pytest.mark.parametrize("kind", ["json", "html"])
def test_a_missing_folder_is_told_before_the_checks(kind, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(program, "read_dataset", lambda *args, **settings: pytest.fail("the dataset was read"))
    with pytest.raises(FileNotFoundError, match=f"--{kind} .*: there is no folder .*nowhere"):
        run(str(folder / "my.yaml"), **{kind: str(tmp_path / "nowhere/a")})


def test_page_stays_small(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST_BYTES", 1)
    run(str(folder / "my.yaml"), html=str(tmp_path / "page.html"))
    assert (tmp_path / "page.html").read_text().count("data:image/jpeg") == 1


def test_start_of_a_training(folder):
    """The loaders know enough for all findings that the program has at the same size, but those of heads and pixels."""
    (folder / "labels/train/0.txt").rename(folder / "labels/train/0.TXT")
    (folder / "labels/train/1.txt").write_text("0 .5 .5 .2 .2\n0 .5 .5 .201 .2\n7 .1 .1 .1 .1\n")
    data = check_dataset(str(folder / "my.yaml"))
    model = DetectionModel("models/yolov5n.yaml", nc=2, verbose=False)
    model.names = data["names"]
    loaders = {name: create_dataloader(data[name], 64, 2, 32, nc=2, workers=0)[0] for name in ("train", "val")}
    line = start_line(data, loaders, model, 64, 4.0, 300)
    counts = [f.severity for f in run(str(folder / "my.yaml"), imgsz=64, fast=True)]
    assert line.startswith(
        f"{counts.count('error')} errors, {counts.count('warning')} warnings, {counts.count('note')} note"
    )
    assert "(files.orphan_label, labels.bad_line, balance.few, boxes.double)" in line
    assert line.endswith(f" -m engine.doctor {folder}/my.yaml --img 64")
    model.detect.anchors.zero_()  # placeholders, until AutoAnchor or a checkpoint replaces them
    assert "no_anchor" not in start_line(data, loaders, model, 64, 4.0, 300)
    data["doctor"] = {"skip": ["files", "labels", "balance", "boxes"]}
    assert start_line(data, loaders, model, 64, 4.0, 300) == "no finding about labels and names"


def test_folders_that_do_not_exist(folder):
    data = program.read_dataset(check_dataset(str(folder / "my.yaml")))
    data.splits["train"].listed[:] = ["/nowhere/images/a.png"]
    data.splits["val"].listed.clear()
    assert list(check_folders(data)) == []


@pytest.mark.slow
def test_findings_in_blood_cells(bccd):
    """T16: looked at by eye, every finding is true: seven cells labelled twice, one field in two splits."""
    found = run(str(bccd), imgsz=320, limit=0)
    assert {(f.id, f.split) for f in found} == {
        *(("boxes.double", split) for split in ("train", "val", "test")),
        ("copies.near_across", "val"),
        ("balance.ratio", "train"),
    }
    double = [place for f in found if f.id == "boxes.double" for place in f.places]
    places = sorted((place.file[-9:-4], place.line, place.note.partition(",")[0]) for place in double)
    assert places == [
        ("00020", 14, "and line 15"), ("00100", 2, "and line 3"), ("00104", 13, "and line 14"),
        ("00251", 7, "and line 8"), ("00284", 1, "and line 2"), ("00331", 2, "and line 3"), ("00403", 3, "and line 4"),
    ]  # fmt: skip
    (pair,) = next(f for f in found if f.id == "copies.near_across").places
    assert (pair.file[-9:-4], pair.other[-9:-4], pair.note) == (
        "00037", "00038", "27 of 256 bits differ, correlation 0.98",
    )  # fmt: skip
