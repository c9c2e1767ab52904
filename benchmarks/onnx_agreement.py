"""Compare ONNX files with open sizes with their PyTorch models over batches and image sizes.

    python -m benchmarks.onnx_agreement --models yolov5n yolov5n-swinv2 --csv runs/onnx_agreement.csv
    python -m benchmarks.onnx_agreement --models runs/train/exp/weights/best.pt

Needs `pip install onnx onnxscript onnxruntime`. A name of a model table is built with random weights, normalisation
statistics and spread-out scores; one file is written per model and run at every batch and size. Ends with status 1
where a difference exceeds 1e-3 of a box value (at least one pixel) or 1e-4 of a score.
"""

import argparse
import csv
import itertools
import tempfile
from pathlib import Path

import torch

from engine.exporters.compare import TOLERANCE, Difference, measure
from engine.exporters.onnx_check import make_session
from engine.exporters.to_onnx import export_onnx
from models.weights.checkpoint import attempt_load
from models.yolo import DetectionModel
from utils.console import LOGGER, cli_errors
from utils.options.exporter import ExportOptions

BATCHES = (1, 2, 5)
SIZES = ((320, 320), (640, 640), (256, 416), (352, 512))  # the last is 330x500 rounded up to the stride


def build(name: str) -> DetectionModel:
    """Load a checkpoint, or build a model table with random weights that are no trivial case; ready for export."""
    if name.endswith(".pt"):
        model = attempt_load(name)
    else:
        torch.manual_seed(0)
        model = DetectionModel(f"{name}.yaml", verbose=False).train()
        with torch.no_grad():
            for _ in range(3):  # statistics of the normalisations
                model(torch.rand(2, 3, 128, 128))
            for conv in model.detect.m:
                conv.weight.normal_(0, 0.5 * conv.in_channels**-0.5)
                conv.bias.normal_(0, 1.0)
        model.eval().fuse()
    model.detect.export = True
    return model.requires_grad_(False)


def compare(name: str, folder: Path) -> list[dict[str, object]]:
    """Write the file of one model and return a row per batch and size."""
    model = build(name)
    stride = int(model.stride.max())
    file = folder / f"{Path(name).stem}.onnx"
    options = ExportOptions(imgsz=(64, 64), dynamic=True)
    export_onnx(model, torch.zeros(2, 3, 64, 64), file, options, {"stride": stride, "names": model.names})
    session, rows = make_session(file), []
    for batch, (height, width) in itertools.product(BATCHES, SIZES):
        images = torch.rand(batch, 3, height, width)
        with torch.inference_mode():
            difference = measure(model(images)[0], session.run(["output0"], {"images": images.numpy()})[0])
        row = {"model": Path(name).stem, "batch": batch, "height": height, "width": width}
        rows.append(row | {"pixels": difference.pixels, "relative": difference.relative, "scores": difference.scores})
        LOGGER.info(f"{row['model']:<18}{batch:>3} x {height}x{width}: {difference}")
    return rows


def main() -> None:
    """Compare all models and write the table.

    Raises:
        ValueError: a difference is too large.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["yolov5n", "yolov5n-swinv2", "yolov5s-swinv2", "yolov5m-swinv2"]
    parser.add_argument("--models", nargs="+", default=names, help="names of model tables, or checkpoints")
    parser.add_argument("--csv", default="", help="file for the rows")
    opt = parser.parse_args()
    worst = Difference()
    with tempfile.TemporaryDirectory() as folder:
        for name in opt.models:
            rows = compare(name, Path(folder))
            for row in rows:
                worst |= Difference(row["pixels"], row["relative"], row["scores"])
            if opt.csv:
                with Path(opt.csv).open("a", newline="", encoding="utf-8") as file:
                    writer = csv.DictWriter(file, rows[0])
                    if file.tell() == 0:
                        writer.writeheader()
                    writer.writerows(rows)
    allowed = TOLERANCE["float32"]
    LOGGER.info(f"largest: {worst}; allowed {allowed.relative:g} relative, {allowed.scores:g} in score")
    if worst.relative > allowed.relative or worst.scores > allowed.scores:
        raise ValueError(f"the files differ from PyTorch by {worst}")


if __name__ == "__main__":
    with cli_errors():
        main()
