"""A pretraining: what is read, the steps, what is saved and reported."""

import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from engine.interrupts import Interrupts
from engine.pretraining.images import MaskedBatches, crop_and_flip
from engine.pretraining.masked import MaskedImageModel, draw_hidden, seen_mean
from engine.training.random_state import rng_state, set_rng_state
from engine.training.state import choose_amp
from engine.unfinished import load_unfinished, refuse_existing, save_unfinished
from engine.unlabelled import Images, images_to_learn, to_tensor
from models.weights.checkpoint import TRAINING_FIELDS, save_checkpoint, strip_optimizer
from models.yolo import DetectionModel
from utils.console import LOGGER, ProgressBar, colorstr, duration
from utils.datasets.dataset import check_dataset
from utils.datasets.loader_processes import Loader, start_worker, workers_that_fit
from utils.files import check_place, yaml_load
from utils.optim import build_optimizer, warmup_cosine
from utils.paths import check_file
from utils.torch_utils import amp_context

RATE, LAST_RATE, WARMUP = 0.002, 0.01, 0.05  # peak; at the end, as part of it; part of the steps in which it rises
MOMENTUM, WEIGHT_DECAY, CLIP_NORM = 0.95, 0.05, 5.0
SAVE_EVERY = 60.0  # seconds
CHECKS = 10  # of the images held out, over the whole run
SHOWN = 6  # images in the picture
PREFIX = colorstr("pretrain: ")


@dataclass(frozen=True)
class Settings:
    """What the user chooses.

    Attributes:
        imgsz: side of the squares in pixels. batch_size: images per step. epochs: passes over the images.
        mask_ratio: part of each image that is hidden. mask_patch: side of what is hidden, in pixels.
        amp: see `choose_amp`. seed: of all random numbers.
    """

    imgsz: int = 320
    batch_size: int = 16
    epochs: int = 100
    mask_ratio: float = 0.6
    mask_patch: int = 32
    amp: str = "auto"
    seed: int = 0


def rate_at(step: int, steps: int) -> float:
    """Return the learning rate of a step: a straight rise to `RATE`, then half a cosine down to `LAST_RATE` of it."""
    return RATE * warmup_cosine(step, steps, WARMUP, LAST_RATE)


class Pretraining:
    """One pretraining.

    Args:
        cfg: model YAML.
        files: images.
        settings: see there.
        device: where it runs.
        workers: most processes that load images.

    Attributes:
        detector: the model of the YAML. model: its backbone with the layer that predicts pixels.
        step: number of the next step, of `steps`. losses: of the training since the last check. checks: for each one
            step, loss of the training since the one before, loss of the images held out. mean_colour: see
            `error_of_mean`.

    Raises:
        ValueError: sizes that do not fit, or too few images.
    """

    def __init__(self, cfg: str, files: Sequence[str], settings: Settings, device: torch.device, workers: int) -> None:
        self.settings, self.device = settings, device
        table = yaml_load(check_file(cfg, (".yaml", ".yml")))
        torch.manual_seed(settings.seed)
        self.detector = DetectionModel(table, verbose=False)
        if self.detector.yaml["ch"] != 3:
            raise ValueError(f"{cfg}: reads images of {self.detector.yaml['ch']} channels; those here have 3")
        self.model = MaskedImageModel(self.detector).to(device).to(memory_format=torch.channels_last)
        refuse_sizes(settings, self.model.stride)
        workers = min(workers, (os.cpu_count() or 1) - (device.type == "cpu"))
        workers = workers_that_fit(workers, settings.batch_size * 13 * settings.imgsz**2, prefix=PREFIX)
        self.images = Images(
            files, settings.imgsz, settings.seed, change=partial(crop_and_flip, size=settings.imgsz),
            copies=max(workers, 1),
        )  # fmt: skip
        self.workers = workers
        self.steps = max(settings.epochs * len(self.images.learned) // settings.batch_size, 1)
        self.optimizer = build_optimizer(self.model, "Muon", RATE, MOMENTUM, WEIGHT_DECAY)
        self.amp = choose_amp(settings.amp, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp == torch.float16)
        self.step, self.seconds, self.losses = 0, 0.0, [0.0, 0.0]
        self.mean_colour = self.error_of_mean()
        self.checks: list[list[float]] = []
        self.key = {
            "table": repr(self.detector.yaml),
            "images": self.images.fingerprint(),
            "settings": asdict(settings),
        }

    # The steps --------------------------------------------------------------------------------------------------------
    def run(self, state_file: Path, interrupts: Interrupts) -> None:
        """Learn, from where an earlier run was stopped.

        Args:
            state_file: holds the state while it runs.
            interrupts: a signal ends it after a step; the state is saved then.

        Raises:
            KeyboardInterrupt, SystemExit: a signal came.
            ValueError: the loss is not finite.
        """
        if found := load_unfinished(state_file, self.key, "pretraining"):
            self.restore(found)
            LOGGER.info(f"{PREFIX}going on after {self.step} of {self.steps} steps ({state_file})")
        else:
            LOGGER.info(
                f"{PREFIX}{len(self.images.learned)} images to learn from, {len(self.images.held_out)} held out, "
                f"{self.settings.epochs} epochs, {self.steps} steps of {self.settings.batch_size} images"
            )
        begun = last_saved = time.monotonic()
        before = self.seconds
        bar = ProgressBar[None](title=PREFIX, total=self.steps, done=self.step)
        with bar, interrupts.patient():
            for images, hidden in self.batches():
                loss = self.learn(images, hidden)
                if not math.isfinite(loss):
                    raise ValueError(f"the loss of step {self.step} is not finite: try --amp off")
                self.step += 1
                self.losses = [self.losses[0] + loss, self.losses[1] + 1]
                self.seconds = before + time.monotonic() - begun
                if self.step * CHECKS // self.steps > (self.step - 1) * CHECKS // self.steps:
                    self.check()
                bar.title = f"{PREFIX}loss {loss:.4f}"
                bar.update()
                if interrupts.wanted or time.monotonic() - last_saved > SAVE_EVERY:
                    self.save(state_file)
                    last_saved = time.monotonic()
                if interrupts.wanted:
                    raise interrupts.end()

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches from the next step on, loaded by other processes."""
        settings = self.settings
        data = MaskedBatches(self.images, settings.batch_size, settings.mask_patch, settings.mask_ratio)
        cv2.setNumThreads(0)  # before processes are forked, which must not inherit a thread pool
        return iter(
            Loader(
                data, batch_size=None, sampler=range(self.step, self.steps), num_workers=self.workers,
                worker_init_fn=start_worker, pin_memory=self.device.type == "cuda", generator=torch.Generator(),
                multiprocessing_context="fork" if self.workers and sys.platform == "linux" else None,
            )
        )  # fmt: skip

    def learn(self, images: Tensor, hidden: Tensor) -> float:
        """Do one step; return its loss."""
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.step, self.steps)
        loss, _ = self.predict(images, hidden)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return float(loss.detach())

    def predict(self, images: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Run the model on a batch, wherever it is."""
        images = images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        with amp_context(self.device, self.amp):
            return self.model(images, hidden.to(self.device, non_blocking=True))

    # The images held out ----------------------------------------------------------------------------------------------
    def held_out(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the images held out, each scaled to a square, and what is hidden of them, always the same."""
        settings, files = self.settings, self.images.held_out
        rng, size = np.random.default_rng((settings.seed, 4)), (settings.imgsz, settings.imgsz)
        for start in range(0, len(files), settings.batch_size):
            squares = [
                cv2.resize(self.images.read(file), size, interpolation=cv2.INTER_LINEAR)
                for file in files[start : start + settings.batch_size]
            ]
            yield (
                to_tensor(squares),
                draw_hidden(rng, len(squares), settings.imgsz, settings.mask_patch, settings.mask_ratio),
            )

    @torch.no_grad()
    def check(self) -> None:
        """Measure and log the loss of the images held out."""
        self.model.eval()
        losses = [(float(self.predict(*batch)[0]), len(batch[0])) for batch in self.held_out()]
        held_out = sum(loss * n for loss, n in losses) / sum(n for _, n in losses)
        self.checks.append([self.step, self.losses[0] / self.losses[1], held_out])
        self.losses = [0.0, 0.0]
        epoch = self.step * self.settings.batch_size / len(self.images.learned)
        LOGGER.info(
            f"{PREFIX}epoch {epoch:.0f}: loss {self.checks[-1][1]:.4f}, of images held out {held_out:.4f} "
            f"({self.mean_colour:.4f} for the mean colour of what is seen)"
        )

    def error_of_mean(self) -> float:
        """Return the loss on the images held out if the mean colour of what is seen were predicted everywhere."""
        errors, count = 0.0, 0
        for images, hidden in self.held_out():
            error = (images - seen_mean(images, hidden)).abs() * hidden
            errors += float(error.sum() / (hidden[:1].sum() * images.shape[1]))
            count += len(images)
        return errors / count

    @torch.no_grad()
    def picture(self) -> np.ndarray:
        """Return images held out, what the model sees of them and what it makes of that: three rows, BGR uint8."""
        self.model.eval()
        images, hidden = next(self.held_out())
        images, hidden = images[:SHOWN], hidden[:SHOWN]
        predicted = self.predict(images, hidden)[1].cpu()
        seen = torch.where(hidden, self.model.token.detach().float().cpu(), images)
        rows = (images, seen, torch.where(hidden, predicted, images))
        grid = torch.cat([torch.cat(list(row), 2) for row in rows], 1)  # (3, 3 H, n W)
        return (grid.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()[..., ::-1]

    # What is saved ----------------------------------------------------------------------------------------------------
    def save(self, state_file: Path) -> None:
        """Save the state."""
        state = {
            "key": self.key,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": rng_state(),
            **{name: getattr(self, name) for name in ("step", "seconds", "losses", "checks")},
        }
        save_unfinished(state, state_file)

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `save` saved."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        set_rng_state(state["rng"])
        for name in ("step", "seconds", "losses", "checks"):
            setattr(self, name, state[name])

    def write(self, out: Path) -> None:
        """Write the backbone as a checkpoint for `train.py --weights`, without the layer that predicts pixels."""
        prefixes = tuple(f"model.{i}." for i in range(self.model.layers))
        state = {name: x.cpu() for name, x in self.detector.state_dict().items() if name.startswith(prefixes)}
        record = {
            "method": "SimMIM",
            "settings": asdict(self.settings),
            "images": len(self.images.learned),
            "checks": self.checks,
            "mean_colour": self.mean_colour,
            "seconds": round(self.seconds, 1),
        }
        fields = dict.fromkeys(TRAINING_FIELDS) | {
            "epoch": -1,
            "model": state,
            "yaml": self.detector.yaml,
            "names": dict(self.detector.names),
            "stride": self.detector.stride.tolist(),
            "hyp": None,
            "opt": {},
            "pretrained": record,
        }
        save_checkpoint(out, fields)
        strip_optimizer(out)


def refuse_sizes(settings: Settings, stride: int) -> None:
    """Raise ValueError if the image size is no multiple of the patches and of the stride of the backbone's last map."""
    size, patch = settings.imgsz, settings.mask_patch
    unit = math.lcm(stride, patch)
    if size % unit or size < 2 * patch:
        raise ValueError(
            f"--img {size} does not fit: it must be a multiple of {unit}, which is {stride} pixels per cell of the "
            f"last map and --mask-patch {patch}, and hold more than one patch"
        )


def pretrain(
    cfg: str,
    images: str | Path | Sequence[str | Path] | None = None,
    data: str | Path | None = None,
    out: str | Path = "",
    settings: Settings | None = None,
    device: torch.device | None = None,
    workers: int = 0,
) -> Path:
    """Train the backbone of a model on images without labels and write it as a checkpoint.

    A run that was stopped goes on when it is called again with the same arguments; on a CPU the result is the same as
    that of an unbroken one.

    Args:
        cfg: model YAML.
        images: folders or lists of images.
        data: dataset YAML; its training images are used too, without their labels.
        out: checkpoint to write; "" is the name of the YAML with `-pretrained`, in the working directory. An image of
            the same name shows what the model makes of hidden parts.
        settings: sizes and length.
        device: where it runs; None is the CPU.
        workers: most processes that load images.

    Returns:
        The checkpoint.

    Raises:
        FileNotFoundError, ValueError: files or sizes do not fit; a file that would be written exists already.
    """
    if not cfg:
        raise ValueError("no model: pass --cfg with a model YAML, such as models/yolov5s-swinv2.yaml")
    files = images_to_learn(images, check_dataset(data, needed=("train", "val")) if data else None, str(data))
    out = Path(out or f"{Path(cfg).stem}-pretrained.pt")
    check_place(out)
    drawn = out.with_suffix(".png")
    refuse_existing([out, drawn])
    state_file = out.with_name(f"{out.stem}.pretraining.pt")
    with Interrupts() as interrupts:
        work = Pretraining(cfg, files, settings or Settings(), device or torch.device("cpu"), workers)
        try:
            work.run(state_file, interrupts)
        except (KeyboardInterrupt, SystemExit):
            if state_file.is_file():
                LOGGER.warning(f"{interrupts.name} stopped the pretraining. The same command goes on ({state_file})")
            raise
    work.write(out)
    cv2.imwrite(str(drawn), work.picture())
    state_file.unlink(missing_ok=True)
    LOGGER.info(f"{PREFIX}{duration(work.seconds)}; saved as {out}; what it makes of hidden parts: {drawn}")
    LOGGER.info(f"{PREFIX}next: python train.py --weights {out} --data my.yaml")
    return out
