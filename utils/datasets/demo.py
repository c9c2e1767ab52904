"""The demo dataset: coloured shapes on textured backgrounds, generated locally."""

import tempfile
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

CLASSES = ["circle", "square", "triangle", "star"]  # the order of `names` in data/demo.yaml

HUES = (0.0, 90.0, 180.0, 270.0)  # degrees, one for each class: colour helps, so a few minutes of training are enough
HUE_SPREAD = 20.0  # degrees either way
SHAPES_PER_IMAGE = 2, 6
SHAPE_SIDES = 24 / 320, 140 / 320  # longer side of a shape's box as a share of the image side
SEEN_AT_LEAST = 0.65  # share of a shape that later shapes leave visible
INSIDE_AT_LEAST = 0.8  # share of a shape's box that lies in the image
FINE = 4  # grid cells per pixel, each way, on which shapes are drawn


def _outline(cls: int, side: float, rng: np.random.Generator) -> NDArray:
    """Corners of a shape around (0, 0), (P, 2): slightly stretched, turned, its box as long as `side`."""
    if cls == 0:
        angle, radius = np.linspace(0, 2 * np.pi, 72, endpoint=False), np.ones(72)
    elif cls == 3:
        angle, radius = np.linspace(0, 2 * np.pi, 10, endpoint=False), np.tile([1.0, 0.45], 5)
    else:
        corners = 4 if cls == 1 else 3
        angle, radius = np.linspace(0, 2 * np.pi, corners, endpoint=False) + np.pi / 4, np.ones(corners)
    points = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    points *= [1, rng.uniform(0.85, 1.15)]
    turn = rng.uniform(0, 2 * np.pi)
    points = points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    low, high = points.min(axis=0), points.max(axis=0)
    return (points - (low + high) / 2) * side / (high - low).max()


def _window(points: NDArray, size: int) -> tuple[slice, slice]:
    """Rows and columns of an image that a polygon reaches, with a pixel around them."""
    low = np.floor(points.min(axis=0) - 1).clip(0, size).astype(int)
    high = np.ceil(points.max(axis=0) + 1).clip(0, size).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])


def _coverage(points: NDArray, window: tuple[slice, slice]) -> NDArray:
    """How much of each pixel of a window a polygon covers, (h, w) float32 0 to 1."""
    rows, columns = window
    height, width = rows.stop - rows.start, columns.stop - columns.start
    # fillPoly fills each pixel the outline touches, so it draws larger, on a fine grid, where that is little.
    mask = np.zeros((height * FINE, width * FINE), np.uint8)
    fine = np.rint((points - [columns.start, rows.start]) * FINE - 0.5).astype(np.int32)
    cv2.fillPoly(mask, [fine], 255)
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _noise(size: int, cells: int, channels: int, rng: np.random.Generator) -> NDArray:
    """Smooth random field around 0 with about `cells` bumps per side, (size, size, channels) float32."""
    field = rng.standard_normal((cells + 1, cells + 1, channels)).astype(np.float32)
    return cv2.resize(field, (size, size), interpolation=cv2.INTER_CUBIC).reshape(size, size, channels)


def _color(
    rng: np.random.Generator,
    saturation: tuple[float, float],
    hue: tuple[float, float] = (0, 360),
    value: tuple[float, float] = (0.25, 1),
) -> NDArray:
    """Random BGR colour, (3,) float32, with HSV saturation and value in ranges of 0 to 1 and hue in one of degrees."""
    hsv = [rng.uniform(*hue) % 360, rng.uniform(*saturation), rng.uniform(*value)]
    return cv2.cvtColor(np.array([[hsv]], np.float32), cv2.COLOR_HSV2BGR)[0, 0] * 255


def _ramp(height: int, width: int, rng: np.random.Generator) -> NDArray:
    """Distance in pixels from the middle along a random direction, (height, width) float32."""
    turn = rng.uniform(0, 2 * np.pi)
    x, y = np.arange(width, dtype=np.float32) - width / 2, np.arange(height, dtype=np.float32) - height / 2
    return (x * np.cos(turn) + y[:, None] * np.sin(turn)).astype(np.float32)


def _ground(size: int, rng: np.random.Generator) -> NDArray:
    """Textured background, (size, size, 3) float32: colour clouds, brightness of two scales, sometimes stripes."""
    im = _color(rng, (0.0, 0.15)) + 8 * _noise(size, int(rng.integers(2, 5)), 3, rng)
    im += 14 * _noise(size, int(rng.integers(8, 24)), 1, rng) + 8 * _noise(size, size // 4, 1, rng)
    if rng.random() < 0.3:
        waves = np.sin(_ramp(size, size, rng) * 2 * np.pi / (rng.uniform(0.02, 0.08) * size))
        im += rng.uniform(8, 20) * waves[..., None]
    return im


def _draw_lines_(im: NDArray, count: int, rng: np.random.Generator) -> None:
    """Draw thin straight lines of no class onto an image."""
    size = len(im)
    for _ in range(count):
        a, b = rng.integers(-size // 8, size + size // 8, (2, 2)).tolist()
        cv2.line(im, a, b, _color(rng, (0.0, 0.3)).tolist(), int(rng.integers(1, max(size // 100, 2) + 1)), cv2.LINE_AA)


def _draw_blobs_(im: NDArray, count: int, rng: np.random.Generator) -> None:
    """Draw crooked, half-transparent blobs of no class onto an image."""
    size = len(im)
    for _ in range(count):
        angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        waves = sum(rng.uniform(0.1, 0.3) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 5))
        radius = rng.uniform(0.03, 0.12) * size * (1 + waves)
        points = np.stack([radius * np.cos(angle), rng.uniform(0.4, 0.7) * radius * np.sin(angle)], axis=1)
        points += rng.uniform(0, size, 2)
        window = _window(points, size)
        _blend_(im, window, rng.uniform(0.3, 0.7) * _coverage(points, window), _color(rng, (0.0, 0.3)))


def _blend_(im: NDArray, window: tuple[slice, slice], alpha: NDArray, fill: NDArray) -> None:
    """Mix a colour or a coloured patch into a window of an image, by the fraction `alpha` of each pixel."""
    im[window] += alpha[..., None] * (fill - im[window])


def _draw_shape_(im: NDArray, points: NDArray, hue: float, rng: np.random.Generator) -> None:
    """Fill a polygon with a colour of about this hue that stands out, shaded, maybe striped, maybe with a rim."""
    window = _window(points, len(im))
    coverage = _coverage(points, window)
    ground = np.average(im[window].reshape(-1, 3), axis=0, weights=coverage.ravel())
    candidates = np.stack([_color(rng, (0.6, 1.0), (hue - HUE_SPREAD, hue + HUE_SPREAD), (0.5, 1)) for _ in range(4)])
    color = candidates[np.linalg.norm(candidates - ground, axis=1).argmax()]
    side = max(coverage.shape)
    height, width = coverage.shape
    shade = 1 + rng.uniform(0.0, 0.5) * _ramp(height, width, rng) / side
    if rng.random() < 0.25:
        shade += 0.12 * np.sin(_ramp(height, width, rng) * 2 * np.pi / max(side / rng.uniform(3, 9), 5))
    if rng.random() < 0.5:
        _blend_(im, window, coverage, color * rng.choice([0.5, 1.4]))
        middle = points.mean(axis=0)
        coverage = _coverage(middle + rng.uniform(0.8, 0.9) * (points - middle), window)
    _blend_(im, window, coverage, color * shade[..., None])


def draw_scene(size: int, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    """Draw one image and its labels.

    A box holds the whole shape, also what later shapes hide (at most 35 %), and ends at the border of the image.

    Args:
        size: side of the image in pixels.
        rng: source of all random draws.

    Returns:
        The image, (size, size, 3) uint8 BGR, and its labels, (M, 5) float32 `[class, xywhn]`, M at least 1.
    """
    im = _ground(size, rng)
    _draw_blobs_(im, int(rng.integers(2, 6)), rng)
    _draw_lines_(im, int(rng.integers(2, 7)), rng)
    owner = np.zeros((size, size), int)  # number of the shape seen at each pixel, 0 for none
    area = np.zeros(SHAPES_PER_IMAGE[1] + 1)  # pixels of each shape number, and how many of them are seen
    seen_area = area.copy()
    labels: list[list[float]] = []
    for _ in range(int(rng.integers(SHAPES_PER_IMAGE[0], SHAPES_PER_IMAGE[1] + 1))):
        for _ in range(30):  # tries to find a place; a crowded image ends up with fewer shapes
            cls = int(rng.integers(len(CLASSES)))
            side = size * np.exp(rng.uniform(*np.log(SHAPE_SIDES)))
            points = _outline(cls, side, rng) + rng.uniform(0, size, 2)
            box = np.concatenate([points.min(axis=0), points.max(axis=0)])  # xyxy
            seen = box.clip(0, size)
            if np.prod(seen[2:] - seen[:2]) < INSIDE_AT_LEAST * np.prod(box[2:] - box[:2]):
                continue
            window = _window(points, size)
            inside = _coverage(points, window) > 0.5
            left = seen_area - np.bincount(owner[window][inside], minlength=SHAPES_PER_IMAGE[1] + 1)
            if (left[1:] >= SEEN_AT_LEAST * area[1:]).all():
                number = len(labels) + 1
                seen_area, owner[window][inside] = left, number
                seen_area[number] = area[number] = inside.sum()
                _draw_shape_(im, points, HUES[cls], rng)
                labels.append([cls, *(seen[:2] + seen[2:]) / 2 / size, *(seen[2:] - seen[:2]) / size])
                break
    _draw_lines_(im, int(rng.integers(0, 3)), rng)
    if rng.random() < 0.2:
        im = cv2.GaussianBlur(im, (0, 0), rng.uniform(0.4, 0.9))
    im += rng.uniform(1, 6) * rng.standard_normal(im.shape, dtype=np.float32)
    return im.clip(0, 255).astype(np.uint8), np.array(labels, np.float32)


def draw_demo(root: str | Path, n_train: int = 200, n_val: int = 50, size: int = 320, seed: int = 0) -> None:
    """Write the demo dataset: images/{train,val}/*.jpg and labels/{train,val}/*.txt with `class x y w h` lines.

    Image i of a split depends on the seed, the split and i alone. The folder appears under its name only when it
    is complete.

    Args:
        root: folder to make; it may exist if it is empty.
        n_train: images for training.
        n_val: images for validation.
        size: side of the images in pixels, 64 or more.
        seed: seed of all images, 0 or more.

    Raises:
        ValueError: the folder holds files already, or a number is out of its range.
    """
    root = Path(root).resolve()
    if n_train < 1 or n_val < 1 or size < 64 or seed < 0:
        raise ValueError(
            "the demo needs 1 or more images per split, of 64 or more pixels, and a seed of 0 or more, "
            f"got n_train={n_train}, n_val={n_val}, size={size}, seed={seed}"
        )
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(
            f"{root} is not an empty folder: move or rename it, or choose another `path` for the demo dataset"
        )
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as temporary:
        drawn = Path(temporary) / root.name
        for number, (split, count) in enumerate((("train", n_train), ("val", n_val))):
            images, labels = drawn / "images" / split, drawn / "labels" / split
            images.mkdir(parents=True)
            labels.mkdir(parents=True)
            for i in range(count):
                im, rows = draw_scene(size, np.random.default_rng((seed, number, i)))
                stem = f"{split}{i:04d}"
                (images / f"{stem}.jpg").write_bytes(cv2.imencode(".jpg", im, [cv2.IMWRITE_JPEG_QUALITY, 92])[1])
                lines = [f"{int(cls)} " + " ".join(f"{v:.6f}" for v in xywhn) + "\n" for cls, *xywhn in rows]
                (labels / f"{stem}.txt").write_text("".join(lines), encoding="utf-8")
        if root.is_dir():
            root.rmdir()
        drawn.rename(root)
