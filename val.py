"""Validate a detector on a labelled dataset: precision, recall, mAP and time per image. Also called by train.py.

python val.py --weights runs/train/exp/weights/best.pt --data data/demo.yaml --img 640
python val.py --weights best.pt --data data/coco.yaml --iou 0.65 --task test --save-txt --save-conf
python val.py --weights best.pt --data data/demo.yaml --as-detect    # counts exactly what detect.py gives
python val.py --weights best.pt --data aerial.yaml --slice 640       # large images in tiles, as detect.py --slice
python val.py --weights best.pt --data data/coco128.yaml --task speed --batch-size 1 --device 0
python val.py --weights small.pt large.pt --data data/coco.yaml --task study    # image sizes 256 to 1536
"""

import argparse

from utils.console import cli_errors, pause_collection, resume_collection
from utils.options.val import AP_CONF_THRES, SPLIT_TASKS, ValOptions, parse_opt

if __name__ == "__main__":  # before torch is loaded: --help and mistyped options are answered at once
    with cli_errors():
        OPTIONS = parse_opt(description=__doc__)
    pause_collection()

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from engine.results.files import JsonFile, TextFiles, open_files
from engine.results.files import save_one_json as save_one_json
from engine.results.files import save_one_txt as save_one_txt
from engine.results.report import ValReport
from engine.validation.breakdown import Breakdown, break_down
from engine.validation.class_map import ClassMap, match_classes
from engine.validation.coco import CocoNumbers, load_package
from engine.validation.deployed import LOWEST, Deployment, Detected
from engine.validation.evaluation import (
    ImageResult,
    Loss,
    Runner,
    Tally,
    evaluating,
    log_spread,
    log_table,
    plot_batch,
    plot_metrics,
    progress,
    run_val_batch_callbacks,
    warn_of_max_det,
)
from engine.validation.frames import as_detect
from engine.validation.study import StudyFolder
from models.detector import find_confidence
from models.image_size import both_sides, choose_size, default_size, input_stride, square_or_both
from models.runtimes.backends import DetectMultiBackend
from models.weights.checkpoint import add_thresholds
from utils.callbacks import Callbacks
from utils.console import LOGGER, colorstr, log_options, size_text
from utils.dataloaders import create_dataloader
from utils.datasets.dataset import check_dataset, result_ids
from utils.datasets.images import COLOR8, PixelFormat, check_pixels
from utils.datasets.output_names import unique_stems
from utils.datasets.tiles import tile_grid, tile_sides
from utils.downloads.official_weights import find_weights
from utils.files import yaml_save
from utils.metrics import ApResult
from utils.metrics import match_predictions as process_batch  # noqa: F401  YOLOv5's name, for callers
from utils.options.check import Untouched
from utils.options.table import takes_options
from utils.paths import ROOT as ROOT
from utils.paths import check_file, increment_path, run_folder
from utils.text import printable
from utils.thresholds import CONF_THRES, IOU_THRES, MAX_DET
from utils.torch_utils import de_parallel, select_device

FILE = Path(__file__).resolve()
SPEED = "Speed: {:.1f}ms pre-process, {:.1f}ms inference, {:.1f}ms NMS per image at shape {}"
PLOTTED_BATCHES = 3
FEW_CLASSES = 50  # below this, a call by hand prints every class


class Results(NamedTuple):
    """Means over the classes that have labels, in YOLOv5's order.

    Attributes:
        precision, recall: of the boxes of detect.py above the confidence of the best F1.
        map50, map: mean average precision at IoU 0.5, and over IoU 0.5 to 0.95.
        box_loss, obj_loss, cls_loss: mean training losses of the batches; 0 without `compute_loss`.
    """

    precision: float
    recall: float
    map50: float
    map: float
    box_loss: float
    obj_loss: float
    cls_loss: float


class Validation(NamedTuple):
    """What `run` returns; `results, maps, speed = val.run(...)` unpacks it as YOLOv5's.

    Attributes:
        results: see `Results`.
        maps: mAP50-95 of each class, (nc,); classes without labels hold the mean.
        speed: milliseconds per image for (pre-processing, inference, NMS).
    """

    results: Results
    maps: np.ndarray
    speed: tuple[float, float, float]


@takes_options(ValOptions)
def run(
    options: ValOptions,
    *,
    model: nn.Module | None = None,
    dataloader: DataLoader | None = None,
    save_dir: Path = Path(""),
    plots: bool = True,
    compute_loss: Loss | None = None,
    callbacks: Callbacks | None = None,
    thresholds: bool = True,
) -> Validation:
    """Validate weights and print the table.

    By hand means with neither `model` nor `dataloader`: then a run folder is made and the speed printed. Training
    passes its loader, and its model or, at the end, the file of the best one. `batch_size` changes the numbers only
    through the shapes of rectangular batches, `device` and `half` only through rounding.

    Args:
        options: fields of `ValOptions` as arguments, such as `run("my.yaml", "best.pt", imgsz=320)`. With a
            `dataloader`, `data` is the mapping that `check_dataset` returned, `as_detect`, `batch_size`, `task` and
            `workers` have no effect, and `imgsz`, `slice` and `overlap` are only logged and recorded; with a `model`,
            which stays where it is, `weights` only name the JSON file. `save_hybrid` sets `save_txt`, and the metrics
            then say nothing about the model. `half` needs CUDA; with weights it warns elsewhere.
        model: validate this model; it is evaluated as it is and left in the mode it was in.
        dataloader: batches as `create_dataloader` makes them, without augmentation.
        save_dir: folder for the files, if not by hand; made if files are asked for.
        plots: draw the first batches, the curves and the confusion matrix.
        compute_loss: the training loss, for the last three results; not with `augment`.
        callbacks: gets the `on_val_` events.
        thresholds: with weights, log the best confidence, and write thresholds.yaml where there is a folder.

    Returns:
        A named tuple with YOLOv5's three values.

    Raises:
        ValueError: settings out of range or that exclude each other, or a model that does not fit the dataset.
        FileNotFoundError: weights, dataset or split are missing.
    """
    by_hand = model is None and dataloader is None
    o, half = options, options.half
    thresholds &= model is None
    both_sides(o.imgsz)  # told before weights are read
    if model is None:
        _check_settings(o)
        backend, o = _open_weights(o)
        model, half = backend.model if compute_loss else backend, False  # the loss needs the raw maps
    split = "val" if o.task in ("speed", "study") else o.task
    # training gives the mapping
    data = _read_dataset(o.data, de_parallel(model), split, o.classes) if dataloader is None else o.data
    names, class_map = _match_classes(data, de_parallel(model), o, by_hand)
    if dataloader is None:
        dataloader = _make_loader(data, de_parallel(model), o)
        warn_of_max_det(dataloader.dataset, o.max_det)
    save_dir = increment_path(Path(o.project) / o.name, o.exist_ok, mkdir=True) if by_hand else Path(save_dir)
    texts = o.save_txt or o.save_hybrid
    if plots or texts or o.save_json or o.report:
        save_dir.mkdir(parents=True, exist_ok=True)

    stems = unique_stems(dataloader.dataset.im_files) if texts or o.save_json else {}
    ids = result_ids(data["val" if o.task == "speed" else o.task], stems) if o.save_json else None
    files = open_files(save_dir, stems, o.weights, texts, o.save_conf, ids)
    coco = [CocoNumbers(dataloader.dataset, data["val" if o.task == "speed" else o.task], names)] if o.coco else []
    page = ValReport(save_dir, names, pixels=PixelFormat.of(data, "data")) if o.report else None
    callbacks = callbacks or Callbacks()
    deployment = replace(_deployment(o, model), padded=getattr(dataloader.dataset, "pad", 0) > 0)
    tally = Tally(len(names), deployment, details=thresholds or o.report)
    runner = Runner(
        model, ap_confidence(o), o.iou_thres, o.max_det, o.single_cls, half, compute_loss, o.augment, o.save_hybrid,
        deployment, class_map, getattr(dataloader.dataset, "tile", None) is not None,
    )  # fmt: skip
    callbacks.run("on_val_start")
    with evaluating(model):
        for i, batch in enumerate(runner.batches(progress(dataloader), callbacks)):
            for image in batch.results:
                _take(image, tally, (*files, *coco), page)
            if plots and i < PLOTTED_BATCHES:
                plot_batch(batch, save_dir, i, names, deployment)
            run_val_batch_callbacks(callbacks, i, batch, names)

    detected, found = tally.detected(), {}
    result, counts = tally.compute(detected), tally.label_counts()
    ap50, ap = result.ap[:, 0], result.ap.mean(1)
    numbers = (counts, result.tp, result.fp, result.p, result.r, result.f1, ap, ap50, result.classes)
    callbacks.run("on_val_end", *numbers, tally.confusion)
    callbacks.run("on_val_metrics", result=result, counts=counts, names=names)
    log_table(tally, result, names, every_class=o.verbose or (by_hand and len(names) < FEW_CLASSES))
    note = columns_note(result.best, deployment, o)
    if thresholds:
        LOGGER.info(note)
        log_advice(detected, result.best, deployment, o, class_map.own if class_map else [])
        log_spread(tally, result)
        found = keep_thresholds(detected.thresholds(result.best, names), tally, data, o, save_dir)
    before, inference, nms = (t.t / tally.seen * 1e3 for t in runner.times)
    for file in (*files, *coco):
        file.close()
    details = explain(break_down(tally, result, names), coco, save_dir, plots, deployment) if tally.details else {}
    if page:
        LOGGER.info(f"Report saved to {page.close(table_rows(tally, result, names), found, note, details)}")
    if plots:
        plot_metrics(tally, result, save_dir, names, ap_confidence(o), o.iou_thres)
    if by_hand:
        shape = (
            dataloader.batch_size or o.batch_size,
            PixelFormat.of(data, "data").channels,
            *dataloader.dataset.frame,
        )
        LOGGER.info(SPEED.format(before, inference, nms, shape))
        LOGGER.info(f"Results saved to {colorstr('bold', str(save_dir))}")
    results = Results(*result.means(), *(runner.loss / len(dataloader)).tolist())
    return Validation(results, result.maps(len(names)), (before, inference, nms))


def _take(
    result: ImageResult, tally: Tally, files: Sequence[TextFiles | JsonFile | CocoNumbers], page: ValReport | None
) -> None:
    """Count one image and write what was asked for."""
    tally.add(result)
    for file in files:
        file.add(result.detections, result.path, result.shape)
    if page:
        page.add(result.shown, result.labels, result.path)


def columns_note(best: float | None, deployment: Deployment, o: ValOptions) -> str:
    """Say which boxes the columns of the table count."""
    chosen = "" if best is None else f"confidence > {best:g}, "
    frames = ""
    if deployment.padded:
        frames = "; images padded by half a stride as in YOLOv5 (not with --as-detect)"
    elif o.slice:
        frames = (
            f"; images and tiles of {size_text(o.slice)} joined as by detect.py --slice, the best class of each box"
        )
    elif o.as_detect:
        frames = "; images framed as by detect.py, so mAP differs a little from that of YOLOv5"
    return (
        f"P and R: {chosen}NMS IoU {deployment.iou:g}{', as detect.py' * (deployment.iou == IOU_THRES)}; "
        f"mAP: confidence > {ap_confidence(o):g}, NMS IoU {o.iou_thres:g}{frames}"
    )


def log_advice(
    detected: Detected, best: float | None, deployment: Deployment, o: ValOptions, chosen: Sequence[str]
) -> None:
    """Log the best confidence, what it and the one of the images give, and how detect.py gets it; `chosen` classes."""
    if best is None:
        LOGGER.info("no box is right at any confidence, so there is no best one")
    else:
        point = detected.at(best)
        # what is saved with the weights is of all classes
        words = ["--conf", f"{best:.2f}", "--classes", *chosen] if chosen else ["--conf", "best"]
        words += ["--iou-thres", f"{deployment.iou:g}"] if deployment.iou != IOU_THRES else []
        words += ["--max-det", str(deployment.max_det)] if deployment.max_det != MAX_DET else []
        words += ["--augment"] if o.augment else []
        LOGGER.info(f"best F1 {point.f1:.2f} at confidence {best:.2f} (detect.py {shlex.join(words)}): {point}")
    default = ", the default of detect.py" * (deployment.conf == CONF_THRES)
    LOGGER.info(f"at confidence {deployment.conf:g}{default}: {detected.at(deployment.conf)}")
    if (without := detected.without_labels(deployment.conf)) and len(detected.classes):
        LOGGER.info(f"{without} of these false boxes are of classes without labels here: F1 and P leave them out")


def keep_thresholds(
    found: Mapping[str, Any], tally: Tally, data: Mapping[str, Any], o: ValOptions, save_dir: Path
) -> dict[str, Any]:
    """Write thresholds.yaml and, if asked, the thresholds into the checkpoint; return them with their settings."""
    record = {
        **found,
        "data": Path(str(data.get("yaml_file") or "")).name,
        "task": o.task,
        "images": tally.seen,
        "imgsz": int(max(both_sides(o.imgsz))),
        "iou_thres": float(tally.deployment.iou),
        "augment": o.augment,
        "single_cls": o.single_cls,
        "as_detect": o.as_detect or bool(o.slice),
        "slice": o.slice,
        "overlap": o.overlap,
    }
    if save_dir != Path(""):
        save_dir.mkdir(parents=True, exist_ok=True)
        yaml_save(save_dir / "thresholds.yaml", record)
    if o.save_thresholds:
        (file,) = o.weights or []
        if not found["classes"]:  # those of an earlier validation stay
            LOGGER.warning(f"no thresholds saved into {file}: no image has a label")
            return record
        add_thresholds(find_weights(file), record)
        LOGGER.info(f"Thresholds saved into {file}")
    return record


def explain(
    breakdown: Breakdown, coco: Sequence[CocoNumbers], save_dir: Path, plots: bool, deployment: Deployment
) -> dict[str, Any]:
    """Log AP by size, kinds of error and calibration, write them as metrics.yaml and figures, and return them."""
    breakdown.log()
    record = breakdown.record()
    if coco:
        record["coco"] = coco[0].numbers
    if save_dir != Path(""):
        yaml_save(save_dir / "metrics.yaml", record)
    if plots:
        breakdown.plot(save_dir, deployment)
    return record


def table_rows(tally: Tally, result: ApResult, names: Mapping[int, str]) -> list[tuple[str | float, ...]]:
    """Return the whole table: name, images, labels, P, R, mAP50, mAP50-95 of all classes, then of each with labels."""
    counts = tally.label_counts()
    rows = [("all", tally.seen, counts.sum(), *result.means())]
    return rows + [
        (names[c], tally.seen, counts[c], *row) for c, row in zip(result.classes, result.rows(), strict=True)
    ]


# Preparation ----------------------------------------------------------------------------------------------------------


def ap_confidence(o: ValOptions) -> float:
    """Return the lowest confidence for AP: a saved one (`best`) is for the boxes of detect.py alone."""
    return AP_CONF_THRES if isinstance(o.conf_thres, str) else o.conf_thres


def _deployment(o: ValOptions, model: nn.Module) -> Deployment:
    """Return the settings of detect.py, but for those that somebody gave."""
    given: dict[str, Any] = {
        name: value
        for name, value in (("conf", ap_confidence(o)), ("iou", o.iou_thres), ("max_det", o.max_det))
        if not isinstance(value, Untouched)
    }
    lowest = given.get("conf", LOWEST)
    if isinstance(o.conf_thres, str):
        given["conf"] = find_confidence(o.conf_thres, model)
        if isinstance(given["conf"], list):
            raise ValueError("--conf-thres best-class is for detect.py: all counts here are above one confidence")
    return replace(Deployment(lowest=lowest), **given)


def _open_weights(o: ValOptions) -> tuple[DetectMultiBackend, ValOptions]:
    """Open model files; those without class names take the dataset's. Return the options with the image size, too."""
    device = o.device if isinstance(o.device, torch.device) else select_device(o.device, o.batch_size)
    yaml_file = o.data.get("yaml_file") if isinstance(o.data, Mapping) else check_file(o.data, (".yaml", ".yml"))
    named = None if o.single_cls else yaml_file
    backend = DetectMultiBackend(o.weights or [], device, dnn=o.dnn, data=named, fp16=o.half, window=o.window)
    _check_suppression(backend, o)
    return backend, replace(o, imgsz=default_size(o.imgsz, backend.trained_size, backend.imgsz))


def _read_dataset(data: Any, model: Any, split: str, classes: Sequence[int | str] | None) -> dict[str, Any]:
    """Read the dataset; a mapping needs only the split to validate, and without names has those of the model."""
    if isinstance(data, Mapping):
        return check_dataset({"names": dict(model.names), **data}, (split,), required=(split,), classes=classes)
    return check_dataset(data, (split,), classes=classes)


def _match_classes(
    data: Mapping[str, Any], model: Any, o: ValOptions, by_hand: bool
) -> tuple[dict[int, str], ClassMap | None]:
    """Return the names of the classes to measure, and how they are found in the model where they were chosen by name.

    Raises:
        ValueError: the model does not have them, or reads other images than the dataset has.
    """
    check_pixels(getattr(model, "pixels", COLOR8), data)
    selection = data.get("selection")
    weights = str(o.weights[0]) if o.weights else "model"
    found = match_classes(selection, model.names, o.single_cls, weights) if selection else None
    if found and o.save_thresholds:
        raise ValueError(
            "--save-thresholds is for all classes of the model in their order: leave out --classes, and the keys "
            f"classes and merge of {data.get('yaml_file') or 'the dataset'}"
        )
    if o.single_cls or found:
        names = dict(data["names"])
        return names if len(names) == 1 or not o.single_cls else {0: "item"}, found
    return _class_names(data, model, by_hand), None


def _check_suppression(backend: DetectMultiBackend, o: ValOptions) -> None:
    """Warn of a file whose boxes are too few for AP."""
    if backend.end2end:
        backend.check_suppression(ap_confidence(o), o.iou_thres, o.max_det, o.single_cls, multi_label=True)
        LOGGER.warning(
            "the curves end where this file drops boxes, so mAP is lower than that of the checkpoint: measure an "
            "export without --nms"
        )


def _check_settings(o: ValOptions) -> None:
    """Raise ValueError for settings that cannot work; warn of those that mislead."""
    if o.coco:
        load_package()
    if not o.weights:
        raise ValueError("no weights given: name a checkpoint such as runs/train/exp/weights/best.pt")
    if o.data is None:
        raise ValueError("no dataset given: pass a dataset YAML such as data/demo.yaml, or its content")
    if o.task not in SPLIT_TASKS:
        raise ValueError(f"task {o.task!r} is unknown. Allowed: {', '.join(SPLIT_TASKS)}")
    if o.save_conf and not (o.save_txt or o.save_hybrid):
        LOGGER.warning("--save-conf has no effect without --save-txt")
    if ap_confidence(o) > 0.001 and o.task != "speed":
        LOGGER.warning(
            f"a confidence threshold of {o.conf_thres} truncates the curves: mAP is only valid for thresholds up to "
            "0.001"
        )
    if o.save_thresholds and (len(o.weights) > 1 or not str(o.weights[0]).endswith(".pt")):
        raise ValueError(
            f"--save-thresholds writes into one checkpoint (.pt), not into {', '.join(map(str, o.weights))}: "
            "validate the checkpoint, and export it again"
        )
    if o.task == "speed" and (o.as_detect or o.slice):
        raise ValueError(f"--task speed times frames of one size: remove {'--slice' if o.slice else '--as-detect'}")
    _check_slice(o)
    if o.save_hybrid:
        LOGGER.warning("--save-hybrid adds the labels to the detections: the metrics are those of the labels")


def _check_slice(o: ValOptions) -> None:
    """Raise ValueError for tiles that cannot be."""
    if o.slice:
        tile_grid(1, 1, o.slice, o.overlap)  # checks them
        if o.save_hybrid:
            raise ValueError("--save-hybrid adds the labels to the detections, which tiles would cut: remove --slice")


def _class_names(data: Mapping[str, Any], model: Any, by_hand: bool) -> dict[int, str]:
    """Return the names of the classes to measure; ValueError if the model does not have those of the dataset."""
    names, nc, own = dict(data["names"]), model.nc, dict(model.names)
    if nc != len(names):
        part = nc < len(names) and set(own.values()) <= {printable(name) for name in names.values()}
        hint = f"{shlex.join(['--classes', *own.values()])}, " * part
        raise ValueError(
            f"the model has {nc} classes, the dataset {data.get('yaml_file') or ''} has {len(names)}: "
            f"give the --data it was trained with, {hint}or --single-cls"
        )
    if by_hand and own != {i: printable(name) for i, name in names.items()}:
        LOGGER.warning(f"the class names of the model, {own}, differ from those of the dataset, {names}")
    return names


def _make_loader(data: Mapping[str, Any], model: nn.Module, o: ValOptions) -> DataLoader:
    """Load one split as training validates it: rectangular batches with half a stride of padding.

    `speed` and files of one size: each image in a frame of the whole size; likewise with height and width. `as_detect`:
    each image in the frame that detect.py gives it; `slice` too, with its tiles.
    """
    stride = model.stride if isinstance(model, DetectMultiBackend) else input_stride(model.stride)
    split = "val" if o.task == "speed" else o.task
    if not data.get(split):
        raise ValueError(f"{data.get('yaml_file') or 'the dataset'} has no '{split}' split: add it, or change --task")
    fixed = getattr(model, "imgsz", None)  # of a file that takes one size only
    if fixed and fixed != both_sides(o.imgsz):
        raise ValueError(
            f"this file takes images of {fixed[0]}x{fixed[1]} (height x width) only: use --img "
            + size_text(square_or_both(fixed))
        )
    square = isinstance(o.imgsz, int) or len(o.imgsz) == 1
    tile = tile_sides(o.slice)
    rect = o.task != "speed" and not fixed and square and not o.as_detect and not tile
    sides = choose_size(o.imgsz, stride)
    batch_size = getattr(model, "batch_size", None) or o.batch_size
    found = create_dataloader(
        data[split],
        sides[0] if square else sides,
        batch_size,
        stride,
        rect=rect,
        pad=0.5 if rect else 0.0,
        single_cls=o.single_cls,
        nc=data["nc"],
        workers=o.workers,
        prefix=colorstr(f"{split}: "),
        pin_memory=(getattr(model, "device", None) or next(model.parameters()).device).type == "cuda",
    )
    if not (o.as_detect or tile):
        return found[0]
    return as_detect(*found, None if fixed else stride, batch_size, tile, o.overlap)


# Command line ---------------------------------------------------------------------------------------------------------


def main(opt: argparse.Namespace) -> None:
    """Run the task; `speed` times one file of weights after another at the thresholds of detection, without plots."""
    log_options("val", vars(opt))
    settings = dict(vars(opt))
    weights = settings.pop("weights")
    if opt.task in ("speed", "study"):
        half = opt.device not in ("cpu", "mps") and torch.cuda.is_available()
        settings |= {"save_json": False, "plots": False, "half": half, "thresholds": False}
    if opt.task == "speed":
        for file in weights:
            run(weights=file, **settings | {"conf_thres": CONF_THRES, "iou_thres": IOU_THRES})
    elif opt.task == "study":
        study(weights, settings)
    else:
        settings["save_json"] |= str(opt.data).endswith("coco.yaml")
        run(weights=weights, **settings)


def study(weights: Sequence[str], settings: dict[str, Any]) -> Path:
    """Measure weights at the image sizes `SIZES` of `engine.validation.study`; return the folder of tables and plot."""
    asked = [name for name in ("save_txt", "save_hybrid", "report", "save_thresholds") if settings.get(name)]
    if asked:
        raise ValueError(f"--task study writes only its table and plot: remove {', '.join(asked)}")
    with run_folder(Path(settings["project"]) / settings["name"], settings["exist_ok"]) as folder:
        settings = settings | {"project": folder.parent, "name": folder.name, "exist_ok": True, "task": "val"}
        record = StudyFolder(folder, Path(settings["data"]).stem)
        for file in weights:
            record.measure(file, lambda size, file=file: run(weights=file, **settings | {"imgsz": size}))
        record.finish()
    return folder


if __name__ == "__main__":
    resume_collection()
    with cli_errors():
        main(OPTIONS)
