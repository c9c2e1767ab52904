"""Hyperparameter search: the genetic one of YOLOv5, or an Optuna study shared by several processes."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from engine.training.evolve import GENES, RESULTS, EvolutionRecord, bounds, choose_parent, clamp, mutate
from utils.console import LOGGER, colorstr
from utils.hyp import Hyp
from utils.metrics import fitness
from utils.paths import command

LOGARITHMIC = ("lr0",)  # searched by their order of magnitude
HEARTBEAT, GRACE = 10, 40  # seconds between the signs of life of a training; silence after which it counts as killed
POLL = 2.0  # seconds between looks at the trainings of other processes

Measure = Callable[[int, Mapping[str, float]], Sequence[float]]  # (generation, genes) -> RESULTS, by a training


@dataclass(frozen=True)
class Search:
    """What is searched, and where the record goes.

    Attributes:
        folder: of `EvolutionRecord`.
        base: hyperparameters that the genes replace parts of.
        generations: trainings in all, those of an earlier run or of other processes included.
        seed: of the draws.
        decoupled: AdamW decays the weights, see `engine.training.evolve.bounds`.
        anchors: the number of anchors per level is a gene.
        population: hyperparameters that are tried after `base` and before anything else.
    """

    folder: Path
    base: Hyp
    generations: int
    seed: int = 0
    decoupled: bool = False
    anchors: bool = True
    population: list[Hyp] = field(default_factory=list)

    def first(self) -> list[dict[str, float]]:
        """Return the genes of the first generations: `base`, then the population."""
        return [self.genes_of(hyp) for hyp in (self.base, *self.population)]

    def genes_of(self, hyp: Hyp) -> dict[str, float]:
        """Return the genes of hyperparameters, within their bounds."""
        genes = {name: value for name, value in hyp.to_dict().items() if name in GENES and name != "anchors"}
        if self.anchors:
            genes["anchors"] = hyp.anchors or 3.0
        return clamp(genes, self.decoupled)


def read_population(folder: str | Path) -> list[Hyp]:
    """Read every hyperparameter file (.yaml) of a folder, by name; of '' none.

    Raises:
        FileNotFoundError: no such folder, or none in it.
        ValueError: from `Hyp.load`.
    """
    if not folder:
        return []
    files = sorted(Path(folder).glob("*.yaml"))
    if not files:
        raise FileNotFoundError(
            f"--evolve_population {folder}: no .yaml files found; pass a folder of hyperparameter files"
        )
    return [Hyp.load(file) for file in files]


def run_genetic(search: Search, measure: Measure) -> EvolutionRecord:
    """Search as YOLOv5 does: each generation is a mutation of one of the five best, see `engine.training.evolve`."""
    record, first = EvolutionRecord(search.folder), search.first()
    for generation in range(len(record.rows), search.generations):
        rng = np.random.default_rng((search.seed, generation))
        if generation < len(first):
            genes = first[generation]
        else:
            genes = mutate(choose_parent(record.rows, rng), rng, search.decoupled)
        record.add(measure(generation, genes), genes, search.base)
    return record


# Optuna ---------------------------------------------------------------------------------------------------------------


def run_optuna(search: Search, measure: Measure, storage: str, name: str) -> EvolutionRecord:
    """Search with Optuna's TPE sampler (arXiv:2304.11127); every gene that may mutate is drawn within its bounds.

    Processes with one storage and one name share a study: each one trains what it draws, and ends when all trainings
    are done; its record holds those of all. Two that begin their last training at the same moment may do one more than
    asked for. Another training takes the place of one whose process was killed.

    Args:
        search: what and how often.
        measure: trains and scores; its errors end this process, not the study.
        storage: URL of a database, such as sqlite:///study.db; '' for a file of its own in the folder.
        name: of the study.

    Raises:
        ValueError: Optuna is missing, or the storage cannot be used.
    """
    optuna = _import_optuna()
    study = _open_study(optuna, search, storage, name)
    record = EvolutionRecord(search.folder)
    complete, running = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.RUNNING

    def objective(trial: Any) -> float:
        genes = dict(search.genes_of(search.base))
        for gene in genes:
            if GENES[gene][0]:
                low, high = bounds(gene, search.decoupled)
                genes[gene] = trial.suggest_float(gene, low, high, log=gene in LOGARITHMIC)
        results = [float(value) for value in measure(trial.number, clamp(genes, search.decoupled))]
        trial.set_user_attr("results", results)
        trial.set_user_attr("genes", clamp(genes, search.decoupled))
        return float(fitness(np.array(results[:4])[None])[0])

    while True:
        optuna.storages.fail_stale_trials(study)
        trials = study.get_trials(deepcopy=False)
        done = [trial for trial in trials if trial.state == complete]
        if len(done) > len(record.rows):
            rows = [dict(zip(RESULTS, t.user_attrs["results"], strict=True)) | t.user_attrs["genes"] for t in done]
            record.replace(rows, search.base)
        if len(done) >= search.generations:
            return record
        if len(done) + sum(trial.state == running for trial in trials) >= search.generations:
            time.sleep(POLL)  # other processes run the last ones
        else:
            study.optimize(objective, n_trials=1)


def _import_optuna() -> ModuleType:
    """Return the package optuna."""
    try:
        import optuna  # noqa: PLC0415  optional package
    except ImportError as error:
        line = command("pip", "install", "optuna")
        raise ValueError(f"--tuner optuna needs that package ({error}): {line}") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of the signs of life
    return optuna


def _open_study(optuna: ModuleType, search: Search, storage: str, name: str) -> Any:
    """Open or create a study; the first generations are the same as those of the genetic search."""
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415  comes with optuna

    url = storage or f"sqlite:///{search.folder.resolve() / 'study.db'}"
    patience = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    try:
        backend = optuna.storages.RDBStorage(url, patience, heartbeat_interval=HEARTBEAT, grace_period=GRACE)
        study = optuna.create_study(
            storage=backend, study_name=name, direction="maximize", load_if_exists=True,
            sampler=optuna.samplers.TPESampler(seed=None if storage else search.seed),
        )  # fmt: skip
    except (SQLAlchemyError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--storage {url}: cannot be used as the database of a study: {reason}") from error
    known = study.get_trials(deepcopy=False)
    LOGGER.info(f"{colorstr('optuna: ')}study {name!r} in {url}, {len(known)} training runs begun so far")
    if not known:
        for genes in search.first():
            study.enqueue_trial({gene: value for gene, value in genes.items() if GENES[gene][0]}, skip_if_exists=True)
    return study
