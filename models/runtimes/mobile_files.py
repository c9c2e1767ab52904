"""Files for phones and small boards: ncnn and LiteRT."""

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.runtimes.base import Runtime
from models.weights.class_names import parse_value
from utils.files import yaml_load
from utils.model_files.archive import BROKEN
from utils.options.formats import require

LARGEST_NOTES = 1_000_000  # bytes of metadata


def read_notes(folder: Path) -> dict:
    """Return the content of metadata.yaml in a folder, {} where there is none."""
    notes = folder / "metadata.yaml"
    return yaml_load(notes) if notes.is_file() else {}


class NcnnBackend(Runtime):
    """ncnn on the CPU, one image at a time, in float32.

    Args:
        file: folder with one .param and one .bin file of pnnx, and metadata.yaml.
        device: images are moved to the CPU.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the package is missing, or it cannot read the files.
    """

    library = "ncnn"

    def __init__(self, file: Path, device: torch.device) -> None:
        require(("ncnn",), f"running {file}")
        import ncnn  # noqa: PLC0415, optional

        metadata = read_notes(file)
        self.ncnn, self.network = ncnn, ncnn.Net()
        self.network.opt.num_threads = torch.get_num_threads()
        for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
            setattr(self.network.opt, option, False)
        for read, ending in ((self.network.load_param, ".param"), (self.network.load_model, ".bin")):
            found = sorted(path for path in file.glob(f"*{ending}") if path.is_file())
            if not found:
                raise FileNotFoundError(f"{file}: it contains no {ending} file of ncnn")
            if read(str(found[0])):
                raise ValueError(f"{found[0]}: ncnn cannot read it")
        super().__init__(file, device, metadata)
        self.batch_size = 1
        size = metadata.get("imgsz")
        self.imgsz = tuple(size) if isinstance(size, list) and len(size) == 2 else None

    def run(self, images: Tensor) -> Tensor:
        """See `Runtime.run`; one image."""
        with self.network.create_extractor() as extractor:
            extractor.input("in0", self.ncnn.Mat(images[0].cpu().numpy()).clone())
            status, output = extractor.extract("out0")
            if status:
                raise ValueError(f"{self.file}: ncnn could not run it (status {status})")
            return torch.from_numpy(np.array(output))[None]


def read_appended(file: Path) -> dict:
    """Return the mapping whose text is the first entry of a zip archive at the end of a file, {} where there is none.

    Raises:
        ValueError: the archive is damaged, or the entry is too large to be such a text, or no mapping.
    """
    if not zipfile.is_zipfile(file):
        return {}
    try:
        with zipfile.ZipFile(file) as archive:
            entry = next(iter(archive.infolist()), None)
            if entry is None:
                return {}
            if entry.file_size > LARGEST_NOTES:
                raise ValueError(
                    f"{file}: its entry {entry.filename!r} has {entry.file_size} bytes, which is too large"
                )
            found = parse_value(archive.read(entry).decode("utf-8", "replace"))
    except (*BROKEN, OSError) as e:  # the last: an entry before the beginning of the file
        raise ValueError(f"{file}: the archive at its end is damaged: {e}") from e
    if not isinstance(found, dict):
        raise ValueError(f"{file}: its entry {entry.filename!r} is not a mapping, found {str(found)[:80]!r}")
    return found


class LiteRtBackend(Runtime):
    """LiteRT (TensorFlow Lite) on the CPU, of a file that `engine.exporters.to_litert` wrote.

    Args:
        file: .tflite file: float32 images (B, H, W, 3) to boxes (B, R, 5 + nc) in pixels.
        device: images are moved to the CPU.

    Raises:
        ValueError: the package is missing, it cannot read the file, or the file has other inputs or outputs.
    """

    library = "LiteRT"
    errors = (RuntimeError, ValueError)

    def __init__(self, file: Path, device: torch.device) -> None:
        require(("ai-edge-litert",), f"running {file}")
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415, optional

        metadata = read_appended(file)
        with self.library_errors(file, "read"):
            self.network = Interpreter(str(file), num_threads=torch.get_num_threads())
            self.network.allocate_tensors()
        sources, targets = self.network.get_input_details(), self.network.get_output_details()
        shapes = [tuple(map(int, entry["shape"])) for entry in (*sources, *targets)]
        kinds = {np.dtype(entry["dtype"]).name for entry in (*sources, *targets)}
        if [len(shape) for shape in shapes] != [4, 3] or shapes[0][3] != 3 or kinds != {"float32"}:
            raise ValueError(
                f"{file}: one float32 input (B, H, W, 3) and one output (B, R, 5 + classes) are run here, but it has "
                f"{shapes} of {', '.join(sorted(kinds))}: export it with export.py --include tflite"
            )
        self.source, self.target = sources[0]["index"], targets[0]["index"]
        (batch, height, width, _), (_, _, columns) = shapes
        super().__init__(file, device, metadata, (batch, height, width), columns)

    def run(self, images: Tensor) -> Tensor:
        """See `Runtime.run`."""
        self.network.set_tensor(self.source, images.permute(0, 2, 3, 1).contiguous().cpu().numpy())
        self.network.invoke()
        return torch.from_numpy(self.network.get_tensor(self.target))
