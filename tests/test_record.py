"""The recording of a training run: what was played, in the type that it is read in; damaged files are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchenv import TradingVecEnv
from batchenv.errors import ActionError, RunError
from batchenv.record import ActionRecorder, read_episode
from tests.markets import market

LANES = 3
RULES = {"episode_config": {"length": 4, "random_start": True}}


def recorded(folder: Path, actions: list[Any], **rules: Any) -> tuple[ActionRecorder, list[dict[str, Any]]]:
    """Record some steps; return the recorder and the infos of the episodes that ended, in the order of the lanes."""
    env = ActionRecorder(TradingVecEnv(market(), RULES | rules, n_envs=LANES, seed=0), 2**20)
    env.start(folder)
    env.reset()
    ended = []
    for action in actions:
        *_, dones, infos = env.step(action)
        ended += [infos[k] for k in np.flatnonzero(dones)]
    env.close()
    return env, ended


@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "int8", ">f4", "list"])
def test_actions_are_recorded_in_the_type_that_they_are_read_in(kind: str, tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).integers(-1, 2, (4, LANES, 4)).astype(np.float32)
    given = [one.tolist() if kind == "list" else one.astype(kind) for one in numbers]
    env, ended = recorded(tmp_path / "r", given)
    for lane in range(LANES):
        episode = read_episode(tmp_path / "r", lane, 0, LANES, env.action_space)
        np.testing.assert_array_equal(episode.actions, numbers[:, lane])
        assert episode.final_equity == ended[lane]["equity"]


def test_choices_are_recorded_in_the_type_that_they_are_read_in(tmp_path: Path) -> None:
    choices = np.random.default_rng(0).integers(0, 81, (4, LANES))
    env, _ = recorded(tmp_path / "r", list(choices.astype(np.uint8)), action_config={"mode": "discrete", "joint": True})
    episode = read_episode(tmp_path / "r", 2, 0, LANES, env.action_space)
    np.testing.assert_array_equal(episode.actions, choices[:, 2])


def test_only_steps_that_were_taken_are_recorded(tmp_path: Path) -> None:
    """What the environment refused was not played."""
    env = ActionRecorder(TradingVecEnv(market(), RULES, n_envs=LANES, seed=0), 2**20)
    env.start(tmp_path / "r")
    env.reset()
    for k in range(4):
        with pytest.raises(ActionError):
            env.step(np.full((LANES, 4), np.nan))
        env.step(np.full((LANES, 4), 0.1 * k, np.float32))
    env.close()
    assert env.steps == 4
    episode = read_episode(tmp_path / "r", 1, 0, LANES, env.action_space)
    np.testing.assert_array_equal(episode.actions[:, 0], np.array([0.0, 0.1, 0.2, 0.3], np.float32))


DAMAGED = {
    "a number that is none": ("episodes.csv", "0,0,0,4,x,y", "line 2 is damaged"),
    "a negative step": ("episodes.csv", "0,0,-1,4,1.0,2.0", "line 2 is damaged"),
    "no steps": ("episodes.csv", "0,0,0,0,1.0,2.0", "line 2 is damaged"),
    "a field too few": ("episodes.csv", "0,0", "line 2 is damaged"),
    "a number of thousands of digits": ("episodes.csv", f"0,0,{'9' * 5000},4,1.0,2.0", "line 2 is damaged"),
    "more steps than there are": ("episodes.csv", f"0,0,0,{2**62},1.0,2.0", "actions.bin: has 192 bytes, expected"),
    "a lane too many": ("episodes.csv", "7,0,0,4,1.0,2.0", "no finished episode 0 of lane 7 is recorded"),
    "actions cut short": ("actions.bin", "", "actions.bin: has 0 bytes, expected at least 192, of steps 0 to 3"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_recording_is_refused_by_file_and_line(case: str, tmp_path: Path) -> None:
    name, content, message = DAMAGED[case]
    env, _ = recorded(tmp_path / "r", [np.zeros((LANES, 4), np.float32)] * 4)
    head = "lane,episode,first_step,steps,return,equity\n" if name.endswith("csv") else ""
    (tmp_path / "r" / name).write_text(head + content)
    with pytest.raises(RunError, match=message):
        read_episode(tmp_path / "r", 7 if "lane" in case else 0, 0, LANES, env.action_space)
