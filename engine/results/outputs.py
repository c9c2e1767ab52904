"""Everything that a run of detect.py writes or logs: files of all kinds, a line per frame, the summary."""

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from engine.inference.pipeline import Frame, Source
from engine.results.dataset import DatasetFolder
from engine.results.files import CsvFile, JsonFile, TextFiles
from engine.results.images import Crops, Pictures
from engine.results.report import DetectReport
from utils.annotate import draw_detections
from utils.console import LOGGER, colorstr
from utils.datasets.images import COLOR8, PixelFormat
from utils.datasets.output_names import ResultIds, image_ids
from utils.text import count_text, printable

TELL_EVERY = 1.0  # seconds between lines about one video or stream


@dataclass(frozen=True)
class Wanted:
    """What to write: options of detect.py, see `DetectOptions`, and in `save_img` whether to write annotated images."""

    save_img: bool
    save_frames: bool
    save_txt: bool
    save_format: int
    save_conf: bool
    save_csv: bool
    save_json: bool
    save_crop: bool
    report: bool
    as_dataset: str | None
    track: float | bool
    line_thickness: int | None
    hide_labels: bool
    hide_conf: bool

    def __post_init__(self) -> None:
        if self.save_conf and not self.save_txt:
            LOGGER.warning("--save-conf has no effect without --save-txt")

    @property
    def files(self) -> bool:
        """Whether anything is written."""
        w = self
        tables = w.save_txt or w.save_csv or w.save_json
        return w.save_img or w.save_frames or tables or w.save_crop or w.report


class Outputs:
    """Write what was asked for. Use as a context: leaving it finishes the files, after an error or Ctrl-C too.

    Args:
        folder: of the run; made if something is written.
        source: what will come.
        names: class names by index.
        wanted: what to write.
        thresholds: of the weights, for the report, see `DetectReport`.
        pixels: that the network reads.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        names: Mapping[int, str],
        wanted: Wanted,
        thresholds: Mapping[str, Any] | None = None,
        pixels: PixelFormat = COLOR8,
    ) -> None:
        self.folder, self.names, self.wanted = folder, names, wanted
        results = source.results
        self.stems, self.titles = results.stems, results.titles
        if wanted.files:
            folder.mkdir(parents=True, exist_ok=True)
        save_pictures = wanted.save_img or wanted.save_frames
        self.pictures = Pictures(folder, results, wanted.save_img, wanted.save_frames) if save_pictures else None
        self.crops = Crops(folder / "crops", results.stems, names) if wanted.save_crop else None
        self.report = DetectReport(folder, names, thresholds=thresholds) if wanted.report else None
        self.dataset = DatasetFolder(wanted.as_dataset, results.stems, names, pixels) if wanted.as_dataset else None
        self.tables: list[TextFiles | CsvFile | JsonFile] = []
        if wanted.save_txt:
            corners = wanted.save_format == 1
            self.tables.append(TextFiles(folder / "labels", results.stems, wanted.save_conf, corners, True))
        if wanted.save_csv:
            self.tables.append(CsvFile(folder / "predictions.csv", self.titles, names, wanted.track is not False))
        if wanted.save_json:
            ids = ResultIds(image_ids(results.stems, source.videos))
            self.tables.append(JsonFile(folder / "predictions.json", ids))

    def map_folder(self, frame: Frame) -> str:
        """Return where below `folder` the feature maps of a frame go."""
        stem = self.stems[frame.source]
        return f"{stem}_features" if "." in Path(stem).name else stem  # there may be a file that is called so

    def __enter__(self) -> "Outputs":
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as stack:  # one that fails does not keep the others from being finished
            for part in (self.report, self.dataset, *reversed(self.tables), self.pictures):
                if part:
                    stack.callback(part.close)

    def draw(self, frame: Frame, detections: Tensor, ids: Tensor | None) -> NDArray:
        """Return a frame with its detections (D, 6) `[xyxy_img, confidence, class]` drawn on a copy."""
        w, numbers = self.wanted, None if ids is None else ids.tolist()
        names, width = self.names, w.line_thickness
        return draw_detections(frame.image, detections, names, width, w.hide_labels, w.hide_conf, ids=numbers)

    def add(
        self,
        frame: Frame,
        detections: Tensor,
        ids: Tensor | None = None,
        picture: NDArray | None = None,
        maps: Mapping[str, Any] | None = None,
    ) -> None:
        """Write one frame.

        Args:
            frame: the frame.
            detections: (D, 6) `[xyxy_img, confidence, class]`, best first.
            ids: (D,) identity of each with --track, else None.
            picture: what `draw` made of it if that was done already.
            maps: for the report, see `DetectReport.add`.
        """
        for table in self.tables:
            table.add(detections, frame.source, frame.shape, frame.number, ids)
        if self.crops:
            self.crops.add(frame, detections)
        if self.dataset:
            self.dataset.add(frame, detections)
        if self.report:
            title = self.titles[frame.source] + (f" frame {frame.number}" if frame.number else "")
            self.report.add(frame.image, title, detections, maps)
        if self.pictures and (self.wanted.save_img or frame.kind != "image"):
            self.pictures.add(frame, self.draw(frame, detections, ids) if picture is None else picture)


class Summary:
    """Count detections, log each image at once and each video once a second, and log a summary at the end.

    Args:
        source: what will come.
        names: class names by index.
        max_det: detections kept of a frame.
    """

    def __init__(self, source: Source, names: Mapping[int, str], max_det: int) -> None:
        self.source, self.names, self.max_det = source, names, max_det
        self.full = 0  # frames with so many
        self.index = {name: i for i, name in enumerate(source.names, 1)}
        self.found: Counter[int] = Counter()  # boxes of each class
        self.seen_in: Counter[int] = Counter()  # frames that show a class
        self.frames = self.empty = 0
        self._sources: Counter[str] = Counter()
        self._tracks: set[tuple[str, int]] | None = None  # source and identity
        self._told: dict[str, float] = {}
        self._start = time.perf_counter()

    def start(self) -> None:
        """Begin to count the time; the model is warm."""
        self._start = time.perf_counter()

    def add(
        self, frame: Frame, detections: Tensor, ids: Tensor | None, net: tuple[int, int], milliseconds: float
    ) -> None:
        """Count one frame and, if it is time, log a line about it."""
        if ids is not None:
            self._tracks = set() if self._tracks is None else self._tracks
            self._tracks.update((frame.source, number) for number in ids.tolist() if number >= 0)
        count = Counter(int(cls) for cls in detections[:, 5].tolist())
        self.found += count
        self.seen_in.update(count.keys())
        self.frames += 1
        self.empty += not count
        self.full += len(detections) >= self.max_det
        self._sources[frame.source] += 1
        now = time.monotonic()
        last = frame.kind == "video" and frame.number == frame.total
        if frame.kind != "image" and now - self._told.get(frame.source, -1e9) < TELL_EVERY and not last:
            return
        self._told[frame.source] = now
        place = f"{frame.kind} {self.index[frame.source]}/{len(self.index)} "
        if frame.number:
            place += f"({frame.number}{f'/{frame.total}' if frame.total else ''}) "
        LOGGER.info(f"{place}{frame.source}: {net[0]}x{net[1]} {count_text(count, self.names)}, {milliseconds:.1f}ms")

    def log(self, times: tuple[float, float, float], shape: tuple[int, ...], folder: Path | None) -> None:
        """Log the end of a run.

        Args:
            times: seconds of all pre-processing, inference and NMS.
            shape: of the last network input.
            folder: where results were saved, None for nowhere.
        """
        if self.source.left_out:
            LOGGER.warning(f"skipped, as their suffixes belong to neither images nor videos: {self.source.left_out}")
        if not self.frames:
            LOGGER.warning("nothing was read")
            return
        frames = f"{self.frames} {'image' if self._only_images() else 'frame'}{'s' * (self.frames > 1)}"
        origin = "" if self._only_images() else f" of {len(self._sources)} source{'s' * (len(self._sources) > 1)}"
        parts = [f"{self.found[cls]} {printable(self.names[cls])} in {self.seen_in[cls]}" for cls in sorted(self.found)]
        nothing = f"; nothing in {self.empty}" if self.empty else ""
        LOGGER.info(f"Found in {frames}{origin}: {', '.join(parts) or 'no objects'}{nothing if parts else ''}")
        if self._tracks is not None:
            LOGGER.info(f"Followed {len(self._tracks)} object{'s' * (len(self._tracks) != 1)}")
        if self.full:
            LOGGER.warning(
                f"{self.full} of {frames} reached the limit of {self.max_det} detections, the best ones were kept: "
                "use a larger --max-det, or a higher --conf"
            )
        if failed := self.source.failed:
            LOGGER.warning(f"{len(failed)} of {len(self.index)} files could not be read: {', '.join(failed[:10])}")
        speed = [t / self.frames * 1e3 for t in times]
        rate = self.frames / (time.perf_counter() - self._start)
        LOGGER.info(
            "Speed: {:.1f}ms pre-process, {:.1f}ms inference, {:.1f}ms NMS per image at shape {}; {:.1f} images/s with "
            "reading and writing".format(*speed, shape, rate)
        )
        if folder:
            LOGGER.info(f"Results saved to {colorstr('bold', str(folder))}")

    def _only_images(self) -> bool:
        return all(self._sources[name] == 0 for name in self.source.videos)
