"""How near a twin comes to its teacher: errors of its maps and agreement of its boxes on images held out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from engine.conversion.imitation import recorded_maps, relative_error
from engine.unlabelled import Images
from engine.validation.evaluation import ImageResult, Runner, Tally, evaluating
from models.yolo import DetectionModel
from utils.callbacks import Callbacks
from utils.console import colorstr
from utils.dataloaders import create_dataloader
from utils.nms import non_max_suppression

SURE = 0.25  # confidence from which on a box of the teacher counts
BATCH = 16


@dataclass(frozen=True)
class Check:
    """What was found on the images held out.

    Attributes:
        taught: error of each stage on the inputs of the teacher. own: on those that its own twin feeds it.
        head: error of each map that Detect reads; [] if the head was not converted.
        agreement: mAP50 and mAP50-95 against the boxes of the teacher; None if the head was not converted, or the
            teacher finds nothing.
    """

    taught: list[float]
    own: list[float]
    head: list[float]
    agreement: tuple[float, float] | None

    @property
    def score(self) -> float:
        """Return how good it is, higher is better: less the mean error at the head, or of the stages without it.

        Errors tell states apart where agreement, on few images, is chance.
        """
        errors = self.head or self.own
        return -sum(errors) / len(errors)

    def __str__(self) -> str:
        """Return errors and agreement as shown to the user."""
        parts = [f"errors of the stages {_numbers(self.taught)}, on own inputs {_numbers(self.own)}"]
        parts += [f"of the head's maps {_numbers(self.head)}"] if self.head else []
        parts += ["agreement {:.3f} / {:.3f}".format(*self.agreement)] if self.agreement else []
        return ", ".join(parts)


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


@torch.no_grad()
def check_twin(
    teacher: DetectionModel, twin: DetectionModel, images: Images, layers: Sequence[int], whole: bool, device: Any
) -> Check:
    """Compare a twin with its teacher on the images held out.

    Args:
        teacher: in evaluation mode, like the twin.
        twin: the other.
        images: of the conversion.
        layers: those with stages that were converted.
        whole: whether the head was converted too.
        device: of both models.
    """
    tally, weights, found = Tally(twin.nc), [], 0
    errors: list[list[Tensor]] = []
    for start in range(0, len(images.held_out), BATCH):
        batch = images.held_out_batch(start, BATCH).to(device)
        taught, boxes, levels = run_recorded(teacher, batch, layers)
        own, own_boxes, own_levels = run_recorded(twin, batch, layers)
        stages: list[Any] = [twin.model[layer] for layer in layers]
        row = [relative_error(stage.m(taught[i][0]), taught[i][1]) for i, stage in zip(layers, stages, strict=True)]
        row += [relative_error(own[i][1], taught[i][1]) for i in layers]
        row += [relative_error(a, b) for a, b in zip(own_levels, levels, strict=True)] if whole else []
        errors.append(row)
        weights.append(len(batch))
        if whole:
            found += add_agreement(tally, boxes, own_boxes)
    share = torch.tensor(weights, dtype=torch.float32) / sum(weights)
    means = (torch.tensor([[float(x) for x in row] for row in errors]).T @ share).tolist()
    n = len(layers)
    agreement = None
    if found:
        map50, map95 = tally.compute().means()[2:]
        agreement = float(map50), float(map95)
    return Check(means[:n], means[n : 2 * n], means[2 * n :], agreement)


def run_recorded(model: DetectionModel, images: Tensor, layers: Sequence[int]) -> tuple[Any, Tensor, list[Tensor]]:
    """Run a model; return the maps of some layers, the boxes (B, R, 5 + nc), and the maps that Detect reads."""
    levels: list[Tensor] = []
    handle = model.detect.register_forward_pre_hook(lambda _, args: levels.extend(args[0]))
    try:
        with recorded_maps(model, layers) as maps:
            output: Any = model(images)
    finally:
        handle.remove()
    return maps, output[0], levels


def add_agreement(tally: Tally, boxes: Tensor, own_boxes: Tensor) -> int:
    """Count the detections of a twin with those of its teacher as labels; return how many labels there are.

    Args:
        tally: gets the images.
        boxes: of the teacher before suppression, (B, R, 5 + nc).
        own_boxes: of the twin.
    """
    count = 0
    labels = non_max_suppression(boxes, SURE, 0.6, multi_label=True)
    found = non_max_suppression(own_boxes, 0.001, 0.6, multi_label=True)
    for truth, own in zip(labels, found, strict=True):
        rows = torch.cat((truth[:, 5:6], truth[:, :4]), 1).cpu()  # (M, 5) [class, xyxy]
        tally.add(ImageResult(own.cpu(), rows, (0, 0), ""))
        count += len(rows)
    return count


# With labels ----------------------------------------------------------------------------------------------------------
def validation_loader(data: dict[str, Any], imgsz: int, stride: int) -> DataLoader:
    """Return the validation images of a dataset with their labels, in rectangular batches as val.py makes them."""
    return create_dataloader(
        data["val"], imgsz, 32, stride, rect=True, pad=0.5, prefix=colorstr("val: "), nc=data["nc"], workers=0
    )[0]


def measure_map(model: DetectionModel, loader: DataLoader) -> tuple[float, float]:
    """Return mAP50 and mAP50-95 of a model on labelled images, as val.py measures them."""
    runner, tally = Runner(model, 0.001, 0.6, 300, False, False, None), Tally(model.nc)
    with evaluating(model):
        for batch in runner.batches(loader, Callbacks()):
            for result in batch.results:
                tally.add(result)
    map50, map95 = tally.compute().means()[2:]
    return float(map50), float(map95)
