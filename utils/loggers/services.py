"""Logging services, one small class each, and the file that maps a run folder to its run at each service.

Each class takes the run folder and the settings of the run when it is made, and goes on with the run of that folder if
it is known from before. A package is imported by the class that needs it, and only if the service was asked for.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from utils.console import command
from utils.files import yaml_load, yaml_save

KNOWN_RUNS = "loggers.yaml"  # in the run folder: service -> its name for the run, to go on with it


class ServiceLogger(ABC):
    """Base class of logging services. `step` is always the epoch.

    Args:
        folder: run folder; its name is that of the run, the name of the folder above that of the project.
        settings: options and hyperparameters; plain values.

    Raises:
        ValueError: the package is not installed.
    """

    @abstractmethod
    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Start a run, or continue that of the folder."""

    @abstractmethod
    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add one point to each curve."""

    @abstractmethod
    def image(self, tag: str, file: Path, step: int) -> None:
        """Add an image file."""

    @abstractmethod
    def text(self, tag: str, text: str, step: int) -> None:
        """Add a text in Markdown."""

    @abstractmethod
    def close(self) -> None:
        """End the run; a second call does nothing."""


def run_of(folder: Path, service: str) -> str | None:
    """Return what a service called the run of a folder, None if it does not know the folder yet."""
    file = folder / KNOWN_RUNS
    return yaml_load(file).get(service) if file.is_file() else None


def remember(folder: Path, service: str, run: str) -> None:
    """Note what a service calls the run of a folder."""
    file = folder / KNOWN_RUNS
    yaml_save(file, (yaml_load(file) if file.is_file() else {}) | {service: str(run)})


class WandbLogger(ServiceLogger):
    """Weights & Biases; its own variables (WANDB_ENTITY, WANDB_MODE=offline, ...) work."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        wandb = import_wandb()
        known = run_of(folder, "wandb")
        self._picture = wandb.Image
        self._run = wandb.init(
            project=folder.parent.name, name=folder.name, dir=str(folder), config=dict(settings), id=known,
            resume="allow" if known else None,
        )  # fmt: skip
        remember(folder, "wandb", self._run.id)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """See `ServiceLogger`; a step logged before a resumption stays as it was."""
        self._run.log(dict(values), step=step)

    def image(self, tag: str, file: Path, step: int) -> None:
        """See `ServiceLogger`."""
        self._run.log({tag: self._picture(str(file))}, step=step)

    def text(self, tag: str, text: str, step: int) -> None:
        """See `ServiceLogger`; it goes into the summary of the run."""
        self._run.summary[tag] = text

    def close(self) -> None:
        """See `ServiceLogger`."""
        if self._run is not None:
            self._run.finish()
        self._run = None


class MlflowLogger(ServiceLogger):
    """MLflow; MLFLOW_TRACKING_URI says where runs are stored, by default a folder beside the program."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._mlflow = import_mlflow()
        self._mlflow.set_experiment(folder.parent.name)
        known = run_of(folder, "mlflow")
        self._run = self._mlflow.start_run(run_id=known, run_name=folder.name)
        if known is None:  # settings of a run are never changed
            self._mlflow.log_params({mlflow_name(key): str(value)[:500] for key, value in settings.items()})
        remember(folder, "mlflow", self._run.info.run_id)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """See `ServiceLogger`."""
        self._mlflow.log_metrics({mlflow_name(key): value for key, value in values.items()}, step=step)

    def image(self, tag: str, file: Path, step: int) -> None:
        """See `ServiceLogger`; it becomes an artifact in pictures/."""
        self._mlflow.log_artifact(str(file), "pictures")

    def text(self, tag: str, text: str, step: int) -> None:
        """See `ServiceLogger`."""
        self._mlflow.log_text(text, f"{tag.replace(' ', '_')}.md")

    def close(self) -> None:
        """See `ServiceLogger`."""
        if self._run is not None:
            self._mlflow.end_run()
        self._run = None


class ClearmlLogger(ServiceLogger):
    """ClearML; clearml.conf names its server, CLEARML_OFFLINE_MODE=1 keeps the run in a file instead."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        clearml = import_clearml()
        known = run_of(folder, "clearml")
        self._task = clearml.Task.init(
            project_name=folder.parent.name, task_name=folder.name, continue_last_task=known or False,
            reuse_last_task_id=False, auto_connect_arg_parser=False, auto_connect_frameworks=False,
        )  # fmt: skip
        if known is None:
            self._task.connect(dict(settings), name="settings")
        remember(folder, "clearml", self._task.id)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """See `ServiceLogger`; `train/box_loss` becomes the curve box_loss of the plot train."""
        for name, value in values.items():
            title, _, series = name.rpartition("/")
            self._task.get_logger().report_scalar(title or name, series, value, iteration=step)

    def image(self, tag: str, file: Path, step: int) -> None:
        """See `ServiceLogger`."""
        self._task.get_logger().report_image(tag, file.name, iteration=step, local_path=str(file))

    def text(self, tag: str, text: str, step: int) -> None:
        """See `ServiceLogger`."""
        self._task.get_logger().report_text(f"{tag}: {text}")

    def close(self) -> None:
        """See `ServiceLogger`."""
        if self._task is not None:
            self._task.close()
        self._task = None


def _missing(name: str, error: ImportError) -> ValueError:
    """Return the error of a service whose package is not there."""
    return ValueError(f"--logger {name} needs that package ({error}): {command('pip', 'install', name)}")


def import_wandb() -> Any:
    """Return the package wandb; ValueError if it is missing."""
    try:
        import wandb  # noqa: PLC0415  optional package
    except ImportError as error:
        raise _missing("wandb", error) from None
    return wandb


def import_mlflow() -> Any:
    """Return the package mlflow; ValueError if it is missing."""
    try:
        import mlflow  # noqa: PLC0415  optional package
    except ImportError as error:
        raise _missing("mlflow", error) from None
    return mlflow


def import_clearml() -> Any:
    """Return the package clearml; ValueError if it is missing."""
    try:
        import clearml  # noqa: PLC0415  optional package
    except ImportError as error:
        raise _missing("clearml", error) from None
    return clearml


Service = tuple[Callable[..., ServiceLogger], Callable[[], Any]]
SERVICES: dict[str, Service] = {  # value of --logger -> class, and what finds out whether its package is there
    "wandb": (WandbLogger, import_wandb),
    "mlflow": (MlflowLogger, import_mlflow),
    "clearml": (ClearmlLogger, import_clearml),
}


def check_services(names: Iterable[str]) -> None:
    """Refuse services that are unknown or whose package is missing, before anything is written.

    Raises:
        ValueError: naming the service.
    """
    for name in names:
        if name not in SERVICES:
            raise ValueError(f"--logger {name}: unknown. Allowed: {', '.join(SERVICES)}")
        SERVICES[name][1]()


def mlflow_name(name: str) -> str:
    """Return a name with the characters that MLflow accepts: letters, digits, _ - . / and spaces."""
    return re.sub(r"[^\w\-./ ]", "-", name)
