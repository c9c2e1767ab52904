"""Detect objects in images, videos, cameras, streams and on the screen.

python detect.py --weights runs/train/exp/weights/best.pt --source photos/
python detect.py --weights best.pt --source clip.mp4 --img 640 --conf 0.4 --save-txt
python detect.py --weights best.pt --source 'rtsp://10.0.0.7/cam' --view-img
python detect.py --weights best.pt --source aerial.tif --slice 640 --overlap 0.2
python detect.py --weights best.pt --source clip.mp4 --track --save-txt
python detect.py --weights best.pt --source photos/ --batch-size 16
python detect.py --weights best.pt --source photos/ --conf best --as-dataset labelled --report
"""

import argparse

from utils.console import cli_errors, pause_collection, resume_collection
from utils.options.detect import DetectOptions, parse_opt

if __name__ == "__main__":  # before torch is loaded: --help and mistyped options are answered at once
    with cli_errors():
        OPTIONS = parse_opt(description=__doc__)
    pause_collection()

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import cv2
from numpy.typing import NDArray
from torch import Tensor

from engine import split
from engine.doctor import run as doctor
from engine.inference.batching import InOrder, batches, choose_batch
from engine.inference.pipeline import Frame, Prefetch, Source, Worker
from engine.inference.predictor import Predictor, Prepared, Settings
from engine.inference.sources import open_source
from engine.inference.tracking import Tracker
from engine.interrupts import Interrupts
from engine.results.box_maps import Visualization
from engine.results.dataset import DatasetFolder, check_new
from engine.results.images import Windows, open_windows
from engine.results.outputs import Outputs, Summary, Wanted
from models.detector import find_classes, find_confidence
from models.image_size import choose_size
from models.runtimes.backends import DetectMultiBackend
from models.weights.checkpoint import strip_optimizer
from utils.console import LOGGER, log_options
from utils.datasets.tiles import tile_sides
from utils.downloads.official_weights import find_weights
from utils.options.table import takes_options
from utils.paths import HOME, run_folder
from utils.paths import ROOT as ROOT
from utils.thresholds import CONF_THRES
from utils.torch_utils import select_device

FILE = Path(__file__).resolve()
NAMED = 10  # classes whose confidences are logged


class Result(NamedTuple):
    """Detections (D, 6) `[xyxy_img, confidence, class]` on the CPU, best first, of one frame of a source.

    `frame` counts from 1 in videos and streams and is 0 for an image. `shape` is (height, width). `image`, (H, W, 3)
    BGR, is kept with `stream` only; it is being written by another thread, so do not draw on it. `tracks` with `track`
    only: int64 (D,), identities of the objects in this source, -1 for none.
    """

    source: str
    frame: int
    shape: tuple[int, int]
    detections: Tensor
    names: Mapping[int, str]
    image: NDArray | None = None
    tracks: Tensor | None = None


class Found(NamedTuple):
    """Detections of a frame and what is told with them: maps, (height, width) of the network input, milliseconds.

    `weak` are detections that are not shown, for `Tracker`.
    """

    frame: Frame
    detections: Tensor
    weak: Tensor
    maps: Mapping[str, Any] | None
    net: tuple[int, int]
    spent: float


@takes_options(DetectOptions)
def run(options: DetectOptions, *, stream: bool = False) -> list[Result] | Iterator[Result]:
    """Run detection on all frames of a source and write the requested outputs.

    Reading and letterboxing, model and NMS, drawing and writing run concurrently in three threads.

    Args:
        options: fields of `DetectOptions` as arguments, such as `run("best.pt", "photos/", save_txt=True)` or
            `run("best.pt", ["a.jpg", "b.mp4"])`; images come first, then videos, a file that is named twice once.
        stream: return an iterator of results with images, for sources that are long or have no end. Close it, or
            exhaust it, to finish the files.

    Returns:
        All results, without images; with `stream` an iterator.

    Raises:
        ValueError, FileNotFoundError: an option is invalid, or nothing can be read.
        OSError: a camera, stream or file cannot be opened or written.
    """
    o = options
    outputs = {item.name: getattr(o, item.name) for item in fields(Wanted) if item.name != "save_img"}
    wanted = Wanted(save_img=not o.nosave, **outputs)
    if o.as_dataset:
        check_new(o.as_dataset)
    files = _find_weights(o.weights or [], o.visualize, o.update, o.dnn)
    with ExitStack() as stack:
        save_dir = stack.enter_context(run_folder(Path(o.project) / o.name, o.exist_ok))
        model = DetectMultiBackend(files, select_device(o.device), dnn=o.dnn, data=o.data, fp16=o.half, window=o.window)
        opened = open_source(_default_source(o.source), save_dir / "sources", o.vid_stride, model.pixels)
        stack.callback(opened.stop)
        size = choose_size(o.imgsz, model.stride, model.trained_size, model.imgsz)
        if model.imgsz and size != model.imgsz:
            fixed, size = model.imgsz, model.imgsz
            LOGGER.warning(f"the model file takes images of {fixed[0]} x {fixed[1]} only: --imgsz is ignored")
        conf = find_confidence(o.conf_thres, model)
        log_confidence(o.conf_thres, conf, model, max(size), o)
        tracker = _open_tracker(o, opened, conf)
        low = Tracker.lowest(conf) if tracker and not o.slice else conf  # tiles are joined by what is shown alone
        settings = Settings(
            size, low, o.iou_thres, o.max_det, find_classes(o.classes, model), o.agnostic_nms, o.augment,
            tile_sides(o.slice), o.overlap,
        )  # fmt: skip
        predictor = Predictor(model, settings)
        model.check_suppression(conf, o.iou_thres, o.max_det, o.agnostic_nms)
        camera = opened.live and str(o.source).isdecimal()
        view = open_windows(o.view_img, camera)
        start = model.thresholds if o.conf_thres == CONF_THRES else None  # a confidence given by hand shows all boxes
        outs = Outputs(save_dir, opened, model.names, wanted, start, model.pixels)
        maps = Visualization(_first_model(model), model.names, o.report) if o.visualize else None
        stack.enter_context(maps or nullcontext())
        at_once = choose_batch(o.batch_size, model.batch_size, opened.live)
        if maps and at_once and at_once > 1:
            LOGGER.info("--visualize looks at one image at a time: only later frames of videos come in batches")
        held = stack.pop_all()  # left at the end of the results
    results = _detect(predictor, opened, outs, view, maps, tracker, at_once, files if o.update else [], stream, held)
    return results if stream else list(results)


def _detect(
    predictor: Predictor,
    source: Source,
    outputs: Outputs,
    view: Windows | None,
    maps: Visualization | None,
    tracker: Tracker | None,
    at_once: int | None,
    strip: Sequence[str | Path],
    keep_images: bool,
    held: ExitStack,
) -> Iterator[Result]:
    """Run the pipeline; the end of `run`."""
    names, save_dir = outputs.names, outputs.folder
    summary = Summary(source, names, predictor.settings.max_det)
    saved = save_dir if outputs.wanted.files or maps else None
    found: InOrder[Found] = InOrder()

    def mapped(frame: Frame) -> bool:
        return maps is not None and frame.number <= 1

    try:
        with held, ExitStack() as stack:  # left in the order late results, reader, writer, files, folder
            stack.enter_context(outputs)
            write = stack.enter_context(Worker(outputs.add))
            arranged = batches(source, predictor.prepare, at_once, source.live, mapped)
            prepared = stack.enter_context(
                Prefetch(arranged, 3 if at_once == 1 and not source.live else 1, source.stop)
            )
            if view:
                stack.callback(view.close)
            stack.push(lambda kind, *_: _finish(kind, found, tracker, write, summary))
            predictor.model.warmup((at_once or 1, predictor.model.pixels.channels, *predictor.settings.imgsz))
            summary.start()
            for batch in prepared:
                if maps and mapped(batch.frames[0]):
                    maps.save_next(save_dir / outputs.map_folder(batch.frames[0]))
                for number, result in zip(batch.numbers, _results(predictor, batch, maps, tracker), strict=True):
                    found.add(number, result)
                for frame, rows, weak, shown, net, spent in found.ready():
                    ids = tracker(frame, rows, weak) if tracker else None
                    picture = outputs.draw(frame, rows, ids) if view else None
                    write(frame, rows, ids, picture, shown)
                    summary.add(frame, rows, ids, net, spent)
                    image = frame.image if keep_images else None
                    yield Result(frame.source, frame.number, frame.shape, rows, names, image, ids)
                    if view and not view.show(frame, picture):
                        return
    except Exception:
        saved = None  # a failed run does not say that its results are there
        raise
    finally:
        summary.log(predictor.seconds, predictor.detector.shape, saved)
        if saved and summary.frames and outputs.report:
            LOGGER.info(f"Report saved to {outputs.report.close()}")  # it is complete: this only tells its path
    if not summary.frames and not source.live:
        raise ValueError(f"none of the {len(source.names)} files could be read: {', '.join(source.names[:10])}")
    check_labels(outputs.dataset, max(predictor.settings.imgsz))
    for file in strip:
        LOGGER.info(f"--update: stripping the training state from {file}")
        strip_optimizer(file)


def _results(predictor: Predictor, batch: Prepared, maps: Visualization | None, tracker: Tracker | None) -> list[Found]:
    """Detect in a batch; the maps are those of its first frame."""
    before = predictor.seconds[1]
    detections = [tracker.split(rows) if tracker else (rows, rows[:0]) for rows in predictor(batch)]
    shown = maps.done(batch.frames[0].image, detections[0][0]) if maps else None
    spent = (predictor.seconds[1] - before) / len(detections) * 1e3
    net = batch.inputs[0].shape[1:]
    return [
        Found(frame, rows, weak, None if i else shown, net, spent)
        for i, (frame, (rows, weak)) in enumerate(zip(batch.frames, detections, strict=True))
    ]


def _finish(
    error: type | None, found: InOrder[Found], tracker: Tracker | None, write: Worker, summary: Summary
) -> None:
    """Write what was detected before Ctrl-C, or before the caller took no more, and waited for its turn."""
    if error and issubclass(error, Exception):
        return  # the disk may be full
    for frame, rows, weak, shown, net, spent in found.rest():
        ids = tracker(frame, rows, weak) if tracker else None
        write(frame, rows, ids, None, shown)
        summary.add(frame, rows, ids, net, spent)


# Preparation ----------------------------------------------------------------------------------------------------------


def _find_weights(weights: Sequence[str | Path], visualize: bool, update: bool, dnn: bool) -> list[Path]:
    """Return the files that are meant, or raise an error for those that are missing or do not support an option."""
    if not weights:
        raise ValueError(
            "no weights given: pass a model file, for example --weights runs/train/exp/weights/best.pt "
            "(train.py creates one), or the name of official weights such as yolov5s.pt"
        )
    files = [find_weights(file) for file in weights]
    for named, file in zip(weights, files, strict=True):
        if not file.exists():
            raise FileNotFoundError(f"{file}: no such weights (from {Path.cwd()})")
        if update and Path(named).parent != file.parent:
            raise ValueError(f"--update would change the kept {file}: copy it and give the path")
        for option, on, suffix in (("update", update, ".pt"), ("visualize", visualize, ".pt"), ("dnn", dnn, ".onnx")):
            if on and Path(file).suffix.lower() != suffix:
                raise ValueError(f"--{option} needs {suffix} files, but the weights are {file}")
    return files


def log_confidence(
    asked: float | str, conf: float | Sequence[float], model: DetectMultiBackend, size: int, o: DetectOptions
) -> None:
    """Say which saved confidence is used and where it was measured, or that the default is far from the best one.

    Args:
        asked: --conf-thres.
        conf: what it stands for, see `find_confidence`.
        model: its `thresholds` are out of a file and may be anything.
        size: long side of the network input.
        o: the other options.
    """
    known = model.thresholds if isinstance(model.thresholds, Mapping) else {}
    values = [known.get(key) for key in ("conf", "f1", "images", "imgsz", "iou_thres")]
    numbers = [value for value in values if isinstance(value, int | float)]
    if len(numbers) < len(values):
        return
    best, f1, images, measured, iou = numbers
    if not isinstance(asked, str):
        if asked == CONF_THRES and abs(best - asked) > 0.1:
            LOGGER.info(f"the best F1 of these weights is at confidence {best:.2f}: --conf best uses it")
        return
    where = f"on {images} images at {measured} pixels, NMS IoU {iou:g}"
    where += ", images padded as for mAP (val.py --as-detect pads none)" if known.get("as_detect") is False else ""
    if isinstance(conf, Sequence):
        named = [f"{model.names[c]} {limit:g}" for c, limit in enumerate(conf)]
        more = f", ... {len(named) - NAMED} more" if len(named) > NAMED else ""
        LOGGER.info(f"confidence by class: {', '.join(named[:NAMED])}{more}: best F1 of each {where}")
    else:
        LOGGER.info(f"confidence {conf:g}: {f'best F1 {f1:.2f}' if asked == 'best' else asked} {where}")
    others = ["--augment"] if o.augment else []
    others += ["--slice" if o.slice else "no --slice"] if o.slice != known.get("slice", 0) else []
    others += ["an int8 file"] if getattr(model.backend, "metadata", {}).get("int8") is True else []
    if others or iou != o.iou_thres or not 0.8 * measured <= size <= 1.2 * measured:
        LOGGER.warning(
            f"it may be another one at {size} pixels with NMS IoU {o.iou_thres:g}{''.join(f', {x}' for x in others)}: "
            "validate with these"
        )


def _open_tracker(o: DetectOptions, source: Source, conf: float | Sequence[float]) -> Tracker | None:
    """Return what follows the objects, None without --track; ValueError if nothing moves."""
    if o.track is False:
        return None
    if not source.videos:
        raise ValueError("--track follows objects through videos and streams, but the source has images only")
    return Tracker(float(o.track), conf)


def check_labels(written: DatasetFolder | None, size: int) -> None:
    """Divide the dataset of --as-dataset into train and val, and let the doctor check it.

    Args:
        written: the dataset; None, or one without an image, for nothing.
        size: long side of the network input.
    """
    if not written or not written.images:
        return
    dataset = written.yaml
    try:
        (dataset,) = split.run(str(dataset), of=["train"])
    except ValueError as error:  # one image, or copies of one only
        LOGGER.warning(f"{error}: validation is on the images of training")
    try:
        doctor.run(str(dataset), imgsz=size)
    except ValueError as error:
        LOGGER.warning(str(error))
    LOGGER.info(
        "The labels are the model's own, and a validation on them says how far another model agrees with it. Correct "
        "them before they count as truth: report.html of --report shows the images of most doubt first"
    )


def _default_source(source: str | list[str]) -> str | list[str]:
    """Return the source; ValueError if it is the default and that folder does not exist."""
    if isinstance(source, str) and Path(source) == HOME / "data/images" and not Path(source).is_dir():
        raise ValueError(f"no source given, and the default folder {source} does not exist: pass --source")
    return source


def _first_model(model: DetectMultiBackend) -> Any:
    """Return the network whose maps are saved: the first one of an ensemble."""
    network = model.model
    return network if hasattr(network, "model") else network[0]


# Command line ---------------------------------------------------------------------------------------------------------


def main(opt: argparse.Namespace) -> None:
    """Detect with the options of the command line."""
    if opt.weights:  # else the error alone
        log_options("detect", vars(opt))
    cv2.setNumThreads(0)  # decoding, computing and writing have a thread each; more only get in their way
    with Interrupts():  # SIGTERM finishes videos and tables too
        for _ in run(stream=True, **vars(opt)):
            pass


if __name__ == "__main__":
    resume_collection()
    with cli_errors():
        main(OPTIONS)
