"""The state of the random generators, kept in a checkpoint so that a resumed run draws the same numbers."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def rng_state() -> dict[str, Any]:
    """Return the state of all global random generators, in types that `torch.load(weights_only=True)` accepts.

    Returns:
        {"python": [version, list of ints, gauss or None], "numpy": dict of lists and numbers, "torch": uint8 tensor,
        "cuda": list of uint8 tensors, one per device, empty while CUDA is unused}.
    """
    version, words, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002
    core = numpy_state["state"]
    return {
        "python": [version, list(words), gauss],
        "numpy": {
            "key": [int(word) for word in core["key"]],
            "pos": int(core["pos"]),
            "has_gauss": int(numpy_state["has_gauss"]),
            "gauss": float(numpy_state["gauss"]),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Restore what `rng_state` returned; CUDA states beyond the devices of this machine are left out."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    n = state["numpy"]
    key = np.array(n["key"], dtype=np.uint32)
    np.random.set_state(("MT19937", key, n["pos"], n["has_gauss"], n["gauss"]))  # noqa: NPY002
    set_torch_rng_state(state)


def set_torch_rng_state(state: Mapping[str, Any]) -> None:
    """Restore the entries `torch` and `cuda` of `rng_state`; CUDA states beyond the devices here are left out."""
    torch.set_rng_state(state["torch"].cpu())
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for i, cuda_state in enumerate(state["cuda"][:devices]):
        torch.cuda.set_rng_state(cuda_state.cpu(), i)
