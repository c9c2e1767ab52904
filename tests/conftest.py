"""Fixtures of the whole suite: one thread, fixed seeds, a tiny drawn data set and, where it lies nearby, BCCD."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported
os.environ["MPLBACKEND"] = "Agg"

import random
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from utils import demo

ROOT = Path(__file__).resolve().parents[1]

torch.set_num_threads(1)
cv2.setNumThreads(0)


def pytest_collection_modifyitems(items):
    """Skip what is marked `gpu` on a machine without CUDA."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs CUDA"))


@pytest.fixture(autouse=True)
def _seeds():
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the global state on purpose: a library may draw from it
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory):
    """Path of the dataset YAML of 8 training and 4 validation images of 96 px, drawn once: do not change the files."""
    root = tmp_path_factory.mktemp("data") / "tiny"
    demo.draw_demo(root, n_train=8, n_val=4, size=96, seed=0)
    data = {"path": str(root), "train": "images/train", "val": "images/val", "names": dict(enumerate(demo.CLASSES))}
    file = root.parent / "tiny.yaml"
    file.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def bccd():
    """Path of the dataset YAML of BCCD, 364 real photographs; skips where the folder `shared` does not lie beside."""
    file = ROOT.parent / "shared" / "data" / "bccd" / "bccd.yaml"
    if not file.is_file():
        pytest.skip(f"no {file}")
    return file
