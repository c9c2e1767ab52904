"""Malformed images, labels, image lists, COCO and VOC files: the cases of tests/malformed.py."""

import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from PIL import Image

EXIF_CIRCLE = b"MM\0*\0\0\0\x08\0\x01\x87\x69\0\x04\0\0\0\1\0\0\0\x08"  # a directory within itself
GOOD_LINE = "0 .5 .5 .2 .2\n"
FORMATS = {"jpg": "JPEG", "png": "PNG", "bmp": "BMP", "webp": "WEBP", "tif": "TIFF"}


class Case(NamedTuple):
    """One malformed input.

    Attributes:
        group: image, label, list, coco, voc, data, model or hyp.
        name: what is wrong.
        outcome: accepted, named or refused.
        where: regular expression that the one line matches; "" where there is none.
        build: writes it into a folder that holds the sound files of its group.
    """

    group: str
    name: str
    outcome: str
    where: str
    build: Callable[[Path], None]


# Images ---------------------------------------------------------------------------------------------------------------
def pixels(mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A random picture; mode as in PIL."""
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(values).convert(mode)


def encoded(suffix: str, mode: str = "RGB", size: tuple[int, int] = (64, 48), **options) -> bytes:
    stream = io.BytesIO()
    pixels(mode, size).save(stream, FORMATS.get(suffix, suffix), **options)
    return stream.getvalue()


def saved(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def jpeg_of_size(width: int, height: int) -> bytes:
    data = encoded("jpg")
    at = data.index(b"\xff\xc0") + 5
    return patched(data, at, struct.pack(">HH", height, width))


def deep() -> Image.Image:
    """A grey picture of 16 bit."""
    return Image.fromarray(np.full((40, 48), 4000, np.uint16))


def with_exif(suffix: str, data: bytes) -> bytes:
    return encoded(suffix, exif=b"Exif\0\0" + data)


def sixteen_bit_rgb() -> bytes:
    """A PNG with 16 bits for each of three colours, which PIL cannot write."""
    rows = b"".join(b"\0" + bytes(range(256))[: 48 * 6 % 256].ljust(48 * 6, b"\7") for _ in range(40))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 48, 40, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def exif_of(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


def frames(n: int = 3) -> dict:
    return {"save_all": True, "append_images": [pixels().transpose(Image.Transpose.ROTATE_180)] * (n - 1)}


def image_case(name: str, outcome: str, suffix: str, data: bytes | Callable[[Path], None]) -> Case:
    """A case of one image `bad.<suffix>` with a sound label."""

    def build(folder: Path) -> None:
        file = folder / f"images/bad.{suffix}"
        data(file) if callable(data) else file.write_bytes(data)
        (folder / "labels/bad.txt").write_text(GOOD_LINE)

    return Case("image", name, outcome, r"images/bad\.\w+: image left out: ." if outcome == "named" else "", build)


def loop_of_folders(file: Path) -> None:
    """A folder that holds links to itself and to the folder above."""
    (file.parent / "sub").mkdir()
    (file.parent / "sub/again").symlink_to(file.parent)
    (file.parent / "sub/self").symlink_to(file.parent / "sub")


def image_cases() -> list[Case]:
    cases = []
    for suffix in FORMATS:
        whole = encoded(suffix)
        for share in (0.02, 0.1, 0.5, 0.9):
            cut = whole[: max(int(len(whole) * share), 1)]
            cases.append(image_case(f"{suffix} cut off at {share:.0%}", "named", suffix, cut))
        cases.append(image_case(f"{suffix} of zero bytes", "named", suffix, b""))
        cases.append(image_case(f"{suffix} that is a text", "named", suffix, b"not an image\n" * 9))
        cases.append(image_case(f"{suffix} of random bytes", "named", suffix, np.random.default_rng(1).bytes(4000)))
        cases.append(image_case(f"{suffix} of zeros", "named", suffix, bytes(4000)))
        cases.append(image_case(f"{suffix} of 9 x 48 pixels", "named", suffix, encoded(suffix, size=(9, 48))))
        cases.append(image_case(f"{suffix} of 1 x 1 pixel", "named", suffix, encoded(suffix, size=(1, 1))))
    for real, suffix in (
        ("png", "jpg"),
        ("jpg", "png"),
        ("bmp", "jpg"),
        ("webp", "jpg"),
        ("tif", "png"),
        ("jpg", "tif"),
    ):
        cases.append(image_case(f"{real} with the name of a {suffix}", "accepted", suffix, encoded(real)))
    for kind, suffix in (
        ("GIF", "jpg"),
        ("GIF", "png"),
        ("ICO", "png"),
        ("PPM", "bmp"),
        ("TGA", "jpg"),
        ("PCX", "tif"),
    ):
        cases.append(
            image_case(f"{kind} with the name of a {suffix}", "named", suffix, saved(pixels("P").convert("RGB"), kind))
        )
    bomb = [
        ("png 100,000 x 100,000", "png", png_header(100_000, 100_000)),
        ("jpg 65,500 x 65,500", "jpg", jpeg_of_size(65500, 65500)),
    ]
    bomb.append(("png 2 ** 31 - 1 wide", "png", png_header(2**31 - 1, 10)))
    bomb.append(("png 0 wide", "png", png_header(0, 10)))
    bomb.append(("bmp 60,000 x 60,000", "bmp", patched(encoded("bmp"), 18, struct.pack("<ii", 60000, 60000))))
    bomb.append(("bmp of negative width", "bmp", patched(encoded("bmp"), 18, struct.pack("<i", -64))))
    cases += [image_case(f"header: {name}", "named", suffix, data) for name, suffix, data in bomb]
    whole = encoded("png")
    cases += [
        image_case("png with a wrong checksum in its head", "named", "png", patched(whole, 29, b"\0\1\2\3")),
        image_case("png with wrong pixels", "named", "png", patched(whole, len(whole) // 2, b"\0\1\2\3")),
        image_case("png with bytes behind its end", "accepted", "png", whole + b"behind"),
        image_case("jpg with bytes behind its end", "accepted", "jpg", encoded("jpg") + b"behind" * 9),
        image_case("progressive jpg", "accepted", "jpg", encoded("jpg", progressive=True)),
        image_case(
            "jpg with EXIF of random bytes", "accepted", "jpg", with_exif("jpg", np.random.default_rng(2).bytes(300))
        ),
        image_case("jpg with EXIF cut off", "accepted", "jpg", encoded("jpg", exif=exif_of(6)[:14])),
        image_case("jpg with EXIF of no bytes", "accepted", "jpg", encoded("jpg", exif=b"Exif\0\0")),
        image_case("jpg with EXIF that points to itself", "accepted", "jpg", with_exif("jpg", EXIF_CIRCLE)),
        image_case("jpg with orientation 99", "accepted", "jpg", encoded("jpg", exif=exif_of(99))),
        image_case("jpg with orientation 0", "accepted", "jpg", encoded("jpg", exif=exif_of(0))),
        image_case("jpg on its side", "accepted", "jpg", encoded("jpg", exif=exif_of(6))),
        image_case(
            "png with EXIF of random bytes", "accepted", "png", with_exif("png", np.random.default_rng(3).bytes(99))
        ),
        image_case("CMYK jpg", "accepted", "jpg", encoded("jpg", "CMYK")),
        image_case("CMYK tif", "accepted", "tif", encoded("tif", "CMYK")),
        image_case("grey jpg", "accepted", "jpg", encoded("jpg", "L")),
        image_case("YCbCr tif", "accepted", "tif", encoded("tif", "RGB", compression="jpeg")),
        image_case("grey png of 16 bit", "accepted", "png", saved(deep(), "PNG")),
        image_case("colour png of 16 bit", "accepted", "png", sixteen_bit_rgb()),
        image_case("grey tif of 16 bit", "accepted", "tif", saved(deep(), "TIFF")),
        image_case("tif of 32 bit floats", "named", "tif", encoded("tif", "F")),
        image_case("png of 1 bit", "accepted", "png", encoded("png", "1")),
        image_case("png with a palette", "accepted", "png", encoded("png", "P")),
        image_case("png with alpha", "accepted", "png", encoded("png", "RGBA")),
        image_case("grey png with alpha", "accepted", "png", encoded("png", "LA")),
        image_case("animated webp", "accepted", "webp", saved(pixels(), "WEBP", **frames())),
        image_case("animated png", "accepted", "png", saved(pixels(), "PNG", **frames())),
        image_case("tif of three pages", "accepted", "tif", saved(pixels(), "TIFF", **frames())),
        image_case("mpo of three pictures", "accepted", "mpo", saved(pixels(), "MPO", **frames())),
        image_case("gif, animated, as jpg", "named", "jpg", saved(pixels(), "GIF", **frames())),
        image_case("link to itself", "named", "jpg", lambda file: file.symlink_to(file)),
        image_case("link to nothing", "named", "jpg", lambda file: file.symlink_to("nowhere.jpg")),
        image_case("pipe", "named", "jpg", os.mkfifo),
        image_case("link to a device", "named", "jpg", lambda file: file.symlink_to("/dev/zero")),
        image_case("folder with the name of an image", "accepted", "jpg", Path.mkdir),
        image_case("folders that link in a circle", "accepted", "jpg", loop_of_folders),
    ]
    return cases


# Labels ---------------------------------------------------------------------------------------------------------------
def label_case(name: str, outcome: str, content: str | bytes | Callable[[Path], None], line: int | None = 1) -> Case:
    """A case of the label file of the sound image `bad.png`; `line` is what the message names, None for none."""

    def build(folder: Path) -> None:
        file = folder / "labels/bad.txt"
        (folder / "images/bad.png").write_bytes(encoded("png"))
        if callable(content):
            content(file)
        else:
            file.write_bytes(content.encode() if isinstance(content, str) else content)

    where = rf"labels/bad\.txt:{'' if line is None else f'{line}:'} ." if outcome == "named" else ""
    return Case("label", name, outcome, where, build)


def sparse(file: Path, size: int = 100 << 20) -> None:
    with file.open("wb") as f:
        f.truncate(size)


def label_cases() -> list[Case]:
    cases = [
        label_case(f"{n} columns", "named", " ".join(["0", *[".5"] * (n - 1)]) + "\n") for n in (1, 2, 3, 4, 8, 10)
    ]
    good = ["0", ".5", ".5", ".2", ".2"]
    for column, title in enumerate(("class", "x", "y", "width", "height")):
        for value in ("nan", "inf", "-inf", "1e999", "-1", "one", "0x1", "1_0", "٣", "''", "1,5"):
            line = " ".join([*good[:column], value, *good[column + 1 :]])
            cases.append(label_case(f"{title} is {value}", "named", f"{GOOD_LINE}{line}\n", 2))
        if column:
            for value in ("1.01", "640", "-.01"):
                line = " ".join([*good[:column], value, *good[column + 1 :]])
                cases.append(label_case(f"{title} is {value}", "named", f"{line}\n"))
    for value in ("2", "3", "99", "1e9", "1e300", "16777217", "0.5", "-0.5"):
        cases.append(label_case(f"class {value} of 2", "named", f"\n\n{value} .5 .5 .2 .2\n", 3))
    cases += [
        label_case("width 0", "named", "0 .5 .5 0 .2\n"),
        label_case("height 0", "named", "0 .5 .5 .2 0.0\n"),
        label_case("polygon of one line", "named", "0 .1 .1 .5 .1 .9 .1\n"),
        label_case("polygon outside", "named", "0 .1 .1 .5 .1 1.9 .9\n"),
        label_case("polygon with nan", "named", "0 .1 .1 .5 nan .9 .9\n"),
        label_case("commas", "named", "0,.5,.5,.2,.2\n"),
        label_case("semicolons", "named", "0;.5;.5;.2;.2\n"),
        label_case("a head line", "named", f"class x y w h\n{GOOD_LINE}"),
        label_case("a name for the class", "named", "cat .5 .5 .2 .2\n"),
        label_case("JSON", "named", '{"class": 0, "box": [0.5, 0.5, 0.2, 0.2]}\n'),
        label_case("XML", "named", "<annotation><object/></annotation>\n"),
        label_case("a comment", "named", f"# made by hand\n{GOOD_LINE}"),
        label_case("control characters", "named", "\x1b[2J\x07 .5 .5 .2 .2\n"),
        label_case("zero bytes", "named", b"0 .5 .5 .2 .2\n\0\0\0", None),
        label_case("a picture", "named", encoded("png"), None),
        label_case("random bytes", "named", np.random.default_rng(4).bytes(3000), None),
        label_case("UTF-16", "named", GOOD_LINE.encode("utf-16"), None),
        label_case("Latin-1 letters", "named", b"\xe9 .5 .5 .2 .2\n"),
        label_case("byte order mark", "accepted", b"\xef\xbb\xbf" + GOOD_LINE.encode()),
        label_case("CRLF", "accepted", b"0 .5 .5 .2 .2\r\n1 .4 .4 .1 .1\r\n"),
        label_case("CRLF and a bad line", "named", b"0 .5 .5 .2 .2\r\n1 .4 .4\r\n", 2),
        label_case("CR alone", "accepted", b"0 .5 .5 .2 .2\r1 .4 .4 .1 .1\r"),
        label_case("tabs and blanks", "accepted", "  0\t.5\t.5  .2\t.2\t\n"),
        label_case("no end of the last line", "accepted", "0 .5 .5 .2 .2"),
        label_case("a confidence", "accepted", "0 .5 .5 .2 .2 .9\n"),
        label_case("signs and exponents", "accepted", "+0 5e-1 +.5 2E-1 .2\n"),
        label_case("a class with decimals", "accepted", "1.0 .5 .5 .2 .2\n"),
        label_case("rounding over the edge", "accepted", "0 .5 .5 1.0005 1\n"),
        label_case("empty", "accepted", ""),
        label_case("blank lines", "accepted", "\n  \n\t\n"),
        label_case("missing", "accepted", lambda file: None),
        label_case("twice the same line", "named", GOOD_LINE * 2, 2),
        label_case("a hundred times the same line", "named", GOOD_LINE * 100, 2),
        label_case("100 MB", "named", sparse, None),
        label_case("a line of a million numbers", "named", "0 " + "2 " * 999_999 + "2\n"),
        label_case("a folder", "named", Path.mkdir, None),
        label_case("link to itself", "named", lambda file: file.symlink_to(file), None),
        label_case("link to nothing", "named", lambda file: file.symlink_to("nowhere.txt"), None),
        label_case("pipe", "named", os.mkfifo, None),
        label_case("link to a device", "named", lambda file: file.symlink_to("/dev/zero"), None),
    ]
    return cases


# Lists, COCO, VOC -----------------------------------------------------------------------------------------------------
def list_case(name: str, outcome: str, where: str, content: bytes) -> Case:
    def build(folder: Path) -> None:
        (folder / "train.txt").write_bytes(content)
        change_yaml(folder, {"train": "train.txt"})

    return Case("list", name, outcome, where, build)


def list_cases() -> list[Case]:
    return [
        list_case(
            "a line that is no image", "named", r"train\.txt:2: not the name of an image", b"./images/good.png\nnotes\n"
        ),
        list_case(
            "an image that is missing",
            "named",
            "images/lost.png: image left out",
            b"./images/good.png\n./images/lost.png\n",
        ),
        list_case(
            "an image twice",
            "named",
            "good.png: the same image appears twice",
            b"./images/good.png\n./images/good.png\n",
        ),
        list_case(
            "an image of the other split",
            "named",
            "ok.png: the same image appears in",
            b"./images/good.png\n./clean/ok.png\n",
        ),
        list_case("CRLF and a byte order mark", "accepted", "", b"\xef\xbb\xbf./images/good.png\r\n"),
        list_case("empty", "refused", "no images in", b""),
        list_case("binary", "refused", r"train\.txt: not an image list", b"\xff\xfe\0" * 99),
    ]


def change_yaml(folder: Path, changes: dict) -> None:
    file = folder / "data.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))


def coco_case(name: str, outcome: str, where: str, change: Callable[[dict], object]) -> Case:
    def build(folder: Path) -> None:
        content = {
            "images": [
                {"id": i, "file_name": f"{n}.png", "width": 64, "height": 48} for i, n in enumerate(("good", "bad"))
            ],
            "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
            "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": [4, 4, 20, 20]} for i in (0, 1)],
        }
        sound = {**content, "images": [{"id": 0, "file_name": "ok.png", "width": 64, "height": 48}]}
        (folder / "val.json").write_text(json.dumps(sound))
        (folder / "images/bad.png").write_bytes(encoded("png"))
        changed = change(content)
        text = changed if isinstance(changed, str) else json.dumps(content)
        (folder / "train.json").write_text(text)
        change_yaml(folder, {"format": "coco", "annotations": {"train": "train.json", "val": "val.json"}})

    return Case("coco", name, outcome, where, build)


def coco_cases() -> list[Case]:
    def put(key, value):
        return lambda c: c["annotations"][1].__setitem__(key, value)

    where = r"train\.json: object .* left out"
    boxes = ([4, 4, -2, 20], [4, 4, 0, 20], [4, 4, 200, 20], [float("nan")] * 4, [4, 4, 20], ["a", 4, 4, 4], "box", 7)
    cases = [coco_case(f"bbox {box}", "named", where, put("bbox", box)) for box in boxes]
    cases += [
        coco_case("category that is not there", "named", where, put("category_id", 9)),
        coco_case("category that is a list", "named", where, put("category_id", [1])),
        coco_case("polygon of letters", "named", where, put("segmentation", [["a", "b", 1, 2, 3, 4]])),
        coco_case("polygon with a number too many", "named", where, put("segmentation", [[1, 2, 3, 4, 5, 6, 7]])),
        coco_case(
            "size of another picture",
            "named",
            "its labels are for 10 x 90",
            lambda c: c["images"][1].update(width=10, height=90),
        ),
        coco_case(
            "object of no image",
            "accepted",
            "",
            lambda c: c["annotations"].append({"id": 7, "image_id": 7, "category_id": 1}),
        ),
        coco_case("an object that is a number", "accepted", "", lambda c: c["annotations"].append(7)),
        coco_case("not JSON", "refused", r"train\.json: not a JSON file", lambda c: "{"),
        coco_case("a list", "refused", r"train\.json: not a COCO file", lambda c: "[]"),
        coco_case("deep nesting", "refused", r"train\.json: not a JSON file", lambda c: "[" * 100_000),
        coco_case(
            "image without a size",
            "refused",
            r"train\.json: not a COCO file",
            lambda c: c["images"][0].pop("width") and None,
        ),
        coco_case(
            "image whose width is a text",
            "refused",
            r"train\.json: not a COCO file",
            lambda c: c["images"][0].update(width="wide"),
        ),
        coco_case("images are a mapping", "refused", r"train\.json: not a COCO file", lambda c: c.update(images={})),
        coco_case(
            "categories of other names",
            "refused",
            "none of its categories is a class",
            lambda c: c.update(categories=[{"id": 1, "name": "z"}]),
        ),
    ]
    return cases


VOC = (
    "<annotation><size><width>64</width><height>48</height></size><object><name>a</name><bndbox><xmin>4</xmin>"
    "<ymin>4</ymin><xmax>24</xmax><ymax>24</ymax></bndbox></object></annotation>"
)


def voc_case(name: str, outcome: str, content: str | bytes) -> Case:
    def build(folder: Path) -> None:
        (folder / "annotations").mkdir()
        (folder / "annotations/good.xml").write_text(VOC)
        (folder / "clean/ok.xml").write_text(VOC)
        (folder / "images/bad.png").write_bytes(encoded("png"))
        data = content.encode() if isinstance(content, str) else content
        (folder / "annotations/bad.xml").write_bytes(data)
        change_yaml(folder, {"format": "voc"})

    return Case("voc", name, outcome, r"annotations/bad\.xml: ." if outcome == "named" else "", build)


def voc_cases() -> list[Case]:
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><annotation>&b;</annotation>'
    outside = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation>&a;</annotation>'
    return [
        voc_case("empty", "named", ""),
        voc_case("cut off", "named", VOC[:90]),
        voc_case("binary", "named", b"\0\1\2\3" * 99),
        voc_case("entities", "named", bomb),
        voc_case("entity of a file", "named", outside),
        voc_case("deep nesting", "named", "<annotation>" + "<a>" * 500 + "</a>" * 500 + "</annotation>"),
        voc_case("another outer element", "named", "<root/>"),
        voc_case("box without xmax", "named", VOC.replace("<xmax>24</xmax>", "")),
        voc_case("box of letters", "named", VOC.replace("24", "wide")),
        voc_case("box with nan", "named", VOC.replace("<xmin>4", "<xmin>nan")),
        voc_case("box outside", "named", VOC.replace("<xmax>24", "<xmax>240")),
        voc_case("box turned round", "named", VOC.replace("<xmax>24", "<xmax>2")),
        voc_case("size of another picture", "named", VOC.replace(">64<", ">10<")),
        voc_case("class that is not in names", "named", VOC.replace("<name>a", "<name>z")),
        voc_case("no objects", "accepted", "<annotation/>"),
        voc_case("no size", "accepted", VOC.replace("<width>64</width><height>48</height>", "")),
    ]
