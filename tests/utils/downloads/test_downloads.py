"""utils/downloads/__init__.py, http_client.py: what a server may do to us, and which one we talk to; on 127.0.0.1."""

import base64
import logging
import socket
import threading
import time
from contextlib import contextmanager, suppress

import pytest

from tests.waiting import HANG
from utils import downloads
from utils.downloads import download, fetch, http_client
from utils.downloads.http_client import is_public

OK = b"HTTP/1.1 200 OK\r\n"


@contextmanager
def serve(*scripts):
    """Answer connection i with scripts[i], the last one again and again; yields the URL and the requests so far."""
    listener = socket.create_server(("127.0.0.1", 0))
    requests, over = [], threading.Event()

    def run(number, conn):
        with conn, suppress(OSError):
            requests.append(conn.recv(65536).decode("latin-1"))
            for data in scripts[min(number, len(scripts) - 1)]():
                if over.is_set():
                    return
                conn.sendall(data)

    def accept():
        for number in range(1000):
            try:
                conn, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=run, args=(number, conn), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", requests
    finally:
        over.set()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def whole(*parts):
    return lambda: iter(parts)


def drip(head, data, pause=0.02):
    def script():
        yield head
        for _ in range(1000 // len(data)):  # not for ever, so that a test without limits fails and ends
            for byte in data:
                yield bytes([byte])
                time.sleep(pause)

    return script


def flood(head, data):
    def script():
        yield head
        for _ in range((64 << 20) // len(data)):
            yield data

    return script


@pytest.fixture
def local(monkeypatch):
    """127.0.0.1 counts as public."""
    monkeypatch.setattr(http_client, "is_public", lambda address: address == "127.0.0.1")


@pytest.fixture
def impatient(local, monkeypatch):
    monkeypatch.setattr(http_client, "HEAD_TIME", 1)
    monkeypatch.setattr(http_client, "RATE_WINDOW", 0.3)


# Time and size --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (drip(OK + b"Content-Length: 1000000\r\n\r\n", b"x"), "too slow: .* bytes a second"),
        (drip(OK + b"\r\n", b"x"), "too slow: .* bytes a second"),
        (drip(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 900), "too slow: .* bytes a second"),
        (drip(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"), "too slow: .* bytes a second"),
        (drip(OK, b"X-Header: y"), "too slow: not done"),
        (flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "too slow: not done"),
    ],
)
def test_slow_servers_are_given_up(impatient, monkeypatch, tmp_path, script, message):
    if "bytes" in message:
        monkeypatch.setattr(http_client, "HEAD_TIME", HANG)  # these heads are whole, however late
    with serve(script) as (url, _):
        for get in (fetch, lambda url: download(url, tmp_path)):
            with pytest.raises(OSError, match=rf"127\.0\.0\.1:\d+/a\.jpg: ({message})"):
                get(f"{url}/a.jpg")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_that_is_silent(local, monkeypatch, scheme):
    monkeypatch.setattr(http_client, "SILENCE", 0.3)
    with serve(drip(b"", b" ", 9)) as (url, _), pytest.raises(OSError, match="not a byte in 0 s|handshake|timed out"):
        fetch(url.replace("http", scheme))


def test_a_handshake_that_takes_for_ever(impatient):
    with (
        serve(drip(b"\x16\x03\x03\x3f\xff", bytes(900))) as (url, _),
        pytest.raises(OSError, match="timed out|too slow"),
    ):
        fetch(url.replace("http", "https"))


def test_an_image_has_a_limit_of_time_however_steady_it_comes(local, monkeypatch):
    monkeypatch.setattr(http_client, "MIN_RATE", 1)
    monkeypatch.setattr(downloads, "IMAGE_TIME", 0.6)
    with serve(drip(OK + b"\r\n", b"x" * 10)) as (url, _), pytest.raises(OSError, match="not done after 1 s"):
        fetch(url)


def test_a_slow_line_is_fast_enough_for_a_large_file(monkeypatch, tmp_path):
    monkeypatch.setattr(http_client, "RATE_WINDOW", 0.05)
    monkeypatch.setattr(http_client, "MIN_RATE", 100)
    part = bytes(1000)

    def script():
        yield OK + b"Content-Length: 20000\r\n\r\n"
        for _ in range(20):
            yield part
            time.sleep(0.02)

    with serve(script) as (url, _):
        assert download(f"{url}/best.pt", tmp_path).read_bytes() == part * 20


@pytest.mark.parametrize(
    "script",
    [
        whole(OK + b"Content-Length: 99999999999\r\n\r\n"),
        flood(OK + b"\r\n", bytes(5000)),
        flood(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"8\r\n12345678\r\n"),
        flood(OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"X: y\r\n" * 1000),
    ],
)
def test_too_large(local, monkeypatch, tmp_path, script):
    monkeypatch.setattr(downloads, "MAX_IMAGE", 1 << 20)
    monkeypatch.setattr(downloads, "MAX_FILE", 1 << 20)
    with serve(script) as (url, _):
        for get in (fetch, lambda url: download(url, tmp_path)):
            with pytest.raises(OSError, match="too large"):
                get(f"{url}/a.jpg")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"hello", "malformed or cut off answer: hello"),
        (b"", "closed connection"),
        (b"HTTP/1.1 99999 OK\r\n\r\n", "malformed or cut off"),
        (OK + b"X: y\r\n" * 200 + b"\r\n", "malformed or cut off answer: got more than 100 headers"),
        (OK + b"X: " + b"y" * 70000 + b"\r\n\r\n", "malformed or cut off answer: got more than 65536 bytes"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nabc\r\n0\r\n\r\n", "malformed or cut off"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "malformed or cut off"),
        (OK + b"Content-Length: 9\r\n\r\nabc", "3 of 9 bytes arrived"),
        (OK + b"\r\n", "empty file"),
        (b"HTTP/1.1 204 None\r\n\r\n", "answers 204 None"),
        (b"HTTP/1.1 404 \x1b[31m\r\n\r\n", r"answers 404 \?\[31m"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n", "redirected to no valid URL"),
    ],
)
def test_malformed_answers(local, tmp_path, answer, message):
    with serve(whole(answer)) as (url, _):
        for get in (fetch, lambda url: download(url, tmp_path)):
            with pytest.raises((OSError, ValueError), match=rf"127\.0\.0\.1:\d+/a\.jpg: .*{message}"):
                get(f"{url}/a.jpg")
    assert not list(tmp_path.iterdir())


# Which host -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::5db8:d822", True),  # 93.184.216.34 by NAT64
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fec0::1", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("2002:7f00:1::", False),  # 127.0.0.1 by 6to4
        ("::127.0.0.1", False),
    ],
)
def test_public_addresses(address, public):
    assert is_public(address) == public


@pytest.fixture
def names(monkeypatch):
    """Addresses of hosts, the first one at the first look-up and so on; what is connected to, always in vain."""
    hosts, connected = {}, []

    def look_up(host, port, *_, **__):
        address = hosts[host].pop(0)
        return [(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    class Socket(socket.socket):
        def connect(self, address):
            connected.append(address[0])
            raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(socket, "socket", Socket)
    return hosts, connected


def test_a_name_is_resolved_once(names):
    hosts, connected = names
    hosts["turns.example"] = ["93.184.216.34", "127.0.0.1"]
    with pytest.raises(OSError, match=r"turns\.example/a\.jpg: refused"):
        fetch("http://turns.example/a.jpg")
    assert connected == ["93.184.216.34"]
    with pytest.raises(ValueError, match="is 127.0.0.1, which is not a public address"):
        fetch("http://turns.example/a.jpg")
    assert connected == ["93.184.216.34"]


def test_another_family_of_addresses_is_tried_second(names):
    _, connected = names
    found = [(socket.AF_INET6, (f"2001:db8::{n}", 80)) for n in (1, 2)] + [(socket.AF_INET, ("93.184.216.34", 80))]
    found = [(family, socket.SOCK_STREAM, 6, "", address) for family, address in found]
    with pytest.raises(ConnectionRefusedError):
        http_client._connect(found, http_client._Deadline(9))
    assert connected == ["2001:db8::1", "93.184.216.34", "2001:db8::2"]


def test_a_proxy_that_is_down_is_named(monkeypatch, tmp_path):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    with pytest.raises(OSError, match=r"images.example/a.jpg: the proxy 127.0.0.1, named by the environment: Conn"):
        download("http://images.example/a.jpg", tmp_path)


@pytest.mark.parametrize(
    "host", ["2130706433", "0177.0.0.1", "0x7f.1", "127.1", "localhost", "[::ffff:127.0.0.1]", "example.com@127.0.0.1"]
)
def test_other_spellings_of_the_own_machine(monkeypatch, host):
    monkeypatch.setattr(http_client, "_connect", None)
    with pytest.raises(ValueError, match="which is not a public address"):
        fetch(f"http://{host}/a.jpg")


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.org/x.png",
        "http://",
        "http://:80/x.png",
        "http://127.0.0.1:0/x.png",
        "http://127.0.0.1:99999/x.png",
        "http://[::1/x.png",
        "http://a b/x.png",
        "http://a\0b/x.png",
        "http://" + "a" * 70 + ".org/x.png",
        "http://a..b/x.png",
    ],
)
def test_no_http_url(names, tmp_path, url):
    for get in (fetch, lambda url: download(url, tmp_path)):
        with pytest.raises(ValueError, match="only http:// and https://|not a valid URL"):
            get(url)


@pytest.mark.parametrize(
    "to", ["http://10.0.0.1/", "//10.0.0.1/x", "https://[::1]/", "file:///etc/passwd", "ftp://10.0.0.1/"]
)
def test_redirects_are_checked(local, to):
    with serve(whole(b"HTTP/1.1 302 Found\r\nLocation: " + to.encode() + b"\r\n\r\n")) as (url, _):
        with pytest.raises(ValueError, match="which is not a public address|only http:// and https://"):
            fetch(url)


def test_redirects_are_followed_and_counted(local):
    there = whole(OK + b"Content-Length: 4\r\n\r\nhere")
    moved = [whole(b"HTTP/1.1 302 Found\r\nLocation: /%d\r\n\r\n" % i) for i in range(5)]
    with serve(*moved, there) as (url, requests):
        assert fetch(url) == b"here"
    assert [request.split()[1] for request in requests] == ["/", "/0", "/1", "/2", "/3", "/4"]
    with serve(moved[0]) as (url, _), pytest.raises(OSError, match="more than 5 redirects"):
        fetch(url)


def test_a_password_is_sent_and_never_shown(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="yolov5")
    with serve(whole(OK + b"Content-Length: 1\r\n\r\nx"), whole(b"HTTP/1.1 403 No\r\n\r\n")) as (url, requests):
        url = url.replace("//", "//me:s%40cret@")
        download(f"{url}/a.jpg", tmp_path)
        with pytest.raises(OSError, match="403") as caught:
            download(f"{url}/a.jpg", tmp_path)
    assert f"Authorization: Basic {base64.b64encode(b'me:s@cret').decode()}" in requests[0]
    assert "cret" not in caplog.text + str(caught.value)


def test_a_request_holds_one_line_for_its_path(tmp_path):
    with serve(whole(OK + b"Content-Length: 1\r\n\r\nx")) as (url, requests):
        download(f"{url}/ä b.jpg?q=1 2\r\nX-Mine: yes", tmp_path)
    assert requests[0].splitlines()[0] == "GET /%C3%A4%20b.jpg?q=1%202X-Mine:%20yes HTTP/1.1"
    assert [file.name for file in tmp_path.iterdir()] == ["ä b.jpg"]


def test_a_proxy_is_told_the_address_that_was_checked(monkeypatch, tmp_path):
    real = socket.getaddrinfo

    def look_up(host, *args, **kwargs):
        return real("93.184.216.34" if host == "images.example" else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    tunnel = whole(b"HTTP/1.1 200 Connection established\r\n\r\n")
    with serve(tunnel) as (proxy, requests):
        monkeypatch.setenv("http_proxy", proxy.replace("//", "//me:secret@"))
        with pytest.raises(OSError, match="images.example"):
            fetch("http://images.example/a.jpg")
        assert requests[0].startswith("CONNECT 93.184.216.34:80 HTTP/1.1\r\n")
        assert "Proxy-Authorization: Basic" in requests[0]
    with serve(whole(OK + b"Content-Length: 1\r\n\r\nx")) as (proxy, requests):
        monkeypatch.setenv("http_proxy", proxy)
        download("http://images.example/a.jpg", tmp_path)  # the user named it: the proxy may resolve it
        assert requests[0].startswith("GET http://images.example/a.jpg HTTP/1.1\r\nHost: images.example\r\n")
        with pytest.raises(ValueError, match="10.0.0.1, which is not a public address"):
            fetch("http://10.0.0.1/a.jpg")
        assert len(requests) == 1
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(ValueError, match="not an http:// proxy"):
        fetch("http://images.example/a.jpg")


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/..%2f..%2fup.jpg", "up.jpg"),
        ("/..%5c..%5cup.jpg", "up.jpg"),
        ("/...jpg", "_.jpg"),
        ("/con.jpg", "_con.jpg"),
        ("/%00%0a.jpg", "__.jpg"),
        ("/" + "a" * 300 + ".jpg", "a" * 120 + ".jpg"),
        ("/snap?camera=1", "snap.png"),
        ("/", "image.png"),
        ("/photo.php", "photo.php.png"),
    ],
)
def test_what_a_file_is_called(tmp_path, path, name):
    with serve(whole(OK + b"Content-Type: image/png\r\nContent-Length: 1\r\n\r\nx")) as (url, _):
        assert download(url + path, tmp_path / "in", ("jpg", "mp4")) == tmp_path / "in" / name
    assert [str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*.*")] == [f"in/{name}"]


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/live", "video/mp2t"), ("/", "text/html"), ("/a.jpg", "multipart/x-mixed-replace; boundary=b"), ("/live", "")],
)
def test_streams_are_not_downloaded(tmp_path, path, kind):
    head = OK + (f"Content-Type: {kind}\r\n".encode() if kind else b"")
    with serve(flood(head + b"\r\n", bytes(9999))) as (url, _):
        assert download(url + path, tmp_path, ("jpg", "mp4")) is None
    assert not list(tmp_path.iterdir())
