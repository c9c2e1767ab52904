"""Fetch one file that the user named by its address; nothing else in the project opens an address."""

import ipaddress
import socket
import urllib.error
import urllib.request
from http.client import HTTPMessage
from typing import IO
from urllib.parse import urlsplit

from utils.general import VERSION

MAX_BYTES = 64 << 20
MAX_REDIRECTS = 5
TIMEOUT = 20.0  # seconds without an answer


def is_url(text: str) -> bool:
    """Whether a source is a web address."""
    return text.lower().startswith(("http://", "https://"))


def check_public(url: str) -> None:
    """Refuse an address that is not in the public network, so that a source from outside cannot reach inner services.

    Raises:
        ValueError: no http(s) address, or its host has an address that is not public.
        OSError: the host is unknown.
    """
    parts = urlsplit(url)
    if not is_url(url) or not parts.hostname:
        raise ValueError(f"{url}: only http:// and https:// addresses are fetched")
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise OSError(f"{url}: the host {parts.hostname} is unknown ({error.strerror})") from None
    for *_, address in found:
        if not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_global:
            raise ValueError(
                f"{url}: refused, {parts.hostname} is {address[0]}, which is not a public address. "
                "Download the file yourself and give its path"
            )


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Follow at most `MAX_REDIRECTS`, each to a public address."""

    max_redirections = MAX_REDIRECTS

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        """Check the new address first."""
        check_public(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(url: str) -> bytes:
    """Return the content of a public address.

    Raises:
        ValueError: the address is refused (`check_public`), or holds more than 64 MiB.
        OSError: there is no answer, or an error.
    """
    check_public(url)
    request = urllib.request.Request(url, headers={"User-Agent": f"yolov5-swinv2/{VERSION}"})
    try:
        with urllib.request.build_opener(_CheckedRedirects).open(request, timeout=TIMEOUT) as answer:
            data = answer.read(MAX_BYTES + 1)
    except urllib.error.URLError as error:
        raise OSError(f"{url}: not fetched: {error.reason}") from error
    if len(data) > MAX_BYTES:
        raise ValueError(f"{url}: more than {MAX_BYTES >> 20} MiB, which is too large for a picture")
    return data
