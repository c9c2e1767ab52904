"""Evolution of hyperparameters: the genes, the choice of a parent, its mutation, and the record of all generations."""

import csv
from collections.abc import Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path

import numpy as np

from utils.files import atomic_path, open_regular, table_numbers, yaml_save
from utils.hyp import Hyp
from utils.loggers.to_csv import RESULT_COLUMNS
from utils.metrics import fitness
from utils.plots import plot_genes

# name -> (gain of the mutation, lowest, highest); a gain of 0 never mutates
GENES: dict[str, tuple[float, float, float]] = {
    "lr0": (1, 1e-5, 1e-1),
    "lrf": (1, 0.01, 1.0),
    "momentum": (0.3, 0.6, 0.98),
    "weight_decay": (1, 0.0, 0.001),
    "warmup_epochs": (1, 0.0, 5.0),
    "warmup_momentum": (1, 0.0, 0.95),
    "warmup_bias_lr": (1, 0.0, 0.2),
    "box": (1, 0.02, 0.2),
    "cls": (1, 0.2, 4.0),
    "cls_pw": (1, 0.5, 2.0),
    "obj": (1, 0.2, 4.0),
    "obj_pw": (1, 0.5, 2.0),
    "iou_t": (0, 0.1, 0.7),
    "anchor_t": (1, 2.0, 8.0),
    "anchors": (2, 2.0, 10.0),
    "fl_gamma": (0, 0.0, 2.0),
    "hsv_h": (1, 0.0, 0.1),
    "hsv_s": (1, 0.0, 0.9),
    "hsv_v": (1, 0.0, 0.9),
    "degrees": (1, 0.0, 45.0),
    "translate": (1, 0.0, 0.9),
    "scale": (1, 0.0, 0.9),
    "shear": (1, 0.0, 10.0),
    "perspective": (0, 0.0, 0.001),
    "flipud": (1, 0.0, 1.0),
    "fliplr": (0, 0.0, 1.0),
    "mosaic": (1, 0.0, 1.0),
    "mixup": (1, 0.0, 1.0),
    "copy_paste": (1, 0.0, 1.0),
}
PARENTS = 5  # generations among which a parent is drawn
PROBABILITY, SIGMA = 0.8, 0.2  # of the mutation of a gene
FACTORS = (0.3, 3.0)  # bounds of a mutation
DECAY_OF_ADAMW = 0.1  # highest weight decay where it is decoupled from the gradient
RESULTS = RESULT_COLUMNS[4:11]  # precision, recall, mAP50, mAP50-95, and the three validation losses
COLUMN = "%20s"


def bounds(name: str, decoupled: bool) -> tuple[float, float]:
    """Return the lowest and highest value of a gene; `decoupled` says that AdamW decays the weights."""
    _, low, high = GENES[name]
    return low, DECAY_OF_ADAMW if name == "weight_decay" and decoupled else high


def clamp(values: Mapping[str, float], decoupled: bool = False) -> dict[str, float]:
    """Bring every gene within its bounds, rounded to 5 decimals."""
    return {name: round(float(np.clip(value, *bounds(name, decoupled))), 5) for name, value in values.items()}


def choose_parent(history: Sequence[Mapping[str, float]], rng: np.random.Generator) -> Mapping[str, float]:
    """Draw one of the fittest generations, fitter ones more often.

    Args:
        history: for each generation its results (`RESULTS`) and genes.
        rng: source of the draw.
    """
    score = fitness(np.array([[row[name] for name in RESULTS[:4]] for row in history]))
    best = np.argsort(-score, kind="stable")[:PARENTS]
    weight = score[best] - score[best].min() + 1e-6
    return history[rng.choice(best, p=weight / weight.sum())]


def mutate(parent: Mapping[str, float], rng: np.random.Generator, decoupled: bool = False) -> dict[str, float]:
    """Multiply some of the genes by factors of 0.3 to 3, drawn again until at least one of them changes.

    Each factor is 1 + gain * [with probability 0.8] * N(0, 1) * U * 0.2 with one U(0, 1) for all genes.

    Args:
        parent: genes; those it lacks are not mutated.
        rng: source of the draws.
        decoupled: see `bounds`.

    Raises:
        ValueError: no gene of the parent can change.
    """
    names = [name for name in GENES if name in parent]
    gains = np.array([GENES[name][0] for name in names])
    if not any(gain and parent[name] for gain, name in zip(gains, names, strict=True)):
        raise ValueError("nothing to evolve: every hyperparameter that could change is 0")
    factors = np.ones(len(names))
    while (factors == 1).all():
        chosen = rng.random(len(names)) < PROBABILITY
        factors = (1 + gains * chosen * rng.standard_normal(len(names)) * rng.random() * SIGMA).clip(*FACTORS)
    child = {name: parent[name] * factor for name, factor in zip(names, factors, strict=True)}
    return clamp(child, decoupled)


class EvolutionRecord:
    """The generations of an evolution in `evolve.csv`, its best one in `hyp_evolve.yaml`, and `evolve.png`.

    Args:
        folder: where the files are; generations found there are continued.
        name: of the table.

    Attributes:
        rows: for each generation its results and genes.

    Raises:
        ValueError: the table there has other columns, or a line that is not all numbers.
    """

    def __init__(self, folder: Path, name: str = "evolve.csv") -> None:
        self.file = folder / name
        self.rows: list[dict[str, float]] = []
        if self.file.exists():
            with TextIOWrapper(open_regular(self.file), "utf-8", newline="") as file:
                reader = csv.reader(file)
                header = [cell.strip() for cell in next(reader, [""])]
                rows = [(reader.line_num, cells) for cells in reader]
            if tuple(header[: len(RESULTS)]) != RESULTS:
                raise ValueError(f"{self.file}: not the table of an evolution: it begins with {header[0]!r}")
            for number, cells in rows:
                values = table_numbers(cells, len(header), f"{self.file}:{number}")
                self.rows.append(dict(zip(header, values, strict=True)))

    def add(self, results: Sequence[float], genes: Mapping[str, float], base: Hyp) -> None:
        """Record a generation and rewrite the files.

        Args:
            results: `RESULTS`.
            genes: those of this generation.
            base: hyperparameters that the genes replace parts of.

        Raises:
            ValueError: other genes than before.
        """
        self.replace([*self.rows, dict(zip(RESULTS, map(float, results), strict=True)) | dict(genes)], base)

    def replace(self, rows: Sequence[dict[str, float]], base: Hyp) -> None:
        """Record these generations, at least one, in place of all others; see `add`."""
        for row in rows:
            if row.keys() != rows[0].keys():
                raise ValueError(f"{self.file}: an evolution of other hyperparameters; choose another --name")
        self.rows = list(rows)
        with atomic_path(self.file) as tmp:
            lines = [rows[0].keys(), *([f"{value:.5g}" for value in row.values()] for row in self.rows)]
            text = "".join(",".join(COLUMN % cell for cell in line) + "\n" for line in lines)
            tmp.write_text(text, encoding="utf-8")
        self.write_best(self.plot(), base)

    def plot(self) -> int:
        """Draw evolve.png and return the number of the best generation."""
        score = fitness(np.array([[row[name] for name in RESULTS[:4]] for row in self.rows]))
        genes = {name: [row[name] for row in self.rows] for name in self.rows[0] if name not in RESULTS}
        plot_genes(genes, score, self.file.with_name("evolve.png"))
        return int(score.argmax())

    def write_best(self, best: int, base: Hyp) -> None:
        """Write the hyperparameters of generation `best`, with its results as comments above them."""
        row = self.rows[best]
        file = self.file.with_name("hyp_evolve.yaml")
        yaml_save(file, base.to_dict() | {name: value for name, value in row.items() if name in GENES})
        head = f"# Evolution of hyperparameters: best generation {best} of 0 to {len(self.rows) - 1}\n"
        head += "".join(f"# {name}: {row[name]:.5g}\n" for name in RESULTS)
        with atomic_path(file) as tmp:
            tmp.write_text(head + file.read_text(encoding="utf-8"), encoding="utf-8")


def plot_evolve(evolve_csv: str | Path = "evolve.csv") -> None:
    """Draw evolve.png beside the table of an evolution; `utils.plots.plot_evolve` is this function.

    Raises:
        FileNotFoundError: no such table, or no generation in it.
        ValueError: it has other columns.
    """
    record = EvolutionRecord(Path(evolve_csv).parent, Path(evolve_csv).name)
    if not record.rows:
        raise FileNotFoundError(f"{evolve_csv}: no table of an evolution; train.py --evolve writes it")
    record.plot()
