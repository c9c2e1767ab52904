"""A teacher while training: the frozen detector, whether it fits the student, and the term that it adds to the loss."""

import math
from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from models.weights.checkpoint import FOREIGN, TRAINING_FIELDS, build_model, load_checkpoint, save_checkpoint
from models.yolo import DetectionModel
from utils.console import LOGGER, colorstr
from utils.distributed import is_main, main_first, mean_over_processes, shares_of_mean, world_size
from utils.downloads.official_weights import LICENCE, log_licence
from utils.files import file_sha256
from utils.hyp import Hyp
from utils.loss import map_loss, output_loss
from utils.options.train import START, TrainOptions
from utils.text import printable
from utils.torch_utils import amp_context, time_sync

CALIBRATION = 20  # batches over which the scale of the term and its time are measured
SMALLEST = 1e-3  # a term counts as no smaller when its scale is measured: the copy of a student begins near 0
SAME_ANCHORS = 1e-3  # largest difference in cells
TERMS = {"outputs": ("outputs",), "maps": ("feature maps",), "both": ("outputs", "feature maps")}
PREFIX = colorstr("teacher: ")


class Distillation:
    """The teacher of a run and the loss of its student against it.

    Each term is scaled so that over the first `CALIBRATION` batches all of them together equal the detection loss times
    the gain. The scale is fixed from then on, and the term falls to 0 along a cosine over the run.

    Args:
        teacher: from `load_teacher`, on the device.
        student: what trains.
        record: of the teacher's file, for checkpoints.
        learns: a key of `TERMS`.
        hyp: hyperparameters with the loss gains fitted to the run.
        amp: autocast type of the run, or None.
    """

    def __init__(
        self,
        teacher: DetectionModel,
        student: DetectionModel,
        record: Mapping[str, Any],
        learns: str,
        hyp: Hyp,
        amp: torch.dtype | None,
    ) -> None:
        self.teacher, self.record, self.learns, self.hyp, self.amp = teacher, dict(record), learns, hyp, amp
        self.device = teacher.stride.device
        self.anchors = teacher.detect.anchors
        self.shares = partial(shares_of_mean, device=self.device) if world_size() > 1 else None
        self.gains = hyp.to_dict()
        self.maps = [HeadInputs(model) for model in (student, teacher)] if learns != "outputs" else []
        self.batches, self.sums = 0, torch.zeros(1 + len(TERMS[learns]), device=self.device)
        self._starts: list[float] = []
        self._seconds = 0.0

    def __call__(
        self, loss: Tensor, items: Tensor, images: Tensor, preds: list[Tensor], progress: float
    ) -> tuple[Tensor, Tensor]:
        """Add the term to the loss of a batch; call it after the forward pass of the student, in every process.

        Args:
            loss: detection loss times the batch size, (1,).
            items: its parts, (3,).
            images: the batch, (B, 3, H, W).
            preds: raw maps of the student, one (B, A, H, W, 5 + nc) per level.
            progress: how much of the run is done, 0 to 1.

        Returns:
            The sum times the batch size, (1,), and the parts with the term as the last one, (4,), detached.
        """
        timed = len(self._starts) < CALIBRATION
        start = time_sync() if timed else 0.0
        with torch.no_grad(), amp_context(self.device, self.amp):
            theirs = self.teacher(images)
        terms = torch.stack(self._terms(preds, theirs))
        falling = (1 + math.cos(math.pi * progress)) / 2
        term = (terms * self._scales(items.sum(), terms.detach())).sum() * self.hyp.distill * falling
        if timed:
            self._measure(start)
        return loss + term * len(images), torch.cat((items, term.detach()[None]))

    def _terms(self, preds: list[Tensor], theirs: list[Tensor]) -> list[Tensor]:
        """Return what is compared, in the order of `TERMS`."""
        terms = []
        if self.learns != "maps":
            terms.append(output_loss(preds, theirs, self.anchors, self.gains, self.shares))
        if self.learns != "outputs":
            own, taught = (maps.take() for maps in self.maps)
            terms.append(map_loss(own, taught, theirs, self.shares))
        return terms

    def _scales(self, detection: Tensor, terms: Tensor) -> Tensor:
        """Return the factor of each term, measured over the batches so far until it is fixed."""
        if self.batches < CALIBRATION:
            self.sums += mean_over_processes(torch.cat((detection[None], terms)))
            self.batches += 1
        smallest = SMALLEST * self.batches
        return self.sums[0] / self.sums[1:].clamp(min=smallest) / len(terms)

    def _measure(self, start: float) -> None:
        """Add up the time of the first batches, and log at the last one what was measured."""
        self._starts.append(start)
        self._seconds += time_sync() - start
        if len(self._starts) < CALIBRATION:
            return
        step = median(b - a for a, b in pairwise(self._starts))  # of some, a validation lies between
        extra = self._seconds / CALIBRATION
        detection, *terms = (self.sums / self.batches).tolist()
        compared = " and ".join(f"{value:.3g} ({name})" for name, value in zip(TERMS[self.learns], terms, strict=True))
        LOGGER.info(
            f"\n{PREFIX}over the first {self.batches} batches the detection loss was {detection:.3g}, the difference "
            f"from the teacher {compared}. The latter is scaled to {self.hyp.distill:g} times the detection loss and "
            f"falls to 0 by the end of the run. Of {step:.3g} s per batch the teacher takes {extra:.3g} s"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint holds: the teacher's file and digest, and what the scale follows from."""
        return {**self.record, "batches": self.batches, "sums": self.sums.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the scale from `state_dict`."""
        self.batches, self.sums = state["batches"], torch.tensor(state["sums"], device=self.device)


class HeadInputs:
    """Keeps the maps that the head of a model read in its last forward pass, until they are taken."""

    def __init__(self, model: DetectionModel) -> None:
        self._maps: list[Tensor] = []
        model.detect.register_forward_pre_hook(self._keep)

    def _keep(self, head: nn.Module, args: tuple[list[Tensor]]) -> None:
        self._maps = list(args[0])

    def take(self) -> list[Tensor]:
        """Return the maps, one (B, C, H, W) per level, and forget them: the graph of a student hangs on them."""
        maps, self._maps = self._maps, []
        return maps


def load_teacher(
    options: TrainOptions, student: DetectionModel, save_dir: Path, ckpt: Mapping[str, Any] | None
) -> tuple[DetectionModel, dict[str, Any]] | None:
    """Read the teacher of a run and let the student take its anchors if it learns its outputs.

    Call it in every process. The random state stays as it is.

    Args:
        options: of the run.
        student: with the weights of the start; its anchors may be changed.
        save_dir: run folder, in which the frozen copy of `--teacher start` is kept.
        ckpt: of a resumed run, else None.

    Returns:
        The teacher, frozen, and a record of its file; None without --teacher.

    Raises:
        FileNotFoundError, ValueError: the file is missing or another one than before, or does not fit the student.
    """
    before: Any = ckpt["teacher"] if ckpt else None
    if ckpt and bool(before) != bool(options.teacher):
        raise ValueError(
            f"--teacher {options.teacher}: the resumed run has no teacher; start a new run with it"
            if options.teacher
            else f"--teacher '': the resumed run has a teacher, {before['file']}; start a new run without one"
        )
    if not options.teacher:
        return None
    file = save_dir / "weights/teacher.pt" if options.teacher == START else Path(options.teacher)
    with main_first(), torch.random.fork_rng(devices=[]):
        if options.teacher == START and not before and is_main():
            save_copy(student, file)
        source = load_checkpoint(file)
        digest = file_sha256(file)
        teacher = build_model(source)
    if before and before["sha256"] != digest:
        raise ValueError(
            f"--teacher {file}: another file than the resumed run was taught by: its SHA-256 is {digest}, expected "
            f"{before['sha256']}. Pass that file with --teacher, or start a new run"
        )
    if difference := first_difference(student, teacher, options.distill_from):
        able = [learns for learns in ("outputs", "maps") if not first_difference(student, teacher, learns)]
        hint = f"; --distill-from {able[0]} is possible" if able else ""
        raise ValueError(
            f"--teacher {options.teacher}: cannot teach {what_is_taught(options)} to this model: {difference}{hint}"
        )
    foreign = source["version"] == FOREIGN
    if foreign:
        log_licence(file.name)
    teacher.requires_grad_(False).eval()
    teacher.detect.train()  # raw maps alone: the head has no batch statistics
    parameters = sum(x.numel() for x in teacher.parameters()) / 1e6
    LOGGER.info(f"{PREFIX}{file}, {parameters:.1f} M parameters, teaches {what_is_taught(options)}")
    if options.distill_from != "maps":
        take_anchors(student, teacher, options)
    return teacher, {"file": str(file.resolve()), "sha256": digest, "licence": LICENCE if foreign else None}


def what_is_taught(options: TrainOptions) -> str:
    """Say what --distill-from chooses."""
    return "its " + " and its ".join(TERMS[options.distill_from])


def save_copy(student: DetectionModel, file: Path) -> None:
    """Write the student as it is, in full precision, for `--teacher start`."""
    file.parent.mkdir(exist_ok=True)
    fields = dict.fromkeys(TRAINING_FIELDS) | {
        "epoch": -1,
        "model": student.state_dict(),
        "yaml": student.yaml,
        "names": dict(student.names),
        "stride": student.stride.tolist(),
        "hyp": None,
        "opt": {},
    }
    save_checkpoint(file, fields)


def first_difference(student: DetectionModel, teacher: DetectionModel, learns: str) -> str:
    """Say in what student and teacher differ first so that the one cannot teach the other; "" if in nothing."""
    own, theirs = student.detect, teacher.detect
    compared: list[tuple[str, Any, Any]] = [
        ("channels of the image", student.yaml["ch"], teacher.yaml["ch"]),
        ("bits of the image", student.pixels.depth, teacher.pixels.depth),
        ("the strides of the levels", own.stride.tolist(), theirs.stride.tolist()),
    ]
    if learns != "maps":
        names = [[printable(str(name)) for name in model.names.values()] for model in (student, teacher)]
        compared += [
            ("anchors per level", own.na, theirs.na),
            ("the number of classes", own.nc, theirs.nc),
            *((f"the name of class {i}", *pair) for i, pair in enumerate(zip(*names, strict=False))),
        ]
    if learns != "outputs":
        widths = [[conv.in_channels for conv in head.m] for head in (own, theirs)]
        compared.append(("channels of the feature maps", widths[0], widths[1]))
    unequal = next((item for item in compared if item[1] != item[2]), None)
    return f"{unequal[0]}: {unequal[1]} here, {unequal[2]} in the teacher" if unequal else ""


def take_anchors(student: DetectionModel, teacher: DetectionModel, options: TrainOptions) -> None:
    """Give the student the anchors of its teacher, on which the meaning of the outputs depends.

    Raises:
        ValueError: they differ, and --noautoanchor is to keep those of the student.
    """
    own, theirs = student.detect.anchors, teacher.detect.anchors.to(student.detect.anchors)
    differ = (own - theirs).abs().max() > SAME_ANCHORS
    if differ and options.noautoanchor:
        raise ValueError(
            f"--teacher {options.teacher}: its anchors are not those of this model, which --noautoanchor keeps: remove "
            "that option, or learn with --distill-from maps"
        )
    if differ:
        with torch.no_grad():
            own.copy_(theirs)
    if not options.resume:
        LOGGER.info(f"{PREFIX}its anchors are used, none are fitted to the dataset")
