"""The events of a run, their arguments, and the callbacks registered for them."""

from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import Any

# Event -> names of its arguments. In order of time; training tells the first and last ones, validation the middle ones.
# Of those without names, on_val_image_end, on_val_batch_end and on_val_end give YOLOv5's arguments to its actions.
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
    "on_fit_epoch_end": ("vals", "epoch", "best_fitness", "fi"),  # vals: values of results.csv without the epoch
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
        self._callbacks: dict[str, list[dict[str, Any]]] = {event: [] for event in EVENTS}

    def register(self, event: str, callback: Callable[..., Any]) -> None:
        """Call `callback` at every `event` from now on, after those registered before.

        Args:
            event: a key of `EVENTS`.
            callback: takes the arguments of the event by name.

        Raises:
            ValueError: no such event.
        """
        _check(event)
        self._callbacks[event].append({"name": "", "callback": callback, "by_name": True})

    def register_action(self, hook: str, name: str = "", callback: Callable[..., Any] | None = None) -> None:
        """Do what `register` does, in YOLOv5's form: the callback takes YOLOv5's arguments of the event, by position.

        Args:
            hook: a key of `EVENTS`.
            name: of the action, for `get_registered_actions`.
            callback: what is called.

        Raises:
            ValueError: no such event, or nothing that can be called.
        """
        _check(hook)
        if not callable(callback):
            raise ValueError(f"callback of {hook} is {callback!r}, which cannot be called")
        self._callbacks[hook].append({"name": name, "callback": callback, "by_name": False})

    def get_registered_actions(self, hook: str | None = None) -> Any:
        """Return the registered actions of an event, dicts of `name` and `callback`, or the lists of all events."""
        return self._callbacks[hook] if hook else self._callbacks

    def run(self, hook: str, *args: Any, thread: bool = False, **kwargs: Any) -> None:
        """Call what is registered for `hook`; an exception of a callback ends the run.

        Args:
            hook: a key of `EVENTS`.
            *args: the arguments of the event by position; those of an event without names go to actions only.
            thread: call each in a thread of its own.
            **kwargs: the arguments of the event by name.

        Raises:
            ValueError: no such event, or arguments other than those of `EVENTS`.
        """
        _check(hook)
        names = EVENTS[hook]
        if names:
            kwargs |= dict(zip(names, args, strict=False))
        if set(kwargs) != set(names) or (names and len(args) > len(names)):
            raise ValueError(f"event {hook} has the arguments {EVENTS[hook]}, got {tuple(kwargs)}")
        by_position = tuple(kwargs[name] for name in names) or args
        for action in self._callbacks[hook]:
            call = (
                partial(action["callback"], **kwargs)
                if action["by_name"]
                else partial(action["callback"], *by_position)
            )
            if thread:
                Thread(target=call, daemon=True).start()
            else:
                call()


def _check(event: str) -> None:
    """Raise ValueError for an event that does not exist."""
    if event not in EVENTS:
        raise ValueError(f"unknown event {event!r}. Events: {', '.join(EVENTS)}")
