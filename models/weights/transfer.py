"""Weights of one model for another one: what fits is copied, the rest is reported."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.console import LOGGER
from utils.files import atomic_path
from utils.text import csv_cell
from utils.torch_utils import intersect_dicts, without_counters


@dataclass(frozen=True)
class Transfer:
    """What `transfer_weights` did, by names of entries (parameters and buffers).

    Attributes:
        taken: copied. reshaped: not copied, being of another shape: (name, shape in the file, shape in the model).
        kept: not copied because they were excluded. missing: of the model, not in the file. unused: in the file only.
        channels: of the images of file and model, if the first layer was adapted to another number, see `adapt_input`.
    """

    taken: list[str]
    reshaped: list[tuple[str, tuple[int, ...], tuple[int, ...]]]
    kept: list[str]
    missing: list[str]
    unused: list[str]
    channels: tuple[int, int] | None = None

    @property
    def total(self) -> int:
        """Return the number of entries of the model."""
        return len(self.taken) + len(self.reshaped) + len(self.kept) + len(self.missing)

    def log(self, source: str | Path) -> None:
        """Log the counts, and the first names of each kind that was not taken."""
        LOGGER.info(f"Transferred {len(self.taken)}/{self.total} tensors from {source}")
        if not self.taken:
            LOGGER.warning(
                f"nothing of {source} fits this model, so it starts from random weights: pass the --cfg of these "
                "weights, or weights of this model, or --weights '' if that is what you want"
            )
        if self.channels:
            old, new = self.channels
            LOGGER.info(f"  first layer adapted from {old} to {new} channels: its response to a grey image stays")
        kinds = {
            "of another shape": [f"{n} {_sides(old)} -> {_sides(new)}" for n, old, new in self.reshaped],
            "kept as the model file says": self.kept,
            "not in the file": self.missing,
            "in the file, but not in the model": self.unused,
        }
        for kind, names in kinds.items():
            if names:
                more = f" and {len(names) - 4} more" if len(names) > 4 else ""
                LOGGER.info(f"  {len(names)} {kind}: {', '.join(names[:4])}{more}")

    def write(self, file: Path) -> None:
        """Write all names to a table with the columns name, what, in_file, in_model (the shapes, if they differ)."""
        rows = [(csv_cell(name), "taken", "", "") for name in self.taken]
        rows += [(csv_cell(name), "another shape", _sides(old), _sides(new)) for name, old, new in self.reshaped]
        for what in ("kept", "missing", "unused"):
            rows += [(csv_cell(name), what, "", "") for name in getattr(self, what)]
        with atomic_path(file) as tmp, tmp.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream, lineterminator="\n").writerows([("name", "what", "in_file", "in_model"), *rows])


def _sides(shape: Sequence[int]) -> str:
    """Return a shape as a string, such as 255x128x1x1."""
    return "x".join(map(str, shape)) or "1"


def transfer_weights(model: nn.Module, ckpt: Mapping[str, Any], exclude: Iterable[str] = ()) -> Transfer:
    """Copy into `model` what fits from a checkpoint: same name and same shape, here another number of classes too.

    The first layer is adapted to another number of image channels (`adapt_input`).

    Args:
        model: changed in place.
        ckpt: from `load_checkpoint`; its entry `model` is taken.
        exclude: entries whose name contains one of these strings stay as they are, for example "anchors".

    Returns:
        What was copied and what was not.
    """
    own, theirs, exclude = without_counters(model.state_dict()), ckpt["model"], tuple(exclude)
    old, new = (table.get("ch", 3) for table in (ckpt.get("yaml", {}), getattr(model, "yaml", {})))
    adapted = {} if old == new else _adapted(own, theirs, old, new)
    theirs = {**theirs, **adapted}
    taken = intersect_dicts(theirs, own, exclude)
    model.load_state_dict(taken, strict=False)
    left = [name for name in own if name not in taken]
    kept = [name for name in left if name in theirs and any(text in name for text in exclude)]
    return Transfer(
        [name for name in own if name in taken],
        [(n, tuple(theirs[n].shape), tuple(own[n].shape)) for n in left if n in theirs and n not in kept],
        kept,
        [name for name in left if name not in theirs],
        [name for name in theirs if name not in own],
        (old, new) if adapted else None,
    )


def _adapted(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor], old: int, new: int) -> dict[str, Tensor]:
    """Return the convolutions of the first layer, which alone reads the image, for `new` instead of `old` channels."""
    found = {}
    for name, weight in theirs.items():
        if name.startswith("model.0.") and weight.ndim == 4 and name in own:
            adapted = adapt_input(weight, old, new)
            if adapted.shape == own[name].shape:
                found[name] = adapted
    return found


def adapt_input(weight: Tensor, old: int, new: int) -> Tensor:
    """Return the weights of a convolution that reads images, for another number of channels.

    Sum of the weights over the channels, and so the response to an image whose channels are all equal, stays the same:
    fewer channels get the mean of all, times old / new; more channels get copies in turn, each weight divided by the
    number of its copies. For one channel this is the sum of timm (`adapt_input_conv`, Apache-2.0), which repeats and
    scales by old / new for more channels: that keeps the sum only where new is a multiple of old.

    Args:
        weight: (c2, P * old, k, k), with P phases of the image (`Focus`), 1 for a plain convolution.
        old: channels that it reads.
        new: channels that it shall read.

    Returns:
        (c2, P * new, k, k) float32.
    """
    if weight.shape[1] % old:
        return weight  # it does not read the image
    parts = weight.float().unflatten(1, (-1, old))  # (c2, P, old, k, k)
    if new < old:
        wide = parts.sum(2, keepdim=True).expand(-1, -1, new, -1, -1) / new
    else:
        turn = torch.arange(new, device=weight.device) % old
        copies = torch.bincount(turn, minlength=old)[turn]
        wide = parts[:, :, turn] / copies.view(-1, 1, 1)
    return wide.flatten(1, 2)
