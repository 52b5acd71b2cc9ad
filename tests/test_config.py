"""Configurations: what is read, what is refused, and how it is said."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from batchenv import AgentConfig, BacktestConfig, EnvConfig, RunConfig
from batchenv.errors import ConfigError

ROOT = Path(__file__).parent.parent


def test_the_shipped_configurations_are_valid_and_agree() -> None:
    run = RunConfig.from_json(ROOT / "configs" / "fast_training_ppo.json")
    assert run.env == EnvConfig.from_json(ROOT / "configs" / "fast_training_stock_env.json")
    assert run.agent == AgentConfig.from_json(ROOT / "configs" / "fast_training_agent_config.json")


MINIMAL = {"data": {"train_end": "2010-01-01"}}
REFUSED = {
    "unknown key": ({**MINIMAL, "envv": {}}, r"envv: unknown key \(did you mean 'env'\?\); expected one of: agent"),
    "unknown nested key": (
        {**MINIMAL, "env": {"cost_config": {"fee": 0.1}}},
        r"env\.cost_config\.fee: unknown key \(did you mean 'fee_rate'\?\); expected one of: fee_fixed, fee_minimum",
    ),
    "missing key": ({"data": {}}, r"data\.train_end: this key is missing"),
    "wrong type": (
        {**MINIMAL, "env": {"cost_config": {"fee_rate": "0.1"}}},
        r"env\.cost_config\.fee_rate: should be a valid number, got '0.1'",
    ),
    "boolean for a number": ({**MINIMAL, "seed": True}, r"seed: should be a valid integer, got True"),
    "out of range": (
        {**MINIMAL, "env": {"portfolio_config": {"trade_limit_percent": 10}}},
        r"trade_limit_percent: should be less than or equal to 1, got 10",
    ),
    "unknown choice": (
        {**MINIMAL, "env": {"fill": "open"}},
        r"env\.fill: should be 'next_open', 'next_close' or 'close'",
    ),
    "not a date": ({"data": {"train_end": "1st of May"}}, r"data\.train_end: should be an ISO date"),
    "infinite": ({**MINIMAL, "env": {"portfolio_config": {"initial_cash": float("inf")}}}, r"initial_cash: .*finite"),
    "a list for an object": ({**MINIMAL, "env": []}, r"env: should be a valid dictionary"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_is_named_with_its_key(name: str) -> None:
    content, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        RunConfig.model_validate(content)


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        RunConfig.model_validate({"data": {}, "seed": -1, "agent": {"n_envs": 0}})
    assert len(str(caught.value).strip().splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"data": ', "line 1, column 10: not valid JSON"),
        ('{"seed": 1, "seed": 2}', "'seed' is given twice"),
        ("[1, 2]", "valid dictionary"),
        ('{"seed": NaN, "data": {"train_end": "2010-01-01"}}', "seed"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        RunConfig.from_json(path)
    assert str(path) in str(caught.value)


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.json: cannot read the file: No such file"):
        RunConfig.from_json(tmp_path / "nowhere.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a text file in UTF-8"):
        RunConfig.from_json(tmp_path / "binary.json")


def test_a_backtest_changes_only_what_it_names() -> None:
    env = EnvConfig.model_validate(
        {
            "portfolio_config": {"initial_cash": 5_000.0, "trade_limit_percent": 0.3},
            "cost_config": {"fee_rate": 0.01, "slippage_rate": 0.02},
            "episode_config": {"length": 10, "random_start": True},
            "reward_config": {"type": "log_return"},
        }
    )
    changed = BacktestConfig.model_validate({"cost_config": {"fee_rate": 0.0}}).applied_to(env)
    assert changed.portfolio_config.initial_cash == 5_000.0
    assert changed.portfolio_config.maintain_history
    assert (changed.cost_config.fee_rate, changed.cost_config.slippage_rate) == (0.0, 0.02)
    assert (changed.episode_config.length, changed.episode_config.random_start) == (None, False)
    assert changed.reward_config.type == "log_return"


def test_a_resolved_configuration_means_the_same_after_a_round_trip() -> None:
    content = {
        **MINIMAL,
        "env": {"portfolio_config": {"initial_cash": 5_000.0}, "features": ["rsi_14"]},
        "backtest": {"portfolio_config": {"maintain_history": True}, "cost_config": {"fee_rate": 0.0}},
    }
    run = RunConfig.model_validate(content)
    again = RunConfig.model_validate(json.loads(json.dumps(run.resolved().model_dump(mode="json"))))
    assert again.backtest.applied_to(again.env) == run.backtest.applied_to(run.env)
    assert again.backtest.applied_to(again.env).portfolio_config.initial_cash == 5_000.0


@pytest.mark.parametrize("text", ['{"seed": ' + "9" * 5000 + "}", "[" * 100_000], ids=["digits", "brackets"])
def test_a_file_that_no_reader_takes_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"run\.json: cannot be read"):
        EnvConfig.from_json(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"portfolio_config": {"initial_cash": 1e100}}, "initial_cash: should be less than 1e+100"),
        ({"action_config": {"max_shares": 1e308}}, "max_shares: should be less than 1e+100"),
        ({"action_config": {"max_weight": 1e308}}, "max_weight: should be less than 1e+100"),
        ({"cost_config": {"fee_fixed": {"*": 1e100}}}, "fee_fixed.*: should be less than 1e+100"),
        ({"carry_config": {"funding_rate": -1e100}}, "funding_rate: should be greater than -1e+100"),
        ({"execution_config": {"lot_size": 1e-308}}, "lot_size: should be 0, for fractions of shares, or at least 1e-"),
        ({"episode_config": {"length": 2**31}}, "length: should be less than or equal to 2147483647"),
        ({"episode_config": {"length": 10**5000}}, "episode_config.length: should be"),
        ({"randomization": {"episode_length": [1, 2**31]}}, "1 <= low <= high < 2147483648"),
        ({"randomization": {"initial_cash": [1.0, 1e100]}}, "0 <= low <= high < 1e+100"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:30],
)
def test_a_number_whose_products_are_not_finite_is_refused(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        EnvConfig.model_validate(content)
