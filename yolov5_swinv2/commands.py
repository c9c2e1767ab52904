"""The commands that the wheel installs: each runs the script of its name as `python -m yolov5_swinv2.train` would."""

import runpy


def train() -> None:
    """Run train.py."""
    _run("train")


def val() -> None:
    """Run val.py."""
    _run("val")


def detect() -> None:
    """Run detect.py."""
    _run("detect")


def export() -> None:
    """Run export.py."""
    _run("export")


def _run(script: str) -> None:
    runpy.run_module(f"{__package__}.{script}", run_name="__main__", alter_sys=True)
