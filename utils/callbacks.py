"""The events of a run, their arguments, and the callbacks registered for them."""

from collections.abc import Callable
from typing import Any

# Event -> names of its arguments. In order of time; training tells the first and last ones, validation the middle ones.
EVENTS: dict[str, tuple[str, ...]] = {
    "on_pretrain_routine_start": (),
    "on_pretrain_routine_end": ("labels", "names"),  # (M, 5) [class, xywhn] of all images, {class: name}
    "on_train_start": (),
    "on_train_epoch_start": (),
    "on_train_batch_start": (),
    "optimizer_step": (),
    "on_before_zero_grad": (),
    "on_train_batch_end": ("model", "ni", "imgs", "targets", "paths", "losses"),  # losses: running means box, obj, cls
    "on_train_epoch_end": ("epoch",),
    "on_val_start": (),
    "on_val_batch_start": (),
    "on_val_image_end": (),
    "on_val_batch_end": (),
    "on_val_end": (),
    "on_val_metrics": ("result", "counts", "names"),  # `ApResult`, labels of each class (nc,), {class: name}
    "on_fit_epoch_end": ("vals", "epoch", "best_fitness", "fi"),  # vals: values of RESULT_COLUMNS without the epoch
    "on_model_save": ("last", "epoch", "final_epoch", "best_fitness", "fi"),  # last: path of the file
    "on_train_end": ("last", "best", "epoch", "results"),  # paths, last epoch, tuple of val.run
    "on_params_update": ("params",),  # dict of settings that changed; train.py and val.py change none
    "teardown": (),
}


class Callbacks:
    """Functions that are called when something happens in a run.

    Attributes:
        stop_training: a callback sets this to True to end training after the current batch.
    """

    def __init__(self) -> None:
        self.stop_training = False
        self._registered: dict[str, list[Callable[..., Any]]] = {event: [] for event in EVENTS}

    def register(self, event: str, callback: Callable[..., Any]) -> None:
        """Call `callback` at every `event` from now on, after those registered before.

        Args:
            event: a key of `EVENTS`.
            callback: takes the arguments of the event by name.

        Raises:
            ValueError: no such event.
        """
        _check(event)
        self._registered[event].append(callback)

    def run(self, event: str, **kwargs: Any) -> None:
        """Call what is registered for `event`; an exception of a callback ends the run.

        Raises:
            ValueError: no such event, or arguments other than those of `EVENTS`.
        """
        _check(event)
        if set(kwargs) != set(EVENTS[event]):
            raise ValueError(f"event {event} has the arguments {EVENTS[event]}, got {tuple(kwargs)}")
        for callback in self._registered[event]:
            callback(**kwargs)


def _check(event: str) -> None:
    """Raise ValueError for an event that does not exist."""
    if event not in EVENTS:
        raise ValueError(f"unknown event {event!r}. Events: {', '.join(EVENTS)}")
