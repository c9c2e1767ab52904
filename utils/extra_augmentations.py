"""Blur, median blur, grey and local contrast from the optional package albumentations (MIT up to version 2.0).

They change pixels only, so labels stay as they are. Off unless the hyperparameter `albumentations` is above 0.
"""

import os

import cv2
import numpy as np


class ExtraAugmentations:
    """The transforms with one probability for each; random numbers come from a seed that is drawn outside.

    Args:
        p: probability of each of the four, 0..1; YOLOv5 has 0.01 where the package is installed.

    Raises:
        ValueError: the package is missing or older than 1.4.24, which cannot be seeded.
    """

    def __init__(self, p: float) -> None:
        # The package asks the network for a newer version of itself when it is imported, unless this is set.
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        try:
            import albumentations  # noqa: PLC0415 - optional
        except ImportError as e:
            raise ValueError(
                f"hyp: albumentations: {p}: this package is not installed: pip install "
                "'albumentations>=1.4.24,<=2.0.8', or set the key to 0"
            ) from e
        kinds = (albumentations.Blur, albumentations.MedianBlur, albumentations.ToGray, albumentations.CLAHE)
        self.transforms = [kind(p=p) for kind in kinds]
        if not hasattr(self.transforms[0], "set_random_seed"):
            raise ValueError(
                f"albumentations {albumentations.__version__} cannot be seeded: pip install 'albumentations>=1.4.24'"
            )

    @staticmethod
    def draw(rng: np.random.Generator) -> list[int]:
        """Draw a seed for each transform: a `Compose` would give all of them the same one, so that none came alone."""
        return rng.integers(2**31, size=4).tolist()

    def apply(self, im: np.ndarray, seeds: list[int]) -> np.ndarray:
        """Return a changed copy of an image, (H, W, 3) BGR uint8; the same seeds give the same image."""
        rgb = cv2.cvtColor(im, cv2.COLOR_BGR2RGB)
        for transform, seed in zip(self.transforms, seeds, strict=True):
            transform.set_random_seed(seed)
            rgb = transform(image=rgb)["image"]
        return cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
