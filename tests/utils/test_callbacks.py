"""Events reach their listeners, in order, with the arguments of the table."""

import pytest

from utils.callbacks import EVENTS, Callbacks


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_passes_its_arguments(event):
    arguments = {name: object() for name in EVENTS[event]}
    heard = []
    callbacks = Callbacks()
    callbacks.register(event, lambda **given: heard.append(given))
    callbacks.run(event, **arguments)
    assert heard == [arguments]


def test_listeners_are_called_in_the_order_of_registration_and_only_for_their_event():
    heard = []
    callbacks = Callbacks()
    callbacks.register("on_train_epoch_end", lambda epoch: heard.append(("first", epoch)))
    callbacks.register("on_train_epoch_end", lambda epoch: heard.append(("second", epoch)))
    callbacks.run("on_train_start")
    callbacks.run("on_train_epoch_end", epoch=3)
    assert heard == [("first", 3), ("second", 3)]


def test_two_objects_share_no_listeners():
    heard = []
    Callbacks().register("teardown", lambda: heard.append(1))
    Callbacks().run("teardown")
    assert heard == []


def test_a_listener_can_stop_the_training():
    callbacks = Callbacks()
    assert not callbacks.stop_training
    callbacks.register("on_train_batch_start", lambda: setattr(callbacks, "stop_training", True))
    callbacks.run("on_train_batch_start")
    assert callbacks.stop_training


def test_an_exception_of_a_listener_is_not_swallowed():
    callbacks = Callbacks()
    callbacks.register("on_train_start", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        callbacks.run("on_train_start")


def test_unknown_events_are_refused():
    callbacks = Callbacks()
    with pytest.raises(ValueError, match="unknown event 'on_lunch'. Events: on_pretrain_routine_start"):
        callbacks.register("on_lunch", print)
    with pytest.raises(ValueError, match="unknown event 'on_lunch'"):
        callbacks.run("on_lunch")


@pytest.mark.parametrize("arguments", [{}, {"epoch": 1, "x": 2}, {"x": 2}])
def test_wrong_arguments_are_refused_without_any_listener(arguments):
    with pytest.raises(ValueError, match=r"event on_train_epoch_end has the arguments \('epoch',\)"):
        Callbacks().run("on_train_epoch_end", **arguments)
