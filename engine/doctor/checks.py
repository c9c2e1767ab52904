"""All checks in one table, their choice by id, and the short form at the start of a training."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch.utils.data import DataLoader

from engine.doctor import balance, boxes, copies, files, formats, images
from engine.doctor.dataset import Dataset, DoctorSplit, head_settings
from engine.doctor.findings import Finding, count_by_severity, in_words, ordered
from engine.validation.evaluation import warn_of_max_det
from models.yolo import DetectionModel
from utils.console import LOGGER, colorstr
from utils.datasets.dataset import SPLITS
from utils.datasets.reader import Split
from utils.datasets.tiles import tile_sides
from utils.distributed import is_main
from utils.options.train import TrainOptions
from utils.paths import command

MEMORY, HEADS, PIXELS = 1, 2, 3  # what a check looks at: names, labels and sizes; heads and bytes of files; pixels


class Check(NamedTuple):
    """One function and the ids of what it may find; `cost` is MEMORY, HEADS or PIXELS."""

    function: Callable[[Dataset], Iterator[Finding]]
    ids: tuple[str, ...]
    cost: int = MEMORY


CHECKS = (
    Check(files.check_names_twice, ("yaml.names_twice",)),
    Check(files.check_other_task, ("yaml.other_task",)),
    Check(files.check_same_split, ("yaml.same_split",)),
    Check(
        files.check_folders, ("files.orphan_label", "files.one_label_two", "files.unread_suffix", "files.unlisted")
    ),
    Check(files.check_missing, ("files.listed_missing", "files.no_label")),
    Check(files.check_source_names, ("copies.by_name",)),
    Check(
        formats.check_messages,
        ("files.unreadable_split", "files.bad_image", "labels.bad_line", "labels.repeated", "images.exif_frame"),
    ),
    Check(formats.check_one_based, ("labels.one_based",)),
    Check(formats.check_outside, ("labels.corners", "labels.top_left", "labels.outside")),
    Check(
        formats.check_columns,
        ("labels.pixels", "labels.angle", "labels.confidence", "labels.key_points", "labels.quads",
         "labels.mixed_columns"),
        HEADS,
    ),
    Check(boxes.check_tiny, ("boxes.tiny", "boxes.below_stride")),
    Check(boxes.check_anchors, ("boxes.no_anchor",)),
    Check(boxes.check_shapes, ("boxes.thin", "boxes.whole_image", "boxes.at_border")),
    Check(boxes.check_double, ("boxes.double", "boxes.two_names")),
    Check(boxes.check_crowded, ("boxes.crowded",)),
    Check(boxes.check_copied_labels, ("boxes.copied_files",)),
    Check(balance.check_absent, ("balance.absent", "balance.few")),
    Check(balance.check_ratio, ("balance.ratio", "balance.drift")),
    Check(balance.check_backgrounds, ("balance.background",)),
    Check(balance.check_size, ("balance.small_val",)),
    Check(images.check_sizes, ("images.odd_size",)),
    Check(images.check_heads, ("images.exif", "images.pages"), HEADS),
    Check(images.check_channels, ("images.channels",), HEADS),
    Check(images.check_depth, ("images.deep",), PIXELS),
    Check(copies.check_exact, ("copies.exact_across", "copies.exact_within"), HEADS),
    Check(copies.check_pixels, ("copies.near_across", "copies.near_within", "images.flat"), PIXELS),
)  # fmt: skip
IDS = tuple(sorted(id for check in CHECKS for id in check.ids))
AT_START = (
    *(check for check in CHECKS if check.cost == MEMORY),
    Check(copies.check_exact_at_start, ("copies.exact_across", "copies.exact_within")),
)


def chosen_ids(only: Sequence[str], skip: Sequence[str]) -> set[str]:
    """Return the ids that are left.

    Args:
        only: ids or families such as `labels`; empty for all.
        skip: those to leave out.

    Raises:
        ValueError: one that does not exist, or nothing is left.
    """

    def fitting(words: Sequence[str], option: str) -> set[str]:
        found = set()
        for word in words:
            ids = {id for id in IDS if id == word or id.partition(".")[0] == word}
            if not ids:
                raise ValueError(f"{option} {word!r:.60}: no such check; known are {', '.join(IDS)}, and families of "
                                 "them such as labels")  # fmt: skip
            found |= ids
        return found

    left = (fitting(only, "--only") if only else set(IDS)) - fitting(skip, "--skip")
    if not left:
        raise ValueError(f"--only {' '.join(only)} --skip {' '.join(skip)}: no check is left")
    return left


def examine(data: Dataset, ids: set[str], checks: Sequence[Check] = CHECKS) -> list[Finding]:
    """Run the checks that may find one of these ids; what they find, the worst first."""
    found = [f for check in checks if ids & set(check.ids) for f in check.function(data) if f.id in ids]
    return ordered(found, SPLITS)


# At the start of a training -------------------------------------------------------------------------------------------
def loaded_split(name: str, source: str | Sequence[str] | Split, loaded: Any) -> DoctorSplit:
    """Return a split from what the training has read already, a `LoadImagesAndLabels` or `DetectFrames`."""
    split, found = Split.of(source), loaded.found
    return DoctorSplit(
        name, split.images, split.format == "yolo", found.im_files, found.im_files, found.label_files,
        found.labels, found.sizes, found.messages, selection=split.selection,
    )  # fmt: skip


def report_start(
    options: TrainOptions,
    data: dict[str, Any],
    loaders: Mapping[str, DataLoader],
    model: DetectionModel,
    imgsz: int | tuple[int, int],
    anchor_t: float,
) -> None:
    """Log in one line what is found in the loaded dataset of a training, and a warning of what limits the recall.

    Only the first process does, and no training of an evolution. The arguments are those of `start_line`.
    """
    if is_main() and options.evolve is None:
        max_det, tile = options.max_det or 300, tile_sides(options.slice)
        line = start_line(data, loaders, model, imgsz, anchor_t, max_det, options.classes or (), tile)
        LOGGER.info(f"{colorstr('doctor: ')}{line}")
        warn_of_max_det(loaders["val"].dataset, max_det)


def start_line(
    data: dict[str, Any],
    loaders: Mapping[str, DataLoader],
    model: DetectionModel,
    imgsz: int | tuple[int, int],
    anchor_t: float,
    max_det: int,
    classes: Sequence[int | str] = (),
    tile: tuple[int, int] | None = None,
) -> str:
    """Return one line about the dataset of a training: findings of each severity by the checks that decode nothing.

    Args:
        data: from `check_dataset`.
        loaders: of each split, made by `create_dataloader`.
        model: its names, anchors and strides count.
        imgsz: image size: a side, or height and width.
        anchor_t: hyperparameter.
        max_det: detections that validation keeps of an image.
        classes: of --classes.
        tile: see `Dataset`.

    Raises:
        ValueError: from `skipped`.
    """
    splits = {name: loaded_split(name, data[name], loader.dataset) for name, loader in loaders.items()}
    file = str(data["yaml_file"] or "dataset")
    settings = {
        "imgsz": imgsz,
        "anchor_t": anchor_t,
        "limit": 1,
        "max_det": max_det,
        "tile": tile,
        **head_settings(model.detect),
    }
    dataset = Dataset(file, data, dict(model.names), splits, **settings)
    found = examine(dataset, chosen_ids((), skipped(data)), AT_START)
    if not found:
        return "no finding about labels and names"
    grave = ", ".join(dict.fromkeys(f.id for f in found if f.severity != "note"))
    chosen = ["--classes", *map(str, classes)] if classes else []
    shown = command("python", "-m", "engine.doctor", file, *dataset.settings.split(), *chosen)
    return f"{in_words(count_by_severity(found))}{f' ({grave})' if grave else ''}. Shown by: {shown}"


def skipped(data: dict[str, Any]) -> list[str]:
    """Return the ids that the key `doctor: {skip: [...]}` of a dataset YAML silences.

    Raises:
        ValueError: the key has another form.
    """
    wanted = data.get("doctor") or {}
    skip = wanted.get("skip", []) if isinstance(wanted, dict) and set(wanted) <= {"skip"} else None
    if not isinstance(skip, list) or not all(isinstance(word, str) for word in skip):
        raise ValueError(f"{data.get('yaml_file')}: 'doctor' must be a mapping such as doctor: {{skip: [boxes.thin]}}")
    return skip
