"""What is fuzzed: the readers of foreign files, what they must not do, and inputs to begin with."""

import json
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from models.runtimes.mobile_files import read_appended
from models.weights.checkpoint import load_checkpoint
from utils.datasets.coco import read_tables
from utils.datasets.reader import image_size, verify_image_label, verify_objects
from utils.datasets.voc import read_voc
from utils.files import yaml_load, yaml_save
from utils.model_files.engine import read_engine
from utils.paths import ROOT

Image.init()  # loads the readers of all formats, so that they are instrumented with this file
NC = 3
CLASSES = {"cat": 0, "dog": 1, "bird": 2}
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect")
WRITING = os.O_WRONLY | os.O_RDWR


class Sentinel:
    """An audit hook that ends the process where a reader does what no reader may do."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.armed = str(scratch), False
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple) -> None:
        if not self.armed:
            return
        changed = event in ("os.remove", "os.rename", "os.mkdir") or (event == "open" and args[2] & WRITING)
        if event in FORBIDDEN or (changed and not str(args[0]).startswith(self.scratch)):
            self.armed = False
            raise SystemError(f"a reader did {event} {args}")


class Target:
    """Writes an input to a file of its own and gives that to a reader.

    Args:
        scratch: folder of the file and of the image that the labels are for.
        name: key of `TARGETS`.
        sentinel: watches while the reader reads.
    """

    def __init__(self, scratch: Path, name: str, sentinel: Sentinel | None = None) -> None:
        self.read, suffix, self.wrap, self.seeds = TARGETS[name]
        self.file, self.sentinel = scratch / f"input{suffix}", sentinel

    def __call__(self, data: bytes) -> None:
        """Read one input; an exception that no reader may raise goes through."""
        self.file.write_bytes(self.wrap(data))
        if self.sentinel:
            self.sentinel.armed = True
        try:
            self.read(self.file)
        except (ValueError, FileNotFoundError) as error:
            if not str(error).startswith(str(self.file)) and not isinstance(error, FileNotFoundError):
                raise SystemError(f"an error without the name of the file: {error}") from error
        finally:
            if self.sentinel:
                self.sentinel.armed = False


# Readers --------------------------------------------------------------------------------------------------------------


def read_yaml(file: Path) -> None:
    """What was read can be written and read again, and is the same then."""
    data = yaml_load(file)
    again = file.with_name("again.yaml")
    yaml_save(again, data)
    if repr(yaml_load(again)) != repr(data):
        raise SystemError("read again after writing it is something else")


def check_labels(found: object) -> None:
    """Raise where labels are not what the rest of the program counts on."""
    labels, segments = found.labels, found.segments
    inside = np.isfinite(labels).all() and (labels[:, 1:] >= 0).all() and (labels[:, 1:] <= 1).all()
    classes = labels[:, 0]
    if labels.shape != (len(labels), 5) or labels.dtype != np.float32 or not inside:
        raise SystemError(f"labels out of bounds: {labels}")
    if not ((classes >= 0) & (classes < NC) & (classes == classes.astype(int))).all() or not (labels[:, 3:] > 0).all():
        raise SystemError(f"a class or size that cannot be: {labels}")
    if len(np.unique(labels, axis=0)) != len(labels) or len(segments) not in (0, len(labels)):
        raise SystemError(f"{len(labels)} labels, {len(segments)} polygons, or repeated labels")
    for segment in segments:
        if segment.shape != (len(segment), 2) or not ((segment >= 0) & (segment <= 1)).all():
            raise SystemError(f"a polygon out of bounds: {segment}")
    for message in found.messages:
        if "\n" in message:
            raise SystemError(f"a message of several lines: {message!r}")


def picture(file: Path) -> str:
    """Path of an image of 20 x 10 pixels beside the input."""
    image = file.with_name("image.png")
    if not image.exists():
        Image.new("RGB", (20, 10)).save(image)
    return str(image)


def read_text(file: Path) -> None:
    """YOLO labels."""
    check_labels(verify_image_label(picture(file), str(file), NC))


def read_json(file: Path) -> None:
    """COCO labels."""
    for annotation in read_tables(file)[0].values():
        check_labels(verify_objects(picture(file), str(file), annotation, CLASSES))


def read_xml(file: Path) -> None:
    """Pascal VOC labels; `VocReader` adds the name of the file to what is raised."""
    try:
        annotation = read_voc(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from error
    check_labels(verify_objects(picture(file), str(file), annotation, CLASSES))


def read_image(file: Path) -> None:
    """Images; `verify_image_label` catches these errors and adds the name of the file."""
    try:
        width, height = image_size(str(file))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file}: {error}") from error
    if min(width, height) < 10:
        raise SystemError(f"an image of {width} x {height} pixels was taken")


# Inputs ---------------------------------------------------------------------------------------------------------------

STORAGES = {str(i): bytes(range(64)) for i in range(3)}


def archive_of(data: bytes) -> bytes:
    """Put a pickle into an archive as torch.save writes it, with three storages of 64 bytes."""
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        parts = {"data.pkl": data, "byteorder": b"little", "version": b"3\n", ".format_version": b"1"}
        for name, part in parts.items() | {f"data/{key}": numbers for key, numbers in STORAGES.items()}.items():
            archive.writestr(zipfile.ZipInfo(f"input/{name}"), part)
    return packed.getvalue()


def pickles() -> list[bytes]:
    """Pickles of plain values, of tensors and of what YOLOv5's checkpoints name, without the archive around them."""
    plain = {"format": 1, "epoch": -1, "names": {0: "cat"}, "yaml": {"nc": 1}, "opt": {}, "date": "2026", "hyp": None}
    seeds = [pickle.dumps(plain, protocol) for protocol in (0, 2, 4)]
    saved = BytesIO()
    torch.save({"model": {"weight": torch.arange(16.0).view(4, 4), "n": torch.tensor(3)}, "format": 1}, saved)
    with zipfile.ZipFile(saved) as archive:
        seeds.append(archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl"))))
    names = ["models.yolo Model", "models.common Conv", "torch.nn.modules.conv Conv2d", "collections OrderedDict"]
    names += ["pathlib PosixPath", "numpy dtype", "numpy.core.multiarray scalar", "os system", "builtins getattr"]
    for name in names:
        module, _, attribute = name.partition(" ")
        head = b"\x80\x02c" + f"{module}\n{attribute}\n".encode()
        seeds.append(head + b")\x81}q\x00(X\x05\x00\x00\x00valueq\x01K\x03ub.")  # an object with a state
        seeds.append(head + b"(X\x01\x00\x00\x00aX\x01\x00\x00\x00btR.")  # a call with two texts
    return seeds


def texts(*parts: str) -> Callable[[], list[bytes]]:
    """Return a function that gives the texts as bytes."""
    return lambda: [part.encode() for part in parts]


def yamls() -> list[bytes]:
    """The beginnings of some YAML files of the project, and what is special."""
    files = sorted([*ROOT.glob("data/hyps/*.yaml"), *ROOT.glob("models/*.yaml")])
    special = ["a: &x [1, 2]\nb: *x\n<<: {c: 3}\n", "a: !!python/object:os.system x\n", "{a: .nan, b: 0x1f, c: 1e3}\n"]
    return [file.read_bytes()[:800].rpartition(b"\n")[0] for file in files[:6]] + texts(*special)()


COCO = {
    "images": [{"id": 1, "file_name": "image.png", "width": 20, "height": 10}],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 5, 4], "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 5, 1, 5, 5], [6, 6, 9, 6, 9, 9]]},
        {"id": 3, "image_id": 1, "category_id": 1, "bbox": [1, 2, 5, 4.5], "segmentation": {"counts": "x"}},
    ],
}
VOC = (
    '<?xml version="1.0" encoding="UTF-8"?><annotation><size><width>20</width><height>10</height></size>'
    "<object><name>cat</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8.5</ymax>"
    "</bndbox></object></annotation>"
)


def images() -> list[bytes]:
    """A small image in every format that PIL writes and this program reads."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    seeds = []
    for kind in ("bmp", "jpeg", "png", "tiff", "webp"):
        saved = BytesIO()
        Image.fromarray(noise).save(saved, kind, exif=Image.Exif() if kind == "bmp" else exif())
        seeds.append(saved.getvalue())
    for kind in (".pfm", ".tiff"):
        seeds.append(cv2.imencode(kind, noise.astype(np.float32) / 255)[1].tobytes())
    return seeds


def exif() -> Image.Exif:
    """EXIF data of an image that lies on its side."""
    found = Image.Exif()
    found[0x0112] = 6
    return found


def archives() -> list[bytes]:
    """Whole files of torch.save, in both formats."""
    seeds = [archive_of(data) for data in pickles()]
    for new in (True, False):
        saved = BytesIO()
        torch.save({"format": 1, "model": {"weight": torch.arange(16.0)}}, saved, _use_new_zipfile_serialization=new)
        seeds.append(saved.getvalue())
    return seeds


def as_they_are(data: bytes) -> bytes:
    """Return an input unchanged."""
    return data


def engines() -> list[bytes]:
    """Files of an engine with metadata."""
    head = json.dumps({"stride": 32, "names": {"0": "cat"}, "imgsz": [64, 96]}).encode()
    return [struct.pack("<I", len(head)) + head + b"engine"]


def notes() -> list[bytes]:
    """A network with metadata behind it, stored and packed."""
    seeds = []
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        saved = BytesIO(b"network")
        with zipfile.ZipFile(saved, "a", kind) as archive:
            archive.writestr(zipfile.ZipInfo("metadata.txt"), "{'stride': 32, 'names': {0: 'cat'}}", kind)
        seeds.append(saved.getvalue())
    return seeds


LINES = "0 0.5 0.5 0.2 0.4\n1 0.1 0.1 0.9 0.1 0.5 0.9\r\n2 0.5 0.5 1 1 0.87\n\n0 5e-1 .5 0.2 0.4\n"
TARGETS = {  # name -> reader, suffix, what is around an input, inputs to begin with
    "labels": (read_text, ".txt", as_they_are, texts(LINES, "0 0.5 0.5 1.0005 1e-9\n", "\ufeff0 nan inf -0 1_0\n")),
    "coco": (read_json, ".json", as_they_are, texts(json.dumps(COCO), json.dumps({**COCO, "annotations": []}))),
    "voc": (read_xml, ".xml", as_they_are, texts(VOC, VOC.replace("UTF-8", "latin-1"))),
    "image": (read_image, ".img", as_they_are, images),
    "yaml": (read_yaml, ".yaml", as_they_are, yamls),
    "pickle": (load_checkpoint, ".pt", archive_of, pickles),
    "archive": (load_checkpoint, ".pt", as_they_are, archives),
    "engine": (read_engine, ".engine", as_they_are, engines),
    "tflite": (read_appended, ".tflite", as_they_are, notes),
}
WORDS = {  # that random changes do not hit upon
    "labels": (b"0.5", b"1e-45", b"nan", b"inf", b"-0", b"1_0", "\u2028".encode(), b"\xef\xbb\xbf"),
    "coco": (b"NaN", b"Infinity", b"1e400", b"null", b'"bbox"', b'"segmentation"', b'"iscrowd"', b'"\\ud800"', b"[["),
    "voc": (b"<!DOCTYPE", b"<!ENTITY", b"&#0;", b"encoding", b"UTF-7", b"UTF-16", b"<![CDATA[", b"difficult", b"nan"),
    "image": (b"Exif\0\0", b"II*\0", b"MM\0*", b"IHDR", b"acTL", b"eXIf", b"VP8X", b"ANIM", b"PF\n"),
    "yaml": (b"!!binary", b"!!timestamp", b"!!set", b"!!omap", b"!!pairs", b"!!int", b"!!float", b"<<", b"&a", b"*a"),
    "pickle": (
        b"models.yolo\nModel\n",
        b"torch._utils\n_rebuild_tensor_v2\n",
        b"torch\nFloatStorage\n",
        b"collections\nOrderedDict\n",
        b"storage",
    ),
    "archive": (b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"data.pkl", b"input/", b"\x80\2"),
    "tflite": (b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"[[[[", b"{}"),
    "engine": (b"{}", b'"names"', b"null", b"NaN"),
}


def prepare(name: str, folder: Path) -> Path:
    """Write the first inputs and the words of a target below `folder`; return the file of words."""
    (folder / "inputs").mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(TARGETS[name][3]()):
        (folder / "inputs" / f"seed{i}").write_bytes(seed)
    words = folder / "words.txt"
    escaped = ("".join(f"\\x{byte:02x}" for byte in word) for word in WORDS[name])
    words.write_text("".join(f'"{word}"\n' for word in escaped))
    return words
