"""Recording a training run: every action and every episode, so that any episode can be played again."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn, VecEnvWrapper

from batchenv.arrays import plain
from batchenv.errors import ActionError, RunError
from batchenv.sb3 import TradingVecEnv

_COLUMNS = ("lane", "episode", "first_step", "steps", "return", "equity")


class ActionRecorder(VecEnvWrapper):
    """Writes the actions of each step, and a line for each finished episode, while training goes on.

    Attributes:
        steps: Steps recorded.
    """

    def __init__(self, venv: TradingVecEnv, most_bytes: int) -> None:
        """Wrap an environment; nothing is written before `start`.

        Args:
            venv: The environment that is trained on.
            most_bytes: Recording stops before the actions take more than this.
        """
        super().__init__(venv)
        self._batch = venv.batch
        self._most_bytes = most_bytes
        self._first = np.zeros(venv.num_envs, np.int64)
        self._files: tuple[IO[bytes], IO[str]] | None = None
        self._actions: Any = None
        self.steps = 0

    def start(self, folder: Path) -> None:
        """Make ``folder`` and record into it from the next step on."""
        folder.mkdir(parents=True)
        rows = (folder / "episodes.csv").open("w", newline="", encoding="utf-8")
        rows.write(",".join(_COLUMNS) + "\n")
        self._files = ((folder / "actions.bin").open("wb"), rows)

    def reset(self) -> Any:
        """Start new episodes."""
        self._first[:] = self.steps
        return self.venv.reset()

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Keep the actions and pass them on."""
        self._actions = actions
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Pass on what the step returned, and write down the actions that it took and the episodes that it ended."""
        actions, self._actions = self._actions, None
        episode = self._batch.episode.copy() if self._files is not None else None
        result = self.venv.step_wait()
        self._write(plain(actions, "actions", ActionError))
        if self._files is not None and episode is not None:
            for lane in np.flatnonzero(result[2]).tolist():
                info = result[3][lane]
                told = info["episode"]
                row = (lane, episode[lane], self._first[lane], told["l"], told["r"], repr(info["equity"]))
                self._files[1].write(",".join(map(str, row)) + "\n")
                self._first[lane] = self.steps
        return result

    def close(self) -> None:
        """Close the files and the environment."""
        self._stop()
        self.venv.close()

    def _write(self, actions: npt.NDArray[Any]) -> None:
        """Write down the actions of a step in the type that `read_episode` reads; stop where that is too much."""
        if self._files is None:
            return
        data = np.ascontiguousarray(actions, self.action_space.dtype)
        if self._files[0].tell() + data.nbytes > self._most_bytes:
            self._stop()
        else:
            self._files[0].write(data.tobytes())
            self.steps += 1

    def _stop(self) -> None:
        if self._files is not None:
            for file in self._files:
                file.close()
            self._files = None


@dataclass(frozen=True)
class RecordedEpisode:
    """One finished episode of a training run.

    Attributes:
        lane: The lane.
        episode: Its number.
        actions: What the agent did, ``[steps, symbols]``, or ``[steps]`` when joint.
        final_equity: Equity at its end, in money.
    """

    lane: int
    episode: int
    actions: npt.NDArray[Any]
    final_equity: float


def read_episode(folder: Path, lane: int, episode: int, n_envs: int, space: Any) -> RecordedEpisode:
    """Read a recorded episode.

    Args:
        folder: The run folder's ``recording``.
        lane: The lane.
        episode: The episode's number.
        n_envs: Lanes of the run.
        space: Action space of one lane.

    Raises:
        RunError: There is no recording, or it does not hold that episode; says what it holds.
    """
    if not (folder / "episodes.csv").is_file():
        raise RunError(f"{folder}: this run was not recorded; train with agent.record_megabytes above 0")
    rows = _read_rows(folder / "episodes.csv")
    found = [row for row in rows if (row.lane, row.episode) == (lane, episode) and lane < n_envs]
    if not found:
        of_lane = [row.episode for row in rows if row.lane == lane]
        held = f"episodes {min(of_lane)} to {max(of_lane)} of that lane" if of_lane else f"lanes 0 to {n_envs - 1}"
        raise RunError(f"{folder}: no finished episode {episode} of lane {lane} is recorded; it holds {held}")
    shape = (n_envs, *space.shape)
    size = int(np.prod(shape)) * np.dtype(space.dtype).itemsize
    row, path = found[0], folder / "actions.bin"
    held_bytes = path.stat().st_size if path.is_file() else 0
    if (row.first_step + row.steps) * size > held_bytes:
        raise RunError(
            f"{path}: has {held_bytes} bytes, expected at least {(row.first_step + row.steps) * size}, of steps "
            f"{row.first_step} to {row.first_step + row.steps - 1} of {n_envs} lanes"
        )
    with path.open("rb") as data:
        data.seek(row.first_step * size)
        raw = data.read(row.steps * size)
    actions = np.frombuffer(raw, space.dtype).reshape(row.steps, *shape)[:, lane]
    return RecordedEpisode(lane, episode, actions, row.equity)


class _Row(NamedTuple):
    """A line of ``episodes.csv``: a finished episode, without what nobody reads back."""

    lane: int
    episode: int
    first_step: int
    steps: int
    equity: float


def _read_rows(path: Path) -> list[_Row]:
    """Read ``episodes.csv``.

    Raises:
        RunError: It is damaged; names the line.
    """
    rows: list[_Row] = []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                lane, episode, first, steps = (int(line[name]) for name in _Row._fields[:-1])
                row = _Row(lane, episode, first, steps, float(line["equity"]))
                if min(row[:-1]) < 0 or steps < 1:
                    raise ValueError("a negative number, or no steps")
                rows.append(row)
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise RunError(f"{path}: line {len(rows) + 2} is damaged: {type(error).__name__}: {error}") from None
    return rows
