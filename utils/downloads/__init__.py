"""YOLOv5's address of downloads: images from URLs, and files that a user names by their URL."""

import os
from collections.abc import Collection
from pathlib import Path
from urllib.parse import unquote, urlsplit

from utils.console import LOGGER
from utils.downloads.http_client import blocks, is_http, open_url, shown, split_url
from utils.downloads.official_weights import RELEASE, REPOSITORY, find_weights
from utils.files import atomic_path
from utils.text import file_name

MAX_IMAGE = 64 << 20  # bytes of an image that is kept in memory
MAX_FILE = 64 << 30  # bytes of a file
IMAGE_TIME = 300.0  # seconds for an image that is kept in memory
STREAM_TYPE = "multipart/x-mixed-replace"  # of MJPEG
IMAGE_TYPES = {
    "image/avif": "avif",
    "image/bmp": "bmp",
    "image/gif": "gif",
    "image/jp2": "jp2",
    "image/jpeg": "jpg",
    "image/jpg": "jpg",
    "image/pjpeg": "jpg",
    "image/png": "png",
    "image/tiff": "tif",
    "image/webp": "webp",
    "image/x-ms-bmp": "bmp",
}


def is_url(url: str | Path, check: bool = False) -> bool:
    """Return whether a source is an HTTP URL.

    Args:
        url: source.
        check: ask its server too whether there is something; YOLOv5 does so by default.
    """
    if not is_http(url):
        return False
    if check:
        try:
            with open_url(str(url)):
                return True
        except (OSError, ValueError):
            return False
    return True


def attempt_download(file: str | Path, repo: str = REPOSITORY, release: str = RELEASE) -> str:
    """Return the path of a file of weights, as YOLOv5's scripts ask for it.

    Args:
        file: path; a name of official weights, see `official_weights.find_weights`; or a URL, which is fetched into the
            working folder.
        repo: where YOLOv5 looks for the name; only its own repository is known here.
        release: see `repo`.

    Raises:
        FileNotFoundError: there is no such file, and it cannot be fetched.
        ValueError: weights of this name, repository or release are not read.
        OSError: the URL cannot be fetched, or the file cannot be written.
    """
    if is_url(file):
        name = Path(unquote(urlsplit(str(file)).path)).name
        return name if Path(name).is_file() else str(download(str(file), "."))
    if not Path(file).exists() and (repo, release) != (REPOSITORY, RELEASE):
        raise ValueError(f"{file}: only {RELEASE} of {REPOSITORY} is fetched, not {release} of {repo}")
    found = find_weights(file)
    if not found.exists():
        raise FileNotFoundError(
            f"{file}: no such file, and no official weights of this name; give the path of a .pt file"
        )
    return str(found)


def fetch(url: str) -> bytes:
    """Download the content of a URL in the public network.

    Raises:
        ValueError: not an HTTP URL, or its host, or that of a redirect, has an address that is not public.
        OSError: no response, an error, an empty body, more than 64 MiB, or too slow.
    """
    with open_url(url, public=True) as answer:
        return b"".join(blocks(answer, url, MAX_IMAGE, IMAGE_TIME))


def download(url: str, folder: str | Path, suffixes: Collection[str] = ()) -> Path | None:
    """Download a file; it appears under its name only when complete, and replaces an existing file.

    The user named the URL, so it may lead into the local network. Progress is logged every few seconds.

    Args:
        url: HTTP URL; the end of its path, without the query, names the file.
        folder: created if necessary.
        suffixes: of the files that are wanted, in lower case without the dot; () for any. A URL with another suffix is
            fetched if the server calls it an image, and gets the suffix of that.

    Returns:
        The file; None if there is an MJPEG stream, or nothing that is wanted.

    Raises:
        ValueError: not an HTTP URL, or it names no file.
        OSError: the server cannot be reached, refuses, sends nothing, less than announced, too much, or too slowly.
    """
    name = Path(os.path.basename(unquote(split_url(url)[0].path).replace("\\", "/")))
    stem, suffix = name.stem, name.suffix[1:]
    wanted = not suffixes or suffix.lower() in suffixes
    if wanted and not stem:
        raise ValueError(f"{shown(url)}: this URL names no file")
    with open_url(url) as answer:
        kind = answer.headers.get_content_type()
        if kind == STREAM_TYPE or not (wanted or kind in IMAGE_TYPES):
            return None
        if not wanted:
            stem, suffix = name.name or "image", IMAGE_TYPES[kind]
        target = Path(folder) / (file_name(stem) + (f".{file_name(suffix, 16)}" if suffix else ""))
        target.parent.mkdir(parents=True, exist_ok=True)
        LOGGER.info(f"fetching {shown(url)} to {target}")
        with atomic_path(target) as tmp, tmp.open("wb") as out:
            for block in blocks(answer, url, MAX_FILE, tell=True):
                out.write(block)
    return target


def safe_download(
    file: str | Path, url: str, url2: str | None = None, min_bytes: float = 1, error_msg: str = ""
) -> None:
    """Download a file to a path, as YOLOv5's scripts do; an existing one is replaced when the new one is complete.

    Args:
        file: the path; its folder must exist.
        url: HTTP URL.
        url2: the same file elsewhere, asked where `url` fails.
        min_bytes: a smaller file is an error.
        error_msg: added to the message.

    Raises:
        ValueError: not an HTTP URL.
        OSError: neither URL gives the file, or it cannot be written.
    """
    for last, source in ((not url2, url), (True, url2 or "")):
        try:
            with open_url(source) as answer, atomic_path(file) as tmp, tmp.open("wb") as out:
                for block in blocks(answer, source, MAX_FILE, tell=True):
                    out.write(block)
                if out.tell() < min_bytes:
                    raise OSError(f"{shown(source)}: only {out.tell()} bytes, expected {min_bytes:.0f} or more")
            return
        except OSError as error:
            if last:
                raise OSError(f"{error}. {error_msg}" if error_msg else str(error)) from None
            LOGGER.warning(f"{error}. Trying the second URL")
