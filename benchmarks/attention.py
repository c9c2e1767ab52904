"""Time `SwinV2Block` against the blocks of torchvision and timm with equal weights, side by side in one process.

    python -m benchmarks.attention
    python -m benchmarks.attention --shapes 64x160 512x20 --batches 1 --dtypes float32 --compile --json attention.json

A shape is channels x side of the map; the default ones are the pyramid of a 640-pixel image and two maps that need
padding. Forward runs without gradients in evaluation, forward + backward in training. The blocks take turns; figures
are medians, ratios are time of the faster of the other two over ours; with --compile also of the faster of them as they
are, not compiled, over ours compiled (`gain`). `limit` is the share of our forward time that the
block's matrix products alone take, measured in the same run. `kept` is what is held for the backward pass, in units of
tokens x channels; `peak` the most memory that is in use during a training step beyond weights and input, MiB.
Needs `pip install timm`.
"""

import argparse
import itertools
import json
import math
import re
import statistics
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.swin_transformer import SwinTransformerBlockV2

from benchmarks.tables import take_turns
from models.common import SwinV2Block
from utils.console import LOGGER, cli_errors

SHAPES = ("64x160", "128x80", "256x40", "512x20", "512x24", "512x25")
NAMES = ("ours", "torchvision", "timm")


def build_blocks(dim: int, side: int, window: int, shift: int) -> dict[str, nn.Module]:
    """Return the three blocks with the same random weights."""
    torch.manual_seed(0)
    heads = dim // 32
    reference = SwinTransformerBlockV2(dim, heads, [window, window], [shift, shift])
    with torch.no_grad():
        for p in reference.parameters():
            p.add_(torch.randn_like(p) * 0.02)
        reference.attn.qkv.bias[dim : 2 * dim].zero_()
    state = reference.state_dict()
    renamed = {re.sub(r"^mlp\.([03])\.", lambda m: f"mlp.fc{1 + int(m[1]) // 3}.", k): v for k, v in state.items()}
    bias = renamed.pop("attn.qkv.bias")
    renamed |= {"attn.q_bias": bias[:dim], "attn.v_bias": bias[2 * dim :]}
    renamed = {k: v for k, v in renamed.items() if "relative_" not in k}
    ours = SwinV2Block(dim, heads, window, shift)
    ours.load_state_dict(renamed)
    timm = SwinTransformerV2Block(dim, (side, side), heads, window_size=window, shift_size=shift)
    missing, unexpected = timm.load_state_dict(renamed, strict=False)
    if unexpected or any("attn.k_bias" not in k and "relative_" not in k and "attn_mask" not in k for k in missing):
        raise ValueError(f"timm's block has other weights: {missing}, {unexpected}")
    return {"ours": ours, "torchvision": reference, "timm": timm}


def difference(blocks: dict[str, nn.Module], x: Tensor) -> float:
    """Return the largest difference between ours and torchvision's over the output's magnitude, padding attended."""
    ours, reference = blocks["ours"].eval(), blocks["torchvision"].eval()
    ours.mask_padding = False
    with torch.no_grad():
        expected = reference(x)
        result = ((ours(x) - expected).abs().max() / expected.abs().max()).item()
    ours.mask_padding = True
    return result


def forward_call(block: nn.Module, x: Tensor) -> Callable[[], object]:
    """Return a call that runs the block without gradients."""

    def call() -> None:
        with torch.no_grad():
            block(x)

    return call


def training_call(block: nn.Module, x: Tensor) -> Callable[[], object]:
    """Return a call that runs the block forward and backward."""
    x = x.clone().requires_grad_()
    gradient = torch.ones_like(x)

    def call() -> None:
        block.zero_grad()
        x.grad = None
        block(x).backward(gradient)

    return call


def products_call(dim: int, side: int, window: int, x: Tensor) -> Callable[[], object]:
    """Return a call that does the matrix products of a block's forward and nothing else."""
    b, heads, n = x.shape[0], dim // 32, window * window
    rows = b * (-(-side // window) * window) ** 2
    tokens = x.new_ones(rows, dim)
    hidden = x.new_ones(b * side * side, 4 * dim)
    weights = [x.new_ones(dim, width) for width in (3 * dim, dim, 4 * dim)] + [x.new_ones(4 * dim, dim)]
    q, k = (x.new_ones(rows // n * heads, *size) for size in ((n, 32), (32, n)))
    logits = x.new_ones(rows // n * heads, n, n)

    def call() -> None:
        tokens @ weights[0]
        q @ k
        logits @ q
        tokens @ weights[1]
        tokens[: len(hidden)] @ weights[2]
        hidden @ weights[3]

    return call


def kept_for_backward(block: Callable[[Tensor], Tensor], x: Tensor, own: set[int]) -> float:
    """Return the memory that the graph holds after a forward, without the storages `own`, in units of the input."""
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = x.clone().requires_grad_()
    block(x)  # constants that are cached for the shape are made here
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = block(x)
    size = sum(held.values()) / (x.numel() * x.element_size())
    del result
    return size


def peak_of_step(call: Callable[[], object]) -> float:
    """Return the most memory that was allocated at once during a call beyond what was there before, MiB."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    running = itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
    return max(running, default=0) / 2**20


def measure(case: tuple[str, int, bool, int, str], opt: argparse.Namespace) -> dict[str, Any]:
    """Return the row of one case: shape, window, shifted, batch, dtype."""
    shape, window, shifted, batch, dtype = case
    dim, side = map(int, shape.split("x"))
    blocks = build_blocks(dim, side, window, window // 2 if shifted else 0)
    x = torch.randn(batch, side, side, dim)
    row: dict[str, Any] = {"shape": shape, "window": window, "shifted": shifted, "batch": batch, "dtype": dtype}
    row["difference"] = difference(blocks, x)
    x = x.to(getattr(torch, dtype))
    blocks = {name: block.to(x.dtype) for name, block in blocks.items()}
    if opt.memory:
        for name in reversed(NAMES):
            block = blocks[name]
            own = {p.untyped_storage().data_ptr() for p in itertools.chain(block.parameters(), block.buffers())}
            row[f"kept {name}"] = kept_for_backward(block.train(), x, own)
            row[f"peak {name}"] = peak_of_step(training_call(block, x))
        row["kept checkpointing"] = kept_for_backward(partial(checkpoint, blocks["ours"], use_reentrant=False), x, own)
    live = blocks
    if opt.compile:
        torch._dynamo.reset()
        live = {name: torch.compile(block, dynamic=False) for name, block in blocks.items()}
    for phase, make in (("forward", forward_call), ("training", training_call)):
        if phase not in opt.phases:
            continue
        for block in blocks.values():
            block.train(phase == "training")
        calls = {name: make(block, x) for name, block in live.items()}
        if opt.compile:
            calls |= {f"eager {name}": make(blocks[name], x) for name in NAMES[1:]}
        if phase == "forward":
            calls["products"] = products_call(dim, side, window, x)
        times = take_turns(calls, opt.repeats, 2, opt.seconds)
        row |= {f"{phase} {name} ms": times[name] * 1e3 for name in NAMES}
        row[f"{phase} ratio"] = min(times["torchvision"], times["timm"]) / times["ours"]
        if opt.compile:
            row[f"{phase} gain"] = min(times["eager torchvision"], times["eager timm"]) / times["ours"]
        if phase == "forward":
            row["limit"] = times["products"] / times["ours"]
    return row


def geometric_mean(values: list[float]) -> float:
    """Return the geometric mean."""
    return math.exp(statistics.fmean(math.log(v) for v in values))


def parse_opt(argv: list[str]) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--shapes", nargs="+", default=SHAPES, help="channels x side of the map")
    add("--windows", nargs="+", type=int, default=(8, 10), help="cells")
    add("--shifted", nargs="+", type=int, default=(0, 1), help="0 regular, 1 shifted by half a window")
    add("--batches", nargs="+", type=int, default=(1, 8), help="images")
    add("--dtypes", nargs="+", default=("float32", "bfloat16"), help="of weights and input")
    add("--phases", nargs="+", default=("forward", "training"), choices=("forward", "training"), help="what is timed")
    add("--compile", action="store_true", help="all three through torch.compile, one shape at a time")
    add("--no-memory", dest="memory", action="store_false", help="leave out the memory")
    add("--seconds", type=float, default=2.0, help="of each timing")
    add("--repeats", type=int, default=5, help="least rounds of each timing")
    add("--json", default="", help="write the rows to this file too")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    """Measure and print."""
    opt = parse_opt(argv)
    rows = []
    for case in itertools.product(opt.shapes, opt.windows, map(bool, opt.shifted), opt.batches, opt.dtypes):
        rows.append(measure(case, opt))
        if len(rows) == 1:
            LOGGER.info(" | ".join(rows[0]))
        LOGGER.info(" | ".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in rows[-1].values()))
    for dtype in opt.dtypes:
        for phase in opt.phases:
            for what in ("ratio", "gain") if opt.compile else ("ratio",):
                values = [row[f"{phase} {what}"] for row in rows if row["dtype"] == dtype]
                LOGGER.info(
                    f"{dtype} {phase} {what}: geometric mean {geometric_mean(values):.3f}, least {min(values):.3f}"
                )
    if opt.memory:
        least = [row["kept ours"] / min(row["kept torchvision"], row["kept timm"]) for row in rows]
        LOGGER.info(f"kept for backward: {max(least):.3f} of the smaller other at most")
    if opt.json:
        with open(opt.json, "w", encoding="utf-8") as file:
            json.dump({"options": vars(opt), "rows": rows}, file, indent=1)


if __name__ == "__main__":
    with cli_errors():
        main(sys.argv[1:])
