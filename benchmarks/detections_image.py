"""Detect in some images and put the drawings side by side into one JPEG.

That at the head of README.md: `python -m benchmarks.detections_image --weights best.pt --source BloodImage_00192.jpg
BloodImage_00217.jpg --img 320 --out docs/detections.jpg`.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np

import detect
from utils.console import cli_errors


def draw(weights: str, source: list[str], imgsz: int, out: Path, height: int = 480, quality: int = 80) -> None:
    """Write the image of all sources, each `height` pixels high, with the boxes of `detect.py --conf best`."""
    with TemporaryDirectory() as folder:
        detect.run(weights, source, imgsz=imgsz, conf_thres="best", device="cpu", project=folder, name="drawn")
        drawn = [cv2.imread(f"{folder}/drawn/{Path(file).name}") for file in source]
    sides = [(round(image.shape[1] * height / image.shape[0]), height) for image in drawn]
    scaled = [cv2.resize(image, side, interpolation=cv2.INTER_AREA) for image, side in zip(drawn, sides, strict=True)]
    gap = np.full((height, 8, 3), 255, np.uint8)
    parts = [part for image in scaled for part in (gap, image)][1:]
    cv2.imwrite(str(out), np.hstack(parts), [cv2.IMWRITE_JPEG_QUALITY, quality])


def main(argv: list[str]) -> None:
    """Read the options and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="trained model with thresholds")
    parser.add_argument("--source", nargs="+", required=True, help="image files")
    parser.add_argument("--imgsz", "--img", type=int, default=640, help="pixels of the network's input")
    parser.add_argument("--out", type=Path, required=True, help="JPEG to write")
    opt = parser.parse_args(argv)
    draw(opt.weights, opt.source, opt.imgsz, opt.out)


if __name__ == "__main__":
    with cli_errors():
        main(sys.argv[1:])
