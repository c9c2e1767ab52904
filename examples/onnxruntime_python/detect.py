"""Detect objects in images with ONNX Runtime: numpy, OpenCV and onnxruntime, no PyTorch, nothing of this project.

pip install numpy opencv-python onnxruntime
python detect.py best.onnx a.jpg b.jpg --out found
"""

import argparse
import ast
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort


def letterbox(image: np.ndarray, height: int, width: int) -> tuple[np.ndarray, float, int, int]:
    """Fit an image (H, W, 3) into a grey frame; also gives the scale and the padding left and top."""
    scale = min(height / image.shape[0], width / image.shape[1])
    inner_w, inner_h = max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1)
    left, top = (width - inner_w) // 2, (height - inner_h) // 2
    frame = np.full((height, width, 3), 114, np.uint8)
    frame[top : top + inner_h, left : left + inner_w] = cv2.resize(image, (inner_w, inner_h))
    return frame, scale, left, top


def suppress(rows: np.ndarray, conf_thres: float, iou_thres: float) -> np.ndarray:
    """Turn rows (R, 5 + classes) `[cx, cy, w, h, objectness, scores]` into (D, 6) `[xyxy, confidence, class]`."""
    cls = rows[:, 5:].argmax(1)
    conf = rows[:, 4] * rows[np.arange(len(rows)), 5 + cls]
    keep = conf > conf_thres
    rows, conf, cls = rows[keep], conf[keep], cls[keep]
    corner, size = rows[:, :2] - rows[:, 2:4] / 2, rows[:, 2:4]
    order = cv2.dnn.NMSBoxesBatched(np.hstack((corner, size)).tolist(), conf.tolist(), cls.tolist(), 0.0, iou_thres)
    found = np.hstack((corner, corner + size, conf[:, None], cls[:, None]))
    return found[np.asarray(order, int)]


class Detector:
    """A file from `export.py --include onnx`, with `--nms` or without."""

    def __init__(self, file: str, size: int = 640) -> None:
        self.session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
        self.names = ast.literal_eval(self.session.get_modelmeta().custom_metadata_map["names"])
        image = self.session.get_inputs()[0]
        self.input, (self.batch, _, height, width) = image.name, image.shape
        self.height = height if isinstance(height, int) else size  # a text names a size that is left open
        self.width = width if isinstance(width, int) else size
        self.has_nms = len(self.session.get_outputs()) > 1  # detections and their number

    def __call__(self, image: np.ndarray, conf_thres: float = 0.25, iou_thres: float = 0.45) -> np.ndarray:
        """Find objects in a BGR image (H, W, 3): (D, 6) `[xyxy, confidence, class]` in its pixels, best first."""
        frame, scale, left, top = letterbox(image, self.height, self.width)
        blob = frame[..., ::-1].transpose(2, 0, 1)[None].astype(np.float32) / 255  # RGB, (1, 3, H, W), 0..1
        if isinstance(self.batch, int):
            blob = blob.repeat(self.batch, 0)  # a file with a fixed batch wants that many images
        outputs = self.session.run(None, {self.input: blob})
        if self.has_nms:
            found = outputs[0][0, : int(outputs[1][0])]
            found = found[found[:, 4] > conf_thres]
        else:
            found = suppress(outputs[0][0], conf_thres, iou_thres)
        found[:, [0, 2]] = ((found[:, [0, 2]] - left) / scale).clip(0, image.shape[1])
        found[:, [1, 3]] = ((found[:, [1, 3]] - top) / scale).clip(0, image.shape[0])
        return found


def draw(image: np.ndarray, found: np.ndarray, names: dict[int, str]) -> None:
    """Draw the rows of `Detector` into the image."""
    for x1, y1, x2, y2, conf, cls in found.tolist():
        color = cv2.applyColorMap(np.uint8([[int(cls) * 67 % 256]]), cv2.COLORMAP_HSV)[0, 0].tolist()
        cv2.rectangle(image, (round(x1), round(y1)), (round(x2), round(y2)), color, 2)
        place = (round(x1), max(round(y1) - 4, 12))
        cv2.putText(image, f"{names[int(cls)]} {conf:.2f}", place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, color, 1, cv2.LINE_AA)


def main() -> None:
    """Detect in every image named, write one line per object and the images with boxes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="file from export.py --include onnx")
    parser.add_argument("images", nargs="+", help="pictures")
    parser.add_argument("--size", type=int, default=640, help="side of the network input where the file leaves it open")
    parser.add_argument("--conf", type=float, default=0.25, help="confidence that an object must exceed")
    parser.add_argument("--iou", type=float, default=0.45, help="overlap above which the weaker box of a class goes")
    parser.add_argument("--out", type=Path, default=Path("found"), help="folder for the images with boxes")
    options = parser.parse_args()
    detector = Detector(options.model, options.size)
    options.out.mkdir(parents=True, exist_ok=True)
    for file in options.images:
        image = cv2.imread(file)
        if image is None:
            sys.exit(f"{file}: no image that OpenCV can read")
        found = detector(image, options.conf, options.iou)
        for x1, y1, x2, y2, conf, cls in found.tolist():
            row = f"{file} {detector.names[int(cls)]} {conf:.4f} {x1:.1f} {y1:.1f} {x2:.1f} {y2:.1f}"
            sys.stdout.write(row + "\n")
        draw(image, found, detector.names)
        cv2.imwrite(str(options.out / (Path(file).stem + ".png")), image)


if __name__ == "__main__":
    main()
