"""Detect in slices with SAHI: any file that torch.hub's `custom` loads, .pt or exported.

pip install sahi
python examples/sahi/detect.py best.pt large.jpg --slice 640
python examples/sahi/detect.py best.onnx large.jpg --slice 640 --out found
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from sahi.models.yolov5 import Yolov5DetectionModel
from sahi.predict import get_sliced_prediction

ROOT = Path(__file__).resolve().parents[2]


class HubModel(Yolov5DetectionModel):
    """SAHI's own model for YOLOv5 around one of torch.hub.

    SAHI's class takes the model as it is, but cannot be made where no package named yolov5 is installed.
    """

    def check_dependencies(self, packages: Sequence[str] | None = None) -> None:
        """Need nothing beyond this clone."""

    def load_model(self) -> None:
        """Load `model_path` from this clone."""
        self.set_model(
            torch.hub.load(str(ROOT), "custom", path=self.model_path, source="local", device=str(self.device))
        )


def main() -> None:
    """Detect in the images of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help=".pt, .onnx or another file that detect.py reads")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--slice", type=int, default=640, help="side of a slice in pixels of the image")
    parser.add_argument("--img", type=int, help="side of the network input; by default that of a slice")
    parser.add_argument("--conf", type=float, default=0.25)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", help="folder for images with boxes")
    args = parser.parse_args()
    model = HubModel(
        model_path=args.model, confidence_threshold=args.conf, device=args.device, image_size=args.img or args.slice
    )
    for image in args.images:
        result = get_sliced_prediction(image, model, slice_height=args.slice, slice_width=args.slice, verbose=0)
        for found in result.object_prediction_list:
            box = " ".join(f"{side:.1f}" for side in found.bbox.to_xyxy())
            sys.stdout.write(f"{image} {found.category.name} {found.score.value:.4f} {box}\n")
        if args.out:
            result.export_visuals(export_dir=args.out, file_name=Path(image).stem)


if __name__ == "__main__":
    main()
