"""VectorBT replays the order log of the scalar tier; see `tests.proof.referee`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from batchenv import EnvConfig, MarketData
from tests.proof.referee import ACCOUNTS, COMPARED, FILLS, RefereeError, differences, play, run_referee, table

TOLERANCE = 1e-9
Run = tuple[MarketData, EnvConfig, pd.DataFrame, pd.DataFrame]


def test_the_referee_agrees() -> None:
    seen: list[int] = []
    found = run_referee(20_000, seed=1, progress=seen.append)
    assert found["dust"] < 20  # nearly all are compared one by one
    assert found["orders"] >= 20_000 and found["orders"] == seen[-1] == sum(found["kinds"].values())
    assert set(found["worst"]) == set(COMPARED)
    assert max(found["worst"].values()) < TOLERANCE, table(found)
    modes, rest = ("weights", "trade", "shares", "discrete"), ("full", "ragged", "stops")
    assert set(found["played"]) == {*FILLS, *(f"{account} account" for account in ACCOUNTS), *modes, *rest}
    assert set(found["kinds"]) == {"order", "margin_call", "stop_loss", "take_profit", "delisting"}


@pytest.fixture(scope="module")
def cash_run() -> Run:
    """World 0 of a seed: a cash account with fills at the close."""
    env, _ = play(np.random.default_rng(5), 0)
    assert env.config.margin_config.cash_account
    return env.market, env.config, env.history, env.fills


def test_the_run_to_tamper_with_is_right(cash_run: Run) -> None:
    assert max(differences(*cash_run).values()) < TOLERANCE


@pytest.mark.parametrize("setting", ["fee_rate", "slippage_rate", "fee_fixed"])
def test_another_cost_is_noticed(cash_run: Run, setting: str) -> None:
    market, config, history, fills = cash_run
    costs = {**config.cost_config.model_dump(), setting: 1e-6}
    found = differences(market, config.updated(cost_config=costs), history, fills)
    assert found["price" if setting == "slippage_rate" else "fee"] > TOLERANCE
    assert found["cash"] > TOLERANCE and found["value"] > TOLERANCE and found["profit"] > TOLERANCE


@pytest.mark.parametrize("fill", [fill for fill in FILLS if fill != "close"])
def test_another_fill_price_is_noticed(cash_run: Run, fill: str) -> None:
    market, config, history, fills = cash_run
    with pytest.raises(RefereeError, match="fill price"):
        differences(market, config.updated(fill=fill), history, fills)


def _forget(fills: pd.DataFrame) -> pd.DataFrame:
    return fills.drop(index=len(fills) // 2)


def _enlarge(fills: pd.DataFrame) -> pd.DataFrame:
    shares = fills["shares"].to_numpy().copy()
    shares[len(shares) // 2] *= 1.0 + 1e-6
    return fills.assign(shares=shares)


@pytest.mark.parametrize("tamper", [_forget, _enlarge])
def test_another_log_is_noticed(cash_run: Run, tamper: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    market, config, history, fills = cash_run
    found = differences(market, config, history, tamper(fills))
    assert found["shares"] > TOLERANCE
    assert max(found["cash"], found["size"]) > TOLERANCE  # without a sell, cash is short for the next buy


@pytest.mark.parametrize("column", ["cash", "equity", "shares[B]"])
def test_another_account_is_noticed(cash_run: Run, column: str) -> None:
    market, config, history, fills = cash_run
    values = history[column].to_numpy().copy()
    values[len(values) // 2] += 1e-6 * max(values.max(), 1.0)
    found = differences(market, config, history.assign(**{column: values}), fills)
    name = {"cash": "cash", "equity": "value"}.get(column, "shares")
    assert found[name] > TOLERANCE


def test_a_fill_that_was_not_affordable_is_noticed(cash_run: Run) -> None:
    """A cash account has no loan at the referee's, who buys what cash allows and no more."""
    market, config, history, fills = cash_run
    buys = np.flatnonzero((fills["shares"] > 0) & (fills["kind"] == "order"))
    shares = fills["shares"].to_numpy().copy()
    worth = float(history["equity"].max())
    shares[buys[-1]] = 2.0 * worth / fills["fill_price"].iloc[buys[-1]]
    assert differences(market, config, history, fills.assign(shares=shares))["size"] > 0.01
