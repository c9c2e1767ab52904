"""Convert a trained convolutional YOLOv5 into its Swin V2 twin, from images without labels.

python -m engine.convert yolov5s.pt --cfg models/yolov5s-swinv2.yaml --images photos --out yolov5s-swinv2.pt
python -m engine.convert best.pt --data my.yaml --img 320       # training images; labels measure the result
python -m engine.convert best.pt --images photos --minutes 10   # --cfg twin: the table is derived from that of best.pt

Ctrl-C, SIGTERM and kill are survived: the same command goes on.
"""

import argparse

from utils.console import cli_errors
from utils.options.convert import parse_opt

if __name__ == "__main__":  # before torch is loaded: --help and mistyped options are answered at once
    with cli_errors():
        OPTIONS = parse_opt(description=__doc__)

from pathlib import Path

from engine.conversion.run import Settings, convert
from utils.console import log_options
from utils.options.check import checked
from utils.options.convert import make_parser
from utils.paths import check_file
from utils.torch_utils import select_device


def main(opt: argparse.Namespace) -> Path:
    """Convert with the given options; returns the checkpoint."""
    log_options("convert", vars(opt))
    settings = Settings(opt.imgsz, opt.batch_size, opt.passes, opt.minutes, opt.seed)
    device = select_device(opt.device, opt.batch_size)
    weights = check_file(opt.weights, (".pt",))
    return convert(weights, opt.cfg, opt.images, opt.data or None, opt.out, settings, device)


def run(weights: str | Path, **options: object) -> Path:
    """Convert from Python: `run("yolov5s.pt", images=["photos"], imgsz=640)`; options as on the command line.

    Raises:
        ValueError: an option that does not exist, or a value that it does not take.
    """
    opt = parse_opt([str(weights)])
    vars(opt).update(checked(make_parser(), options))
    return main(opt)


if __name__ == "__main__":
    with cli_errors():
        main(OPTIONS)
