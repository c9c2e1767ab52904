"""The shapes that a module takes and gives stand in the docstring of its forward."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHAPE = re.compile(r"\([A-Z][\w +*/]*, [\w +*/^,.]+\)")  # (B, C, H, W), (B * K, N, C), (H * W, B, c), (B, ...)
AT_LEAST = 0.9  # of the forwards


def forwards() -> dict[str, str]:
    """Map file:class to the docstring of the class's own forward, "" where it has none."""
    found = {}
    for folder in ("models", "engine", "utils"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for parent in ast.walk(ast.parse(file.read_text())):
                for node in parent.body if isinstance(parent, ast.ClassDef) else ():
                    if isinstance(node, ast.FunctionDef) and node.name == "forward":
                        found[f"{file.relative_to(ROOT)}:{parent.name}"] = ast.get_docstring(node) or ""
    return found


def test_forwards_state_their_shapes():
    docstrings = forwards()
    without = [name for name, text in docstrings.items() if not SHAPE.search(text)]
    assert len(docstrings) >= 30  # the search itself works
    assert len(without) <= (1 - AT_LEAST) * len(docstrings), without
