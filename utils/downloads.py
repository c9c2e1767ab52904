"""Download a file over HTTP within limits of time and size; nothing else in the project opens an HTTP connection.

A name is resolved once, and the connection goes to exactly the addresses that were found and, for URLs that come from
outside, checked. Proxies of the environment (`http_proxy`, `https_proxy`, `no_proxy`) are used: for public URLs the
proxy gets the checked IP address instead of the name, which it could resolve differently.
"""

import base64
import http.client
import io
import ipaddress
import os
import re
import socket
import ssl
import string
import time
import urllib.request
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from utils.console import LOGGER
from utils.files import atomic_path
from utils.paths import VERSION
from utils.text import file_name, printable

MAX_IMAGE = 64 << 20  # bytes of an image that is kept in memory
MAX_FILE = 64 << 30  # bytes of a file
MAX_REDIRECTS = 5
CONNECT_TIME = 10.0  # seconds for each address of a host
HEAD_TIME = 45.0  # seconds from the first connection to the last header, all redirects included
IMAGE_TIME = 300.0  # seconds for an image that is kept in memory
SILENCE = 20.0  # seconds without a byte
RATE_WINDOW = 30.0  # seconds over which the rate is averaged
MIN_RATE = 2048  # bytes a second; a modem has more
CHUNK = 1 << 18
TOLD_EVERY = 5.0  # seconds between lines of progress
REDIRECTS = (301, 302, 303, 307, 308)
PORTS = {"http": 80, "https": 443}
STREAM_TYPE = "multipart/x-mixed-replace"  # of MJPEG
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
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
    if not str(url).lower().startswith(("http://", "https://")):
        return False
    if check:
        try:
            with _open(str(url)):
                return True
        except (OSError, ValueError):
            return False
    return True


def attempt_download(file: str | Path, repo: str = "", release: str = "") -> str:
    """Return the path of a file of weights, as YOLOv5's scripts ask for it; a URL is fetched into the working folder.

    Args:
        file: path or URL.
        repo: where YOLOv5 looks for a name that is no file; nobody looks there here.
        release: see `repo`.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the URL cannot be fetched.
    """
    if is_url(file):
        name = Path(unquote(urlsplit(str(file)).path)).name
        return name if Path(name).is_file() else str(download(str(file), "."))
    if not Path(file).exists():
        raise FileNotFoundError(f"{file}: no weights are downloaded; give the path of a .pt file")
    return str(file)


def shown(url: str) -> str:
    """Return a URL for messages: printable, without the user name and password that it may hold."""
    scheme, mark, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    return printable(f"{scheme}{mark}{place.rpartition('@')[2]}{slash}{path}" if mark else url)


def fetch(url: str) -> bytes:
    """Download the content of a URL in the public network.

    Raises:
        ValueError: not an HTTP URL, or its host, or that of a redirect, has an address that is not public.
        OSError: no response, an error, an empty body, more than 64 MiB, or too slow.
    """
    with _open(url, public=True) as answer:
        return b"".join(_blocks(answer, url, MAX_IMAGE, IMAGE_TIME))


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
    name = Path(os.path.basename(unquote(_split(url)[0].path).replace("\\", "/")))
    stem, suffix = name.stem, name.suffix[1:]
    wanted = not suffixes or suffix.lower() in suffixes
    if wanted and not stem:
        raise ValueError(f"{shown(url)}: this URL names no file")
    with _open(url) as answer:
        kind = answer.headers.get_content_type()
        if kind == STREAM_TYPE or not (wanted or kind in IMAGE_TYPES):
            return None
        if not wanted:
            stem, suffix = name.name or "image", IMAGE_TYPES[kind]
        target = Path(folder) / (file_name(stem) + (f".{file_name(suffix, 16)}" if suffix else ""))
        target.parent.mkdir(parents=True, exist_ok=True)
        LOGGER.info(f"fetching {shown(url)} to {target}")
        with atomic_path(target) as tmp, tmp.open("wb") as out:
            for block in _blocks(answer, url, MAX_FILE, tell=True):
                out.write(block)
    return target


# Where to -------------------------------------------------------------------------------------------------------------


def is_public(address: str) -> bool:
    """Return whether an IP address belongs to the public network; an IPv4 address inside an IPv6 one must, too."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip in NAT64:
        return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    if ip.version == 6 and (ip.ipv4_mapped or ip.sixtofour or ip.teredo):
        one = ip.ipv4_mapped or ip.sixtofour
        return all(is_public(str(inner)) for inner in ([one] if one else ip.teredo or ()))
    special = ip.is_multicast or ip.is_reserved or ip.is_unspecified or getattr(ip, "is_site_local", False)
    return ip.is_global and not special


def _split(url: str) -> tuple[SplitResult, str, int]:
    """Return the parts of an HTTP URL, its host in ASCII, and its port.

    Raises:
        ValueError: another kind of URL, or one that is malformed.
    """
    if not is_url(url):
        raise ValueError(f"{shown(url)}: only http:// and https:// URLs are fetched")
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").encode("idna").decode("ascii")
        port = PORTS[parts.scheme] if parts.port is None else parts.port
    except ValueError as error:  # UnicodeError is one
        raise ValueError(f"{shown(url)}: not a valid URL: {error}") from None
    if not re.fullmatch(r"[\w.:%~-]+", host, re.ASCII) or not port:
        raise ValueError(f"{shown(url)}: not a valid URL: {'port 0' if port == 0 else f'host {host!r}'}")
    return parts, host, port


def _resolve(url: str, host: str, port: int, public: bool) -> list[tuple]:
    """Return the addresses of a host, as `socket.getaddrinfo` does.

    Raises:
        ValueError: one of them must be public and is not.
        OSError: there are none.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise OSError(f"the host {host} is unknown ({getattr(error, 'strerror', error)})") from None
    for *_, address in found:
        if public and not is_public(str(address[0])):
            raise ValueError(
                f"{shown(url)}: refused, {host} is {address[0]}, which is not a public address. "
                "Download the file yourself and give its path"
            )
    return found


def _proxy(scheme: str, host: str) -> SplitResult | None:
    """Return the proxy that the environment names for a host, None for a direct connection.

    Raises:
        ValueError: it is no HTTP proxy.
    """
    text = urllib.request.getproxies().get(scheme)
    if not text or urllib.request.proxy_bypass(host):
        return None
    parts = urlsplit(text if "://" in text else f"http://{text}")
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"{scheme}_proxy in the environment is {shown(text)}, which is not an http:// proxy")
    return parts


def _credentials(parts: SplitResult, header: str) -> dict[str, str]:
    """Return the header for the user name and password of a URL, {} without them."""
    if parts.username is None:
        return {}
    text = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {header: f"Basic {base64.b64encode(text.encode()).decode()}"}


# The connection -------------------------------------------------------------------------------------------------------


class _Deadline:
    """The time left until a deadline; None for no limit."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    def left(self, at_most: float) -> float:
        """Return the seconds that the next operation may take; TimeoutError if none are left."""
        left = at_most if self._end is None else min(at_most, self._end - time.monotonic())
        if left <= 0:
            raise TimeoutError(f"too slow: not done after {self._seconds:.0f} s")
        return left


class _Line(io.RawIOBase):
    """The data that a server sends, limited in total size and minimum rate."""

    def __init__(self, sock: socket.socket, head: _Deadline) -> None:
        self._sock, self._deadline = sock, head
        self._limit = float("inf")
        self._size, self._start = 0, float("inf")  # bytes since the start of the window, which none has yet

    def begin_body(self, limit: int, deadline: _Deadline) -> None:
        """Set the limits for all that comes after the headers."""
        self._deadline = deadline
        self._limit = 2 * limit + CHUNK  # chunks have heads of their own; `_blocks` counts the content
        self._size, self._start = 0, time.monotonic()

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read at least one byte; 0 at the end."""
        self._sock.settimeout(self._deadline.left(SILENCE))
        try:
            count = self._sock.recv_into(buffer)
        except TimeoutError:
            self._deadline.left(SILENCE)
            raise TimeoutError(f"too slow: not a byte in {SILENCE:.0f} s") from None
        self._limit -= count
        if self._limit < 0:
            raise OSError("too large")
        self._size += count
        spent = time.monotonic() - self._start
        if spent > RATE_WINDOW:
            if count and self._size < MIN_RATE * spent:
                raise TimeoutError(
                    f"too slow: {self._size / spent:.0f} bytes a second over {spent:.0f} s; at least {MIN_RATE} are "
                    "expected"
                )
            self._size, self._start = 0, time.monotonic()
        return count


class _Answer(http.client.HTTPResponse):
    """An answer whose bytes come through a `_Line`, with its status and headers read."""

    def __init__(self, sock: socket.socket, method: str, head: _Deadline) -> None:
        super().__init__(sock, method=method)
        self.line = _Line(sock, head)
        self.fp = io.BufferedReader(self.line, CHUNK)
        self.begin()


def _ask(sock: socket.socket, method: str, target: str, headers: dict[str, str], head: _Deadline) -> _Answer:
    """Send a request without a body; return the answer."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{key}: {value}" for key, value in headers.items()), "", ""]
    sock.settimeout(head.left(SILENCE))
    sock.sendall("\r\n".join(lines).encode("ascii"))
    return _Answer(sock, method, head)


def _connect(addresses: list[tuple], head: _Deadline) -> socket.socket:
    """Connect to the first of the addresses that answers."""
    problem = OSError("the host has no address")
    for family, kind, protocol, _, address in addresses:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(head.left(CONNECT_TIME))
            sock.connect(address)
            return sock
        except OSError as error:
            problem = error
            sock.close()
    raise problem


def _request(url: str, public: bool, head: _Deadline) -> tuple[_Answer, socket.socket]:
    """Connect and ask for a URL, by a proxy if the environment says so; the caller closes the socket."""
    parts, host, port = _split(url)
    secure = parts.scheme == "https"
    name = f"[{host}]" if ":" in host else host
    place = f"{name}:{port}" if port != PORTS[parts.scheme] else name
    path = quote(f"{parts.path or '/'}{'?' * bool(parts.query)}{parts.query}", safe=string.punctuation)
    headers = {"Host": place, "User-Agent": f"yolov5-swinv2/{VERSION}", "Accept-Encoding": "identity"}
    headers |= {"Connection": "close"} | _credentials(parts, "Authorization")
    proxy = _proxy(parts.scheme, host)
    addresses = [] if proxy and not public else _resolve(url, host, port, public)
    sock = _connect(_resolve(url, proxy.hostname, proxy.port or 80, False) if proxy else addresses, head)
    try:
        if proxy and (public or secure):
            address = addresses[0][4][0] if public else host
            tunnel = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
            answer = _ask(sock, "CONNECT", tunnel, {"Host": tunnel} | _credentials(proxy, "Proxy-Authorization"), head)
            if answer.status != 200:
                raise OSError(f"the proxy {proxy.hostname} answers {answer.status} {answer.reason} to {tunnel}")
        elif proxy:
            path = f"http://{place}{path}"
            headers |= _credentials(proxy, "Proxy-Authorization")
        if secure:
            sock.settimeout(head.left(SILENCE))  # of the whole handshake
            sock = ssl.create_default_context().wrap_socket(sock, server_hostname=host)
        return _ask(sock, "GET", path, headers, head), sock
    except BaseException:
        sock.close()
        raise


@contextmanager
def _open(url: str, public: bool = False) -> Iterator[_Answer]:
    """Ask for a URL, following redirects; what is yielded has status 200 and its body still to come.

    Args:
        url: HTTP URL.
        public: refuse hosts outside the public network, also in redirects.
    """
    head, asked = _Deadline(HEAD_TIME), url
    for _ in range(MAX_REDIRECTS + 1):
        with _named(url):
            answer, sock = _request(asked, public, head)
        with closing(sock), closing(answer):
            if answer.status == 200:
                yield answer
                return
            where = answer.headers.get("Location")
            if answer.status not in REDIRECTS or not where:
                raise OSError(f"{shown(url)}: the server answers {answer.status} {printable(answer.reason)}")
            try:
                asked = urljoin(asked, where.encode("latin-1").decode(errors="replace"))
            except ValueError as error:
                raise ValueError(f"{shown(url)}: redirected to no valid URL: {error}") from None
    raise OSError(f"{shown(url)}: more than {MAX_REDIRECTS} redirects")


@contextmanager
def _named(url: str) -> Iterator[None]:
    """Add the URL to network errors."""
    try:
        yield
    except OSError as error:
        raise OSError(f"{shown(url)}: {printable(error.strerror or str(error)) or type(error).__name__}") from None
    except http.client.HTTPException as error:
        raise OSError(f"{shown(url)}: malformed or cut off answer: {printable(str(error))}") from None


def _blocks(answer: _Answer, url: str, limit: int, seconds: float | None = None, tell: bool = False) -> Iterator[bytes]:
    """Yield the body of an answer.

    Args:
        answer: at the start of its body.
        url: for messages.
        limit: most bytes.
        seconds: most time; None as long as there is progress.
        tell: log it.

    Raises:
        OSError: it is empty, shorter than announced, longer than `limit`, or comes too slowly.
    """
    expected = answer.length  # None if the server does not say
    large = f"{shown(url)}: more than {limit >> 20} MiB, which is too large"
    if expected is not None and expected > limit:
        raise OSError(large)
    answer.line.begin_body(limit, _Deadline(seconds))
    size, told = 0, time.monotonic()
    while True:
        with _named(url):
            try:
                block = answer.read(CHUNK)
            except ValueError as error:  # a negative size of a chunk
                raise http.client.HTTPException(str(error)) from None
        if not block:
            break
        size += len(block)
        if size > limit:
            raise OSError(large)
        yield block
        if tell and time.monotonic() - told > TOLD_EVERY:
            told = time.monotonic()
            LOGGER.info(f"  {size / 1e6:.1f} MB" + (f" of {expected / 1e6:.1f}" if expected else ""))
    if not size:
        raise OSError(f"{shown(url)}: the server sent an empty file")
    if expected is not None and size != expected:
        raise OSError(f"{shown(url)}: the connection broke: {size} of {expected} bytes arrived. Try again")
