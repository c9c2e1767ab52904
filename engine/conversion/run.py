"""A conversion from teacher to twin: what is read, the phases, what is saved and reported."""

import math
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from engine.conversion.check import Check, check_twin, measure_map, validation_loader
from engine.conversion.imitation import Imitation, phases_of, rate_at
from engine.conversion.progress import Progress, load_progress, save_progress
from engine.conversion.stem import fit_stem_
from engine.interrupts import Interrupts
from engine.unfinished import refuse_existing
from engine.unlabelled import Images, images_to_learn
from models.image_size import check_img_size, input_stride
from models.weights.checkpoint import (
    FOREIGN,
    TRAINING_FIELDS,
    build_model,
    load_checkpoint,
    save_checkpoint,
    strip_optimizer,
)
from models.weights.twin import build_twin, check_pairing, derive_table, start_as_identity_, twin_table
from utils.console import LOGGER, ProgressBar, colorstr, duration
from utils.datasets.dataset import check_dataset
from utils.downloads.official_weights import LICENCE, LICENCE_NOTICE, find_weights
from utils.files import check_place, file_sha256, yaml_save
from utils.text import printable

PASSES = 1600  # images that a conversion looks at, repeated ones counted, unless it is told otherwise
SAVE_EVERY, MOST_FAILURES = 60.0, 3  # seconds; losses that are not finite
FAR, LOW = 0.5, 0.8  # error of a stage and agreement (mAP50) from which on the result is warned of
PREFIX = colorstr("convert: ")


@dataclass(frozen=True)
class Settings:
    """What the user chooses.

    Attributes:
        imgsz: side of the images in pixels. batch_size: images per step. seed: of all random numbers.
        passes: images looked at. minutes: time for the steps instead, measured at the start.
    """

    imgsz: int = 640
    batch_size: int = 4
    passes: int = PASSES
    minutes: float | None = None
    seed: int = 0


class Conversion:
    """One conversion.

    Args:
        ckpt: of the teacher, from `load_checkpoint`.
        source: its file.
        cfg: table of the twin, or `twin` to derive it from the teacher's.
        files: images.
        settings: see there.
        device: where it runs.

    Attributes:
        teacher, twin: the models; the twin is the copy until `run` ends. derived: whether the table was derived.

    Raises:
        ValueError: the layers do not pair, there are too few images, or the teacher was converted before.
    """

    def __init__(
        self,
        ckpt: Mapping[str, Any],
        source: str | Path,
        cfg: str,
        files: Sequence[str],
        settings: Settings,
        device: torch.device,
    ) -> None:
        if ckpt["converted"]:
            raise ValueError(f"{source} has been converted already, from {ckpt['converted']['teacher']}: train it")
        self.ckpt, self.source, self.device = ckpt, Path(source), device
        self.teacher = build_model(dict(ckpt))
        if self.teacher.yaml["ch"] != 3:
            raise ValueError(f"{source}: reads images of {self.teacher.yaml['ch']} channels; those here have 3")
        stride = input_stride(self.teacher.stride)
        imgsz = check_img_size(settings.imgsz, stride, floor=2 * stride)
        self.settings = Settings(**asdict(settings) | {"imgsz": imgsz})
        self.derived = cfg == "twin"
        if self.derived:
            table, kept = derive_table(self.teacher, imgsz)
            for sentence in kept:
                LOGGER.info(f"{PREFIX}{sentence}")
        else:
            table = twin_table(self.teacher, cfg)
        self.images = Images(files, imgsz, settings.seed, stride)
        torch.manual_seed(settings.seed)  # of the weights of the stages
        self.twin, self.pairing = build_twin(self.teacher, table)
        check_pairing(self.pairing, self.teacher, self.twin, self.source.name, cfg)
        for model in (self.teacher, self.twin):
            model.to(device)
        self.stem_error = fit_stem_(self.teacher, self.twin, self.images) if self.pairing.stem else None
        self.imitation = Imitation(self.teacher, self.twin, self.pairing.stages, self.batch(0))
        self.phases = phases_of(self.pairing.whole)
        self.progress = Progress(self.key(table), [])

    def key(self, table: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the result depends on, for `load_progress`."""
        return {
            "teacher": file_sha256(self.source),
            "table": repr(table),
            "images": self.images.fingerprint(),
            "settings": asdict(self.settings),
            "phases": [asdict(phase) for phase in self.phases],
        }

    def check(self) -> Check:
        """Compare the twin as it is with its teacher."""
        return check_twin(self.teacher, self.twin, self.images, self.pairing.stages, self.pairing.whole, self.device)

    # The steps --------------------------------------------------------------------------------------------------------
    def run(self, state_file: Path, interrupts: Interrupts) -> None:
        """Learn all phases, from where an earlier run was stopped; at the end the twin has the best weights of all.

        Args:
            state_file: holds the state while it runs.
            interrupts: a signal ends it after a step; the state is saved then.

        Raises:
            KeyboardInterrupt, SystemExit: a signal came.
            ValueError: the loss stays not finite, or the device has too little memory.
        """
        start = time.process_time()
        found = load_progress(state_file, self.progress.key)
        if found:
            self.progress = found
            self.imitation.load_state_dict(found.imitation)
            LOGGER.info(f"{PREFIX}going on after {found.step} of {sum(found.steps)} steps ({state_file})")
        else:
            self.progress.steps = self.plan()
            self.progress.add(self.check(), self.imitation.state_dict()["stages"])
            LOGGER.info(f"{PREFIX}copied: {self.progress.checks[0]}")
        before = self.progress.seconds
        bar = ProgressBar[None](title=PREFIX, total=sum(self.progress.steps), done=self.progress.step)
        with bar, interrupts.patient():
            while self.progress.phase < len(self.phases):
                finished = self.run_phase(bar, state_file, interrupts)
                self.progress.seconds = before + time.process_time() - start
                self.save(state_file)
                if not finished:
                    raise interrupts.end()
        self.imitation.stages.load_state_dict(self.progress.best_stages)

    def plan(self) -> list[int]:
        """Return the steps of each phase, from the passes or from the minutes and a trial of each kind of step."""
        settings, shares = self.settings, [phase.share for phase in self.phases]
        costs = [self.seconds_per_step(phase.kind) for phase in self.phases]
        steps = settings.passes // settings.batch_size
        if settings.minutes is not None:
            steps = int(settings.minutes * 60 / sum(share * cost for share, cost in zip(shares, costs, strict=True)))
        counts = [max(round(steps * share), 1) for share in shares]
        time_needed = duration(sum(n * cost for n, cost in zip(counts, costs, strict=True)))
        LOGGER.info(
            f"{PREFIX}{len(self.images.learned)} images to learn from, {len(self.images.held_out)} held out, "
            f"{sum(counts)} steps of {settings.batch_size} images of {settings.imgsz} pixels, about {time_needed}; "
            f"--minutes or a smaller --passes or --img shortens it"
        )
        return counts

    def seconds_per_step(self, kind: str) -> float:
        """Return the time of one step, which changes nothing; the first of two is left out."""
        for _ in range(2):
            start = time.perf_counter()
            self.imitation.gradients(self.batch(0), kind)
            self.imitation.optimizer.zero_grad()
        return time.perf_counter() - start

    def batch(self, number: int) -> torch.Tensor:
        """Return the images of a step."""
        return self.images.batch(number, self.settings.batch_size).to(self.device)

    def run_phase(self, bar: ProgressBar, state_file: Path, interrupts: Interrupts) -> bool:
        """Do the rest of the running phase and the check after it; False if a signal interrupted it."""
        progress, phase = self.progress, self.phases[self.progress.phase]
        end, total, last_saved = sum(progress.steps[: progress.phase + 1]), sum(progress.steps), time.monotonic()
        good = self.imitation.state_dict(), progress.step
        while progress.step < end:
            if interrupts.wanted:
                return False
            errors = self.imitation.step(self.batch(progress.step), phase.kind, rate_at(progress.step, total))
            if not all(map(math.isfinite, errors)):
                self.go_back(*good)
                continue
            progress.step += 1
            bar.title = f"{PREFIX}{phase.name}: errors {' '.join(f'{error:.3f}' for error in errors)}"
            bar.update()
            if progress.step % max(total // 10, 1) == 0:
                good = self.imitation.state_dict(), progress.step
            if time.monotonic() - last_saved > SAVE_EVERY:
                self.save(state_file)
                last_saved = time.monotonic()
        check = self.check()
        progress.add(check, self.imitation.state_dict()["stages"])
        LOGGER.info(f"{PREFIX}after {phase.name}: {check}")
        return True

    def go_back(self, state: dict[str, Any], step: int) -> None:
        """Go back to an earlier step after a loss that is not finite, with half the rate."""
        self.progress.failures += 1
        if self.progress.failures > MOST_FAILURES:
            raise ValueError(
                f"{self.source}: the loss of the imitation is not finite, even at lower rates; check that the teacher "
                "detects what it should (val.py or detect.py)"
            )
        rate = self.imitation.rate / 2
        self.imitation.load_state_dict(state)
        self.imitation.rate, self.progress.step = rate, step
        LOGGER.warning(f"{PREFIX}a loss is not finite: back to step {step} with half the learning rate")

    def save(self, state_file: Path) -> None:
        """Save the state of the conversion."""
        self.progress.imitation = self.imitation.state_dict()
        save_progress(self.progress, state_file)

    # The result -------------------------------------------------------------------------------------------------------
    def rows(self) -> list[dict[str, Any]]:
        """Return for each layer of the twin what became of it, with the errors of its stage."""
        copied, best = self.progress.checks[0], self.progress.checks[self.progress.best]
        rows = []
        for pair in self.pairing.pairs:
            layer = self.twin.model[pair.layer]
            row = {"layer": pair.layer, "type": layer.type, "kind": pair.kind, "parameters": layer.np}
            if pair.kind == "stage":
                k = self.pairing.stages.index(pair.layer)
                row |= {"copied": copied.own[k], "taught": best.taught[k], "own": best.own[k]}
            rows.append(row)
        return rows

    def record(self) -> dict[str, Any]:
        """Return what the checkpoint tells of its conversion."""
        best = self.progress.checks[self.progress.best]
        names = ["copied", *(phase.name for phase in self.phases)]
        return {
            "teacher": self.source.name,
            "sha256": self.progress.key["teacher"],
            "version": self.ckpt["version"],
            "licence": LICENCE if self.ckpt["version"] == FOREIGN else None,
            "layers": self.rows(),
            "head": best.head,
            "agreement": list(best.agreement) if best.agreement else None,
            "kept": names[self.progress.best],
            "steps": dict(zip(names[1:], self.progress.steps, strict=True)),
            "settings": asdict(self.settings),
            "images": len(self.images.learned) + len(self.images.held_out),
            "stem_error": self.stem_error,
            "seconds": round(self.progress.seconds, 1),
            "date": datetime.now().astimezone().isoformat(),
        }

    def write(self, out: Path, record: dict[str, Any]) -> None:
        """Write the twin as a checkpoint that detection and training read, and beside it its derived table."""
        twin = self.twin
        fields = dict.fromkeys(TRAINING_FIELDS) | {
            "epoch": -1,
            "model": {key: value.cpu() for key, value in twin.state_dict().items()},
            "yaml": twin.yaml,
            "names": dict(twin.names),
            "stride": twin.stride.tolist(),
            "hyp": self.ckpt["hyp"],
            "opt": {},
            "converted": record,
        }
        save_checkpoint(out, fields)
        strip_optimizer(out)
        if self.derived:
            yaml_save(out.with_suffix(".yaml"), twin.yaml)

    def report(self) -> None:
        """Log how near each stage came, and warn of a twin that did not come near enough."""
        best = self.progress.checks[self.progress.best]
        LOGGER.info(f"{PREFIX}{'layer':>5}{'copied':>10}{'converted':>11}   relative error of the map, 0 is equal")
        for row in self.rows():
            if row["kind"] == "stage":
                LOGGER.info(f"{PREFIX}{row['layer']:>5}{row['copied']:>10.3f}{row['own']:>11.3f}")
        if max(best.own) > FAR or (best.agreement and best.agreement[0] < LOW):
            LOGGER.warning(
                "the twin is still far from its teacher: try more --passes, more images like those to be detected, or "
                "the image size of the teacher's training"
            )


def compare_maps(conversion: Conversion, loader: DataLoader) -> dict[str, list[float]]:
    """Measure teacher, copy and twin on labelled validation images; mAP50 and mAP50-95 by name."""
    copied = deepcopy(conversion.twin)
    start_as_identity_(copied)
    models = {"teacher": conversion.teacher, "copied": copied, "converted": conversion.twin}
    found = {name: list(measure_map(model, loader)) for name, model in models.items()}
    for name, (map50, map95) in found.items():
        LOGGER.info(f"{PREFIX}{name:>9}: mAP50 {map50:.4f}, mAP50-95 {map95:.4f}")
    return found


def same_classes(data: Mapping[str, Any], names: Mapping[int, str]) -> bool:
    """Whether a dataset has the classes of a model, so that its labels can measure it."""
    return [printable(name) for name in data["names"].values()] == list(names.values())


def convert(
    source: str | Path,
    cfg: str = "twin",
    images: str | Path | Sequence[str | Path] | None = None,
    data: str | Path | None = None,
    out: str | Path = "",
    settings: Settings | None = None,
    device: torch.device | None = None,
    measure: bool = True,
) -> Path:
    """Convert a trained convolutional YOLOv5 into its Swin twin and write it as a checkpoint.

    A conversion that was stopped goes on when it is called again with the same arguments; on a CPU the result is the
    same as that of an unbroken one.

    Args:
        source: checkpoint of the teacher, ours or the original's, or the name of official weights.
        cfg: model YAML of the twin, or `twin` to derive it from the table of the teacher.
        images: folders or lists of images; labels are not read.
        data: dataset YAML; its training images are used too. If it has the classes of the teacher, both are measured
            on its validation images, which are never learned from.
        out: checkpoint to write; "" is the name of the teacher with `-swinv2`, in the working directory.
        settings: sizes and length.
        device: where it runs; None is the CPU.
        measure: use labels of the classes of the teacher to measure the result.

    Returns:
        The checkpoint.

    Raises:
        FileNotFoundError, ValueError: the files, or the layers of the two models, do not fit; a file that would be
            written exists already.
    """
    source = find_weights(source)
    table = check_dataset(data, needed=("train", "val")) if data else None
    files = images_to_learn(images, table, str(data))
    out = Path(out or f"{source.stem}-swinv2.pt")
    check_place(out)
    if out.resolve() == source.resolve():
        raise ValueError(f"--out {out} is the file of the teacher: choose another name")
    written = [out, out.with_suffix(".yaml")] if cfg == "twin" else [out]
    refuse_existing(written)
    state_file = out.with_name(f"{out.stem}.conversion.pt")
    ckpt = load_checkpoint(source)
    if ckpt["version"] == FOREIGN:
        LOGGER.info(f"{PREFIX}{LICENCE_NOTICE}")
    with Interrupts() as interrupts:
        conversion = Conversion(ckpt, source, cfg, files, settings or Settings(), device or torch.device("cpu"))
        try:
            conversion.run(state_file, interrupts)
        except (KeyboardInterrupt, SystemExit):
            if state_file.is_file():
                LOGGER.warning(f"{interrupts.name} stopped the conversion. The same command goes on ({state_file})")
            raise
    conversion.report()
    record = conversion.record()
    if measure and table and conversion.pairing.whole and same_classes(table, conversion.twin.names):
        loader = validation_loader(table, conversion.settings.imgsz, input_stride(conversion.twin.stride))
        record["labels"] = compare_maps(conversion, loader)
    conversion.write(out, record)
    state_file.unlink(missing_ok=True)
    names = " and ".join(map(str, written))
    LOGGER.info(f"{PREFIX}saved as {names}; detect.py, val.py, export.py and train.py --weights {out} read it")
    return out
