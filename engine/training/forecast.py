"""How long a training run still takes, and a warning where it is long on a CPU."""

import time

from engine.training.state import Plan, State
from utils.console import LOGGER, duration, size_text

ENOUGH_BATCHES, ENOUGH_SECONDS = 10, 20.0  # after the first batch: either is enough to warn
LONG = 3600.0  # seconds of a run on a CPU that need a word in advance


class Forecast:
    """The time that a run still takes, by the pace of this process so far, validation and saving included.

    The first batch does not count: processes that load images, and libraries, start with it.
    """

    def __init__(self) -> None:
        self._start = 0.0
        self._done = -1
        self._warned = False

    def __call__(self, state: State, plan: Plan) -> float | None:
        """Count a batch, after `state.batch` was raised; return the seconds to the last epoch, None if unknown."""
        now = time.monotonic()
        if self._done < 0:
            self._start = now
        self._done += 1
        if not self._done:
            return None
        seconds = now - self._start
        batches = (plan.options.epochs - state.epoch) * plan.batches - state.batch
        left = seconds / self._done * batches
        told = self._warned or plan.options.resume or plan.device.type != "cpu"
        if not told and (self._done >= ENOUGH_BATCHES or seconds > ENOUGH_SECONDS):
            self._warned = True
            if left > LONG:
                warn(left, seconds / self._done * plan.batches, plan)
        return left


def warn(left: float, epoch: float, plan: Plan) -> None:
    """Warn that a run takes `left` seconds on the CPU, `epoch` for an epoch, and say what makes it shorter."""
    options = plan.options
    ways = [f"a smaller --img (half of {size_text(plan.imgsz)} takes a quarter of the time)", "fewer --epochs"]
    ways += ["a smaller model, such as --cfg models/yolov5n-swinv2.yaml"] if "yolov5n" not in str(options.cfg) else []
    ways += [] if options.weights else ["trained --weights, which need fewer epochs than none"]
    LOGGER.warning(
        f"this run will take about {duration(left)} on the CPU, validation not counted: {options.epochs} epochs of "
        f"{duration(epoch)}. A GPU is much faster (--device 0). Else stop it (Ctrl-C) and use {', or '.join(ways)}"
    )
