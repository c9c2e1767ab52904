"""Compare detections that two programs found."""

import numpy as np


def assert_same(found, expected, pixels=1.0, confidence=1e-3):
    """Check rows (D, 6) `[x1, y1, x2, y2, confidence, class]`, in any order."""
    found = np.asarray(found, float).reshape(-1, 6)
    expected = np.asarray(expected, float).reshape(-1, 6)
    assert len(found) == len(expected)
    used = set()
    for row in expected:
        gaps = np.abs(found - row)
        match = (gaps[:, :4].max(1) < pixels) & (gaps[:, 4] < confidence) & (gaps[:, 5] == 0)
        free = [i for i in match.nonzero()[0] if i not in used]
        assert free, row
        used.add(free[0])
