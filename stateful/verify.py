"""The proof: both tiers play the same episodes, and every number must agree.

The one module that looks at both tiers' environments. Each lane of a batch is followed by a `StatefulTradingEnv` of its
own, fed the same actions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from batchenv.batch import BatchTradingEnv
from batchenv.config import EnvConfig
from batchenv.errors import BatchenvError
from batchenv.features import FeatureScaler
from batchenv.market import MarketData
from batchenv.parameters import per_symbol
from stateful.env import StatefulTradingEnv

TOLERANCE = 1e-9
"""Largest relative difference of money between the tiers."""
RESIDUE = 1e-12
"""Money below this fraction of what it was made from is rounding."""
LEAST_RATIO = 1e-8
"""Least ratio that a logarithm is taken of (rule 7.6)."""
OBSERVATION_TOLERANCE = 2e-6
"""Largest difference of observations, which are float32, relative to themselves and to 1."""
_DIVIDED_BY_BEFORE = ("fast_profit_reward", "simple_return", "differential_sharpe")

_Accounts = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]
Actions = Callable[[int, BatchTradingEnv], npt.NDArray[Any]]
"""Returns the actions of a step for all lanes, given the step's number and the batch."""


class VerificationError(BatchenvError, AssertionError):
    """The tiers disagree; says where, and shows both accounts."""


@dataclass
class Certificate:
    """What was compared, and how far the tiers were apart.

    Attributes:
        lane_steps: Steps compared, over all lanes.
        episodes: Episodes that ended.
        terminated: Episodes that ended in bankruptcy.
        fills: Fills of the evaluation tier.
        worst: Largest relative difference seen of each quantity.
    """

    lane_steps: int = 0
    episodes: int = 0
    terminated: int = 0
    fills: int = 0
    worst: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("equity", "cash", "shares", "reward"), 0.0))

    def add(self, other: Certificate) -> None:
        """Take another certificate's counts into this one."""
        self.lane_steps += other.lane_steps
        self.episodes += other.episodes
        self.terminated += other.terminated
        self.fills += other.fills
        for name, value in other.worst.items():
            self.worst[name] = max(self.worst[name], value)


def hostile_actions(seed: int) -> Actions:
    """Return random actions of all tempers: moderate, all-in, all-out, still, dust, and beyond the bounds."""
    rng = np.random.default_rng(seed)

    def draw(_: int, env: BatchTradingEnv) -> npt.NDArray[Any]:
        if env.config.action_config.mode == "discrete":
            shape = (env.num_envs,) if env.config.action_config.joint else (env.num_envs, env.market.n_symbols)
            return rng.integers(0, 3**env.market.n_symbols if len(shape) == 1 else 3, shape)
        shape = (env.num_envs, env.market.n_symbols)
        moderate = rng.uniform(-1, 1, shape)
        tempers = [
            moderate,
            rng.choice([-1.0, 0.0, 1.0], shape),
            np.ones(shape),
            -np.ones(shape),
            np.zeros(shape),
            1e-9 * moderate,
            3.0 * moderate,
        ]
        kind = rng.choice(len(tempers), (env.num_envs, 1), p=[0.4, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05])
        return np.choose(kind, tempers).astype(np.float32)

    return draw


def compare(
    market: MarketData,
    config: EnvConfig,
    actions: Actions,
    *,
    n_envs: int,
    steps: int,
    seed: int,
    lane_parameters: Mapping[str, Any] | None = None,
    scaler: FeatureScaler | None = None,
    n_threads: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Certificate:
    """Play ``n_envs`` lanes for ``steps`` bars in both tiers, ending and starting episodes as they come.

    Args:
        market: The bars.
        config: The rules; the reward must be one that both tiers know.
        actions: Where actions come from.
        n_envs: Number of lanes.
        steps: Bars to play.
        seed: Seed of the episode starts and drawn parameters.
        lane_parameters: As `BatchTradingEnv` takes them.
        scaler: Feature scaling of an earlier run.
        n_threads: Threads of the batch tier.
        progress: Told the number of lane-steps after each bar.

    Returns:
        What was compared.

    Raises:
        VerificationError: The tiers disagree on a flag, on money by more than `TOLERANCE`, on shares (at all where lots
            are whole shares), on a reward or an observation.
    """
    if config.observation_config.mode != "flat":  # the flat form has everything in it
        config = config.updated(observation_config=config.observation_config.updated(mode="flat"))
    batch = _Batch(
        market, config, n_envs=n_envs, seed=seed, lane_parameters=lane_parameters, scaler=scaler, n_threads=n_threads
    )
    scaler = batch.scaler
    lanes = [
        StatefulTradingEnv(
            market, config, scaler=scaler, seed=seed, lane=k, lane_parameters=_of_lane(lane_parameters, k)
        )
        for k in range(n_envs)
    ]
    certificate = Certificate()
    lots = per_symbol(config.execution_config.lot_size, market.symbols, "execution_config.lot_size")
    judge = _Judge(batch, certificate, (lots > 0) & (lots == np.round(lots)))
    observation, _ = batch.reset(seed=seed)
    for k, env in enumerate(lanes):
        judge.start(k, env, observation[k], env.reset(seed=seed)[0])
    for step in range(steps):
        action = actions(step, batch)
        judge.before = (batch.cash.copy(), batch.holdings.copy())
        observation, rewards, terminated, truncated, infos = batch.step(action)
        judge.after = batch.last if (terminated | truncated).any() else batch.accounts()
        for k, env in enumerate(lanes):
            obs, reward, *flags, info = env.step(action[k])
            judge.flags(k, env, action[k], flags, (bool(terminated[k]), bool(truncated[k])))
            judge.reward(k, env, action[k], reward, float(rewards[k]))
            judge.account(k, env, action[k])
            if any(flags):
                judge.end(k, env, action[k], obs, flags, info, infos)
                judge.start(k, env, observation[k], env.reset()[0])
            else:
                judge.observation(k, env, action[k], observation[k], obs)
        certificate.lane_steps += n_envs
        if progress is not None:
            progress(certificate.lane_steps)
    certificate.fills += sum(env.portfolio.n_fills for env in lanes)
    batch.close()
    return certificate


def _of_lane(given: Mapping[str, Any] | None, lane: int) -> dict[str, Any] | None:
    """Return one lane's part of the parameters."""
    if given is None:
        return None
    arrays = {name: np.asarray(value) for name, value in given.items()}
    return {name: value[lane : lane + 1] if value.ndim else value for name, value in arrays.items()}


class _Batch(BatchTradingEnv):
    """A batch that keeps the accounts as they were before ended lanes began again."""

    last: _Accounts

    def accounts(self) -> _Accounts:
        """Return cash, shares and equity, copied."""
        return self.cash.copy(), self.holdings.copy(), self.equity.copy()

    def _end(self, done: npt.NDArray[np.int64]) -> dict[str, Any]:
        self.last = self.accounts()
        return super()._end(done)


class _Judge:
    """Compares, keeps the worst difference of each kind, and tells the whole story of the first that is too large."""

    def __init__(self, batch: _Batch, certificate: Certificate, in_lots: npt.NDArray[np.bool_]) -> None:
        self.batch, self.certificate, self.in_lots = batch, certificate, in_lots
        self.after = batch.accounts()
        self.before = self.after[:2]
        self.marks = np.nan_to_num(batch.market.mark)

    def start(self, k: int, env: StatefulTradingEnv, ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> None:
        """Compare the beginning of an episode."""
        if (int(self.batch.bar[k]), float(self.batch.equity[k])) != (env.bar, env.equity):
            self._tell(
                k, env, None, "start", (int(self.batch.bar[k]), float(self.batch.equity[k])), (env.bar, env.equity)
            )
        self.observation(k, env, None, ours, theirs)

    def flags(self, k: int, env: StatefulTradingEnv, action: Any, exact: list[bool], batch: tuple[bool, bool]) -> None:
        """Compare terminated and truncated, exactly."""
        if tuple(exact) != batch:
            self._tell(k, env, action, "terminated, truncated", batch, tuple(exact))

    def money(
        self, k: int, env: StatefulTradingEnv, action: Any, name: str, exact: float, batch: float, scale: float
    ) -> None:
        """Compare an amount relative to itself and to the scale of what it was made from."""
        difference = abs(exact - batch) / max(abs(exact), scale, 1e-300)
        self.certificate.worst[name] = max(self.certificate.worst[name], difference)
        if not difference <= TOLERANCE:
            self._tell(k, env, action, name, batch, exact)

    def reward(self, k: int, env: StatefulTradingEnv, action: Any, exact: float, batch: float) -> None:
        """Compare a reward relative to itself or its scale, less closely where it divides by little more than rounding.

        That is the equity before the step; where a logarithm is taken also the equity after it, down to the least ratio
        of rule 7.6. A reward that is not ours may divide by either.
        """
        cash, holdings = (array[k] for array in self.before)
        least = abs(float(cash + holdings @ self.marks[env.bar - 1]))
        if env.config.reward_config.type not in _DIVIDED_BY_BEFORE:
            least = min(least, max(abs(env.equity), LEAST_RATIO * least))
        gross = self._gross(k, env)
        shaky = max(1.0, 1e-3 * gross / max(least, RESIDUE * gross))
        scale = max(env.config.reward_config.reward_scaling, abs(exact))
        self.money(k, env, action, "reward", exact, batch, scale * shaky)

    def account(self, k: int, env: StatefulTradingEnv, action: Any) -> None:
        """Compare cash, shares and equity."""
        cash, holdings, equity = (array[k] for array in self.after)
        mark, shares, gross = self.marks[env.bar], env.holdings, self._gross(k, env)
        self.money(k, env, action, "cash", env.cash, float(cash), gross)
        self.money(k, env, action, "equity", env.equity, float(equity), gross)
        for s in (shares != holdings).nonzero()[0].tolist():
            if self.in_lots[s] and not self._drifts(env):
                self._tell(k, env, action, f"shares of {env.market.symbols[s]}", holdings[s], shares[s])
            self.money(k, env, action, "shares", shares[s] * mark[s], holdings[s] * mark[s], gross)

    def end(
        self,
        k: int,
        env: StatefulTradingEnv,
        action: Any,
        obs: npt.NDArray[Any],
        flags: list[bool],
        info: dict[str, Any],
        infos: dict[str, Any],
    ) -> None:
        """Compare what is told of the end of an episode: final equity, final observation, statistics."""
        final = float(infos["final_info"]["equity"][k])
        self.money(k, env, action, "equity", env.equity, final, self._gross(k, env))
        self.observation(k, env, action, infos["final_obs"][k], obs)
        length = int(infos["final_info"]["length"][k])
        if length != info["length"]:
            self._tell(k, env, action, "episode length", length, info["length"])
        self.certificate.episodes += 1
        self.certificate.terminated += bool(flags[0])
        self.certificate.fills += env.portfolio.n_fills

    def _gross(self, k: int, env: StatefulTradingEnv) -> float:
        """Return the money that differences are relative to.

        That is what the step was made from, cash and positions before and after it without signs; and of an account
        that has lost nearly all, a thousandth of its initial cash: it still carries the rounding of its better days.
        """
        cash, holdings = (array[k] for array in self.before)
        before = abs(cash) + np.abs(holdings) @ self.marks[env.bar - 1]
        now = abs(env.cash) + np.abs(env.holdings) @ self.marks[env.bar]
        return float(max(before + now, 1e-3 * env.values.initial_cash[0]))

    def _drifts(self, env: StatefulTradingEnv) -> bool:
        """Whether shares can leave whole lots: splits and reinvested dividends do that."""
        return env.market.splits is not None or env.market.dividends is not None

    def observation(
        self, k: int, env: StatefulTradingEnv, action: Any, batch: npt.NDArray[Any], exact: npt.NDArray[Any]
    ) -> None:
        """Compare the numbers of an observation."""
        allowed = OBSERVATION_TOLERANCE * np.maximum(1.0, np.minimum(np.abs(batch), np.abs(exact)))
        # Fractions of an equity that is itself nothing but rounding are no numbers to compare.
        parts, gross = env.task.layout.parts, self._gross(k, env)
        for name in ("weights", "cash"):
            allowed[parts[name]] += TOLERANCE * gross / max(abs(env.equity), RESIDUE * gross)
        apart = ~(np.abs(batch - exact) <= allowed)  # NaN is no agreement
        if apart.any():
            at = int(np.flatnonzero(apart)[0])
            name = env.task.layout.names[at]
            self._tell(k, env, action, f"observation {name}", float(batch[at]), float(exact[at]))

    def _tell(self, k: int, env: StatefulTradingEnv, action: Any, what: str, batch: Any, exact: Any) -> None:
        bar, marks = env.bar, env.market.mark
        asked = None if action is None else np.asarray(action).tolist()
        lines = [
            f"the tiers disagree on {what}: batch {batch!r}, stateful {exact!r}",
            f"  seed {env.seed_value}, lane {k}, episode {env.episode} from bar {env.start} to {env.end}, "
            f"now at bar {bar} ({env.market.timestamps[bar]}); action {asked}",
            "  symbol        before        batch     stateful  mark before         mark",
        ]
        for s, symbol in enumerate(env.market.symbols):
            row = (
                self.before[1][k, s],
                self.after[1][k, s],
                env.holdings[s],
                marks[max(bar - 1, 0), s],
                marks[bar, s],
            )
            lines.append(f"  {symbol:<6}" + "".join(f"{value:>13.6g}" for value in row))
        cash = (self.before[0][k], self.after[0][k], env.cash)
        lines.append("  cash  " + "".join(f"{value:>13.6g}" for value in cash))
        lines.append(f"  equity{'':>13}{self.after[2][k]:>13.6g}{env.equity:>13.6g}")
        raise VerificationError("\n".join(lines))
