"""Walk-forward: train, test on the bars that follow, move on, and chain what was made out of sample.

Each fold is an ordinary run folder with an ordinary backtest in it, made by a process of its own on one thread, so that
the number of workers changes nothing but the time. A fold is made in a scratch folder and renamed when all of it is
there: a fold's folder is either complete or absent, and a walk that was interrupted, by whatever, goes on from there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
from filelock import FileLock, Timeout

from batchenv.base import TradingTask
from batchenv.config import RunConfig, read_json
from batchenv.errors import ConfigError, RunError
from batchenv.market import MarketData
from batchenv.runs import RunFolder, write_json
from batchenv.train import import_plugins, load_market, split_market
from stateful.evaluation.fold_run import FoldJob, make_fold, read_fold
from stateful.evaluation.folds import Fold, default_embargo, divide
from stateful.evaluation.walk_forward_results import FoldResult, WalkForwardResults
from stateful.evaluation.workers import available_cores, run_in_processes

FORMAT = 1
PLAN = "walk_forward.json"
"""The file that says what a folder's walk-forward is."""
_LOCK = "walk_forward.lock"
_SCRATCH = ".unfinished"


class WalkReporter(Protocol):
    """Told how a walk goes."""

    def progress(self, fold: Fold, stage: str, done: int, total: int) -> None:
        """Steps done and to do in a stage (``training`` or ``testing``) of a fold."""

    def finished(self, result: FoldResult) -> None:
        """A fold is finished."""

    def failed(self, fold: Fold, reason: str) -> None:
        """A fold failed; the others go on."""


@dataclass(frozen=True, eq=False)
class WalkForward:
    """A walk-forward: what is done, on what, in which folds.

    Attributes:
        config: The run's configuration. Each fold's is the same but for dates and threads.
        market: The bars of all folds.
        folds: The folds.
        embargo: Bars left out between training and test.
        anchored: Whether the training windows grow; else they move on.
    """

    config: RunConfig
    market: MarketData
    folds: tuple[Fold, ...]
    embargo: int
    anchored: bool

    @classmethod
    def plan(cls, config: RunConfig, folds: int, *, anchored: bool = False) -> WalkForward:
        """Lay out a walk-forward over the held-out part of a configuration, and check that it can begin.

        Args:
            config: The configuration; ``data.train_end`` is the first test bar, ``data.embargo`` the embargo.
            folds: How many folds.
            anchored: Whether every training window starts at the first bar and grows; else they keep their length.

        Raises:
            BatchenvError: The configuration or the data are not usable, or have too few bars.
        """
        config = config.resolved()
        import_plugins(config.imports)
        market = load_market(config.data)
        market.require_year("a walk-forward")
        embargo = default_embargo(market.n_bars) if config.data.embargo is None else config.data.embargo
        first_test = market.split(config.data.train_end)[0].n_bars
        walk = cls(
            config,
            market,
            divide(market.n_bars, first_test, folds, embargo=embargo, anchored=anchored),
            embargo,
            anchored,
        )
        first = split_market(market, walk.fold_config(walk.folds[0]).data)  # no training window is shorter
        TradingTask.build(first.train, config.env)
        return walk

    def fold_config(self, fold: Fold) -> RunConfig:
        """Return the configuration of one fold, which trains and tests like any other."""
        data, agent = self.config.data, self.config.agent
        dates = {
            "start": self._begin(fold.train_start),
            "train_end": self._begin(fold.test_start),
            "end": self._begin(fold.test_end + 1),
        }
        return self.config.updated(
            data=data.updated(**dates, embargo=self.embargo).model_dump(exclude_unset=True),
            agent=agent.updated(n_threads=1).model_dump(exclude_unset=True),
        )

    def finished(self, output: Path) -> tuple[Fold, ...]:
        """Return the folds that a folder holds already."""
        return tuple(fold for fold in self.folds if (output / fold.name).is_dir())

    def run(
        self, output: Path, *, workers: int | None = None, reporter: WalkReporter | None = None
    ) -> WalkForwardResults:
        """Train and test all folds that ``output`` does not hold yet, and put them together.

        A script that calls this needs the usual ``if __name__ == "__main__":``, since processes are started.

        Args:
            output: The folder; made, or gone on with where it holds the same walk.
            workers: Folds at once; None takes one for each core.
            reporter: Told about progress.

        Raises:
            ConfigError: ``workers`` is below 1.
            RunError: ``output`` holds something else or is being worked on; or folds failed, after the others ended.
        """
        if workers is not None and workers < 1:
            raise ConfigError(f"workers: got {workers}, expected at least 1")
        teller = reporter or _Silence()
        failures: dict[Fold, str] = {}

        def ended(fold: Fold, reason: str | None) -> None:
            if reason is None:
                teller.finished(read_fold(output / fold.name, fold))
            else:
                failures[fold] = reason
                teller.failed(fold, reason)

        with _claimed(output):
            self._check_plan(output)
            jobs = {
                fold: FoldJob(
                    self.fold_config(fold),
                    output / fold.name,
                    output / f"{fold.name}{_SCRATCH}",
                    f"fold {fold.number} of {len(self.folds)}",
                )
                for fold in self.folds
            }
            for fold in self.finished(output):
                _check_same(jobs.pop(fold))
            run_in_processes(
                make_fold,
                jobs,
                workers=workers or available_cores(),
                heard=lambda fold, message: teller.progress(fold, *message),
                ended=ended,
            )
        if failures:
            raise RunError(_failure_text(failures, len(self.folds)))
        return self.results(output)

    def results(self, output: Path) -> WalkForwardResults:
        """Put the folds of a finished walk together.

        Raises:
            RunError: A fold is missing.
        """
        missing = sorted(set(self.folds) - set(self.finished(output)), key=lambda fold: fold.number)
        if missing:
            raise RunError(f"{output}: not a complete walk-forward: {missing[0].name} is missing")
        return WalkForwardResults(
            config=self.config,
            folds=tuple(read_fold(output / fold.name, fold) for fold in self.folds),
            symbols=self.market.symbols,
            embargo=self.embargo,
            anchored=self.anchored,
            periods_per_year=self.market.require_year("a walk-forward"),
        )

    def _begin(self, bar: int) -> str | None:
        """Return the date of a bar as the configuration has it; the end of the data after the last one."""
        if bar == self.market.n_bars:
            return self.config.data.end
        stamp = pd.Timestamp(self.market.timestamps[bar])
        return stamp.strftime("%Y-%m-%d") if stamp == stamp.normalize() else stamp.isoformat()

    def _check_plan(self, output: Path) -> None:
        """Clear away what was not finished, and write the plan, or check that the one that is there is the same.

        Raises:
            RunError: It is another walk's.
        """
        mine = {
            "format": FORMAT,
            "folds": len(self.folds),
            "anchored": self.anchored,
            "embargo": self.embargo,
            "config": self.config.model_dump(mode="json"),
            "data": {"bars": self.market.n_bars, "fingerprint": self.market.with_history().fingerprint},
            "windows": [asdict(fold) for fold in self.folds],
        }
        if (output / PLAN).exists():
            there = _read_plan(output / PLAN)
            difference = _first_difference(there, mine)
            # A walk that has finished nothing, such as one with a wrong configuration, is not worth keeping.
            if difference is not None and any(path.suffix != _SCRATCH for path in output.glob("fold-*")):
                raise RunError(
                    f"{output}: another walk-forward is here: {difference}; expected the same one, to go on with, or "
                    "another --output"
                )
        for scratch in output.glob(f"fold-*{_SCRATCH}"):
            shutil.rmtree(scratch)
        write_json(output / PLAN, mine)


class _Silence:
    """Tells nobody."""

    def progress(self, fold: Fold, stage: str, done: int, total: int) -> None: ...

    def finished(self, result: FoldResult) -> None: ...

    def failed(self, fold: Fold, reason: str) -> None: ...


@contextmanager
def _claimed(output: Path) -> Iterator[None]:
    """Hold a folder for one walk, so that nobody else works in it.

    Raises:
        RunError: It holds something else, cannot be made, or is being worked on.
    """
    lock = FileLock(output / _LOCK, timeout=0)
    try:
        output.mkdir(parents=True, exist_ok=True)
        content = {path.name for path in output.iterdir()}
        if PLAN not in content and content - {_LOCK, f"{PLAN}.tmp"}:
            raise RunError(f"{output}: exists already and is no walk-forward; expected a new folder")
        lock.acquire()
    except Timeout:
        raise RunError(f"{output}: another process is at work on this walk-forward; wait for it, or end it") from None
    except OSError as error:
        raise RunError(f"{output}: cannot make the folder: {error.strerror or error}") from None
    try:
        yield
    finally:
        lock.release()


def _read_plan(path: Path) -> dict[str, Any]:
    """Read the plan of a walk.

    Raises:
        RunError: It is damaged, or of something else.
    """
    try:
        plan = read_json(path)
    except ConfigError as error:
        raise RunError(f"damaged walk-forward: {error}") from None
    if not isinstance(plan, dict) or plan.get("format") != FORMAT or "windows" not in plan:
        raise RunError(f"{path}: not the plan of a walk-forward of this version; expected another --output")
    return plan


def _check_same(job: FoldJob) -> None:
    """Check that a finished fold was made with the configuration that it would be made with now.

    Raises:
        RunError: It was not, or is damaged.
    """
    there, mine = RunFolder.open(job.folder).config, job.config
    difference = _first_difference(there.model_dump(mode="json"), mine.model_dump(mode="json"))
    if difference is not None:
        raise RunError(f"{job.folder}: another run is here: {difference}; expected a fold of this walk-forward")


def _first_difference(there: Any, mine: Any, key: str = "") -> str | None:
    """Say where two JSON values differ first; None where they do not."""
    if isinstance(there, dict) and isinstance(mine, dict):
        for name in [*mine, *(name for name in there if name not in mine)]:
            path = f"{key}.{name}" if key else str(name)
            difference = _first_difference(there.get(name, "nothing"), mine.get(name, "nothing"), path)
            if difference is not None:
                return difference
        return None
    return None if there == mine else f"its {key} is {_brief(there)}, not {_brief(mine)}"


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _failure_text(failures: Mapping[Fold, str], folds: int) -> str:
    """Say which folds failed, and why, once for each reason."""
    by_reason: dict[str, list[str]] = {}
    for fold in sorted(failures, key=lambda fold: fold.number):
        by_reason.setdefault(failures[fold], []).append(str(fold.number))
    reasons = "; ".join(
        f"fold{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}: {reason}" for reason, numbers in by_reason.items()
    )
    return (
        f"{len(failures)} of {folds} folds failed: {reasons}. The other folds are kept; the same command again makes "
        "those that are missing"
    )
