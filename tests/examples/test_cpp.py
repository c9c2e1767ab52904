import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.waiting import HANG

FOLDER = Path(__file__).parents[2] / "examples" / "cpp"


@pytest.fixture(scope="session")  # as the exported file, which is not made where this one skips
def program(tmp_path_factory):
    if not shutil.which("cmake") or not shutil.which("c++"):
        pytest.skip("needs cmake and a C++ compiler")
    build = tmp_path_factory.mktemp("build")
    root = os.environ.get("ONNXRUNTIME_ROOT", "")
    call = ["cmake", "-S", str(FOLDER), "-B", str(build), f"-DONNXRUNTIME_ROOT={root}"]
    configured = subprocess.run(call, capture_output=True, encoding="utf-8", timeout=HANG)
    for needed in ("OpenCV", "ONNXRUNTIME_INCLUDE_DIR", "ONNXRUNTIME_LIBRARY"):
        if configured.returncode and needed in configured.stderr:
            pytest.skip(f"CMake does not find {needed}: install OpenCV, set ONNXRUNTIME_ROOT to an unpacked release")
    assert configured.returncode == 0, configured.stderr
    built = subprocess.run(["cmake", "--build", str(build)], capture_output=True, encoding="utf-8", timeout=HANG)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "warning" not in built.stderr
    return build / "detect"


def test_finds_what_the_project_finds(program, onnx_file, picture, expected, assert_same, tmp_path):
    call = [str(program), str(onnx_file), str(picture), str(tmp_path / "found.png")]
    result = subprocess.run(call, capture_output=True, encoding="utf-8", timeout=HANG)
    assert result.returncode == 0, result.stderr
    rows = []
    for line in result.stdout.splitlines():
        name, conf, *box = line.rsplit(" ", 5)
        rows.append([*map(float, box), float(conf), ["cat", "dog's", "élan"].index(name)])
    assert_same(rows, expected)
    assert (tmp_path / "found.png").is_file()


def test_a_missing_picture_is_an_error(program, onnx_file, tmp_path):
    call = [str(program), str(onnx_file), "missing.jpg", str(tmp_path / "found.png")]
    result = subprocess.run(call, capture_output=True, encoding="utf-8", timeout=HANG)
    assert result.returncode == 1
    assert "missing.jpg: no image" in result.stderr
