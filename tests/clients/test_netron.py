"""netron: its page shows the graph of the exported file, in a browser without a window."""

import http.server
import re
import shutil
import subprocess
import threading

import pytest

from tests.waiting import HANG

netron = pytest.importorskip("netron")
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --virtual-time-budget=60000 --dump-dom".split()


class Consent(http.server.BaseHTTPRequestHandler):
    """Sets the cookie with which netron asks no question, and sends the browser on; cookies hold for all ports."""

    def do_GET(self):
        self.send_response(302)
        self.send_header("Set-Cookie", "consent=1; Path=/; Max-Age=3600")
        self.send_header("Location", self.server.target)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def show(tmp_path):
    """Function (file) -> HTML of the page once it is drawn."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs chromium")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Consent)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def show(file):
        host, port = netron.start(str(file), browse=False)
        server.target = f"http://{host}:{port}/"
        call = [browser, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"http://{host}:{server.server_port}/"]
        done = subprocess.run(call, capture_output=True, text=True, timeout=HANG, check=False)
        netron.stop((host, port))
        return done.stdout

    yield show
    server.shutdown()
    server.server_close()


def test_graph_of_the_onnx_file(show, onnx_file):
    onnx = pytest.importorskip("onnx")
    page = show(onnx_file)
    convolutions = sum(node.op_type == "Conv" for node in onnx.load(onnx_file).graph.node)
    assert len(re.findall(r"<text[^>]*>Conv</text>", page)) == convolutions > 10
