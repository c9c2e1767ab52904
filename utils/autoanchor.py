"""Anchor sizes: how well they fit the boxes of a dataset, and better ones when they do not."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from utils.console import LOGGER, colorstr, size_text
from utils.datasets.dataset import check_dataset, load_labels
from utils.torch_utils import de_parallel

BPR_ENOUGH = 0.98  # best possible recall above which the anchors are kept
SMALLEST_SIDE = 2.0  # pixels; labels with both sides below it are left out, and no anchor side goes below it
SIZES_AT_ONCE = 1 << 14  # sizes that are compared with all anchors together
EVOLUTION_SIZES = 10_000  # sizes looked at in each generation; a larger dataset is sampled once
MUTATION_PROBABILITY, MUTATION_SIGMA = 0.9, 0.1


def _side_ratios(wh: NDArray, anchors: NDArray) -> NDArray:
    """Worse of the two side ratios min(r, 1 / r) of every size against every anchor, in (0, 1], (M, K)."""
    w, h = wh.T[:, None] / anchors.T[:, :, None]  # twice (K, M)
    return np.minimum(np.minimum(w, h), 1 / np.maximum(w, h)).T


def anchor_metric(wh: ArrayLike, anchors: ArrayLike, thr: float) -> tuple[NDArray, float, float]:
    """Measure how well anchors fit box sizes.

    A size fits an anchor when neither side differs by a factor of `thr` or more, the rule by which the loss assigns
    targets. For a size and an anchor x = min over both sides of min(ratio, 1 / ratio).

    Args:
        wh: box sizes in pixels at training size, (M, 2), above 0.
        anchors: anchor sizes in pixels, (K, 2), above 0.
        thr: largest side ratio that still fits (hyperparameter `anchor_t`), above 1.

    Returns:
        The largest x of each size, (M,); the best possible recall, the fraction of sizes whose best x exceeds 1 / thr;
        the mean number of fitting anchors per size. Both numbers are 0 when there are no sizes.

    Raises:
        ValueError: an anchor side is not above 0, or thr is not above 1.
    """
    wh, anchors = np.asarray(wh, np.float64).reshape(-1, 2), np.asarray(anchors, np.float64).reshape(-1, 2)
    if not (anchors > 0).all():
        raise ValueError(f"anchor sides must be above 0 pixels, got {anchors.tolist()}")
    if not thr > 1:
        raise ValueError(f"anchor_t is {thr}, it must be above 1 (a ratio of sides; the default is 4.0)")
    if not len(wh):
        return np.zeros(0), 0.0, 0.0
    best, fitting = np.zeros(len(wh)), 0
    for start in range(0, len(wh), SIZES_AT_ONCE):
        x = _side_ratios(wh[start : start + SIZES_AT_ONCE], anchors)  # (M, K)
        best[start : start + SIZES_AT_ONCE] = x.max(axis=1)
        fitting += int((x > 1 / thr).sum())
    return best, float((best > 1 / thr).mean()), fitting / len(wh)


def order_levels(anchors: ArrayLike, stride: ArrayLike) -> NDArray:
    """Put the levels of anchors in the order of the strides.

    Args:
        anchors: anchor sizes in pixels (not in cells), (levels, anchors per level, 2).
        stride: pixels per cell of each level, (levels,).

    Returns:
        A copy; levels reversed when mean anchor area and stride run in opposite directions from first to last level.
    """
    anchors, stride = np.asarray(anchors), np.asarray(stride)
    area = anchors.prod(axis=2).mean(axis=1)
    growth = area[-1] - area[0]
    opposed = growth != 0 and np.sign(growth) != np.sign(stride[-1] - stride[0])
    return anchors[::-1].copy() if opposed else anchors.copy()


def _plus_plus_centres(points: NDArray, n: int, rng: np.random.Generator) -> NDArray:
    """Choose n distinct points far from each other (k-means++, Arthur and Vassilvitskii 2007), (n, 2)."""
    centres = [points[rng.integers(len(points))]]
    distance = np.full(len(points), np.inf)
    for _ in range(n - 1):
        distance = np.minimum(distance, ((points - centres[-1]) ** 2).sum(axis=1))
        centres.append(points[rng.choice(len(points), p=distance / distance.sum())])
    return np.stack(centres)


def _start_anchors(wh: NDArray, n: int, rng: np.random.Generator) -> NDArray:
    """First guess for the evolution, (n, 2): k-means centres of whitened sizes, or jittered sizes if those are few."""
    spread = wh.std(axis=0)
    spread[spread == 0] = 1
    points = (wh / spread).astype(np.float32)
    if len(np.unique(points, axis=0)) < n:
        return wh[rng.integers(len(wh), size=n)] * np.exp(rng.normal(0, 0.5, (n, 2)))
    centres = _plus_plus_centres(points, n, rng)
    nearest = np.argmin(((points[:, None] - centres[None]) ** 2).sum(axis=2), axis=1).astype(np.int32)  # (M,)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 30, 1e-5)
    # With the labels given, OpenCV draws no random number of its own: the result depends on rng alone.
    _, _, centres = cv2.kmeans(points, n, nearest, stop, 1, cv2.KMEANS_USE_INITIAL_LABELS)
    return centres.astype(np.float64) * spread


def _fitness(wh: NDArray, anchors: NDArray, thr: float) -> float:
    """Mean over sizes of the best side ratio, counted as 0 where no anchor fits; 0 to 1."""
    best = _side_ratios(wh, anchors).max(axis=1)
    return float((best * (best > 1 / thr)).mean())


def _mutation(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray:
    """Draw factors 0.3 to 3 around 1, at least one of them not 1."""
    factor = np.ones(shape)
    while (factor == 1).all():
        changed = rng.random(shape) < MUTATION_PROBABILITY
        factor = (1 + changed * rng.random() * rng.standard_normal(shape) * MUTATION_SIGMA).clip(0.3, 3.0)
    return factor


def search_anchors(
    wh: ArrayLike,
    n: int = 9,
    img_size: int | tuple[int, int] = 640,
    thr: float = 4.0,
    gen: int = 1000,
    rng: np.random.Generator | None = None,
) -> NDArray:
    """Find anchors for box sizes: k-means on sizes divided by their spread, then a genetic search.

    Each generation multiplies the anchors by random factors and keeps them if the fitness rises: the mean over sizes
    of the best side ratio, 0 for sizes that fit no anchor.

    Args:
        wh: box sizes in pixels at training size, (M, 2); sizes with both sides below 2 pixels are left out.
        n: number of anchors.
        img_size: training image size in pixels, one side, or height and width: the largest anchor sides.
        thr: largest side ratio that still fits (hyperparameter `anchor_t`), above 1.
        gen: generations of the search; 0 gives the plain k-means result.
        rng: source of all random draws; None is a generator with seed 0.

    Returns:
        Anchor sizes in pixels by rising area, (n, 2) float32, each side from 2 to that of the image.

    Raises:
        ValueError: no size has a side of 2 pixels or more, n is below 1, or thr is not above 1.
    """
    rng = rng or np.random.default_rng(0)
    wh = np.asarray(wh, np.float64).reshape(-1, 2)
    wh = wh[(wh >= SMALLEST_SIDE).any(axis=1) & (wh > 0).all(axis=1)]  # (M, 2)
    if n < 1 or not thr > 1:
        raise ValueError(f"anchors need n of 1 or more and anchor_t above 1, got n={n} and anchor_t={thr}")
    if not len(wh):
        raise ValueError(f"no box has a side of {SMALLEST_SIDE:g} pixels or more at image size {img_size}: no anchors")
    if len(wh) > EVOLUTION_SIZES:
        wh = wh[rng.choice(len(wh), EVOLUTION_SIZES, replace=False)]
    largest = np.broadcast_to(img_size, 2)[::-1]
    anchors = _start_anchors(wh, n, rng).clip(SMALLEST_SIDE, largest)
    fitness = _fitness(wh, anchors, thr)
    for _ in range(gen):
        mutant = (anchors * _mutation(anchors.shape, rng)).clip(SMALLEST_SIDE, largest)
        mutant_fitness = _fitness(wh, mutant, thr)
        if mutant_fitness > fitness:
            anchors, fitness = mutant, mutant_fitness
    return anchors[np.argsort(anchors.prod(axis=1), kind="stable")].astype(np.float32)


def label_sizes(shapes: ArrayLike, labels: Sequence[NDArray], imgsz: int | tuple[int, int]) -> list[NDArray]:
    """Size in pixels of every label once its image is fitted into the training image.

    Args:
        shapes: original width and height of each image in pixels, (N, 2).
        labels: per image (M, 5) `[class, xywhn]`.
        imgsz: training image size in pixels: one side, or height and width.

    Returns:
        Per image the widths and heights, (M, 2).

    Raises:
        ValueError: shapes and labels do not have the same number of images.
    """
    shapes = np.asarray(shapes, np.float64).reshape(-1, 2)
    if len(shapes) != len(labels):
        raise ValueError(f"{len(shapes)} image sizes for the labels of {len(labels)} images: each image needs both")
    frame = np.broadcast_to(imgsz, 2)[::-1]
    tight = (frame / shapes).argmin(1) if len(shapes) else np.zeros(0, int)  # the side that fills the frame
    scaled = frame[tight, None] * shapes / np.take_along_axis(shapes, tight[:, None], 1)  # (N, 2)
    return [size * label[:, 3:5] for size, label in zip(scaled, labels, strict=True)]


def find_better_anchors(
    shapes: ArrayLike,
    labels: Sequence[NDArray],
    anchors_px: ArrayLike,
    stride: ArrayLike,
    thr: float = 4.0,
    imgsz: int | tuple[int, int] = 640,
    seed: int = 0,
) -> tuple[NDArray | None, str]:
    """Compare anchors with a dataset and find better ones if the best possible recall is 0.98 or less.

    Sizes are judged with one random scale of 0.9 to 1.1 per image; new anchors are found on unscaled sizes and
    taken only if their recall on the same scaled sizes is higher.

    Args:
        shapes: original width and height of each image in pixels, (N, 2).
        labels: per image (M, 5) `[class, xywhn]`.
        anchors_px: anchors in pixels, (levels, anchors per level, 2).
        stride: pixels per cell of each level, (levels,).
        thr: largest side ratio that still fits (hyperparameter `anchor_t`), above 1.
        imgsz: training image size in pixels: one side, or height and width.
        seed: seed of the scales and of the search.

    Returns:
        New anchors in pixels, (levels, anchors per level, 2) float32, smallest anchors at the smallest stride, or
        None to keep the old ones; and one line for the user that says what was found.

    Raises:
        ValueError: images and labels differ in number, an anchor side is not above 0, or thr is not above 1.
    """
    rng = np.random.default_rng(seed)
    anchors_px = np.asarray(anchors_px, np.float64)
    sizes, size = label_sizes(shapes, labels, imgsz), size_text(imgsz)
    wh = np.concatenate([np.zeros((0, 2)), *sizes])
    scale = np.repeat(rng.uniform(0.9, 1.1, len(sizes)), [len(s) for s in sizes])  # (M,)
    drawn = (wh > 0).all(axis=1)  # a label without width or height fits nothing
    wh, jittered = wh[drawn], (wh * scale[:, None])[drawn]
    _, recall, per_target = anchor_metric(jittered, anchors_px, thr)
    found = f"{per_target:.2f} anchors per target, best possible recall {recall:.3f}"
    if not len(wh):
        return None, "no boxes, anchors kept"
    if recall > BPR_ENOUGH:
        return None, f"{found}: anchors fit the dataset"
    if not (wh >= SMALLEST_SIDE).any():
        return None, f"{found}: every box is smaller than {SMALLEST_SIDE:g} pixels at image size {size}, anchors kept"
    tiny = int((wh < 3).any(axis=1).sum())
    if tiny:
        found += f" ({tiny} of {len(wh)} boxes have a side below 3 pixels at image size {size})"
    flat = search_anchors(wh, anchors_px.size // 2, imgsz, thr, rng=rng)
    _, new_recall, new_per_target = anchor_metric(jittered, flat, thr)
    if new_recall <= recall:
        return None, f"{found}: new anchors reach {new_recall:.3f}, no better, anchors kept"
    new = order_levels(flat.reshape(anchors_px.shape), stride)
    return new, f"{found}: new anchors with {new_per_target:.2f} per target, best possible recall {new_recall:.3f}"


# YOLOv5's forms: a dataset and a model instead of arrays ------------------------------------------------------------
@torch.no_grad()
def fit_head(dataset: Any, head: Any, thr: float, imgsz: int | tuple[int, int], seed: int = 0) -> tuple[bool, str]:
    """Replace the anchors of a Detect layer, in place, if they fit the boxes of a dataset badly.

    Args:
        dataset: has `shapes` and `labels`, see `find_better_anchors`.
        head: has `anchors` in cells, (levels, anchors per level, 2), and `stride`, (levels,).
        thr: largest side ratio that still fits (hyperparameter `anchor_t`), above 1.
        imgsz: training image size in pixels: one side, or height and width.
        seed: of the search.

    Returns:
        Whether they were replaced, and what was found.
    """
    stride = head.stride.view(-1, 1, 1)
    pixels = (head.anchors * stride).clamp(min=1.0).cpu().numpy()  # placeholders begin at 0
    strides = head.stride.cpu().numpy()
    new, message = find_better_anchors(dataset.shapes, dataset.labels, pixels, strides, thr, imgsz, seed)
    LOGGER.info(f"{colorstr('AutoAnchor: ')}{message}")
    if new is not None:
        head.anchors.copy_(torch.as_tensor(new, device=head.anchors.device) / stride)
    return new is not None, message


def check_anchors(dataset: Any, model: nn.Module, thr: float = 4.0, imgsz: int | tuple[int, int] = 640) -> None:
    """Give a model anchors that fit a dataset if its own do not, see `fit_head`; its last layer is Detect."""
    inner: Any = de_parallel(model)
    fit_head(dataset, inner.model[-1], thr, imgsz)


@torch.no_grad()
def check_anchor_order(m: Any) -> None:
    """Put the levels of the anchors of a Detect layer in the order of its strides, see `order_levels`."""
    stride = m.stride.view(-1, 1, 1)
    ordered = order_levels((m.anchors * stride).cpu().numpy(), m.stride.cpu().numpy())
    if not np.array_equal(ordered, (m.anchors * stride).cpu().numpy()):
        m.anchors.copy_(m.anchors.flip(0))


def kmean_anchors(
    dataset: Any = "./data/coco128.yaml",
    n: int = 9,
    img_size: int | tuple[int, int] = 640,
    thr: float = 4.0,
    gen: int = 1000,
    verbose: bool = True,
) -> NDArray:
    """Find anchors for a dataset, see `search_anchors`.

    Args:
        dataset: dataset YAML, whose `train` is read, or an object with `shapes` and `labels`.
        n: number of anchors.
        img_size: training image size in pixels: one side, or height and width.
        thr: largest side ratio that still fits, above 1.
        gen: generations of the search.
        verbose: log how well they fit.

    Returns:
        Anchor sizes in pixels by rising area, (n, 2) float32.
    """
    if isinstance(dataset, str | Path):
        found = load_labels(check_dataset(dataset)["train"])
        shapes, labels = found.sizes, found.labels
    else:
        shapes, labels = dataset.shapes, dataset.labels
    wh = np.concatenate([np.zeros((0, 2)), *label_sizes(shapes, labels, img_size)])
    anchors = search_anchors(wh, n, img_size, thr, gen)
    if verbose:
        _, recall, per_target = anchor_metric(wh[(wh > 0).all(axis=1)], anchors, thr)
        sizes = ", ".join(f"{w:.0f},{h:.0f}" for w, h in anchors)
        LOGGER.info(
            f"{colorstr('AutoAnchor: ')}{n} anchors with {per_target:.2f} per target, best possible recall "
            f"{recall:.3f}: {sizes}"
        )
    return anchors
