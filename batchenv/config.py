"""Configurations: frozen pydantic models read from JSON. Unknown keys are errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from batchenv.errors import ConfigError, did_you_mean, shown
from batchenv.registry import arrive, carried

Fill = Literal["next_open", "next_close", "close"]
ActionMode = Literal["trade", "weights", "shares", "discrete"]
Algorithm = Literal["ppo", "a2c", "sac", "td3", "dqn"]


MAX_BARS = 2**31 - 1
"""Most bars of a market and of an episode. A bar times a 32-bit random number then fits into 64 bits."""
MAX_THREADS = 1024
LARGEST = 1e100
"""Money, shares and weights stay below this, so that their products are finite."""


class ConfigModel(BaseModel):
    """Base of all configurations: frozen, strict types, unknown keys refused, errors as `ConfigError`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def model_validate(cls, obj: Any, **kwargs: Any) -> Self:
        """Build a configuration from a mapping.

        Raises:
            ConfigError: A key is missing or unknown, or a value is wrong; the message names key, value and
                expectation.
        """
        try:
            return super().model_validate(obj, **kwargs)
        except ValidationError as error:
            raise ConfigError(_explain(cls, error)) from None

    @classmethod
    def from_json(cls, path: str | Path) -> Self:
        """Read a configuration from a JSON file.

        Raises:
            ConfigError: The file cannot be read, is not JSON, repeats a key, or fails validation.
        """
        content = read_json(path)
        try:
            return cls.model_validate(content)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None

    def updated(self, **changes: Any) -> Self:
        """Return a validated copy with some fields replaced; what was left to its default stays so."""
        return type(self).model_validate({**self.model_dump(exclude_unset=True), **changes})


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        ConfigError: The file cannot be read, is not valid JSON, or gives a key twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in pairs:
            if key in seen:
                raise ConfigError(f"{path}: key {key!r} is given twice in one object")
            seen[key] = value
        return seen

    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the file: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text file in UTF-8, expected JSON") from None
    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, or thousands of brackets
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def _explain(model: type[BaseModel], error: ValidationError) -> str:
    """Turn pydantic's findings into one line each: key, value, expectation."""
    lines = [_explain_one(model, detail) for detail in error.errors(include_url=False) if not _other_branch(detail)]
    return lines[0] if len(lines) == 1 else "".join(f"\n  {line}" for line in lines)


def _other_branch(detail: ErrorDetails) -> bool:
    """Tell whether a finding is about the branch of a number-or-mapping that the value was not meant for."""
    branches = [str(part) for part in detail["loc"] if _is_branch(part)]
    meant_for_mapping = isinstance(detail["input"], dict)
    if not branches:
        return False
    return detail["type"] == "dict_type" or (
        meant_for_mapping and "float" in branches[-1] and "dict" not in branches[-1]
    )


def _is_branch(part: int | str) -> bool:
    return str(part) in ("float", "constrained-float") or str(part).startswith(("dict[", "function-"))


def _explain_one(model: type[BaseModel], detail: ErrorDetails) -> str:
    path = [str(part) for part in detail["loc"] if not _is_branch(part)]
    key = ".".join(path) or model.__name__
    if detail["type"] == "extra_forbidden":
        known = _fields_at(model, path[:-1])
        return f"{key}: unknown key{did_you_mean(path[-1], known)}; expected one of: {', '.join(sorted(known))}"
    if detail["type"] == "missing":
        return f"{key}: this key is missing"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    bound = next((value for kind, value in detail.get("ctx", {}).items() if kind in ("gt", "ge", "lt", "le")), None)
    if bound is not None:  # pydantic writes a large one with all of its digits
        message = f"{message.rpartition(' ')[0]} {bound:.12g}"
    return f"{key}: {message}" + ("" if detail["type"] == "value_error" else f", got {shown(detail['input'])}")


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    current: Any = model
    for part in path:
        annotation = current.model_fields[part].annotation
        candidates = (annotation, *getattr(annotation, "__args__", ()))
        current = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(current.model_fields)


def _date(value: str) -> str:
    try:
        datetime.fromisoformat(value)
    except ValueError:
        raise ValueError(f"should be an ISO date such as '2010-01-01', got {value!r}") from None
    return value


IsoDate = Annotated[str, AfterValidator(_date)]
Names = Annotated[tuple[str, ...], Field(strict=False)]


class PortfolioConfig(ConfigModel):
    """The account.

    Attributes:
        initial_cash: Money at the start of an episode.
        trade_limit_percent: Largest order of `trade` and `discrete` mode, as a fraction of equity (0.1 is 10%).
        maintain_history: Whether the evaluation tier records every step.
        bankruptcy_fraction: The episode terminates at this fraction of ``initial_cash``.
    """

    initial_cash: float = Field(100_000.0, gt=0, lt=LARGEST)
    trade_limit_percent: float = Field(0.1, gt=0, le=1)
    maintain_history: bool = False
    bankruptcy_fraction: float = Field(0.0, ge=0, lt=1)


Fraction = Annotated[float, Field(ge=0, lt=1)]
Amount = Annotated[float, Field(ge=0, lt=LARGEST)]
PerSymbolFraction = Fraction | dict[str, Fraction]
"""One number for all symbols, or one for each by name, with ``"*"`` for those not named."""
PerSymbolAmount = Amount | dict[str, Amount]


def _lot(value: float) -> float:
    if 0 < value < 1 / LARGEST:
        raise ValueError(f"should be 0, for fractions of shares, or at least {1 / LARGEST:g}, got {value:g}")
    return value


Lot = Annotated[Amount, AfterValidator(_lot)]
PerSymbolLot = Lot | dict[str, Lot]
Rate = Annotated[float, Field(gt=-LARGEST, lt=LARGEST)]
PerSymbolRate = Rate | dict[str, Rate]


class CostConfig(ConfigModel):
    """What trading costs (rule 3.3). All but the impact can differ by symbol.

    Attributes:
        fee_rate: Fee as a fraction of an order's notional.
        fee_fixed: Fee for each order, in money.
        fee_per_share: Fee for each share, in money.
        fee_minimum: Least fee of an order, in money.
        slippage_rate: How much worse than the fill price an order executes, as a fraction.
        impact_coefficient: Further slippage of this times the square root of the order's part of the bar's volume.
    """

    fee_rate: PerSymbolFraction = 0.001
    fee_fixed: PerSymbolAmount = 0.0
    fee_per_share: PerSymbolAmount = 0.0
    fee_minimum: PerSymbolAmount = 0.0
    slippage_rate: PerSymbolFraction = 0.0005
    impact_coefficient: float = Field(0.0, ge=0, lt=LARGEST)


class ExecutionConfig(ConfigModel):
    """How orders become fills (rules 3.1, 3.5, 3.6, 4.4 and 5).

    Attributes:
        lot_size: Orders are whole multiples of this many shares; 0 allows fractions. Can differ by symbol.
        min_notional: Smaller orders are dropped, in money.
        participation_limit: Largest part of the bar's volume that an order may take; null for no limit.
        stop_loss: A position is closed when it loses this fraction of its average entry price; null for never.
        take_profit: A position is closed when it gains this fraction; null for never.
        delisting_haircut: What a position loses when its symbol is delisted, as a fraction.
    """

    lot_size: PerSymbolLot = 0.0
    min_notional: float = Field(0.0, ge=0, lt=LARGEST)
    participation_limit: float | None = Field(None, gt=0, le=1)
    stop_loss: float | None = Field(None, gt=0, lt=1)
    take_profit: float | None = Field(None, gt=0, lt=LARGEST)
    delisting_haircut: float = Field(0.0, ge=0, le=1)


class MarginConfig(ConfigModel):
    """Borrowing money and shares (rules 3.4 and 6.3).

    Attributes:
        allow_short: Whether positions may be negative.
        leverage: Largest gross exposure that orders may bring about, as a multiple of equity. The initial margin is
            its inverse.
        net_limit: Largest net exposure, long or short, that orders may bring about, as a multiple of equity.
        maintenance_margin: Below this fraction of gross exposure, equity brings a margin call.
    """

    allow_short: bool = False
    leverage: float = Field(1.0, ge=1, lt=1000)
    net_limit: float | None = Field(None, gt=0, lt=LARGEST)
    maintenance_margin: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _maintenance_below_initial(self) -> Self:
        if self.maintenance_margin * self.leverage > 1:
            raise ValueError(
                f"maintenance_margin {self.maintenance_margin:g} should be at most the initial margin, which is "
                f"1 / leverage = {1 / self.leverage:g}"
            )
        return self

    @property
    def cash_account(self) -> bool:
        """Whether nothing can be borrowed."""
        return self.leverage == 1.0 and not self.allow_short

    def check_leverage(self, highest: float) -> None:
        """Check the highest leverage that a lane has of its own, given or drawn.

        Raises:
            ValueError: A cash account, or an initial margin below the maintenance margin.
        """
        if highest > 1 and self.cash_account:
            raise ValueError(
                "above 1 in a cash account; expected margin_config.leverage above 1 or margin_config.allow_short, "
                "which make it a margin account"
            )
        if self.maintenance_margin * highest > 1:
            raise ValueError(
                f"up to {highest:g}, so an initial margin of {1 / highest:g}, is below "
                f"margin_config.maintenance_margin {self.maintenance_margin:g}"
            )


class CarryConfig(ConfigModel):
    """What holding costs and earns overnight (rule 4). Rates are yearly fractions.

    Attributes:
        cash_rate: Interest on cash.
        margin_rate: Interest on borrowed cash.
        borrow_rate: Cost of borrowing shares, on the value of short positions. Can differ by symbol.
        funding_rate: Paid by long positions of perpetual swaps to short ones. Can differ by symbol.
        funding_column: Column of the market with a funding rate for each bar, as a fraction of the position.
        dividends: `cash` pays dividends out, `reinvest` buys shares of the same symbol at the last close.
    """

    cash_rate: float = Field(0.0, gt=-1, lt=10)
    margin_rate: float = Field(0.0, ge=0, lt=10)
    borrow_rate: PerSymbolAmount = 0.0
    funding_rate: PerSymbolRate = 0.0
    funding_column: str | None = None
    dividends: Literal["cash", "reinvest"] = "cash"


Range = Annotated[tuple[float, float], Field(strict=False)]


class RandomizationConfig(ConfigModel):
    """Ranges [low, high] to draw a lane's parameters from at each episode (rule 8.2); null does not draw."""

    fee_rate: Range | None = None
    slippage_rate: Range | None = None
    borrow_rate: Range | None = None
    leverage: Range | None = None
    initial_cash: Range | None = None
    episode_length: Range | None = None
    fee_fixed: Range | None = None
    fee_per_share: Range | None = None
    fee_minimum: Range | None = None
    tradable: Range | None = None

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        for name, low, high in self.drawn():
            least, below = PARAMETER_BOUNDS[name]
            if not (low <= high and least <= low and high < below):
                raise ValueError(f"{name} should be [low, high] with {least:g} <= low <= high < {below:.12g}")
            if name == "initial_cash" and low <= 0:
                raise ValueError("initial_cash should be above 0")
            if name in WHOLE_PARAMETERS and (low != int(low) or high != int(high)):
                raise ValueError(f"{name} should be whole numbers of {WHOLE_PARAMETERS[name]}, got [{low:g}, {high:g}]")
        return self

    def drawn(self) -> list[tuple[str, float, float]]:
        """Return name, low and high of every parameter that is drawn."""
        ranges = {name: getattr(self, name) for name in PARAMETER_BOUNDS}
        return [(name, *given) for name, given in ranges.items() if given is not None]


PARAMETER_BOUNDS: dict[str, tuple[float, float]] = {
    "fee_rate": (0.0, 1.0),
    "slippage_rate": (0.0, 1.0),
    "borrow_rate": (0.0, LARGEST),
    "leverage": (1.0, 1000.0),
    "initial_cash": (0.0, LARGEST),
    "episode_length": (1.0, MAX_BARS + 1.0),
    "fee_fixed": (0.0, LARGEST),
    "fee_per_share": (0.0, LARGEST),
    "fee_minimum": (0.0, LARGEST),
    "tradable": (1.0, MAX_BARS + 1.0),
}
"""Least value, and the value to stay below, of each parameter that lanes may have of their own; in the order of 8.2."""
WHOLE_PARAMETERS = {"episode_length": "bars", "tradable": "symbols"}
"""Those that are drawn as whole numbers, and of what."""


class ActionConfig(ConfigModel):
    """How an action becomes orders (rule 2.2).

    Attributes:
        mode: `trade`, `weights`, `shares` or `discrete`.
        max_shares: Largest order of `shares` mode, in shares.
        max_weight: The weight that an action of 1 asks for in `weights` mode.
        joint: `discrete` only: one number for all symbols (a `Discrete` space, as DQN needs) in place of one each.
    """

    mode: ActionMode = "trade"
    max_shares: float = Field(100.0, gt=0, lt=LARGEST)
    max_weight: float = Field(1.0, gt=0, lt=LARGEST)
    joint: bool = False

    @model_validator(mode="after")
    def _joint_is_discrete(self) -> Self:
        if self.joint and self.mode != "discrete":
            raise ValueError(f"joint applies to mode 'discrete' only, not {self.mode!r}")
        return self


class RewardConfig(ConfigModel):
    """The reward: its type, its factor and its own settings (rule 7.6).

    Attributes:
        type: A built-in or registered reward.
        reward_scaling: Factor on the finished reward.
        kwargs: Settings of the type; `turnover_penalty` and `drawdown_penalty` work with every training type.
    """

    type: str = "fast_profit_reward"
    reward_scaling: float = Field(1.0, gt=0, lt=LARGEST)
    kwargs: dict[str, Any] = Field(default_factory=dict)


class EpisodeConfig(ConfigModel):
    """Episodes (rules 7.3 and 7.4).

    Attributes:
        length: Steps per episode; null runs to the end of the data.
        random_start: Draw the start bar of each episode from (seed, lane, episode).
        desynchronize: Cut the first episode of each lane to a drawn length, so that lanes of a batch do not all end in
            the same step; only where there is a length and starts are drawn.
    """

    length: int | None = Field(None, ge=1, le=MAX_BARS)
    random_start: bool = False
    desynchronize: bool = False


class ObservationConfig(ConfigModel):
    """Form and optional parts of an observation (rule 6.4).

    Attributes:
        mode: ``flat`` for one vector; ``indexed`` for the bar's index in place of its features, which are the same for
            every lane (`batchenv.extractors` looks them up).
        unrealized_pnl: Whether the unrealised profit of each symbol is observed.
        time_left: Whether the rest of the episode is observed.
    """

    mode: Literal["flat", "indexed"] = "flat"
    unrealized_pnl: bool = False
    time_left: bool = False


class EnvConfig(ConfigModel):
    """One trading environment, for either tier."""

    features: Names = ()
    feature_scaling: Literal["standard", "none"] = "standard"
    portfolio_config: PortfolioConfig = PortfolioConfig()
    cost_config: CostConfig = CostConfig()
    execution_config: ExecutionConfig = ExecutionConfig()
    margin_config: MarginConfig = MarginConfig()
    carry_config: CarryConfig = CarryConfig()
    randomization: RandomizationConfig = RandomizationConfig()
    action_config: ActionConfig = ActionConfig()
    reward_config: RewardConfig = RewardConfig()
    episode_config: EpisodeConfig = EpisodeConfig()
    observation_config: ObservationConfig = ObservationConfig()
    fill: Fill = "next_open"

    def __getstate__(self) -> dict[Any, Any]:
        """Pickle what the user has registered too: another process may not know the features and rewards named here."""
        functions = carried()
        return super().__getstate__() if functions is None else {**super().__getstate__(), "functions": functions}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Register what came along."""
        arrive(state.get("functions"))
        super().__setstate__({key: value for key, value in state.items() if key != "functions"})

    @model_validator(mode="after")
    def _rules_fit_together(self) -> Self:
        carry = self.carry_config
        if self.margin_config.cash_account and (carry.funding_rate or carry.funding_column):
            raise ValueError(
                "carry_config: funding needs a margin account, since it can take cash below zero; expected "
                "margin_config.allow_short or a margin_config.leverage above 1"
            )
        if self.randomization.leverage is not None:
            try:
                self.margin_config.check_leverage(self.randomization.leverage[1])
            except ValueError as error:
                raise ValueError(f"randomization.leverage: {error}") from None
        return self


def _as_tuple(value: Any) -> Any:
    """Return a list as a tuple; before pydantic 2.11 a union does not let one of its members be lax."""
    return tuple(value) if isinstance(value, list) else value


class DataOptions(ConfigModel):
    """How bars are read. The data themselves decide what is null; what they decide is in ``MarketData.notes``.

    Attributes:
        adjusted: What the prices are: true for adjusted for splits and dividends, which are then left out; false for as
            traded, with splits and dividends beside them. Null adjusts by ``adj_close`` where the data have it, and
            leaves out splits and dividends where prices have them in already. Adjusted prices know later splits and
            dividends by their level; lots and fees per share are in today's shares then.
        calendar: "daily" dates each bar by the clock of its exchange, "intraday" by its instant in UTC.
        zone: Time zone of the exchange, such as "America/New_York", one for all symbols or one by symbol. Times without
            a zone are then that clock's; times with one are shown by it.
        dates: How dates are written: a format such as "%d/%m/%Y", or "s", "ms", "us" or "ns" since 1970.
        sort: Whether rows may stand in any order; null takes rows that are oldest first or newest first throughout.
        drop_empty: Whether rows and symbols without any price are left out (true) or refused (false). Null leaves out
            rows of several price fields that have none of them, and refuses the rest.
        shape: "long" for a row by date and symbol, "wide" for a column of closes by symbol.
        field_level: Which of two levels of columns has the names of fields, 0 or 1; the other has the symbols.
        columns: New names for some columns, or names for all in order, as a file without a header needs.
        header: Rows of the header of a CSV file; 0 for none.
        separator: What parts the values of a line of a CSV file.
        decimal: The decimal mark of numbers that are text, "." or ",".
        thousands: The mark between thousands of numbers that are text.
        missing: Further texts that say that there is no value.
        encoding: Encoding of a CSV file.
    """

    adjusted: bool | None = None
    calendar: Literal["daily", "intraday"] | None = None
    zone: str | dict[str, str] | None = None
    dates: str | None = Field(None, min_length=1)
    sort: bool | None = None
    drop_empty: bool | None = None
    shape: Literal["long", "wide"] | None = None
    field_level: Literal[0, 1] | None = None
    columns: Annotated[dict[str, str] | tuple[str, ...] | None, BeforeValidator(_as_tuple)] = None
    header: int | None = Field(None, ge=0, le=5)
    separator: str | None = Field(None, min_length=1, max_length=1)
    decimal: Literal[".", ","] | None = None
    thousands: str | None = Field(None, min_length=1, max_length=1)
    missing: Names | None = None
    encoding: str | None = None

    @model_validator(mode="after")
    def _one_mark_each(self) -> Self:
        if self.thousands is not None and self.thousands == self.decimal:
            raise ValueError(f"thousands: should differ from the decimal mark, got {self.thousands!r} for both")
        return self


class DataConfig(DataOptions):
    """Where prices come from, how they are read and how they are divided.

    Attributes:
        source: "bundled", or the path of a CSV, Parquet or Arrow file.
        train_end: First date of the held-out part.
        validation_fraction: Last part of the bars before ``train_end``, kept from training to choose the best model.
        embargo: Bars left out just before ``train_end``, neither trained on nor tested on; null for none, and for 1%
            of all bars in a walk-forward.
        symbols: Symbols to use; null for all.
        start: First date to use; null for the first of the data.
        end: First date not to use; null to use the data to their end.
        delisted: Symbols that are delisted after their last bar, an empty list for none; null finds them by rule 4.4.
        periods_per_year: Bars in a year, for annualisation; null reads them off the dates of the bars.
    """

    source: str = "bundled"
    train_end: IsoDate
    validation_fraction: float = Field(0.2, ge=0, le=0.5)
    embargo: int | None = Field(None, ge=0)
    symbols: Names | None = None
    start: IsoDate | None = None
    end: IsoDate | None = None
    delisted: Names | None = None
    periods_per_year: float | None = Field(None, gt=0)

    @property
    def options(self) -> dict[str, Any]:
        """What is said about reading the source, as keyword arguments of `MarketData.load`."""
        stated = {*DataOptions.model_fields, "delisted", "periods_per_year"}
        return {name: value for name, value in self if name in stated and value is not None}


class AgentConfig(ConfigModel):
    """The learning algorithm.

    Attributes:
        algorithm: The stable-baselines3 algorithm.
        policy: Its policy class.
        n_envs: Lanes trained at once.
        total_timesteps: Lane-steps to train for.
        hyperparameters: Passed to the algorithm as they are.
        normalize_reward: Divide rewards by their running scale (stable-baselines3 `VecNormalize`) while training.
        evaluations: How often the agent is judged on the validation part during training.
        checkpoints: How many intermediate models are kept.
        record_megabytes: Actions are recorded up to this size, so that episodes can be replayed; 0 records none.
        n_threads: Threads of torch and of the environment.
        device: The torch device.
    """

    algorithm: Algorithm = "ppo"
    policy: str = "MlpPolicy"
    n_envs: int = Field(256, ge=1)
    total_timesteps: int = Field(1_000_000, ge=1)
    hyperparameters: dict[str, Any] = Field(default_factory=dict)
    normalize_reward: bool = True
    evaluations: int = Field(10, ge=0)
    checkpoints: int = Field(4, ge=0)
    record_megabytes: float = Field(64.0, ge=0)
    n_threads: int = Field(1, ge=1, le=MAX_THREADS)
    device: str = "cpu"


BASELINES = (
    "buy_and_hold",
    "equal_weight",
    "minimum_variance",
    "inverse_volatility",
    "momentum",
    "olmar",
    "random",
    "cash",
)
"""What an agent can be compared with, by name (`stateful.baselines`)."""


def _baselines(names: tuple[str, ...]) -> tuple[str, ...]:
    for i, name in enumerate(names):
        if name not in BASELINES:
            raise ValueError(
                f"unknown baseline {name!r}{did_you_mean(name, BASELINES)}; expected some of: {', '.join(BASELINES)}"
            )
        if name in names[:i]:
            raise ValueError(f"{name!r} is named twice")
    return names


class UncertaintyConfig(ConfigModel):
    """How far luck could have moved the figures of a backtest (`stateful.evaluation.uncertainty`).

    Attributes:
        resamples: Resampled histories that the intervals are taken from; 0 for no intervals, else at least 200.
        level: Confidence of the intervals.
        seed: Seed of the resampling.
    """

    resamples: int = Field(2000, ge=0)
    level: float = Field(0.95, ge=0.5, lt=1)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _enough_resamples(self) -> Self:
        if 0 < self.resamples < 200:
            raise ValueError(f"resamples should be 0 (no intervals) or at least 200, got {self.resamples}")
        return self


class BacktestConfig(ConfigModel):
    """A backtest in the evaluation tier. Sections given here replace those keys of the environment's own.

    Attributes:
        reward_config: Reward to report; null keeps the environment's.
        portfolio_config: Account settings to change.
        cost_config: Cost settings to change.
        risk_free_rate: Yearly rate in the Sharpe and Sortino ratios.
        model: Model to test when a configuration is given in place of a run folder: a zip file of
            stable-baselines3.
        vec_normalize: The file with the statistics of that model's `VecNormalize`, where it was trained under one that
            normalises observations.
        frame_stack: ``n_stack`` of that model's `VecFrameStack`, where it was trained under one.
        baselines: What the agent is compared with, in this order.
        rebalance_bars: Bars between rebalances of the baselines that have a schedule: equal weight, minimum variance,
            inverse volatility and momentum. null rebalances once a month, whatever the bars are.
        uncertainty: How the intervals are computed that say how far luck could have moved the figures.
        deterministic: Whether the agent acts without exploration.
        vectorbt: Whether VectorBT's statistics are computed too.
    """

    reward_config: RewardConfig | None = None
    portfolio_config: PortfolioConfig = PortfolioConfig()
    cost_config: CostConfig = CostConfig()
    risk_free_rate: float = Field(0.0, gt=-1)
    model: str | None = None
    vec_normalize: str | None = None
    frame_stack: int | None = Field(None, ge=1)
    baselines: Annotated[Names, AfterValidator(_baselines)] = BASELINES
    rebalance_bars: int | None = Field(None, ge=1)
    uncertainty: UncertaintyConfig = UncertaintyConfig()
    deterministic: bool = True
    vectorbt: bool = True

    def resolved(self, env: EnvConfig) -> Self:
        """Return this section with every key it leaves open taken from ``env``, so that it stands alone."""
        return self.updated(
            reward_config=(self.reward_config or env.reward_config).model_dump(),
            portfolio_config=env.portfolio_config.updated(
                **{**self.portfolio_config.model_dump(exclude_unset=True), "maintain_history": True}
            ).model_dump(),
            cost_config=env.cost_config.updated(**self.cost_config.model_dump(exclude_unset=True)).model_dump(),
        )

    def applied_to(self, env: EnvConfig) -> EnvConfig:
        """Return ``env`` as a backtest runs it: this section's changes, all bars once, full history, nothing drawn."""
        own = self.resolved(env)
        return env.updated(
            reward_config=(self.reward_config or env.reward_config).model_dump(),
            portfolio_config=own.portfolio_config.model_dump(),
            cost_config=own.cost_config.model_dump(),
            episode_config={"length": None, "random_start": False},
            randomization={},
        )


class RunConfig(ConfigModel):
    """A complete run: data, environment, agent and backtest.

    Attributes:
        imports: Modules or Python files imported first, so that they can register features and rewards.
        seed: Seed of everything random.
    """

    data: DataConfig
    env: EnvConfig = EnvConfig()
    agent: AgentConfig = AgentConfig()
    backtest: BacktestConfig = BacktestConfig()
    seed: int = Field(0, ge=0, lt=2**32)
    imports: Names = ()

    def resolved(self) -> Self:
        """Return the configuration with the backtest's open keys filled from the environment's."""
        return self.updated(backtest=self.backtest.resolved(self.env).model_dump())


def as_env_config(config: EnvConfig | Mapping[str, Any] | str | Path) -> EnvConfig:
    """Return an `EnvConfig` from one, from a mapping, or from the path of a JSON file.

    Raises:
        ConfigError: The configuration is not valid.
    """
    if isinstance(config, EnvConfig):
        return config
    if isinstance(config, Mapping):
        return EnvConfig.model_validate(dict(config))
    if isinstance(config, (str, Path)):
        return EnvConfig.from_json(config)
    raise ConfigError(f"config: got {type(config).__name__}, expected EnvConfig, a mapping, or the path of a JSON file")
