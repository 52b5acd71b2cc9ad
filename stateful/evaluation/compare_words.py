"""What a comparison of runs comes to, in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stateful.evaluation.compare_results import ComparedRun, Comparison, Gap, Group
from stateful.evaluation.estimates import Interval
from stateful.metrics import iso_date
from stateful.verdict import LEVEL, Note, Outcome, percent

FEW_SEEDS = 5
"""Below so many, an interval over seeds says little: the range of 4 holds the true median in 7 of 8 cases only."""


@dataclass(frozen=True)
class Words:
    """What to say first.

    Attributes:
        ahead: Which configuration is ahead, and by how much.
        ahead_luck: Whether luck explains it.
        hold: How the configurations did against buy and hold.
        hold_luck: How far luck could have moved the difference to it.
        luck: How much of it is the luck of the seed, and how much the market's.
        overfitting: What choosing the best of these runs by their past would have come to.
        outcome: ``beat`` where the one ahead is so by more than luck explains, else ``level``.
        hold_outcome: The same of the one ahead against buy and hold; ``lost`` where it is worse.
    """

    ahead: str
    ahead_luck: str
    hold: str
    hold_luck: str
    luck: str
    overfitting: str
    outcome: Outcome
    hold_outcome: Outcome


def words_of(results: Comparison) -> Words:
    """Put a comparison into words."""
    against = {gap.other: gap for gap in results.gaps if gap.one == results.groups[0].name}
    others = [against[group.name] for group in results.groups[1:]]
    clear = bool(others) and others[0].distinguishable is True
    hold, hold_luck = _hold(results)
    return Words(
        ahead=_ahead(results),
        ahead_luck=_ahead_luck(results, others),
        hold=hold,
        hold_luck=hold_luck,
        luck=_luck(results),
        overfitting=_overfitting(results),
        outcome="beat" if clear else "level",
        hold_outcome=_outcome(against.get(None)),
    )


def _outcome(gap: Gap | None) -> Outcome:
    if gap is None or not gap.distinguishable:
        return "level"
    return "beat" if (gap.cagr.estimate or 0.0) > 0 else "lost"


def period(results: Comparison) -> tuple[str, str]:
    """Return the first and the last common date."""
    return iso_date(results.equity.index[0]), iso_date(results.equity.index[-1])


def growth(group: Group) -> str:
    """Return the yearly growth of a configuration, such as ``+12.3% a year``."""
    estimate = group.figures["cagr"].estimate
    return "n/a" if estimate is None else f"{percent(estimate, sign=True)} a year"


def between(interval: Interval) -> str:
    """Return a difference's interval in points, such as ``-1.2 and +3.4 points a year``."""
    if interval.low is None or interval.high is None:
        return "n/a"
    low, high = (f"{round(100 * end, 1) + 0.0:+.1f}" for end in (interval.low, interval.high))
    return f"{low} and {high} points a year"


def listed(names: Sequence[str]) -> str:
    """Return names as a sentence has them."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _ahead(results: Comparison) -> str:
    best, *others = results.groups
    if not others:
        across, start = best.across["cagr"], f"After costs the {len(best.runs)} seeds of {best.name}"
        if across.worst is None or across.best is None:
            return f"{start} have no yearly growth to compare."
        ends = f"{percent(across.worst, sign=True)} and {percent(across.best, sign=True)} a year"
        return f"{start} made between {ends}; their median is {growth(best)}."
    second = others[0]
    how = "" if len(best.runs) == len(second.runs) == 1 else ", by the median of the seeds"
    if best.growth - second.growth < LEVEL:
        return f"After costs {best.name} and {second.name} are level: both made {growth(best)}{how}."
    theirs = growth(second).removesuffix(" a year")
    return f"After costs {best.name} is ahead of {second.name}: {growth(best)} against {theirs}{how}."


def _ahead_luck(results: Comparison, others: Sequence[Gap]) -> str:
    if not others:
        return "All runs have the same configuration, so there is no other to compare it with."
    second = others[0]
    if second.distinguishable is None:
        return f"Whether luck explains the lead cannot be said: {second.cagr.reason}."
    confidence = f"With {100 * results.uncertainty.level:g}% confidence"
    clear = [gap.other for gap in others if gap.distinguishable and gap.other]
    first = results.groups[0].first.value
    share = "" if first is None else (
        f" In {percent(first, digits=0)} of the resampled histories it comes first."
    )  # fmt: skip
    verdict = "distinguishable from luck" if second.distinguishable else "not distinguishable from luck"
    text = f"{confidence} its lead over {second.other} lies between {between(second.cagr)}: {verdict}."
    if len(others) > 1:
        if len(clear) == len(others):
            text += f" So is its lead over {'the other' if len(others) == 2 else f'all {len(others) - 1} others'}."
        elif clear and not second.distinguishable:
            text += f" Its lead over {listed(clear)} is."
        elif not clear:
            text += " Nor is its lead over any other."
        else:
            unclear = [gap.other for gap in others if not gap.distinguishable and gap.other]
            text += f" Its lead over {listed(unclear)} is not."
    return text + share


def _hold(results: Comparison) -> tuple[str, str]:
    metrics = results.hold_metrics
    if metrics is None:
        return "There is no buy and hold to compare with.", f"{results.hold_reason}."
    made = f"Buy and hold made {percent(metrics['cagr'], sign=True)} a year"
    gaps = [gap for gap in results.gaps if gap.other is None]
    known = [gap for gap in gaps if gap.distinguishable is not None]
    if not known:
        return f"{made}.", f"Whether luck explains the differences to it cannot be said: {gaps[0].cagr.reason}."
    above = [gap.one for gap in known if gap.distinguishable and (gap.cagr.estimate or 0.0) > 0]
    below = [gap.one for gap in known if gap.distinguishable and (gap.cagr.estimate or 0.0) < 0]
    rest = [gap.one for gap in known if not gap.distinguishable]
    detail = f"The difference of {known[0].one} to it lies between {between(known[0].cagr)}."
    if len(rest) == len(known):
        who = f"{rest[0]} is not" if len(rest) == 1 else f"none of the {len(rest)} configurations is"
        return f"{made}: {who} distinguishable from it.", detail
    sides = [(names, word) for names, word in ((above, "better"), (below, "worse")) if names]
    parts = [f"{listed(names)} {'is' if len(names) == 1 else 'are'} {word}" for names, word in sides]
    end = f"; {listed(rest)} {'is' if len(rest) == 1 else 'are'} not distinguishable from it" if rest else ""
    return f"{made}: {' and '.join(parts)} than that by more than luck explains{end}.", detail


def _luck(results: Comparison) -> str:
    seeds, market = results.seed_spread, results.market_spread
    if seeds.value is None:
        return "Every configuration has one seed only: how far another seed would move these figures is not known."
    between_seeds = (
        "The luck of the seed moves the yearly growth of a run by "
        f"{100 * seeds.value:.1f} points (one standard deviation between seeds of the same configuration)"
    )
    if market.value is None:
        return f"{between_seeds}."
    part = seeds.value**2 / (seeds.value**2 + market.value**2) if seeds.value + market.value else 0.0
    share = "less than 1%" if 0 < part < 0.01 else percent(part, digits=0)
    return (
        f"{between_seeds}, that of the market by {100 * market.value:.1f} points (between resampled histories): "
        f"{share} of the variance is the seed's."
    )


def _overfitting(results: Comparison) -> str:
    found = results.overfitting
    if found.probability is None:
        return f"The probability of overfitting cannot be said: {found.reason}."
    return (
        f"Choosing the best of these {found.configurations} runs, by the Sharpe ratio of half of the bars, would have "
        f"picked one at or below the median of the other half in {percent(found.probability, digits=0)} of the "
        f"{len(found.logits):,} splits (by chance: {percent(results.overfitting_by_chance, digits=0)})."
    )


# --- what to know before believing it -----------------------------------------------------------------------


def notes(results: Comparison) -> tuple[Note, ...]:
    """List what makes runs not comparable, then what a comparison does not show."""
    found = [Note(text, True) for text in _unlike(results.runs)]
    found += [Note(text) for text in _spans(results)]
    several = [group for group in results.groups if 1 < len(group.runs) < FEW_SEEDS]
    if several:
        found.append(Note(
            f"Fewer than {FEW_SEEDS} seeds are a rough guess at what other seeds would do: intervals over so few are "
            "too narrow."
        ))  # fmt: skip
    if any(len(group.runs) == 1 for group in results.groups):
        alone = [group.name for group in results.groups if len(group.runs) == 1]
        found.append(Note(
            f"{listed(alone)} {'has' if len(alone) == 1 else 'have'} one seed: the interval holds the luck of the "
            "market alone."
        ))  # fmt: skip
    if max(proof.trials for proof in results.proofs.values()) > len(results.runs):
        found.append(Note(
            "More configurations were tested on these bars than are compared here; the deflated Sharpe ratios count "
            "them."
        ))  # fmt: skip
    found.append(Note(
        "A configuration that is chosen for what this page shows has been fitted to these bars: they are held out no "
        "longer. What it would do next needs bars that nobody has looked at."
    ))  # fmt: skip
    return tuple(found)


def _unlike(runs: Sequence[ComparedRun]) -> list[str]:
    """Say in what the tests of the runs differ, so that their figures are not those of the same game."""
    rules = [run.config.backtest.applied_to(run.config.env) for run in runs]
    parts: dict[str, Sequence[Any]] = {
        "These runs paid different costs": [rule.cost_config for rule in rules],
        "Their orders fill at different prices (fill)": [rule.fill for rule in rules],
        "They traded under different rules of execution": [rule.execution_config for rule in rules],
        "They were allowed different margins": [rule.margin_config for rule in rules],
        "They earned and paid different rates for holding": [rule.carry_config for rule in rules],
        "They started with different amounts of money": [rule.portfolio_config.initial_cash for rule in rules],
        "They traded different bars (symbols, prices or dates)": _distinct([run.fingerprint for run in runs]),
    }
    unlike = [text for text, values in parts.items() if any(value != values[0] for value in values)]
    found = [f"{text}: the differences between them are not the agents' alone." for text in unlike]
    if unlike:
        found.append(f"Buy and hold trades under the rules, and on the bars, of {runs[0].name}.")
    if any(rule.fill == "close" for rule in rules):
        found.append(
            "Optimistic fills: orders fill at the very close that they were decided on (fill = 'close'). Nobody can "
            "trade like that."
        )
    if len({run.config.backtest.risk_free_rate for run in runs}) > 1:
        found.append("Their risk-free rates differ; all Sharpe ratios here use that of the first run.")
    names = dict.fromkeys(name for run in runs for name in run.versions)
    changed = [name for name in names if len({run.versions.get(name) for run in runs if run.versions}) > 1]
    if changed:
        found.append(f"They were made with different versions of {listed(changed)}.")
    return found


def _distinct(fingerprints: Sequence[str | None]) -> list[str]:
    return [fingerprint for fingerprint in fingerprints if fingerprint is not None] or [""]


def _spans(results: Comparison) -> list[str]:
    """Say which bars are left out."""
    bars = len(results.equity)
    shortened = {run.name: len(run.equity) - bars for run in results.runs if len(run.equity) > bars}
    found = []
    if shortened:
        first, last = period(results)
        left = listed([f"{name} ({count:,} bars)" for name, count in shortened.items()])
        found.append(
            f"Compared on the bars that all runs have, {first} to {last}. Left out of {left}: those accounts may hold "
            "positions on the first bar here, which they paid for earlier."
        )
    early = [run.name for run in results.runs if results.equity[run.name].isna().any()]
    if early:
        found.append(f"The account of {listed(early)} ended early. It keeps what it had left, and has no interval.")
    return found
