"""netron: its page shows the graph of the exported file and of the checkpoint, in a browser without a window."""

import re
import shutil
import subprocess

import pytest

from tests.waiting import HANG

netron = pytest.importorskip("netron")
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --virtual-time-budget=60000 --dump-dom".split()


@pytest.fixture
def show(tmp_path):
    """Function (file) -> HTML of the page once it is drawn."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs chromium")

    def show(file):
        host, port = netron.start(str(file), browse=False)
        call = [browser, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"http://{host}:{port}/"]
        done = subprocess.run(call, capture_output=True, text=True, timeout=HANG, check=False)
        netron.stop((host, port))
        return done.stdout

    return show


def test_graph_of_the_onnx_file(show, onnx_file):
    onnx = pytest.importorskip("onnx")
    page = show(onnx_file)
    convolutions = sum(node.op_type == "Conv" for node in onnx.load(onnx_file).graph.node)
    assert len(re.findall(r"<text[^>]*>Conv</text>", page)) == convolutions > 20
