"""What a backtest comes to, in plain words.

No euphemism: an agent that lost is said to have lost, and a difference that luck explains is said to be no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from batchenv.config import EnvConfig
from batchenv.market import MarketData
from stateful.evaluation.uncertainty import MINIMUM_BARS

LEVEL = 5e-5
"""Returns closer than this (0.005 points) read the same when printed and are called level."""

Outcome = Literal["beat", "lost", "level", "not_compared"]

_LEFT_OUT = {
    "never_traded": "never traded",
    "could_not_buy": "could not buy all of its symbols",
    "started_later": "started later",
    "lost_to_costs": "lost its money to costs",
}
"""What is said of a baseline that is left out, by the kinds of `stateful.evaluation.comparable`."""


@dataclass(frozen=True)
class Verdict:
    """The agent against one baseline, after costs, or against all of them.

    Attributes:
        baseline: Name of the baseline; ``all`` for all of them that can be compared.
        outcome: ``beat``, ``lost`` or ``level``, by total return; ``level`` too where it beat some baselines only.
            ``not_compared`` where the baseline is no measure (`stateful.evaluation.comparable`).
        headline: Who won, and by how much.
        detail: Whether luck explains the difference; Sharpe ratio and largest drawdown of both.
        distinguishable: Whether the difference is more than luck explains; None where that is not known.
    """

    baseline: str
    outcome: Outcome
    headline: str
    detail: str
    distinguishable: bool | None = None

    def __str__(self) -> str:
        """Return both sentences."""
        return f"{self.headline} {self.detail}"


def verdicts(metrics: Mapping[str, Any], labels: Mapping[str, str]) -> tuple[Verdict, ...]:
    """Compare the agent with each of its baselines.

    Args:
        metrics: `BacktestResults.metrics`.
        labels: Name of each baseline in words.
    """
    return tuple(_compare(metrics, found, name, labels[name]) for name, found in metrics["baselines"].items())


def no_measure(metrics: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the baselines that the agent cannot be compared with, each with the kind and the reason, by name.

    Args:
        metrics: `BacktestResults.metrics`.
    """
    found = {name: figures.get("not_comparable") for name, figures in metrics["baselines"].items()}
    return {name: why for name, why in found.items() if why is not None}


def headlines(metrics: Mapping[str, Any], labels: Mapping[str, str]) -> tuple[Verdict, ...]:
    """Return what to say first: how the agent did against all baselines that are a measure, then against buy and hold.

    Without buy and hold the first of these takes its place; with a single baseline that comparison says it all.

    Args:
        metrics: `BacktestResults.metrics`.
        labels: Name of each baseline in words.
    """
    found = verdicts(metrics, labels)
    if len(found) < 2 or metrics["total_return"] is None:
        return found[:1]
    compared = [verdict for verdict in found if verdict.outcome != "not_compared"]
    plain = next((verdict for verdict in found if verdict.baseline == "buy_and_hold"), (compared or found)[0])
    return _against_all(metrics, labels, compared), plain


def _against_all(metrics: Mapping[str, Any], labels: Mapping[str, str], found: Sequence[Verdict]) -> Verdict:
    """Sum up the comparisons with the baselines that are a measure."""
    figures, left_out = metrics["baselines"], _left_out(metrics, labels)
    n, every = len(found), f"all {len(found)} baselines"
    those, some = f"the {n} baselines", f"{n} baselines"
    if left_out:
        which = "that could be compared"
        those = f"the {n} baselines {which}" if n > 1 else f"the one baseline {which}"
        every, some = f"all {n} baselines {which}" if n > 1 else those, those
    if not found:
        headline = f"None of the {len(figures)} baselines is a measure of the agent."
        return Verdict("all", "not_compared", headline, left_out)
    best = max(found, key=lambda verdict: figures[verdict.baseline]["total_return"]).baseline
    beaten = sum(verdict.outcome == "beat" for verdict in found)
    digits = 1 if abs(metrics["total_return"] - figures[best]["total_return"]) >= 0.001 else 2
    mine, theirs = (
        percent(value, sign=True, digits=digits) for value in (metrics["total_return"], figures[best]["total_return"])
    )
    against = f"{labels[best]} ({theirs} against its {mine})"
    the_best = f"; the best of them was {against}" if n > 1 else f", {against}"
    if beaten == n:
        outcome: Outcome = "beat"
        headline = f"After costs the agent beat {every}{the_best}."
    elif beaten:
        outcome = "level"
        headline = f"After costs the agent beat {beaten} of {some}, but not the best of them, {against}."
    else:
        outcome = "lost"
        none = "none of " if n > 1 else "did not beat "
        verb = f"beat {none}{those}" if n > 1 else f"{none}{those}"
        headline = f"After costs the agent {verb}{the_best}."
    return Verdict("all", outcome, headline, f"{_luck_of_all(metrics, labels, found)} {left_out}".strip())


def _left_out(metrics: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """Say which baselines are left out, and why; empty where none is."""
    found = no_measure(metrics)
    if not found:
        return ""
    named = _listed([f"{labels[name]} ({_LEFT_OUT[why['kind']]})" for name, why in found.items()])
    ahead = [
        labels[name] for name, why in found.items() if why["kind"] == "lost_to_costs" and _gap(metrics, name) < -LEVEL
    ]
    even = f" The agent ended with less than {_listed(ahead)} all the same." if ahead else ""
    return f"Not counted: {named}.{even}"


def _luck_of_all(metrics: Mapping[str, Any], labels: Mapping[str, str], found: Sequence[Verdict]) -> str:
    """Say how many of the differences are more than luck explains, and which."""
    known = [verdict for verdict in found if verdict.distinguishable is not None]
    if not known:
        return _no_intervals(metrics)
    differences = metrics["uncertainty"]["differences"]
    clear = [verdict for verdict in known if differences[verdict.baseline]["distinguishable_together"]]
    n = f"the {len(known)} differences" + (" that have an interval" if len(known) < len(found) else "")
    confidence = f"{_confidence(metrics['uncertainty'])} in all of them together"
    if not clear:
        return f"{confidence} none of {n} is distinguishable from luck."
    named = (
        ("better than", [v for v in clear if _gap(metrics, v.baseline) > 0]),
        ("worse than", [v for v in clear if _gap(metrics, v.baseline) <= 0]),
    )
    words = " and ".join(f"{word} {_listed([labels[v.baseline] for v in some])}" for word, some in named if some)
    many = "all" if len(clear) == len(known) else str(len(clear))
    return f"{confidence} {many} of {n} {'is' if len(clear) == 1 else 'are'} distinguishable from luck: {words}."


def _luck(metrics: Mapping[str, Any], baseline: str) -> tuple[str, bool | None]:
    """Say whether luck explains the difference to a baseline, and return whether it does not."""
    uncertainty = metrics.get("uncertainty")
    if uncertainty is None:
        return "", None
    difference = uncertainty["differences"][baseline]
    yearly, clear = difference["cagr"], difference["distinguishable"]
    if clear is None:
        return f"Whether luck explains the difference cannot be said: {yearly['reason']}.", None
    low, high = (f"{_no_negative_zero(100 * yearly[end], 1):+,.1f}" for end in ("low", "high"))
    verdict = "distinguishable from luck" if clear else "not distinguishable from luck"
    if clear and not difference["distinguishable_together"]:
        verdict += ", taken by itself, and not among all baselines"
    return f"{_confidence(uncertainty)} the yearly difference lies between {low} and {high} points: {verdict}.", clear


def _no_intervals(metrics: Mapping[str, Any]) -> str:
    uncertainty = metrics.get("uncertainty")
    if uncertainty is None:
        return ""
    reasons = {difference["cagr"]["reason"] for difference in uncertainty["differences"].values()}
    return f"Whether luck explains the differences cannot be said: {'; '.join(sorted(reasons))}."


def _confidence(uncertainty: Mapping[str, Any]) -> str:
    return f"With {100 * uncertainty['level']:g}% confidence"


def _gap(metrics: Mapping[str, Any], baseline: str) -> float:
    return float(metrics["total_return"] - metrics["baselines"][baseline]["total_return"])


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def sharpe_sentence(metrics: Mapping[str, Any]) -> str | None:
    """Say how much the Sharpe ratio proves, or return None where no uncertainty was computed."""
    uncertainty = metrics.get("uncertainty")
    if uncertainty is None:
        return None
    plain, deflated = uncertainty["probabilistic_sharpe"], uncertainty["deflated_sharpe"]
    if plain["value"] is None:
        return f"What the Sharpe ratio proves cannot be said: {plain['reason']}."
    dependent = uncertainty.get("dependent")
    start = f"The true Sharpe ratio is above 0 with a probability of {percent(plain['value'])}"
    start += " if bars are independent of each other"
    if dependent is not None:
        start += f", and of {percent(dependent['probabilistic_sharpe']['value'])} with their dependence counted"
    if deflated["value"] is None:
        return f"{start}, taken by itself; {deflated['reason']}."
    both = percent(deflated["value"])
    if dependent is not None:
        both += f" and {percent(dependent['deflated_sharpe']['value'])}"
    return (
        f"{start}, taken by itself, and of {both} once the {uncertainty['trials']} configurations known to have been "
        "tried on these bars are counted."
    )


def account_sentence(metrics: Mapping[str, Any]) -> str:
    """Say what became of the money."""
    start, end, change = metrics["initial_equity"], metrics["final_equity"], metrics["total_return"]
    if change is None:
        return "The backtest took no step."
    word = "made" if end > start else "lost" if end < start else "neither made nor lost"
    amount = f" {money(abs(end - start))}" if end != start else " money"
    return (
        f"The agent {word}{amount}: {money(start)} became {money(end)} ({percent(change, sign=True)}) in "
        f"{metrics['bars']:,} bars, from {metrics['first_date']} to {metrics['last_date']}."
    )


def cost_sentence(metrics: Mapping[str, Any]) -> str:
    """Say how much was traded and what it cost."""
    if not metrics["fills"]:
        return "The agent never traded, so it paid nothing."
    sentence = (
        f"{metrics['fills']:,} orders were filled and {metrics['closed_trades']:,} trades closed; "
        f"{money(metrics['costs'])} went to costs "
        f"({money(metrics['fees'])} fees, {money(metrics['slippage'])} slippage)"
    )
    kept = metrics["final_equity"] - metrics["initial_equity"]
    before = kept + metrics["costs"]
    if before <= 0:
        return f"{sentence}. It lost money even before them."
    if kept <= 0:
        return f"{sentence}. They used up all of the {money(before)} that it had made before them."
    return f"{sentence}, {percent(metrics['costs'] / before)} of the {money(before)} that it made before them."


def percent(value: float, *, sign: bool = False, digits: int = 1) -> str:
    """Return a fraction as percent, such as ``+12.3%``."""
    return f"{_no_negative_zero(value * 100, digits):{'+' if sign else ''},.{digits}f}%"


def money(value: float) -> str:
    """Return an amount of money, with cents where it is small."""
    digits = 0 if abs(value) >= 1000 else 2
    return f"{_no_negative_zero(value, digits):,.{digits}f}"


def carry_sentence(metrics: Mapping[str, Any]) -> str | None:
    """Say what holding earned and cost, or return None where it did neither."""
    words = {
        "interest": "interest on cash",
        "borrow": "borrowed shares",
        "funding": "funding",
        "dividends": "dividends",
    }
    parts = [f"{money(metrics[name])} from {what}" for name, what in words.items() if metrics[name]]
    return f"Holding brought {', '.join(parts)} (below 0: paid)." if parts else None


def _range(rate: float | Mapping[str, float]) -> str:
    """Return a rate, or the least and the highest of the rates by symbol, as percent."""
    rates = list(rate.values()) if isinstance(rate, Mapping) else [rate]
    low, high = min(rates), max(rates)
    return f"{low:.3%}" if low == high else f"{low:.3%} to {high:.3%}"


def _further_costs(config: EnvConfig) -> str:
    costs = config.cost_config
    parts = [
        words
        for value, words in (
            (costs.fee_fixed, "a fixed fee"),
            (costs.fee_per_share, "a fee per share"),
            (costs.fee_minimum, "a least fee"),
        )
        if (any(value.values()) if isinstance(value, Mapping) else value)
    ]
    impact = "and impact on the price" if costs.impact_coefficient else "whatever its size"
    return f", with {' and '.join(parts)}, {impact}" if parts else f", {impact}"


def _simplifications(config: EnvConfig) -> str:
    lots, carry = config.execution_config.lot_size, config.carry_config
    whole = any(lots.values()) if isinstance(lots, Mapping) else lots
    shares = "shares are in lots" if whole else "shares are fractional"
    interest = f"cash earns {carry.cash_rate:.2%} a year" if carry.cash_rate else "cash earns no interest"
    return f"{shares}; {interest}"


def _compare(agent: Mapping[str, Any], other: Mapping[str, Any], name: str, label: str) -> Verdict:
    mine, theirs = agent["total_return"], other["total_return"]
    if mine is None or theirs is None:
        return Verdict(name, "level", f"The agent cannot be compared with {label}: no step was taken.", "")
    why = other.get("not_comparable")
    if why is not None:
        both = f"{percent(mine, sign=True)} against {percent(theirs, sign=True)}"
        detail = f"What the two made, {both}, says nothing about the agent."
        if why["kind"] == "lost_to_costs" and mine - theirs < -LEVEL:
            detail = f"Yet the agent ended with less, {both}."
        headline = f"The agent is not compared with {label}, which {why['reason']}."
        return Verdict(name, "not_compared", headline, detail)
    gap = mine - theirs
    outcome: Outcome = "level" if abs(gap) < LEVEL else "beat" if gap > 0 else "lost"
    words = {"beat": f"beat {label}", "lost": f"lost to {label}", "level": f"ended level with {label}"}[outcome]
    # Two digits where one would print the same return for both.
    digits = 1 if abs(gap) >= 0.001 or outcome == "level" else 2
    # The difference of the numbers as printed, so that a reader's subtraction agrees.
    shown = round(mine * 100, digits) - round(theirs * 100, digits)
    points = f"{_no_negative_zero(shown, digits):+,.{digits}f} points"
    headline = (
        f"The agent {words}: {percent(mine, sign=True, digits=digits)} against "
        f"{percent(theirs, sign=True, digits=digits)} ({points}) after costs."
    )
    luck, distinguishable = _luck(agent, name)
    return Verdict(name, outcome, headline, f"{luck} {_risk_sentence(agent, other)}".lstrip(), distinguishable)


def _risk_sentence(agent: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    enough = agent["bars"] >= MINIMUM_BARS
    sharpes = (agent["sharpe"], other["sharpe"]) if enough else (None, None)
    depths = (agent["max_drawdown"], other["max_drawdown"])
    sharpe, better = _pair(sharpes, "{:z.2f}".format, ("higher", "lower"))
    depth, deeper = _pair(depths, lambda value: percent(value), ("shallower", "deeper"))
    return f"Its Sharpe ratio is {better}{sharpe}; its largest drawdown is {deeper}{depth}."


def _pair(values: tuple[Any, Any], text: Any, words: tuple[str, str]) -> tuple[str, str]:
    """Return "(x against y)" and the word for x > y or x < y."""
    shown = [("n/a" if value is None else text(value)) for value in values]
    if None in values:
        return f" ({shown[0]} against {shown[1]})", "not comparable"
    word = "the same" if shown[0] == shown[1] else words[0] if values[0] > values[1] else words[1]
    return f" ({shown[0]} against {shown[1]})", word


def _no_negative_zero(value: float, digits: int) -> float:
    return round(value, digits) + 0.0


@dataclass(frozen=True)
class Note:
    """Something to know before believing a backtest.

    Attributes:
        text: One or two sentences.
        warning: Whether it makes the result look better than it is.
    """

    text: str
    warning: bool = False


def limits(metrics: Mapping[str, Any], config: EnvConfig, market: MarketData) -> tuple[Note, ...]:
    """List what a backtest does not show, the gravest first; red flags are listed by `stateful.evaluation.flags`.

    Args:
        metrics: `BacktestResults.metrics`.
        config: The rules it ran under.
        market: The bars it ran on.
    """
    costs = config.cost_config
    notes = []
    if metrics["years"] is None:
        notes.append(Note(
            f"No figure is per year: the number of bars in a year is not known ({market.year.reason}). State "
            "data.periods_per_year to have them.",
            True,
        ))  # fmt: skip
    elif metrics["years"] < 1:
        notes.append(Note(
            f"Short: {metrics['bars']:,} bars are less than a year, so every figure 'per year' is stretched from less.",
            True,
        ))  # fmt: skip
    n = len(market.symbols)
    notes += [
        Note(
            "One run over one period. The intervals say how far other bars of the same kind would have moved the "
            "figures. Not in them: another seed in training, a market unlike this period's, and the choice among "
            "configurations, of which only those tested in the same folder are known."
        ),
        Note(
            f"{'Only one symbol' if n == 1 else f'Only {n:,} symbols'}, chosen before the test. If they were chosen "
            "because they did well, the agent and the baselines all look better than they would have."
        ),
        Note(
            f"Costs are {_range(costs.fee_rate)} of each order in fees and {_range(costs.slippage_rate)} in slippage"
            f"{_further_costs(config)}; {_simplifications(config)}; taxes are not counted."
        ),
    ]
    if metrics["baselines"] and config.action_config.mode in ("trade", "discrete"):
        most = percent(config.portfolio_config.trade_limit_percent)
        notes.append(Note(
            f"The agent trades at most {most} of its equity in a symbol at a time (trade_limit_percent); the baselines "
            "take the positions of their rule at once."
        ))  # fmt: skip
    if metrics["open_trades"]:
        notes.append(Note("Positions still held at the end count at the last close, without the cost of selling them."))
    return tuple(notes)
