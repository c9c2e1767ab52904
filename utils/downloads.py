"""Fetch a file that the user named by its address."""

import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import unquote, urlsplit

from utils.files import atomic_path
from utils.general import LOGGER, VERSION

TIMEOUT = 20.0  # seconds without an answer, or without data
CHUNK = 1 << 20
LIMIT = 64 << 30  # bytes of one file
TOLD_EVERY = 5.0  # seconds between lines of progress


def download(url: str, folder: str | Path) -> Path:
    """Fetch a file by HTTP; a file is only there when it is complete.

    A file of that name in the folder is replaced. Progress is logged every few seconds.

    Args:
        url: address beginning with http:// or https://; the end of its path, without any query, names the file.
        folder: made if need be.

    Returns:
        The file.

    Raises:
        ValueError: another kind of address, or one that names no file.
        OSError: the server cannot be reached, refuses, sends nothing, less than it announced, or more than 64 GiB.
    """
    parts = urlsplit(url)
    name = os.path.basename(unquote(parts.path).replace("\\", "/"))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url}: only addresses that begin with http:// or https:// are fetched")
    if name in ("", ".", ".."):
        raise ValueError(f"{url}: this address names no file")
    target = Path(folder) / name
    target.parent.mkdir(parents=True, exist_ok=True)
    LOGGER.info(f"fetching {url} to {target}")
    request = urllib.request.Request(url, headers={"User-Agent": f"yolov5-swinv2/{VERSION}"})
    try:
        with atomic_path(target) as tmp, urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            _copy(answer, tmp, url)
    except urllib.error.HTTPError as error:
        raise OSError(f"{url}: the server answers {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise OSError(f"{url}: cannot be fetched: {error.reason}") from None
    except (http.client.HTTPException, ssl.SSLError, TimeoutError, ConnectionError) as error:
        raise OSError(f"{url}: the connection broke: {str(error) or type(error).__name__}") from None
    return target


def _copy(answer: http.client.HTTPResponse, file: Path, url: str) -> None:
    """Write the body of an answer into a file; OSError if it is empty or shorter than announced."""
    length = answer.headers.get("Content-Length", "")
    expected = int(length) if length.isdecimal() else None
    size, told = 0, time.monotonic()
    with file.open("wb") as out:
        while block := answer.read(CHUNK):
            out.write(block)
            size += len(block)
            if size > LIMIT:
                raise OSError(f"{url}: more than {LIMIT >> 30} GiB, which is too large")
            if time.monotonic() - told > TOLD_EVERY:
                told = time.monotonic()
                LOGGER.info(f"  {size / 1e6:.1f} MB" + (f" of {expected / 1e6:.1f}" if expected else ""))
    if not size:
        raise OSError(f"{url}: the server sent an empty file")
    if expected is not None and size != expected:
        raise OSError(f"{url}: {size} bytes arrived of {expected} announced; try again")
