"""Check the keys of a model YAML: classes, multiples, anchors. Its layers are checked by the parser, models/yolo.py."""

from typing import Any

MAX_CLASSES, MAX_CHANNELS, MAX_ROWS = 100_000, 1_000_000, 2000
MAX_REPEATS, MAX_ANCHORS, MAX_MULTIPLE = 1000, 1000, 1000  # stacked blocks of a row; per level; of depth and width
REQUIRED_KEYS = ("nc", "depth_multiple", "width_multiple", "anchors", "backbone", "head")


def check_table(d: dict[str, Any], source: str) -> None:
    """Check everything of a model YAML but its layers.

    Raises:
        ValueError: a key is missing or has a value that no model can be built with; names `source`, the file.
    """
    missing = [key for key in REQUIRED_KEYS if key not in d]
    if missing:
        raise ValueError(f"{source}: missing key {missing[0]!r}; a model needs {', '.join(REQUIRED_KEYS)}")
    for key in ("backbone", "head"):
        if not isinstance(d[key], list) or not d[key]:
            raise ValueError(f"{source}: {key!r} must be a list of layers [from, number, module, args]")
        if len(d[key]) > MAX_ROWS:
            raise ValueError(f"{source}: {key!r} has {len(d[key])} layers; at most {MAX_ROWS} are built")
    if not isinstance(d["nc"], int) or not 1 <= d["nc"] <= MAX_CLASSES:
        raise ValueError(
            f"{source}: 'nc' must be a positive number of classes, not {d['nc']!r:.80} (at most {MAX_CLASSES})"
        )
    for key in ("depth_multiple", "width_multiple"):
        if not isinstance(d[key], int | float) or not 0 < d[key] <= MAX_MULTIPLE:
            raise ValueError(
                f"{source}: {key!r} must be a positive number, not {d[key]!r:.80} (at most {MAX_MULTIPLE})"
            )
    if not isinstance(d.get("ch", 3), int) or d.get("ch", 3) < 1:
        raise ValueError(f"{source}: 'ch' must be a positive number of channels, not {d['ch']!r}")
    rate, multiple = d.get("drop_path") or 0, d.get("channel_multiple") or 8
    if not isinstance(rate, int | float) or not 0 <= rate < 1:
        raise ValueError(f"{source}: 'drop_path' must be at least 0 and below 1, not {rate!r}")
    if not isinstance(multiple, int) or multiple < 1:
        raise ValueError(f"{source}: 'channel_multiple' must be a positive integer, not {multiple!r}")
    try:
        check_anchors(d["anchors"])
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def check_anchors(anchors: Any) -> None:
    """Check anchors.

    Raises:
        ValueError: neither a number per level nor flat lists of sides [w, h, ...], all of one length.
    """
    if isinstance(anchors, int) and 0 < anchors <= MAX_ANCHORS:
        return
    levels: list[Any] = anchors if isinstance(anchors, list) and anchors else [None]
    if not all(isinstance(level, list) and level for level in levels):
        raise ValueError(f"'anchors' must be a positive number per level or lists [w, h, ...], not {anchors!r}")
    if any(len(level) != len(levels[0]) or len(level) % 2 for level in levels):
        raise ValueError(f"every level of 'anchors' needs the same number of w, h pairs, got {anchors}")
    if not all(isinstance(side, int | float) and side > 0 for level in levels for side in level):
        raise ValueError(f"'anchors' must hold positive numbers of pixels, got {anchors}")


def expand_anchors(anchors: Any, levels: int) -> list[list[float]]:
    """Return one flat list of anchor sides per level; a number k means k placeholders (see AutoAnchor)."""
    check_anchors(anchors)
    if isinstance(anchors, int):
        return [list(range(anchors * 2))] * levels
    if len(anchors) != levels:
        raise ValueError(f"'anchors' has {len(anchors)} levels, but Detect reads {levels} maps")
    return anchors


def resolve_args(args: list[Any], nc: int, anchors: Any) -> list[Any]:
    """Replace the words of a row by their values; other strings stay as they are (`nearest`)."""
    words = {"nc": nc, "anchors": anchors, "None": None, "True": True, "False": False}
    return [words.get(arg, arg) if isinstance(arg, str) else arg for arg in args]
