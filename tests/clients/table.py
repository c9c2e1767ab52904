"""Run clients and write what came out into docs/clients.md, by `make clients`.

python -m tests.clients.table
python -m tests.clients.table SAHI "Label Studio"  # these rows only
"""

import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs/clients.md"
BEGIN, END = "<!-- begin: python -m tests.clients.table -->", "<!-- end -->"
# name: (package, file of tests, beginning of the tests' names, what they show)
CLIENTS = {
    "SAHI": ("sahi", "test_sahi", "", "hub model, .pt and ONNX, whole and in slices, through `examples/sahi`"),
    "pytorch-grad-cam": ("grad-cam", "test_grad_cam", "", "EigenCAM recipe for YOLOv5; GradCAM of a box"),
    "supervision": ("supervision", "test_supervision", "", "`Detections.from_yolov5`, zones, drawing"),
    "norfair": ("norfair", "test_norfair", "", "its demo for YOLOv5"),
    "trackers": ("trackers", "test_trackers", "", "ByteTrack around the hub model; `detect.py --track`"),
    "Gradio": ("gradio", "test_gradio", "", "page around the hub model, called over HTTP"),
    "Flask": ("flask", "test_flask", "", "REST service around the hub model"),
    "netron": ("netron", "test_netron", "", "shows the exported ONNX graph, all its nodes"),
    "ONNX Runtime, Python": ("onnxruntime", "test_onnxruntime", "test_python", "exported ONNX"),
    "ONNX Runtime, node": ("onnxruntime-node", "test_onnxruntime", "test_node_and_web[onnxruntime-n", "exported ONNX"),
    "ONNX Runtime, web": ("onnxruntime-web", "test_onnxruntime", "test_node_and_web[onnxruntime-w", "exported ONNX"),
    "MNN": ("MNN", "test_mnn", "", "exported ONNX through its converter"),
    "OpenVINO": ("openvino", "test_openvino", "", "exported ONNX and exported OpenVINO"),
    "ncnn": ("ncnn", "test_ncnn", "", "exported ncnn; convolutional models"),
    "TensorBoard": ("tensorboard", "test_loggers", "test_tensorboard", "curves of a training, equal to results.csv"),
    "Weights & Biases": ("wandb", "test_loggers", "test_wandb", "`--logger wandb`, offline, equal to results.csv"),
    "MLflow": ("mlflow", "test_loggers", "test_mlflow", "`--logger mlflow`, equal to results.csv"),
    "ClearML": ("clearml", "test_loggers", "test_clearml", "`--logger clearml`, offline, equal to results.csv"),
    "Roboflow": (None, "test_layouts", "test_roboflow", "its YOLOv5, COCO and VOC exports, as folders of their form"),
    "Label Studio": ("label-studio-sdk", "test_layouts", "test_label_studio", "YOLO, COCO and VOC, by its converter"),
    "CVAT": ("datumaro", "test_layouts", "test_cvat", "YOLO 1.1, Ultralytics YOLO, COCO and VOC, by Datumaro"),
    "LabelImg": ("labelImg", "test_layouts", "test_labelimg", "YOLO and VOC, by its writers"),
    "FiftyOne": (None, "test_layouts", "test_fiftyone", "its YOLOv5Dataset, as a folder of its form"),
    "supervision, datasets": ("supervision", "test_layouts", "test_supervision", "YOLO, COCO and VOC that it writes"),
}  # fmt: skip


def find_version(package: str | None) -> str:
    """Return the version of a Python or npm package, "-" for none."""
    if package is None:
        return "-"
    notes = Path(os.environ.get("NODE_MODULES", "node_modules")) / package / "package.json"
    try:
        return json.loads(notes.read_text())["version"] if notes.is_file() else version(package)
    except PackageNotFoundError:
        return "-"


def read_outcomes(report: Path) -> dict[tuple[str, str], str]:
    """Return (file, test) -> passed, failed or skipped of a JUnit report; a file left out as a whole is a test ""."""
    found = {}
    for case in ET.parse(report).getroot().iter("testcase"):
        whole = not case.get("classname")
        file = (case.get("name") if whole else case.get("classname")).rpartition(".")[2]
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        found[file, "" if whole else case.get("name")] = outcome
    return found


def judge(outcomes: list[str]) -> str:
    """Return what the tests of one client amount to."""
    for word in ("failed", "skipped"):
        if word in outcomes:
            return word
    return "passed" if outcomes else "failed"


def run(file: str) -> dict[tuple[str, str], str]:
    """Run a file of tests in a process of its own, as clients run; outcomes as of `read_outcomes`, {} if it crashed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "--no-showlocals", "--show-capture=no", "--tb=short"]
        command += ["--disable-warnings", f"--junitxml={report}", str(HERE / f"{file}.py")]
        subprocess.run(command, cwd=HERE.parents[1], check=False)
        return read_outcomes(report) if report.is_file() else {}


def main(names: list[str]) -> int:
    """Run the clients of these names, by default all, print a line for each, and write the table.

    Returns:
        The number of failures.
    """
    chosen = {name: CLIENTS[name] for name in names or CLIENTS}
    outcomes: dict[tuple[str, str], str] = {}
    for file in dict.fromkeys(file for _, file, _, _ in chosen.values()):
        outcomes |= run(file)
    page = PAGE.read_text(encoding="utf-8")
    before = {line.split(" | ")[0].strip("| "): line for line in page.splitlines() if line.startswith("| ")}
    lines = ["| client | version | what is run | |", "| --- | --- | --- | --- |"]
    failures = 0
    for name, (package, file, begin, shown) in CLIENTS.items():
        if name not in chosen:
            lines += [before[name]] if name in before else []
            continue
        mine = [o for (f, test), o in outcomes.items() if f == file and (not test or test.startswith(begin))]
        outcome, number = judge(mine), find_version(package)
        failures += outcome == "failed"
        print(f"{name:<24}{number:<16}{outcome}")
        by = f"{package} {number}" if package and package.lower() != name.lower() and number != "-" else number
        lines.append(f"| {name} | {by} | {shown} | {outcome} |")
    date = datetime.datetime.now(datetime.timezone.utc).date()
    python, torch = sys.version.split()[0], version("torch")
    text = f"{date}, Python {python}, PyTorch {torch}, Linux, CPU:\n\n" + "\n".join(lines)
    pattern = f"{re.escape(BEGIN)}.*{re.escape(END)}"
    PAGE.write_text(re.sub(pattern, lambda _: f"{BEGIN}\n{text}\n{END}", page, flags=re.DOTALL), encoding="utf-8")
    return failures


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
