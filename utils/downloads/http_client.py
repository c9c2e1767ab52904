"""Send HTTP requests within limits of time and size; nothing else in the project opens an HTTP connection.

A name is resolved once, and the connection goes to exactly the addresses that were found and, for URLs that come from
outside, checked. Proxies of the environment (`http_proxy`, `https_proxy`, `no_proxy`) are used: for public URLs the
proxy gets the checked IP address instead of the name, which it could resolve differently.
"""

import base64
import http.client
import io
import ipaddress
import re
import shutil
import socket
import ssl
import string
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from utils.console import LOGGER, ProgressBar
from utils.files import check_place, naming
from utils.paths import VERSION
from utils.text import printable

MAX_REDIRECTS = 5
CONNECT_TIME = 10.0  # seconds for each address of a host
HEAD_TIME = 45.0  # seconds from the first connection to the last header, all redirects included
ANSWER_TIME = 20.0  # seconds in which `resume` must reach a server, all tries together
TRIES = 3  # of `resume`
PAUSE = 1.0  # seconds between them
SILENCE = 20.0  # seconds without a byte
RATE_WINDOW = 30.0  # seconds over which the rate is averaged
MIN_RATE = 2048  # bytes a second; a modem has more
CHUNK = 1 << 18
TOLD_EVERY = 5.0  # seconds between lines of progress
PASSING = (408, 416, 425, 429)  # refusals after which another try may help, as after 500 and more
REDIRECTS = (301, 302, 303, 307, 308)
PORTS = {"http": 80, "https": 443}
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address


class FetchError(OSError):
    """A server, or the way to it, does not give a file.

    Attributes:
        again: whether another try may help.
    """

    def __init__(self, message: str, again: bool = True) -> None:
        super().__init__(message)
        self.again = again


def is_http(url: str | Path) -> bool:
    """Return whether a source is an HTTP URL."""
    return str(url).lower().startswith(("http://", "https://"))


def shown(url: str) -> str:
    """Return a URL for messages: printable, without the user name and password that it may hold."""
    scheme, mark, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    return printable(f"{scheme}{mark}{place.rpartition('@')[2]}{slash}{path}" if mark else url)


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


def split_url(url: str) -> tuple[SplitResult, str, int]:
    """Return the parts of an HTTP URL, its host in ASCII, and its port.

    Raises:
        ValueError: another kind of URL, or one that is malformed.
    """
    if not is_http(url):
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


def _resolve(url: str, host: str, port: int, public: bool, head: "_Deadline") -> list[tuple]:
    """Return the addresses of a host, as `socket.getaddrinfo` does.

    Raises:
        ValueError: one of them must be public and is not.
        OSError: there are none, or name servers do not answer.
    """
    results: list[Any] = []

    def look_up() -> None:
        try:
            results.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            results.append(error)

    thread = Thread(target=look_up, daemon=True)  # of its own: the system knows no time limit here
    thread.start()
    thread.join(head.left(CONNECT_TIME))
    found = results[0] if results else TimeoutError("name servers do not answer")
    if isinstance(found, Exception):
        raise OSError(f"the host {host} is unknown ({getattr(found, 'strerror', None) or found})") from None
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
        self._limit = 2 * limit + CHUNK  # chunks have heads of their own; `blocks` counts the content
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
    """Connect to the first of the addresses that answers; the second one is of another family than the first."""
    problem = OSError("the host has no address")
    first = addresses[:1]
    others = [found for found in addresses if found[0] != first[0][0]][:1]  # where IPv6 leads nowhere, IPv4 may not
    rest = [found for found in addresses[1:] if found not in others]
    for family, kind, protocol, _, address in first + others + rest:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(head.left(CONNECT_TIME))
            sock.connect(address)
            return sock
        except OSError as error:
            problem = error
            sock.close()
    raise problem


def _connect_to_proxy(url: str, proxy: SplitResult, head: _Deadline) -> socket.socket:
    """Connect to a proxy; errors name it."""
    try:
        return _connect(_resolve(url, proxy.hostname or "", proxy.port or 80, False, head), head)
    except OSError as error:
        raise OSError(f"the proxy {proxy.hostname}, named by the environment: {error.strerror or error}") from None


def _request(url: str, public: bool, head: _Deadline, more: Mapping[str, str]) -> tuple[_Answer, socket.socket]:
    """Connect and ask for a URL, by a proxy if the environment says so; the caller closes the socket."""
    parts, host, port = split_url(url)
    secure = parts.scheme == "https"
    name = f"[{host}]" if ":" in host else host
    place = f"{name}:{port}" if port != PORTS[parts.scheme] else name
    path = quote(f"{parts.path or '/'}{'?' * bool(parts.query)}{parts.query}", safe=string.punctuation)
    headers = {"Host": place, "User-Agent": f"yolov5-swinv2/{VERSION}", "Accept-Encoding": "identity"}
    headers |= {"Connection": "close"} | _credentials(parts, "Authorization") | dict(more)
    proxy = _proxy(parts.scheme, host)
    addresses = [] if proxy and not public else _resolve(url, host, port, public, head)
    sock = _connect_to_proxy(url, proxy, head) if proxy else _connect(addresses, head)
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
def open_url(
    url: str,
    public: bool = False,
    headers: Mapping[str, str] | None = None,
    seconds: float | None = None,
    downgrade: bool = True,
) -> Iterator[_Answer]:
    """Ask for a URL, following redirects; the body of what is yielded is still to come.

    Args:
        url: HTTP URL.
        public: refuse hosts outside the public network, also in redirects.
        headers: further ones; with them an answer may have the status 206 or 416, else it is 200.
        seconds: to the last header; None for `HEAD_TIME`.
        downgrade: follow redirects from https to http.

    Raises:
        ValueError: not an HTTP URL, or a host that is not public.
        FetchError: no such answer.
    """
    head, asked = _Deadline(HEAD_TIME if seconds is None else seconds), url
    for _ in range(MAX_REDIRECTS + 1):
        with _named(url):
            answer, sock = _request(asked, public, head, headers or {})
        with closing(sock), closing(answer):
            if answer.status == 200 or (headers and answer.status in (206, 416)):
                yield answer
                return
            where = answer.headers.get("Location")
            if answer.status not in REDIRECTS or not where:
                text = f"{shown(url)}: the server answers {answer.status} {printable(answer.reason)}"
                raise FetchError(text, again=answer.status >= 500 or answer.status in PASSING)
            secure = asked.lower().startswith("https:")
            try:
                asked = urljoin(asked, where.encode("latin-1").decode(errors="replace"))
            except ValueError as error:
                raise ValueError(f"{shown(url)}: redirected to no valid URL: {error}") from None
            if secure and not downgrade and not asked.lower().startswith("https:"):
                raise FetchError(
                    f"{shown(url)}: redirected from https to {shown(asked)}, which is refused", again=False
                )
    raise FetchError(f"{shown(url)}: more than {MAX_REDIRECTS} redirects", again=False)


@contextmanager
def _named(url: str) -> Iterator[None]:
    """Add the URL to network errors."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        hint = "The variable SSL_CERT_FILE names a file with certificates of your own network"
        raise FetchError(f"{shown(url)}: not trusted: {error.verify_message}. {hint}", again=False) from None
    except OSError as error:
        raise FetchError(f"{shown(url)}: {printable(error.strerror or str(error)) or type(error).__name__}") from None
    except http.client.HTTPException as error:
        raise FetchError(f"{shown(url)}: malformed or cut off answer: {printable(str(error))}") from None


def blocks(
    answer: _Answer, url: str, limit: int, seconds: float | None = None, tell: bool = False, have: int = 0
) -> Iterator[bytes]:
    """Yield the body of an answer.

    Args:
        answer: at the start of its body.
        url: for messages.
        limit: most bytes.
        seconds: most time; None as long as there is progress.
        tell: log it.
        have: bytes of the file that come before this body; the other numbers count them.

    Raises:
        FetchError: it is empty, shorter than announced, longer than `limit`, or comes too slowly.
    """
    expected = None if answer.length is None else have + answer.length  # None if the server does not say
    most = f"{limit:,} bytes" if limit % (1 << 20) else f"{limit >> 20} MiB"
    large = FetchError(f"{shown(url)}: more than {most}, which is too large", again=False)
    if expected is not None and expected > limit:
        raise large
    answer.line.begin_body(limit, _Deadline(seconds))
    size, told = have, time.monotonic()
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
            raise large
        yield block
        if tell and time.monotonic() - told > TOLD_EVERY:
            told = time.monotonic()
            LOGGER.info(f"  {size / 1e6:.1f} MB" + (f" of {expected / 1e6:.1f}" if expected else ""))
    if not size:
        raise FetchError(f"{shown(url)}: the server sent an empty file")
    if expected is not None and size != expected:
        raise FetchError(f"{shown(url)}: the connection broke: {size} of {expected} bytes arrived")


# A large file ---------------------------------------------------------------------------------------------------------


def resume(url: str, part: Path, limit: int, size: int | None = None) -> None:
    """Download a file to `part`, after the bytes that an earlier call left there; a bar shows the progress.

    It goes on if the server says that its file is still the same, by an ETag that is kept beside `part`, and begins
    anew otherwise. Where that is possible, what has arrived stays when the connection breaks. A server that is reached
    by https cannot redirect to http.

    Args:
        url: HTTP URL; it may lead into the local network.
        part: nothing, or the file of an earlier call; no other process may write to it.
        limit: most bytes.
        size: number of bytes; None for the one that the server has to announce.

    Raises:
        ValueError: not an HTTP URL.
        FetchError: the server cannot be reached, or does not send this file.
        OSError: `part` cannot be written.
    """
    for left in (part, tag_of(part)):
        if left.is_symlink():  # nobody's file is written to
            left.unlink()
        check_place(left)
    if size is not None and _size(part) == size:
        return
    end = time.monotonic() + ANSWER_TIME
    for last in (False,) * (TRIES - 1) + (True,):
        before = _size(part)
        try:
            return _resume(url, part, limit, size, end - time.monotonic())
        except FetchError as error:
            if _size(part) > before:  # the server can be reached
                end = time.monotonic() + ANSWER_TIME
            if last or not error.again or time.monotonic() + PAUSE > end:
                raise
            LOGGER.info(f"{error}. Trying again")
        time.sleep(PAUSE)


def tag_of(part: Path) -> Path:
    """Return the file with the ETag of what `resume` has begun."""
    return part.with_name(f"{part.name}.etag")


def _size(file: Path) -> int:
    """Return the bytes of a file, 0 if there is none."""
    return file.stat().st_size if file.is_file() else 0


def _resume(url: str, part: Path, limit: int, size: int | None, seconds: float) -> None:
    """Do what `resume` says in one try, which must be answered within `seconds`."""
    have, tag = _size(part), ""
    if 0 < have < limit and tag_of(part).is_file():
        tag = tag_of(part).read_text(encoding="latin-1")
        tag = tag if _is_strong(tag) else ""
    headers = {"Range": f"bytes={have}-", "If-Range": tag} if tag else {}
    with open_url(url, headers=headers, seconds=seconds, downgrade=False) as answer:
        if answer.status == 200:
            have, tag = 0, (answer.headers.get("ETag") or "").strip()
            tag = tag if _is_strong(tag) else ""
        elif not re.match(rf"bytes {have}-\d+/", answer.headers.get("Content-Range", "")):  # also 416
            part.unlink()
            raise FetchError(f"{shown(url)}: the server does not go on after {have} bytes")
        _check_announced(answer, url, part, have, size)
        with naming(tag_of(part)):
            tag_of(part).write_text(tag, encoding="ascii")
        keep = bool(tag)  # also when the program is ended by a signal
        try:
            _store(answer, url, part, limit, size, have)
            keep = True
        except OSError as error:
            keep &= isinstance(error, FetchError) and error.again
            raise
        finally:
            if not keep:
                part.unlink(missing_ok=True)
                tag_of(part).unlink(missing_ok=True)


def _is_strong(tag: str) -> bool:
    """Whether an ETag stands for the bytes of a file, as a weak one, W/"...", does not."""
    return re.fullmatch(r'"[!#-~]{1,200}"', tag) is not None


def _check_announced(answer: _Answer, url: str, part: Path, have: int, size: int | None) -> None:
    """Raise an error if an answer, by its headers, cannot be the file, or the disk cannot hold it."""
    if answer.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        raise FetchError(_web_page(url), again=False)
    total = None if answer.length is None else have + answer.length
    if total is None and size is None:
        raise FetchError(f"{shown(url)}: the server does not say how large the file is", again=False)
    if total is not None and size is not None and total != size:
        raise FetchError(
            f"{shown(url)}: the server has {total:,} bytes under this name, expected {size:,}", again=False
        )
    needed, disk = (total or size or 0) - have, shutil.disk_usage(part.parent)
    if needed > disk.free and disk.total:  # some network file systems do not say
        raise OSError(
            f"{part}: not enough room on the disk: {needed / 1e6:.0f} MB are needed, {disk.free / 1e6:.0f} MB free"
        )


def _web_page(url: str) -> str:
    return f"{shown(url)}: the server sends a web page instead of a file, such as the login page of a network or proxy"


def _store(answer: _Answer, url: str, part: Path, limit: int, size: int | None, have: int) -> None:
    """Write the body of an answer after the first `have` bytes of a file."""
    total = size or have + (answer.length or 0)
    bar = ProgressBar[bytes](title=part.stem, total=total, done=have, unit="bytes")
    with bar, part.open("r+b" if have else "wb") as file:
        file.seek(have)
        for block in blocks(answer, url, limit, have=have):
            if not file.tell() and block.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
                raise FetchError(_web_page(url), again=False)
            with naming(part):
                file.write(block)
            bar.update(len(block))
        with naming(part):
            file.flush()
    if size is not None and _size(part) != size:
        raise FetchError(f"{shown(url)}: the connection broke: {_size(part)} of {size} bytes arrived")
