"""Convert a trained convolutional YOLOv5 into its Swin V2 twin, from images without labels.

python -m engine.convert yolov5s.pt --cfg models/yolov5s-swinv2.yaml --images photos --out yolov5s-swinv2.pt
python -m engine.convert best.pt --data my.yaml --img 320       # training images; labels measure the result
python -m engine.convert best.pt --images photos --minutes 10   # --cfg twin: the table is derived from that of best.pt

Ctrl-C, SIGTERM and kill are survived: the same command goes on.
"""

import argparse

from utils.console import cli_errors, pause_collection, resume_collection
from utils.options.convert import parse_opt

if __name__ == "__main__":  # before torch is loaded: --help and mistyped options are answered at once
    with cli_errors():
        OPTIONS = parse_opt(description=__doc__)
    pause_collection()

from pathlib import Path

from engine.conversion.run import Settings, convert
from utils.console import log_options
from utils.options.convert import ConvertOptions
from utils.options.table import as_dict, takes_options
from utils.torch_utils import select_device, use_huge_pages


@takes_options(ConvertOptions)
def run(options: ConvertOptions) -> Path:
    """Convert, see `engine.conversion.run.convert`.

    Args:
        options: fields of `ConvertOptions` as arguments, such as `run("yolov5s.pt", images="photos", imgsz=320)`.

    Returns:
        The checkpoint of the twin.

    Raises:
        FileNotFoundError, ValueError: files or layers that do not fit, options that are wrong.
    """
    log_options("convert", as_dict(options))
    if not options.weights:
        raise ValueError("no weights given: name the checkpoint of a trained YOLOv5")
    settings = Settings(options.imgsz, options.batch_size, options.passes, options.minutes, options.seed)
    device = select_device(options.device, options.batch_size)
    use_huge_pages(device)
    return convert(options.weights, options.cfg, options.images, options.data or None, options.out, settings, device)


def main(opt: argparse.Namespace) -> Path:
    """Convert with the given options."""
    return run(**vars(opt))


if __name__ == "__main__":
    resume_collection()
    with cli_errors():
        main(OPTIONS)
