"""What was found in some images: boxes in four formats, and ways to print, draw, save and cut them."""

import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from utils.annotate import crop_box, draw_detections, write_image
from utils.boxes import xyxy2xywh
from utils.console import LOGGER
from utils.paths import increment_path
from utils.text import count_text, file_names

CORNERS = ["xmin", "ymin", "xmax", "ymax", "confidence", "class", "name"]
CENTRES = ["xcenter", "ycenter", "width", "height", "confidence", "class", "name"]


class Detections:
    """Results of a call of `AutoShape`: a sequence with one entry per image.

    `results[0]` and iteration give the results of one image, `results[:2]` those of some, both as `Detections`.
    Pickled results hold tensors of the CPU and plain data, no model.

    Args:
        ims: images, (H, W, 3) uint8 RGB.
        pred: per image (D, 6) `[xyxy_img, confidence, class]`, best first.
        files: per image the name of the file to save, ending in .jpg.
        times: milliseconds per image for (pre-processing, inference, NMS).
        names: class number to name.
        shape: (images, channels, height, width) of the network input; of inputs of several shapes the largest sides.

    Attributes:
        xyxy, xywh: per image (D, 6), four coordinates in pixels of the image, confidence, class.
        xyxyn, xywhn: the same, coordinates divided by width and height.
        n: number of images. t: `times`. s: `shape`. The others are called as the arguments.
    """

    def __init__(
        self,
        ims: Sequence[NDArray],
        pred: Sequence[Tensor],
        files: Sequence[str],
        times: tuple[float, float, float] = (0.0, 0.0, 0.0),
        names: Mapping[int, str] | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        self.ims, self.pred, self.files = list(ims), list(pred), list(files)
        self.names = dict(names or {})
        self.times = self.t = tuple(times)
        self.n, self.s = len(self.pred), shape
        self._clean = list(self.ims)  # without boxes, also after `render`
        sizes = [
            p.new_tensor([im.shape[1], im.shape[0]] * 2 + [1, 1]) for im, p in zip(self.ims, self.pred, strict=True)
        ]
        self.xyxy = self.pred
        self.xywh = [xyxy2xywh(p) for p in self.pred]
        self.xyxyn = [p / size for p, size in zip(self.xyxy, sizes, strict=True)]
        self.xywhn = [p / size for p, size in zip(self.xywh, sizes, strict=True)]

    @property
    def imgs(self) -> list[NDArray]:
        """`ims`, as YOLOv5 up to 6.2 called them."""
        return self.ims

    @imgs.setter
    def imgs(self, ims: list[NDArray]) -> None:
        self.ims = ims

    # A sequence ------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int | slice) -> "Detections":
        """Return the results of one image or of some.

        Raises:
            IndexError: no such image.
        """
        if not isinstance(index, slice):
            position = range(self.n)[index]  # IndexError beyond the ends
            index = slice(position, position + 1)
        part = Detections(self._clean[index], self.pred[index], self.files[index], self.t, self.names, self.s)
        part.ims = self.ims[index]
        return part

    def __iter__(self) -> Iterator["Detections"]:
        return (self[i] for i in range(self.n))

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        for key in ("pred", "xyxy", "xywh", "xyxyn", "xywhn"):
            if all(isinstance(x, Tensor) for x in state[key]):
                state[key] = [x.cpu() for x in state[key]]
        return state

    def tolist(self) -> list["Detections"]:
        """Return the results image by image."""
        return list(self)

    # Text ------------------------------------------------------------------------------------------------------------

    def _name(self, cls: float) -> str:
        return self.names.get(int(cls), str(int(cls)))

    def __str__(self) -> str:
        lines = []
        for i, (im, pred) in enumerate(zip(self.ims, self.pred, strict=True), 1):
            found = count_text(Counter(pred[:, 5].int().tolist()), self.names)
            lines.append(f"image {i}/{self.n}: {im.shape[0]}x{im.shape[1]} {found}")
        speed = "Speed: {:.1f}ms pre-process, {:.1f}ms inference, {:.1f}ms NMS per image".format(*self.t)
        return "\n".join([*lines, f"{speed} at shape {self.s}"])

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__name__} of {self.n} images>\n{self}"

    def print(self) -> None:
        """Log what was found in each image, and the times."""
        LOGGER.info(str(self), extra={"lines": True})

    def pandas(self) -> "Detections":
        """Return a copy whose `xyxy`, `xyxyn`, `xywh` and `xywhn` are one data frame per image."""
        import pandas as pd  # noqa: PLC0415  slow to load, and only needed here

        new = copy(self)
        for key, columns in (("xyxy", CORNERS), ("xyxyn", CORNERS), ("xywh", CENTRES), ("xywhn", CENTRES)):
            tables = []
            for rows in getattr(self, key):
                cells = [[*row[:5], int(row[5]), self._name(row[5])] for row in rows.tolist()]
                tables.append(pd.DataFrame(cells, columns=columns))
            setattr(new, key, tables)
        return new

    # Images --------------------------------------------------------------------------------------------------------

    def render(self, labels: bool = True) -> list[NDArray]:
        """Draw the boxes, the strongest on top; `ims` become the drawn images.

        Args:
            labels: write class and confidence.

        Returns:
            Images (H, W, 3) uint8 RGB.
        """
        self.ims = [
            draw_detections(im, pred, self.names, hide_labels=not labels, bgr=False)
            for im, pred in zip(self._clean, self.pred, strict=True)
        ]
        return self.ims

    def show(self, labels: bool = True) -> None:
        """Show the images with their boxes: in a notebook, else in the viewer of the system.

        Without a display this is only a warning.
        """
        ipython = sys.modules.get("IPython")
        shell = ipython.get_ipython() if ipython else None
        notebook = shell is not None and hasattr(shell, "kernel")
        if not notebook and sys.platform.startswith("linux") and not {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
            LOGGER.warning("there is no display to show images on: use save() or render()")
            return
        for im in self.render(labels):
            image = Image.fromarray(im)
            if notebook:
                ipython.display.display(image)
            else:
                image.show()

    def save(self, labels: bool = True, save_dir: str | Path = "runs/detect/exp", exist_ok: bool = False) -> Path:
        """Save the images with their boxes as JPEG.

        Args:
            labels: write class and confidence.
            save_dir: folder, numbered if it exists, unless `exist_ok`.
            exist_ok: see `save_dir`.

        Returns:
            The folder.
        """
        folder = increment_path(save_dir, exist_ok, mkdir=True)
        for im, file in zip(self.render(labels), self.files, strict=True):
            write_image(folder / file, im[..., ::-1])
        LOGGER.info(f"Saved {self.n} image{'s' * (self.n != 1)} to {folder}")
        return folder

    def crop(
        self, save: bool = True, save_dir: str | Path = "runs/detect/exp", exist_ok: bool = False
    ) -> list[dict[str, Any]]:
        """Cut out what was found, from the images without boxes.

        Args:
            save: write crops/<class>/<image>.jpg in the folder; further ones of a name are numbered.
            save_dir: as in `save`.
            exist_ok: as in `save`.

        Returns:
            Per detection, image by image and weakest first: box, four tensors () `xyxy_img`, conf (), cls (), label
            such as "dog 0.87", im (h, w, 3) uint8 RGB: the box, 2 % larger and 10 pixels wider and higher.
        """
        folder = increment_path(save_dir, exist_ok, mkdir=True) if save else None
        groups = file_names(self.names)
        crops = []
        for im, pred, file in zip(self._clean, self.pred, self.files, strict=True):
            for row in pred.flip(0):
                conf, cls = float(row[4]), float(row[5])
                piece = crop_box(im, row[:4])
                label = f"{self._name(cls)} {conf:.2f}"
                crops.append({"box": list(row[:4]), "conf": row[4], "cls": row[5], "label": label, "im": piece})
                if folder is not None:
                    into = folder / "crops" / groups.get(int(cls), str(int(cls)))
                    write_image(increment_path(into / file, sep="-"), piece[..., ::-1])
        if folder is not None:
            LOGGER.info(f"Saved {len(crops)} crop{'s' * (len(crops) != 1)} to {folder}")
        return crops
