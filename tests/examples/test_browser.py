import functools
import http.server
import json
import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from tests.waiting import HANG

FOLDER = Path(__file__).parents[2] / "examples" / "browser"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --remote-debugging-port=0"
).split()
# Watches the page in a frame and posts what it shows, in real time: a dump of the page may come before the network ran.
WATCH = """<iframe id="page" src="index.html?model=model.onnx&image=picture.png"></iframe><script>
setInterval(() => {
  const page = document.getElementById("page").contentDocument;
  const status = page?.getElementById("status")?.textContent ?? "";
  if (/objects in|Error/.test(status))
    fetch("/", {method: "POST", body: JSON.stringify({status, result: page.getElementById("result").textContent})});
}, 200);
</script>"""


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posted = json.loads(body)
        self.server.done.set()
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args):
        pass


def test_finds_what_the_project_finds(onnx_file, picture, expected, assert_same, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("needs chromium")
    modules = Path(os.environ.get("NODE_MODULES", FOLDER / "node_modules"))
    if not (modules / "onnxruntime-web").is_dir():
        pytest.skip("needs `npm install` in examples/browser")
    site = tmp_path / "site"
    site.mkdir()
    (site / "node_modules").symlink_to(modules)
    for source, name in ((onnx_file, "model.onnx"), (picture, "picture.png")):
        shutil.copy(source, site / name)
    for name in ("index.html", "detect.js"):
        shutil.copy(FOLDER / name, site)
    (site / "watch.html").write_text(WATCH, encoding="utf-8")

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(site)))
    server.done, server.posted = threading.Event(), None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/watch.html"
    call = [browser, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", address]
    process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert server.done.wait(HANG), "the page showed nothing"
    finally:
        process.terminate()
        process.wait(HANG)
        server.shutdown()
        server.server_close()
    assert "objects in" in server.posted["status"], server.posted
    found = json.loads(server.posted["result"])
    assert_same([[b[k] for k in ("x1", "y1", "x2", "y2", "conf", "cls")] for b in found], expected)
