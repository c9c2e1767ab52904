"""Train the backbone of a model on images without labels, by hiding parts of them (SimMIM).

python -m engine.pretrain --cfg models/yolov5s-swinv2.yaml --images photos
python -m engine.pretrain --cfg models/yolov5s-swinv2.yaml --data my.yaml --epochs 300 --out start.pt
python train.py --weights start.pt --data my.yaml

Ctrl-C, SIGTERM and kill are survived: the same command goes on.
"""

import argparse

from utils.console import cli_errors, pause_collection, resume_collection
from utils.options.pretrain import parse_opt

if __name__ == "__main__":  # before torch is loaded: --help and mistyped options are answered at once
    with cli_errors():
        OPTIONS = parse_opt(description=__doc__)
    pause_collection()

from pathlib import Path

from engine.pretraining.run import Settings, pretrain
from utils.console import log_options
from utils.options.pretrain import PretrainOptions
from utils.options.table import as_dict, takes_options
from utils.torch_utils import select_device, use_huge_pages


@takes_options(PretrainOptions)
def run(options: PretrainOptions) -> Path:
    """Pretrain, see `engine.pretraining.run.pretrain`.

    Args:
        options: fields of `PretrainOptions` as arguments, such as `run(cfg="yolov5s-swinv2.yaml", images="photos")`.

    Returns:
        The checkpoint.

    Raises:
        FileNotFoundError, ValueError: files or sizes that do not fit, options that are wrong.
    """
    log_options("pretrain", as_dict(options))
    o = options
    settings = Settings(o.imgsz, o.batch_size, o.epochs, o.mask_ratio, o.mask_patch, o.amp, o.seed)
    device = select_device(o.device, o.batch_size)
    use_huge_pages(device)
    return pretrain(o.cfg, o.images, o.data or None, o.out, settings, device, o.workers)


def main(opt: argparse.Namespace) -> Path:
    """Pretrain with the given options."""
    return run(**vars(opt))


if __name__ == "__main__":
    resume_collection()
    with cli_errors():
        main(OPTIONS)
