"""Weights by name: the published files that `--weights yolov5s.pt` and `--weights swinv2_t` name, found or fetched.

A name is fetched only because the user gave it and there is no such file; nothing here is a default. What is fetched is
an untrusted file like any other: the readers of `models.weights` run nothing in it.
"""

import os
import re
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch

from utils.console import LOGGER
from utils.downloads.http_client import FetchError, is_http, resume, shown, tag_of
from utils.files import file_sha256

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

REPOSITORY = "ultralytics/yolov5"
RELEASE = "v7.0"
MIRRORS = "YOLOV5_SWINV2_MIRROR"  # variables of the environment
FOLDER = "YOLOV5_SWINV2_WEIGHTS"
WAIT = 0.2  # seconds between looks at a lock
ROOM = 1.25  # most bytes of a file whose size is not certain, relative to the size that is told
LICENCE = "AGPL-3.0 or Ultralytics Enterprise License"  # of the YOLOv5 weights, for records of what is made from them
LICENCE_NOTICE = (
    "Ultralytics publishes these YOLOv5 weights and licenses them under AGPL-3.0 or an Enterprise License. This "
    "program (Apache-2.0) contains none of them; a model made from them carries those terms"
)


@dataclass(frozen=True)
class Official:
    """A published file.

    Attributes:
        url: of its publisher; ends with a folder and the name of the file, which a mirror keeps.
        size: bytes; rounded where `sha256` is not complete.
        sha256: in hexadecimal digits; of ImageNet weights the first ones, which the publisher puts into the name.
        confirmed: whether several sources state size and digest. If not, another file is accepted with a warning.
    """

    url: str
    size: int
    sha256: str
    confirmed: bool = True

    @property
    def file(self) -> str:
        """Name of the file."""
        return self.url.rpartition("/")[2]

    @property
    def exact_size(self) -> int | None:
        """Bytes of the file, None if not certain."""
        return self.size if self.confirmed and len(self.sha256) == 64 else None


# The publisher states no digests. Those of n, s and m are stated by at least three independent projects, the others by
# one: a person with a network has to confirm them before `confirmed` becomes True.
YOLOV5 = {
    name: Official(f"https://github.com/{REPOSITORY}/releases/download/{RELEASE}/{name}", size, sha256, confirmed)
    for name, size, sha256, confirmed in (
        ("yolov5n.pt", 4_062_133, "4f180cf23ba0717ada0badd6c685026d73d48f184d00fc159c2641284b2ac0a3", True),
        ("yolov5s.pt", 14_808_437, "8b3b748c1e592ddd8868022e8732fde20025197328490623cc16c6f24d0782ee", True),
        ("yolov5m.pt", 42_806_829, "61d933360ba5a7733a36764996c800287d973889d875227f5beedd2473a97a56", True),
        ("yolov5l.pt", 93_622_629, "2f603b7354c25454d1270663a14d8ddc1eea98e5eebc1d84ce0c6e3150fa155f", False),
        ("yolov5x.pt", 174_114_333, "9f27a794fa0308e2606f90565164571d6f0a0ba18a3ce2e5e5d323b71c157859", False),
        ("yolov5n6.pt", 7_190_229, "496c05a2b991da15acc6c4408c63da287f2513a46c6756618776d4dd71170781", False),
        ("yolov5s6.pt", 25_978_837, "95bda9019ada63f37338308d0c81a66047a6fbaba061abaff271ba9334cf2a6f", False),
        ("yolov5m6.pt", 72_308_357, "7afe7fa0f29a8351467200a2a5a33c7996d1155ed6636c7edd8ca70b14951c64", False),
        ("yolov5l6.pt", 154_521_589, "b357b77f646b0190912985937c44e2923441369d5fda69ba86da2aa919212618", False),
        ("yolov5x6.pt", 282_720_357, "257c991b216d625427dc4d9c7c76d6c6d93cf3732797538da34bdc02f97bfef0", False),
    )
}
IMAGENET = {  # torchvision's weights of Swin V2
    "swinv2_t": Official("https://download.pytorch.org/models/swin_v2_t-b137f0e2.pth", 113_900_000, "b137f0e2"),
    "swinv2_s": Official("https://download.pytorch.org/models/swin_v2_s-637d8ceb.pth", 200_000_000, "637d8ceb"),
    "swinv2_b": Official("https://download.pytorch.org/models/swin_v2_b-781e5279.pth", 352_700_000, "781e5279"),
}
UNREADABLE = (  # names of other published files -> why they are refused
    (
        r"yolov5[nsmlx]6?u",
        "weights with a detection head without anchors, which no model here has. Those with anchors are {}",
    ),
    (r"yolov5[nsmlx]6?-seg", "segmentation weights; this project detects. Those of detectors are {}"),
    (r"yolov5[nsmlx]6?-cls", "classification weights; this project detects. Those of detectors are {}"),
    (
        r"yolov5[nsmlx]6?[-_]swinv2",
        "no published weights. Train such a detector with --cfg models/{stem}.yaml, from scratch or from {}",
    ),
)


def log_licence(name: str) -> None:
    """Log the terms of official YOLOv5 weights, as a warning, so that no quiet mode hides them."""
    LOGGER.warning(f"{name}: {LICENCE_NOTICE}")


def weights_folder() -> Path:
    """Return where fetched YOLOv5 weights are kept; the folder names the release, others use the same file names."""
    return _chosen_folder() or Path(torch.hub.get_dir()) / "checkpoints" / f"yolov5-{RELEASE}"


def _chosen_folder() -> Path | None:
    text = os.environ.get(FOLDER, "").strip()
    return Path(text).expanduser().absolute() if text else None


def find_weights(weights: str | Path) -> Path:
    """Return the file that `--weights` means; official YOLOv5 weights that are not there are fetched.

    An existing path means itself, and so does one that is no name of official weights. `yolov5s` is short for
    yolov5s.pt. A bare name is looked for in the working directory, then in `weights_folder`; a path with a folder is
    fetched to that folder.

    Raises:
        ValueError: the name of published weights that cannot be read here.
        FileNotFoundError: the weights cannot be fetched, or the folder in their path does not exist.
        OSError: the file cannot be written, or is a link to nothing.
    """
    path = Path(weights)
    if path.exists():
        return path
    name = path.name if path.suffix else f"{path.name}.pt"
    if name not in YOLOV5:
        _refuse_near_names(path)
        return path
    path = path.with_name(name)
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(f"{path}: a link to {os.readlink(path)}, which does not exist. Remove the link")
    if path.exists():
        return path
    bare = path.parent == Path() and not path.is_absolute()
    if not bare and not path.parent.is_dir():
        raise FileNotFoundError(
            f"{path}: neither this file nor its folder exists. --weights {name} alone fetches the official weights to "
            f"{weights_folder()}"
        )
    target = weights_folder() / name if bare else path
    if not target.is_file():
        _fetch(YOLOV5[name], target, [path.absolute(), target] if bare else [target])
    return target


def find_backbone(name: str) -> Path:
    """Return the file of the ImageNet weights `name`, a key of `IMAGENET`; fetched unless torch hub's folder has it.

    Raises:
        ValueError: the file that is there is another one.
        FileNotFoundError: it cannot be fetched.
        OSError: it cannot be written.
    """
    official = IMAGENET[name]
    folders = [folder for folder in (_chosen_folder(), Path(torch.hub.get_dir()) / "checkpoints") if folder]
    places = [folder / official.file for folder in folders]
    found = next(filter(Path.is_file, places), None)
    if found is None:
        _fetch(official, places[0], places)
        return places[0]
    digest = file_sha256(found)
    if not digest.startswith(official.sha256):
        raise ValueError(f"{found}: damaged or another file (sha256 {digest}, not {official.sha256}...); delete it")
    return found


def _refuse_near_names(path: Path) -> None:
    """Raise an error for a missing file whose name is close to that of official weights, or that of a backbone."""
    if str(path) in IMAGENET:
        raise ValueError(
            f"{path}: weights of an ImageNet backbone, which is no detector yet. Train one: train.py --weights {path} "
            f"--cfg models/yolov5-{str(path).replace('_', '')}.yaml"
        )
    if path.suffix not in ("", ".pt"):
        return
    for pattern, reason in UNREADABLE:
        if re.fullmatch(pattern, path.stem):
            official = re.match(r"yolov5[nsmlx]6?", path.stem)[0]  # type: ignore[index]
            text = reason.format(f"{official}.pt", stem=path.stem.replace("_", "-"))
            raise ValueError(f"{path}: there is no such file, and under this name there are {text}")
    close = get_close_matches(f"{path.stem.lower()}.pt", YOLOV5, n=1, cutoff=0.85)
    if close and path.stem.lower().startswith("yolov5"):
        raise FileNotFoundError(f"{path}: no such file. Official weights have the names {', '.join(YOLOV5)}")


def _sources(official: Official) -> list[str]:
    """Return the URLs of a file in the order in which they are asked.

    Raises:
        ValueError: the environment names a mirror that is no URL.
    """
    entries = [entry.strip() for entry in os.environ.get(MIRRORS, "").split(";") if entry.strip()]
    mirrors = [entry.rstrip("/") for entry in entries if entry != "only"]
    for mirror in mirrors:
        if not is_http(mirror) or "?" in mirror or "#" in mirror:
            raise ValueError(f"{MIRRORS}: {shown(mirror)!r} is no http:// or https:// URL to which a path can be added")
    if len(mirrors) < len(entries) and not mirrors:
        raise ValueError(f"{MIRRORS} is 'only', but names no mirror")
    folder = official.url.split("/")[-2]
    urls = [f"{mirror}/{folder}/{official.file}" for mirror in mirrors]
    return urls if len(mirrors) < len(entries) else [*urls, official.url]


def _fetch(official: Official, target: Path, places: Sequence[Path]) -> None:
    """Fetch a file; it appears under its name only when it is complete and its digest was checked.

    Args:
        official: which one.
        target: where to; its folder is created.
        places: where it was looked for, for messages.

    Raises:
        FileNotFoundError: no source gives it.
        OSError: it cannot be written.
    """
    sources, problems = _sources(official), []
    with _locked(target):
        if target.is_file():  # another process has fetched it
            return
        LOGGER.info(f"{target.name} is not here: fetching about {official.size / 1e6:.1f} MB")
        for url in sources:
            try:
                return _fetch_from(url, official, target)
            except (FetchError, ValueError) as error:
                problems.append(str(error))
                if url != sources[-1]:
                    LOGGER.warning(f"{error}. Trying the next source")
    digest = official.sha256 + "..." * (len(official.sha256) < 64)
    part = _part_of(target)
    kept = f" ({part.stat().st_size:,} bytes are kept, the next call goes on from there)" if part.is_file() else ""
    raise FileNotFoundError(
        f"{target.name}: not found in {', '.join(str(place.parent) for place in places)}, and it cannot be fetched: "
        f"{'; '.join(problems)}{kept}. Put {official.url} (about {official.size:,} bytes, sha256 {digest}) at {target} "
        f"or name a folder that has it by {FOLDER}, or a mirror by {MIRRORS}. "
        "Only a training from scratch, train.py --weights '', needs none"
    )


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Let one process at a time fetch `target`; the system ends the lock of a process that was killed.

    Raises:
        OSError: the folder of `target` cannot be made or written to.
    """
    lock, waiting = target.with_name(f"{target.name}.lock"), False
    new = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        while True:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0))
            if _lock(handle):
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(handle), os.stat(lock)):
                        break  # else the process that held it has removed it
            elif not waiting:
                LOGGER.info(f"another process is fetching {target}: waiting for it")
                waiting = True
            os.close(handle)
            time.sleep(WAIT)
    except OSError as error:
        raise OSError(
            f"{target}: this folder cannot be written to ({error.strerror}). Name another one by the variable {FOLDER}"
        ) from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file
            lock.unlink()
        os.close(handle)
        with suppress(OSError):  # the first that holds something
            for folder in new:
                folder.rmdir()


def _lock(handle: int) -> bool:
    """Lock an open file unless another process has locked it; return whether that was done."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a network file system without locks
        return True
    return True


def _fetch_from(url: str, official: Official, target: Path) -> None:
    """Fetch a file from one source.

    Raises:
        ValueError: not a valid URL.
        FetchError: the source does not give this file.
        OSError: it cannot be written.
    """
    part = _part_of(target)
    limit = official.exact_size or int(official.size * ROOM)
    LOGGER.info(f"from {shown(url)}")
    resumed = part.exists()  # what an earlier process left may be of another file
    resume(url, part, limit, official.exact_size)
    digest = file_sha256(part)
    if resumed and not digest.startswith(official.sha256):
        _remove(part)
        resume(url, part, limit, official.exact_size)
        digest = file_sha256(part)
    if not digest.startswith(official.sha256):
        _judge(digest, part, official, url)
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, target)
    _remove(part)
    LOGGER.info(f"{target.name} is kept as {target}")
    if official.file in YOLOV5:
        log_licence(target.name)


def _part_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _remove(part: Path) -> None:
    for file in (part, tag_of(part)):
        file.unlink(missing_ok=True)


def _judge(digest: str, part: Path, official: Official, url: str) -> None:
    """Raise an error, and remove the file, unless its digest may differ from the one that is expected.

    Raises:
        FetchError: it must not differ, or the file is none of PyTorch.
    """
    found = f"sha256 {digest} ({part.stat().st_size:,} bytes), expected {official.sha256} ({official.size:,} bytes)"
    packed = zipfile.is_zipfile(part)
    if official.confirmed or not packed or not url.lower().startswith("https:"):  # anybody can change http
        _remove(part)
        raise FetchError(f"{shown(url)}: another file{'' if packed else ', none of PyTorch'}: {found}", again=False)
    LOGGER.warning(
        f"{shown(url)}: {found}. The expected digest was never confirmed by a second source, so this file is kept"
    )
