"""Files for phones and small boards: ncnn, CoreML and LiteRT.

CoreML runs on macOS only. Neither it nor LiteRT was tested on a device.
"""

import platform
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


class CoreMlBackend(Runtime):
    """CoreML, on macOS only; written after its documentation and not run by its authors.

    Args:
        file: .mlpackage folder whose input `images` is a float array (B, 3, H, W).
        device: images are moved to the CPU.

    Raises:
        ValueError: the package is missing, or this system cannot run CoreML.
    """

    def __init__(self, file: Path, device: torch.device) -> None:
        if platform.system() != "Darwin":
            raise ValueError(f"{file}: CoreML runs on macOS only. Export onnx or openvino for {platform.system()}")
        require(("coremltools",), f"running {file}")
        import coremltools  # noqa: PLC0415, optional

        self.network = coremltools.models.MLModel(str(file))
        description = self.network.get_spec().description
        shape = tuple(description.input[0].type.multiArrayType.shape)
        self.input, self.output = description.input[0].name, description.output[0].name
        super().__init__(file, device, dict(self.network.user_defined_metadata), (shape[0], shape[2], shape[3]))

    def run(self, images: Tensor) -> Tensor:
        """See `Runtime.run`."""
        return torch.from_numpy(np.asarray(self.network.predict({self.input: images.cpu().numpy()})[self.output]))


class LiteRtBackend(Runtime):
    """LiteRT (.tflite) on the CPU, with float input (B, 3, H, W); not tested on a device.

    Args:
        file: .tflite file; the metadata are in <stem>.yaml beside it.
        device: images are moved to the CPU.

    Raises:
        ValueError: the package is missing, or it cannot read the file.
    """

    def __init__(self, file: Path, device: torch.device) -> None:
        require(("ai-edge-litert",), f"running {file}")
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415, optional

        try:
            self.network = Interpreter(model_path=str(file), num_threads=torch.get_num_threads())
        except (RuntimeError, ValueError) as e:
            raise ValueError(f"{file}: LiteRT cannot read it: {e}") from e
        self.network.allocate_tensors()
        source, target = self.network.get_input_details()[0], self.network.get_output_details()[0]
        shape = [int(n) for n in source["shape"]]
        if source["dtype"] != np.float32 or len(shape) != 4 or shape[1] != 3:
            raise ValueError(f"{file}: its input is {source['dtype'].__name__} {shape}, needed is float32 [B, 3, H, W]")
        self.input, self.output = source["index"], target["index"]
        notes = file.with_suffix(".yaml")
        metadata = yaml_load(notes) if notes.is_file() else {}
        super().__init__(file, device, metadata, (shape[0], shape[2], shape[3]), int(target["shape"][-1]))

    def run(self, images: Tensor) -> Tensor:
        """See `Runtime.run`."""
        self.network.set_tensor(self.input, images.cpu().numpy())
        self.network.invoke()
        return torch.from_numpy(self.network.get_tensor(self.output).copy())
