"""Small folders of labelled images, for the tests of training data."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np


def write_folder(root: Path, scenes: Iterable[tuple[np.ndarray, list[str] | None]]) -> Path:
    """Write images (H, W, 3) BGR as `images/0.png`, ... and their label lines as `labels/0.txt`, ...; return `images`.

    An image with None instead of lines has no label file.
    """
    for kind in ("images", "labels"):
        (root / kind).mkdir()
    for i, (image, lines) in enumerate(scenes):
        cv2.imwrite(str(root / f"images/{i}.png"), image)
        if lines is not None:
            (root / f"labels/{i}.txt").write_text("".join(f"{line}\n" for line in lines))
    return root / "images"
