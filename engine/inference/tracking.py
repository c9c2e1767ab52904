"""Objects followed through videos and streams: ByteTrack of the optional package trackers."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.inference.pipeline import Frame
from utils.paths import command

LOWEST = 0.1  # confidence of the boxes that keep an identity, but are not shown
NO_ID = -1
BUFFER_RATE = 30  # frames per second in which the package counts how long an object may be lost
SHOWN, WEAK = 1.0, 0.0  # what the package gets as confidence
HALF = 0.5  # its thresholds between the two


class Tracker:
    """Give the objects of each video or stream identities 1, 2, 3, ... that they keep from frame to frame.

    ByteTrack (Zhang et al., ECCV 2022, arXiv:2110.06864, algorithm 1): the boxes that are shown are matched first with
    where a Kalman filter expects the objects, by IoU, then the weak ones with the objects that are left. A shown box
    that belongs to none begins an object, which has its identity from its second frame on. Classes do not count, so an
    object keeps its identity when the network takes it for another class in between.

    Args:
        seconds: an object without a box is remembered for so long.
        conf: a box is shown above it, or above that of its class, see `non_max_suppression`.

    Raises:
        ValueError: the package is missing or too old.
    """

    def __init__(self, seconds: float, conf: float | Sequence[float]) -> None:
        self._seconds, self._limits = seconds, torch.tensor(conf)
        self._tracker, self._detections = _load()
        self._of: dict[str, Any] = {}  # source -> its tracker

    @staticmethod
    def lowest(conf: float | Sequence[float]) -> float:
        """Return the confidence down to which boxes are needed."""
        return min(LOWEST, *conf) if isinstance(conf, Sequence) else min(LOWEST, conf)

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows that are shown, and the weak ones, of detections (D, 6) `[xyxy_img, confidence, class]`."""
        limits = self._limits[rows[:, 5].long()] if self._limits.ndim else self._limits
        shown = rows[:, 4] > limits
        return rows[shown], rows[~shown]

    def __call__(self, frame: Frame, shown: Tensor, weak: Tensor) -> Tensor:
        """Follow the objects into the next frame of a source; frames come in order, some may be missing.

        Args:
            frame: the frame.
            shown: (D, 6) `[xyxy_img, confidence, class]`.
            weak: likewise.

        Returns:
            int64 (D,), the identity of each shown box, `NO_ID` for none. An image has none.
        """
        ids = torch.full((len(shown),), NO_ID)
        if frame.kind == "image":
            return ids
        if frame.source not in self._of:
            self._of[frame.source] = self._tracker(
                lost_track_buffer=round(self._seconds * BUFFER_RATE), frame_rate=frame.fps,
                track_activation_threshold=HALF, high_conf_det_threshold=HALF,
            )  # fmt: skip
        boxes = torch.cat((shown, weak))[:, :4].double().numpy()
        found = self._of[frame.source].update(
            self._detections(
                xyxy=boxes,
                confidence=np.repeat([SHOWN, WEAK], [len(shown), len(weak)]),
                class_id=np.arange(len(boxes)),  # the number of the row: the order may change
            ),
            timestamp=frame.number / frame.fps,
        )
        for row, number in zip(found.class_id if len(found) else (), found.tracker_id, strict=True):
            if row < len(ids) and number >= 0:
                ids[row] = int(number) + 1
        return ids


def _load() -> tuple[Any, Any]:
    """Return the tracker and the detections of the package."""
    # newer releases of supervision need PyAV, whose wheels hold x264 and x265, which are under the GPL
    install = command("pip", "install", "trackers>=2.6", "supervision<0.30")
    try:
        from supervision import Detections  # noqa: PLC0415  optional, and slow to load
        from trackers import ByteTrackTracker  # noqa: PLC0415  the same
    except ImportError as error:
        try:
            found = f"cannot use the installed trackers {version('trackers')} ({error})"
        except PackageNotFoundError:
            found = "needs the package trackers"
        raise ValueError(f"--track {found}: {install}") from None
    return ByteTrackTracker, Detections
