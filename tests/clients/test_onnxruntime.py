"""ONNX Runtime of Python, of node and of the web: the exported file as it is."""

import ast
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.clients.conftest import NAMES, SIZE
from tests.waiting import HANG

pytestmark = pytest.mark.slow  # an export
NODE = """
const ort = require(process.argv[2]), fs = require("fs");
const [, , , model, input, output] = process.argv;
(async () => {
  if (ort.env?.wasm) ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(fs.readFileSync(model));
  const pixels = new Float32Array(new Uint8Array(fs.readFileSync(input)).buffer);
  const result = await session.run({ images: new ort.Tensor("float32", pixels, [1, 3, HEIGHT, WIDTH]) });
  const { data, dims } = result.output0;
  fs.writeFileSync(output, Buffer.from(data.buffer, data.byteOffset, data.byteLength));
  console.log(JSON.stringify(dims));
  process.exit(0);
})();
"""


def test_python(onnx_file, network_input, check_output):
    ort = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(str(onnx_file), providers=["CPUExecutionProvider"])
    notes = session.get_modelmeta().custom_metadata_map
    assert ast.literal_eval(notes["names"]) == NAMES
    assert notes["stride"] == "32"
    check_output(session.run(None, {session.get_inputs()[0].name: network_input})[0])


@pytest.mark.parametrize("package", ["onnxruntime-node", "onnxruntime-web"])
def test_node_and_web(package, onnx_file, network_input, check_output, tmp_path):
    node = shutil.which("node")
    modules = Path(os.environ.get("NODE_MODULES", "node_modules"))
    if node is None or not (modules / package).is_dir():
        pytest.skip(f"needs node, and {package} in the folder NODE_MODULES")
    script = tmp_path / "run.cjs"
    script.write_text(NODE.replace("HEIGHT", str(SIZE[0])).replace("WIDTH", str(SIZE[1])))
    (tmp_path / "in").write_bytes(network_input.tobytes())
    call = [node, script, (modules / package).absolute(), onnx_file, tmp_path / "in", tmp_path / "out"]
    done = subprocess.run(list(map(str, call)), capture_output=True, text=True, timeout=HANG, check=False)
    assert done.returncode == 0, done.stderr
    shape = json.loads(done.stdout.splitlines()[-1])
    check_output(np.frombuffer((tmp_path / "out").read_bytes(), np.float32).reshape(shape))
