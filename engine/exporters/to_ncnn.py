"""Write ncnn: a folder with model.ncnn.param, model.ncnn.bin and metadata.yaml, made by pnnx from a TorchScript trace.

Input `in0`, (3, H, W) RGB in 0..1, output `out0`, (R, 5 + classes): ncnn runs one image at a time. half stores the
weights in float16.
"""

import subprocess
import tempfile
import warnings
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.exporters.check import check_file
from engine.exporters.folder import atomic_folder
from utils.files import write_whole, yaml_save
from utils.options.export import ExportOptions
from utils.options.formats import require

FILES = ("model.ncnn.param", "model.ncnn.bin")


def export_ncnn(model: nn.Module, images: Tensor, file: Path, options: ExportOptions, metadata: dict[str, Any]) -> Path:
    """Write the folder and compare it with the model; arguments and errors as in `engine/exporters/__init__.py`."""
    require(("ncnn", "pnnx"), "the export to ncnn")
    if len(images) != 1:
        raise ValueError(f"ncnn runs one image at a time, but the batch size is {len(images)}: use --batch-size 1")
    with atomic_folder(file) as folder:
        convert(model, images, folder, options.half)
        yaml_save(folder / "metadata.yaml", metadata)
        network = load(folder)
        check_file("ncnn", lambda x: run(network, x, len(model(images))), model, images, options, metadata)
    return file


def convert(model: nn.Module, images: Tensor, folder: Path, half: bool) -> None:
    """Trace the model, run pnnx in a folder of its own, and move ncnn's two files to `folder`."""
    import pnnx  # noqa: PLC0415, optional

    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore")  # torch.jit is deprecated, and the sizes become constants: both known
        copy = deepcopy(model).cpu().eval()
        script = BytesIO()  # PyTorch's own writer of files ends the process when the disk is full
        torch.jit.save(torch.jit.trace(copy, images.cpu(), strict=False, check_trace=False), script)
        write_whole(f"{scratch}/model.pt", script.getbuffer())
        shape = ",".join(map(str, images.shape))
        command = [pnnx.EXEC_PATH, "model.pt", f"inputshape=[{shape}]", f"fp16={half:d}"]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
        missing = [name for name in FILES if not (Path(scratch) / name).is_file()]
        if done.returncode or missing:
            lines = (done.stderr or done.stdout).strip().splitlines()[-3:]
            raise ValueError(f"pnnx cannot convert this model (status {done.returncode}): {' / '.join(lines)}")
        layers = (Path(scratch) / FILES[0]).read_text().splitlines()[2:]
        foreign = sorted({line.split()[0] for line in layers if "." in line.split()[0]})
        if foreign:
            raise ValueError(
                f"ncnn has no layer for {', '.join(foreign)} in this model (attention needs tensors of more than the "
                "four axes that ncnn supports): export onnx or openvino instead"
            )
        for name in FILES:
            write_whole(folder / name, (Path(scratch) / name).read_bytes())


def load(folder: Path) -> Any:
    """Open the two files in ncnn, in float32 and with PyTorch's number of threads."""
    import ncnn  # noqa: PLC0415, optional

    network = ncnn.Net()
    network.opt.num_threads = torch.get_num_threads()
    network.opt.use_fp16_packed = network.opt.use_fp16_storage = network.opt.use_fp16_arithmetic = False
    for read, name in ((network.load_param, FILES[0]), (network.load_model, FILES[1])):
        if read(str(folder / name)):
            raise ValueError(f"{folder / name}: ncnn cannot read it")
    return network


def run(network: Any, images: Tensor, count: int = 1) -> list[Tensor]:
    """Run images (B, 3, H, W) one by one; return `count` outputs, (B, R, 5 + classes) or raw maps."""
    import ncnn  # noqa: PLC0415, optional

    rows: list[list[Any]] = [[] for _ in range(count)]
    for image in images.numpy():
        with network.create_extractor() as extractor:
            extractor.input("in0", ncnn.Mat(image).clone())
            for i in range(count):
                status, output = extractor.extract(f"out{i}")
                if status:
                    raise ValueError(f"ncnn could not run the network (status {status})")
                rows[i].append(np.array(output))
    return [torch.from_numpy(np.stack(row)) for row in rows]
