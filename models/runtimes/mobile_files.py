"""Files for phones and small boards: ncnn."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.runtimes.base import Runtime
from utils.files import yaml_load
from utils.formats import require


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

    def __init__(self, file: Path, device: torch.device) -> None:
        require(("ncnn",), f"running {file}")
        import ncnn  # noqa: PLC0415, optional

        metadata = read_notes(file)
        self.ncnn, self.network = ncnn, ncnn.Net()
        self.network.opt.num_threads = torch.get_num_threads()
        for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
            setattr(self.network.opt, option, False)
        for read, ending in ((self.network.load_param, ".param"), (self.network.load_model, ".bin")):
            found = sorted(file.glob(f"*{ending}"))
            if not found:
                raise FileNotFoundError(f"{file}: no {ending} file of ncnn in it")
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
