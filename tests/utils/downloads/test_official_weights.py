"""Official weights: what a name stands for, and what servers, disks and other processes do to a fetch."""

import hashlib
import logging
import os
import re
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest
import torch

from tests.waiting import HANG
from tests.weights_server import CONTENT, Handler, Server, zip_of
from utils import downloads
from utils.downloads import http_client, official_weights
from utils.downloads.official_weights import FOLDER, IMAGENET, MIRRORS, YOLOV5, Official, find_weights, weights_folder

OTHER = zip_of(700_000, b"another")
HALF = 300_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    running = Server()
    yield running
    running.shutdown()
    running.server_close()


@pytest.fixture
def second():
    running = Server()
    yield running
    running.shutdown()
    running.server_close()


def official(confirmed=True, content=CONTENT, name="yolov5n.pt"):
    digest = hashlib.sha256(content).hexdigest()
    return Official(f"https://example.invalid/v7.0/{name}", len(content), digest, confirmed)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The weights folder, not there yet; yolov5n.pt and, not confirmed, yolov5l.pt are small files."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv(FOLDER, str(tmp_path / "weights"))
    monkeypatch.setitem(YOLOV5, "yolov5n.pt", official())
    monkeypatch.setitem(YOLOV5, "yolov5l.pt", official(confirmed=False, name="yolov5l.pt"))
    monkeypatch.setattr(http_client, "PAUSE", 0)
    return tmp_path / "weights"


@pytest.fixture
def mirror(server, folder, monkeypatch):
    monkeypatch.setenv(MIRRORS, f"{server.url};only")
    return server


def left(folder):
    """Names of the files in the folder."""
    return sorted(file.name for file in folder.iterdir()) if folder.exists() else []


def fetched(folder, name="yolov5n"):
    """Fetch, and compare everything with what must be there."""
    file = find_weights(name)
    assert file == folder / f"{name}.pt"
    assert file.read_bytes() == CONTENT
    assert left(folder) == [file.name]
    return file


# What a name stands for -----------------------------------------------------------------------------------------------


def test_the_table():
    assert {name.removesuffix(".pt") for name in YOLOV5} == {
        f"yolov5{size}{p6}" for size in "nsmlx" for p6 in ("", "6")
    }
    assert [name for name, entry in YOLOV5.items() if entry.confirmed] == ["yolov5n.pt", "yolov5s.pt", "yolov5m.pt"]
    for name, entry in YOLOV5.items():
        assert entry.url == f"https://github.com/ultralytics/yolov5/releases/download/v7.0/{name}"
        assert re.fullmatch("[0-9a-f]{64}", entry.sha256)
    sizes = [entry.size for entry in YOLOV5.values()]
    assert sizes[:5] == sorted(sizes[:5])
    assert sizes[5:] == sorted(sizes[5:])


def test_the_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.delenv(FOLDER, raising=False)
    assert weights_folder() == tmp_path / "checkpoints/yolov5-v7.0"
    monkeypatch.setenv(FOLDER, "~/weights")
    assert weights_folder() == Path.home() / "weights"
    monkeypatch.setenv(FOLDER, " ")
    assert weights_folder() == tmp_path / "checkpoints/yolov5-v7.0"


def test_files_that_are_there_are_not_asked_for(folder, mirror, tmp_path):
    assert fetched(folder)
    assert find_weights("yolov5n.pt") == folder / "yolov5n.pt"
    (folder / "yolov5n.pt").write_bytes(b"trained on")  # no digest of a local file
    assert find_weights("yolov5n") == folder / "yolov5n.pt"
    Path("yolov5n.pt").touch()  # in the working directory
    assert find_weights("yolov5n") == find_weights("yolov5n.pt") == Path("yolov5n.pt")
    (tmp_path / "yolov5n.pt").touch()
    assert find_weights(tmp_path / "yolov5n.pt") == find_weights(tmp_path / "yolov5n") == tmp_path / "yolov5n.pt"
    Path("yolov5n").mkdir()  # say, an exported model
    assert find_weights("yolov5n") == Path("yolov5n")
    assert len(mirror.requests) == 1


def test_a_path_with_a_folder_is_fetched_there(folder, mirror, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"new/yolov5n.pt: neither this file nor its folder exists"):
        find_weights("new/yolov5n.pt")
    (tmp_path / "new").mkdir()
    assert find_weights(tmp_path / "new/yolov5n") == tmp_path / "new/yolov5n.pt"
    assert left(tmp_path / "new") == ["yolov5n.pt"]
    assert not folder.exists()


def test_a_link_to_nothing_is_not_fetched(folder, mirror):
    Path("yolov5n.pt").symlink_to("gone.pt")
    for name in ("yolov5n", "yolov5n.pt"):
        with pytest.raises(FileNotFoundError, match=r"yolov5n.pt: a link to gone.pt, which does not exist"):
            find_weights(name)
    assert not mirror.requests


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("yolov5su.pt", r"yolov5su.pt: .* a detection head without anchors, .* Those with anchors are yolov5s.pt"),
        ("yolov5n6u", r"yolov5n6u: .* without anchors, .* are yolov5n6.pt"),
        ("yolov5s-seg.pt", r"segmentation weights; this project detects. .* yolov5s.pt"),
        ("dir/yolov5m-cls", r"dir/yolov5m-cls: .* classification weights"),
        ("yolov5s-swinv2.pt", r"no published weights. Train .* --cfg models/yolov5s-swinv2.yaml, .* from yolov5s.pt"),
        ("yolov5l_swinv2", r"--cfg models/yolov5l-swinv2.yaml"),
        ("yolov5sl.pt", r"no such file. Official weights have the names yolov5n.pt, .* yolov5x6.pt"),
        ("YOLOv5s.pt", r"no such file. Official weights"),
    ],
)
def test_near_names_are_refused(folder, mirror, name, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        find_weights(name)
    assert not mirror.requests


@pytest.mark.parametrize(
    "name", ["best.pt", "yolov5_mine.pt", "yolov8n.pt", "yolov5s.onnx", "yolov5s_openvino_model", ""]
)
def test_other_names_are_left_alone(folder, mirror, name):
    assert find_weights(name) == Path(name)
    assert not mirror.requests


# What a server may do -------------------------------------------------------------------------------------------------


def test_a_whole_file(folder, mirror, caplog):
    caplog.set_level(logging.INFO, logger="yolov5")
    fetched(folder)
    assert mirror.requests == [("/v7.0/yolov5n.pt", None, None)]
    assert f"from {mirror.url}/v7.0/yolov5n.pt" in caplog.text
    assert f"kept as {folder / 'yolov5n.pt'}" in caplog.text
    (notice,) = (record for record in caplog.records if "AGPL-3.0 or an Enterprise License" in record.message)
    assert notice.levelno == logging.WARNING  # so that `_verbose=False` of the hub shows it


def test_a_broken_connection_is_resumed(folder, mirror):
    mirror.breaks = [HALF, 2 * HALF]
    fetched(folder)
    assert [request[1:] for request in mirror.requests] == [
        (None, None), (f"bytes={HALF}-", '"1"'), (f"bytes={2 * HALF}-", '"1"')
    ]  # fmt: skip


def test_a_later_process_resumes(folder, mirror):
    mirror.breaks = [HALF, HALF, HALF]
    with pytest.raises(FileNotFoundError, match=rf"broke: {HALF} of .* bytes arrived .{HALF:,} bytes are kept"):
        find_weights("yolov5n")
    assert left(folder) == ["yolov5n.pt.part", "yolov5n.pt.part.etag"]
    assert len(mirror.requests) == 3
    fetched(folder)
    assert mirror.requests[-1][1:] == (f"bytes={HALF}-", '"1"')


def test_a_process_killed_before_the_last_step_has_all_it_needs(folder, mirror):
    folder.mkdir()
    (folder / "yolov5n.pt.part").write_bytes(CONTENT)
    fetched(folder)
    assert not mirror.requests


@pytest.mark.parametrize("how", ["no ranges", "another file", "no etag", "weak etag", "other range", "part too long"])
def test_what_cannot_be_resumed_begins_anew(folder, mirror, how):
    mirror.breaks = [HALF]
    mirror.ranges = how != "no ranges"
    mirror.etag = {"no etag": "", "weak etag": 'W/"1"'}.get(how, '"1"')
    if how in ("another file", "part too long"):
        folder.mkdir()
        (folder / "yolov5n.pt.part").write_bytes(OTHER[:HALF] if how == "another file" else OTHER + OTHER)
        (folder / "yolov5n.pt.part.etag").write_text('"0"')
        mirror.breaks = []
    if how == "other range":
        mirror.breaks = [HALF, HALF]
        mirror.headers["Content-Range"] = "bytes 5-9/10"  # after the right one, and on a whole answer without meaning
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Handler, "send_header", other_range(Handler.send_header))
            fetched(folder)
        return
    fetched(folder)
    assert mirror.requests[-1][1] is None or how in ("no ranges", "another file")


def other_range(send):
    def send_header(self, key, value):
        send(self, key, "bytes 5-9/10" if key == "Content-Range" else value)

    return send_header


def test_a_range_past_the_end_begins_anew(folder, mirror):
    folder.mkdir()
    (folder / "yolov5l.pt.part").write_bytes(OTHER)
    (folder / "yolov5l.pt.part.etag").write_text('"1"')  # the size is not certain, so the server is asked
    mirror.headers["Content-Range"] = f"bytes */{len(CONTENT)}"
    fetched(folder, "yolov5l")
    assert [request[1] for request in mirror.requests] == [f"bytes={len(OTHER)}-", None]


def test_a_part_of_another_file_is_fetched_again(folder, mirror):
    folder.mkdir()
    (folder / "yolov5n.pt.part").write_bytes(OTHER[:HALF])
    (folder / "yolov5n.pt.part.etag").write_text('"1"')  # the server changed its file without a new ETag
    fetched(folder)
    assert [request[1] for request in mirror.requests] == [f"bytes={HALF}-", None]


@pytest.mark.parametrize(
    ("content", "length", "message"),
    [
        (CONTENT + b"x", True, f"has {len(CONTENT) + 1:,} bytes under this name, expected {len(CONTENT):,}"),
        (CONTENT + b"x", False, f"more than {len(CONTENT):,} bytes, which is too large"),
        (CONTENT[:-1], True, f"has {len(CONTENT) - 1:,} bytes under this name, expected {len(CONTENT):,}"),
        (CONTENT[:-1], False, f"the connection broke: {len(CONTENT) - 1} of {len(CONTENT)} bytes arrived"),
        (OTHER, True, f"another file: sha256 {hashlib.sha256(OTHER).hexdigest()} .*, expected {DIGEST}"),
        (b"", False, "the server sent an empty file"),
    ],
)
def test_another_file_is_never_kept(folder, mirror, content, length, message):
    mirror.content, mirror.length, mirror.etag = content, length, ""
    with pytest.raises(FileNotFoundError, match=message):
        find_weights("yolov5n")
    assert left(folder.parent) == ["work"]


@pytest.mark.parametrize(
    ("kind", "page"), [("text/html; charset=utf-8", b"x"), ("", b"\n <!DOCTYPE html><html>log in")]
)
def test_a_web_page_is_named_as_such(folder, mirror, kind, page):
    mirror.headers, mirror.content = {"Content-Type": kind}, page
    mirror.length = bool(kind)
    with pytest.raises(FileNotFoundError, match="sends a web page instead of a file, such as the login page"):
        find_weights("yolov5n")
    assert len(mirror.requests) == 1
    assert not folder.exists()


def test_redirects(folder, mirror, second, monkeypatch):
    second.status, second.headers["Location"] = 302, f"{mirror.url}/there"
    monkeypatch.setenv(MIRRORS, f"{second.url}/;only")
    mirror.breaks = [HALF]
    fetched(folder)
    assert [request[:2] for request in mirror.requests] == [("/there", None), ("/there", f"bytes={HALF}-")]


def test_a_redirect_loop(folder, mirror):
    mirror.status, mirror.headers["Location"] = 302, "/v7.0/yolov5n.pt"
    with pytest.raises(FileNotFoundError, match="more than 5 redirects"):
        find_weights("yolov5n")
    assert len(mirror.requests) == 6


def test_https_is_never_left(folder, server, monkeypatch):
    server.status, server.headers["Location"] = 302, "http://127.0.0.1/x"
    connected = []

    def request(url, *rest):
        connected.append(url)
        return http_request(url.replace("https:", "http:"), *rest)  # no certificate here

    http_request = http_client._request
    monkeypatch.setattr(http_client, "_request", request)
    monkeypatch.setenv(MIRRORS, f"{server.url.replace('http:', 'https:')};only")
    with pytest.raises(FileNotFoundError, match=r"redirected from https to http://127.0.0.1/x, which is refused"):
        find_weights("yolov5n")
    assert len(connected) == 1


def test_a_certificate_that_is_not_trusted(folder, server, monkeypatch):
    tried = []

    def refuse(url, *_):
        tried.append(url)
        error = ssl.SSLCertVerificationError(1, "certificate verify failed")
        error.verify_message = "self-signed certificate"
        raise error

    monkeypatch.setattr(http_client, "_request", refuse)
    monkeypatch.setenv(MIRRORS, f"{server.url};only")
    with pytest.raises(FileNotFoundError, match=r"not trusted: self-signed certificate. The variable SSL_CERT_FILE"):
        find_weights("yolov5n")
    assert len(tried) == 1


def test_a_trickle_is_given_up(folder, mirror, monkeypatch):
    monkeypatch.setattr(http_client, "RATE_WINDOW", 0.05)
    monkeypatch.setattr(http_client, "TRIES", 1)
    over = threading.Event()

    def trickle(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(CONTENT)))
        handler.end_headers()
        for byte in CONTENT[:500]:
            if over.is_set():
                return
            time.sleep(0.01)
            handler.wfile.write(bytes([byte]))

    monkeypatch.setattr(Handler, "do_GET", trickle)
    with pytest.raises(FileNotFoundError, match="too slow: .* bytes a second"):
        find_weights("yolov5n")
    over.set()
    assert not folder.exists()


def test_passing_errors_are_tried_again_and_others_are_not(folder, mirror):
    for status, tries in ((503, 3), (429, 3), (404, 1), (403, 1)):
        mirror.status, mirror.requests = status, []
        with pytest.raises(FileNotFoundError, match=f"the server answers {status}"):
            find_weights("yolov5n")
        assert len(mirror.requests) == tries


# Digests that nobody confirmed ----------------------------------------------------------------------------------------


def serve_by_https(monkeypatch, server):
    """Let https:// of the server go to it by http."""
    request = http_client._request
    monkeypatch.setattr(http_client, "_request", lambda url, *rest: request(url.replace("https:", "http:"), *rest))
    monkeypatch.setenv(MIRRORS, f"{server.url.replace('http:', 'https:')};only")


def test_an_unconfirmed_digest_is_a_warning_by_https(folder, server, monkeypatch, caplog):
    serve_by_https(monkeypatch, server)
    server.content = zip_of(720_000)
    assert find_weights("yolov5l").read_bytes() == server.content
    assert f"sha256 {hashlib.sha256(server.content).hexdigest()} ({len(server.content):,} bytes)" in caplog.text
    assert "never confirmed by a second source, so this file is kept" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"content": CONTENT[:-9]}, "another file, none of PyTorch"),
        ({"content": CONTENT + CONTENT}, "which is too large"),
        ({"length": False}, "does not say how large the file is"),
    ],
)
def test_an_unconfirmed_file_needs_to_be_one(folder, server, monkeypatch, change, message):
    serve_by_https(monkeypatch, server)
    vars(server).update(change)
    with pytest.raises(FileNotFoundError, match=message):
        find_weights("yolov5l")
    assert not folder.exists()


def test_an_unconfirmed_file_that_was_resumed_is_fetched_again_as_a_whole(folder, server, monkeypatch, caplog):
    serve_by_https(monkeypatch, server)
    server.content = zip_of(720_000)
    folder.mkdir()
    (folder / "yolov5l.pt.part").write_bytes(OTHER[:HALF])
    (folder / "yolov5l.pt.part.etag").write_text('"1"')
    assert find_weights("yolov5l").read_bytes() == server.content
    assert caplog.text.count("was never confirmed") == 1


def test_an_unconfirmed_digest_is_enforced_by_http(folder, mirror):
    mirror.content = OTHER
    with pytest.raises(FileNotFoundError, match="another file: sha256"):
        find_weights("yolov5l")


# Mirrors --------------------------------------------------------------------------------------------------------------


def test_mirrors_are_tried_in_order_before_the_publisher(folder, server, second, monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="yolov5")
    server.status = 404
    monkeypatch.setenv(MIRRORS, f" {server.url}/a/b/ ; {second.url};")
    fetched(folder)
    assert (server.requests[0][0], second.requests[0][0]) == ("/a/b/v7.0/yolov5n.pt", "/v7.0/yolov5n.pt")
    assert "answers 404 Not Found. Trying the next source" in caplog.text


def test_a_mirror_that_is_down_leaves_the_publisher(folder, server, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        down = f"http://127.0.0.1:{closed.getsockname()[1]}"
    entry = official()
    publisher = Official(f"{server.url}/v7.0/yolov5n.pt", entry.size, entry.sha256)
    monkeypatch.setitem(YOLOV5, "yolov5n.pt", publisher)
    monkeypatch.setenv(MIRRORS, down)
    fetched(folder)
    Path(folder / "yolov5n.pt").unlink()
    monkeypatch.setenv(MIRRORS, f"{down};only")
    with pytest.raises(FileNotFoundError, match=f"{down}/v7.0/yolov5n.pt: Connection refused"):
        find_weights("yolov5n")


def test_a_part_of_one_source_is_not_mixed_with_another(folder, server, second, monkeypatch):
    server.content, server.breaks, second.etag = OTHER, [HALF, HALF, HALF], '"2"'
    monkeypatch.setenv(MIRRORS, f"{server.url};{second.url};only")
    fetched(folder)
    assert second.requests[0][2] == '"1"'


@pytest.mark.parametrize(
    "value", ["mirror.example", "ftp://mirror.example;only", "only", "file:///srv", "http://a/?key="]
)
def test_a_mirror_that_is_none(folder, monkeypatch, value):
    monkeypatch.setenv(MIRRORS, value)
    with pytest.raises(ValueError, match=f"{MIRRORS}.*(is no http|names no mirror)"):
        find_weights("yolov5n")


def test_a_password_of_a_mirror_is_not_shown(folder, server, monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="yolov5")
    server.status = 403
    monkeypatch.setenv(MIRRORS, f"{server.url.replace('//', '//me:s3cret@')};only")
    with pytest.raises(FileNotFoundError) as caught:
        find_weights("yolov5n")
    assert "s3cret" not in caplog.text + str(caught.value)


# The own machine ------------------------------------------------------------------------------------------------------


def test_offline_says_all_that_helps(folder, monkeypatch):
    def look_up(*_, **__):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.delenv(MIRRORS)
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    entry = YOLOV5["yolov5n.pt"]
    with pytest.raises(FileNotFoundError) as caught:
        find_weights("yolov5n")
    message = str(caught.value)
    for part in (entry.url, f"{entry.size:,} bytes", entry.sha256, str(Path.cwd()), f"at {folder / 'yolov5n.pt'}"):
        assert part in message
    assert "Temporary failure in name resolution" in message
    assert all(word in message for word in (FOLDER, MIRRORS, "--weights ''"))
    assert left(folder.parent) == ["work"]


def test_name_servers_that_do_not_answer(folder, mirror, monkeypatch):
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(HANG))
    monkeypatch.setattr(http_client, "ANSWER_TIME", 0.2)
    with pytest.raises(FileNotFoundError, match="the host 127.0.0.1 is unknown .name servers do not answer"):
        find_weights("yolov5n")
    over.set()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_two_processes_fetch_once(folder, mirror, monkeypatch):
    asked, both = threading.Event(), threading.Event()  # there is a process that fetches, and also one that waits
    serve = Handler.do_GET

    def slow(handler):
        asked.set()
        assert both.wait(HANG)
        serve(handler)

    monkeypatch.setattr(Handler, "do_GET", slow)
    child = os.fork()
    if not child:
        os._exit(find_weights("yolov5n").read_bytes() != CONTENT)
    assert asked.wait(HANG)
    monkeypatch.setattr(official_weights.LOGGER, "info", lambda text: both.set() if "waiting" in text else None)
    fetched(folder)
    assert os.waitpid(child, 0) == (child, 0)
    assert len(mirror.requests) == 1


def test_the_lock_of_a_killed_process_is_none(folder, mirror):
    folder.mkdir()
    (folder / "yolov5n.pt.lock").touch()
    fetched(folder)


def test_a_folder_that_cannot_be_written_to(folder, mirror, monkeypatch):
    folder.write_text("a file in the place of the folder")
    with pytest.raises(OSError, match=f"yolov5n.pt: this folder cannot be written to .* by the variable {FOLDER}"):
        find_weights("yolov5n")
    folder.unlink()
    folder.mkdir()

    def refuse(path, *rest):
        raise PermissionError(13, "Permission denied", str(path))  # root may write everywhere

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OSError, match=r"cannot be written to \(Permission denied\)"):
        find_weights("yolov5n")
    assert not mirror.requests


def test_a_full_disk(folder, mirror, full_disk):
    with full_disk(100_000), pytest.raises(OSError, match=r"too large: .*yolov5n\.pt\.part"):
        find_weights("yolov5n")
    assert left(folder.parent) == ["work"]


def test_too_little_room_is_told_before_the_start(folder, mirror, monkeypatch):
    monkeypatch.setattr(http_client.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000, "total": 2000}))
    with pytest.raises(OSError, match="not enough room on the disk: 1 MB are needed, 0 MB free"):
        find_weights("yolov5n")
    assert not folder.exists()


def test_links_of_others_are_not_written_through(folder, mirror, tmp_path):
    folder.mkdir()
    (tmp_path / "mine").write_bytes(b"keep")
    for name in ("yolov5n.pt.part", "yolov5n.pt.part.etag"):
        (folder / name).symlink_to(tmp_path / "mine")
    fetched(folder)
    assert (tmp_path / "mine").read_bytes() == b"keep"


@pytest.mark.parametrize("signalled", [KeyboardInterrupt, SystemExit])
def test_signals_keep_what_has_arrived(folder, mirror, monkeypatch, signalled):
    def interrupt(*args, **settings):
        for number, block in enumerate(read(*args, **settings)):
            if number == 1:
                raise signalled
            yield block

    read = http_client.blocks
    monkeypatch.setattr(http_client, "blocks", interrupt)
    with pytest.raises(signalled):
        find_weights("yolov5n")
    assert left(folder) == ["yolov5n.pt.part", "yolov5n.pt.part.etag"]
    monkeypatch.setattr(http_client, "blocks", read)
    fetched(folder)
    assert mirror.requests[-1][1] == f"bytes={http_client.CHUNK}-"


# YOLOv5's addresses ---------------------------------------------------------------------------------------------------


def test_attempt_download(folder, mirror):
    assert downloads.attempt_download("yolov5n.pt") == str(folder / "yolov5n.pt")
    assert downloads.attempt_download(folder / "yolov5n.pt", release="v6.0") == str(folder / "yolov5n.pt")
    with pytest.raises(ValueError, match=r"yolov5s.pt: only v7.0 of ultralytics/yolov5 is fetched, not v6.0 of"):
        downloads.attempt_download("yolov5s.pt", release="v6.0")
    with pytest.raises(FileNotFoundError, match=r"mine.pt: no such file, and no official weights of this name"):
        downloads.attempt_download("mine.pt")
    assert downloads.attempt_download(f"{mirror.url}/a/best.pt") == "best.pt"
    assert Path("best.pt").read_bytes() == CONTENT


def test_safe_download(folder, mirror, second):
    downloads.safe_download("a.pt", f"{mirror.url}/a.pt")
    assert Path("a.pt").read_bytes() == CONTENT
    second.status = 404
    downloads.safe_download("b.pt", f"{second.url}/a.pt", f"{mirror.url}/b.pt", min_bytes=1e5)
    assert Path("b.pt").read_bytes() == CONTENT
    with pytest.raises(OSError, match=r"a.pt: the server answers 404 Not Found. Look there"):
        downloads.safe_download("b.pt", f"{second.url}/a.pt", error_msg="Look there")
    with pytest.raises(OSError, match=f"only {len(CONTENT)} bytes, expected 1000000 or more"):
        downloads.safe_download("c.pt", f"{mirror.url}/a.pt", min_bytes=1e6)
    assert sorted(file.name for file in Path().iterdir()) == ["a.pt", "b.pt"]


def test_every_name_of_imagenet_weights_is_fetched_from_torchvision():
    assert {entry.url.rpartition("/")[0] for entry in IMAGENET.values()} == {"https://download.pytorch.org/models"}
