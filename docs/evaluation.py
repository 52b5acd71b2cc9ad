# %% [markdown]
"""
# Is this agent any good?

A backtest ends in one number, and one number is easy to believe. This notebook takes a trained agent, tests it on bars
that it has never seen, and asks what a sceptical colleague would ask. Better than what? By luck? From what? At which
costs? With another seed? The last section puts the answers side by side.

The cells are kept in [evaluation.py](evaluation.py); `make notebook` runs them and writes, with their outputs,
[evaluation.ipynb](evaluation.ipynb).
"""

# %%
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown, display
from matplotlib.ticker import PercentFormatter

from batchenv.config import RunConfig
from batchenv.runs import RunFolder
from batchenv.train import train
from stateful import StatefulTradingEnv
from stateful.command import prepare_run
from stateful.curves import equity_band
from stateful.evaluation.estimates import Figure
from stateful.evaluation.overfitting import probability_of_overfitting
from stateful.evaluation.seeds import across_seeds
from stateful.evaluation.stress import stress_test
from stateful.evaluation.trials import held_out_returns
from stateful.judge import make_judge
from stateful.verdict import percent

plt.rcParams |= {"figure.dpi": 90, "figure.constrained_layout.use": True, "date.converter": "concise"}
plt.rcParams |= {"axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left"}
pd.options.display.float_format = "{:,.2f}".format
pd.options.display.max_colwidth = None


def words(found, show=percent):
    """Return a figure in words, with its interval where it has one, or why there is none."""
    if isinstance(found, Figure):
        return found.reason if found.value is None else show(found.value)
    return found.reason if found.low is None else f"{show(found.estimate)} ({show(found.low)} to {show(found.high)})"


def say(*sentences):
    """Show sentences as a list."""
    display(Markdown("\n".join(f"- {sentence}" for sentence in sentences)))


two_digits = "{:z.2f}".format

# %% [markdown]
"""
## 1. A run

Name run folders of your own: the first is looked into, and the others, best the same configuration with other seeds,
join it in section 8. Without any, three small ones are trained here, in seconds, on the bundled bars of five US stocks.
That is enough to show the tools, and far too little to trade.
"""

# %% tags=["parameters"]
RUNS = []  # such as ["runs/first", "runs/second"]
TIMESTEPS = 65_536  # of each small run, where RUNS is empty
LANES = 8_192  # accounts that the stress test plays at once

# %%
if not RUNS:
    config = RunConfig.model_validate(
        {
            "data": {"source": "bundled", "train_end": "2010-01-01", "validation_fraction": 0.2},
            "env": {
                "features": ["return_1", "momentum_20", "momentum_60", "volatility_20", "rsi_14"],
                "cost_config": {"fee_rate": 0.001, "slippage_rate": 0.0005},
                "action_config": {"mode": "weights"},
                "episode_config": {"length": 252, "random_start": True},
            },
            "agent": {
                "n_envs": 128,
                "total_timesteps": TIMESTEPS,
                "evaluations": 4,
                "hyperparameters": {"n_steps": 64, "batch_size": 1024, "n_epochs": 5},
            },
            "backtest": {"risk_free_rate": 0.02, "vectorbt": False},  # VectorBT is asked in section 7
        }
    )
    workplace = TemporaryDirectory()  # gone when the kernel stops
    for seed in range(3):
        folder = Path(workplace.name, f"seed{seed}")
        RUNS.append(train(config.updated(seed=seed), folder, make_judge=make_judge).path)

plan = prepare_run(Path(RUNS[0]))
facts = ("Model", "Algorithm", "Seed", "Trained on", "Chosen on", "Tested on")
pd.DataFrame({"": {name: plan.facts[name] for name in facts}})

# %% [markdown]
"""
The agent learned on the first span, the best of its models was chosen on the second, and only the third counts here.

## 2. Better than what?

Agent and baselines play the held-out bars under the same costs and fills. Writing the report also adds a line to the
run's `looks.jsonl`: every look at the held-out bars is counted, this one too.
"""


# %%
def test(plan):
    """Play the held-out bars, write the report, count the look."""
    results = plan.testing.run()
    plan.write(results, plan.default_output)
    return results


results = test(plan)
found = results.uncertainty
rows = {"agent": found.agent} | {results.labels[name]: figures for name, figures in found.baselines.items()}
table = pd.DataFrame(
    {
        "return a year": {name: words(figures["cagr"]) for name, figures in rows.items()},
        "Sharpe ratio": {name: words(figures["sharpe"], two_digits) for name, figures in rows.items()},
        "largest drawdown": {name: words(figures["max_drawdown"]) for name, figures in rows.items()},
    }
)
display(table)
say(*results.headlines)

# %% [markdown]
"""
Red flags name what makes these figures look better than they are, each with its number and the threshold that it
crossed. A short list is no certificate:
[what is in no number](uncertainty.md#what-is-not-in-any-of-these-numbers) raises no flag.
"""

# %%
say(*(f"**{flag.severity}**: {flag}" for flag in results.flags) if results.flags else ["No flags."])

# %% [markdown]
"""
## 3. By luck?

The intervals come from histories resampled from this one, in blocks of neighbouring bars. On the left, where the middle
95% of them take the agent's equity. On the right, what they make of its difference to each baseline; all accounts are
resampled by the same draws, so a difference is often better known than either figure by itself. Where the line crosses
zero it is grey: this test cannot tell the two apart.
"""

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=(3, 2))
for name, account in results.baselines.items():
    main = name == "buy_and_hold"
    left.plot(account["equity"], "C1" if main else "0.8", label=results.labels[name] if main else None, zorder=1 + main)
left.plot(results.equity, "C0", linewidth=2, label="agent")
band = equity_band(results)
if band is not None:
    left.fill_between(results.equity.index[band.rows], band.low, band.high, alpha=0.15, linewidth=0)
left.set_title("Equity after costs; other baselines in grey")
left.legend(frameon=False)
left.yaxis.set_major_formatter("{x:,.0f}")

for row, difference in enumerate(found.differences.values()):
    colour, yearly = "C0" if difference.distinguishable_together else "0.6", difference.cagr
    if yearly.low is not None:
        right.plot([yearly.low, yearly.high], [row, row], color=colour)
        right.plot(yearly.estimate, row, "o", color=colour)
right.axvline(0, color="black", linewidth=0.8)
right.set_yticks(range(len(found.differences)), [results.labels[name] for name in found.differences])
right.invert_yaxis()
right.set_title("Agent less baseline, growth a year")
right.xaxis.set_major_formatter(PercentFormatter(1.0))

# %% [markdown]
"""
The interval of a drawdown holds less often than the others: it holds the drawdown of a fresh period of the same kind in
75 to 90% of cases, not 95%.

A Sharpe ratio is an estimate too. How likely is the true one above zero, given the length and the shape of the record?
How many bars would make that 95% sure? The published formulas take bars as independent of each other; the second number
counts how they depend. The deflated ratio asks it of the best of several trials, and section 8 comes back to it.
"""

# %%
say(
    "Probability that the true Sharpe ratio is above 0, if bars are independent: "
    f"{words(found.probabilistic_sharpe, two_digits)}.",
    f"With their dependence counted: {words(found.dependent['probabilistic_sharpe'], two_digits)}.",
    f"The same, deflated: {words(found.dependent['deflated_sharpe'], two_digits)}.",
    f"Bars needed to be 95% sure: {words(found.dependent['minimum_track_record'], '{:,.0f}'.format)}; "
    f"there are {found.bars:,}.",
)

# %% [markdown]
"""
## 4. From what?

Attribution books every change of equity on a symbol, a side, and a kind of gain or cost. The parts sum to the whole bar
by bar; what is left over is rounding.
"""

# %%
attribution = results.attribution
by_symbol = attribution.by("symbol")
for part in (by_symbol, attribution.by("side")):
    display(part.loc[part["total"] != 0, part.any()])
say(f"Sum of the parts: {by_symbol['total'].sum():,.2f}. Change of equity: {attribution.change:,.2f}.")

months = attribution.by("month")["total"]
figure, axes = plt.subplots(figsize=(11, 2.6))
axes.bar(range(len(months)), months, color=np.where(months < 0, "C1", "C0"))
axes.set_xticks(range(0, len(months), 6), months.index[::6])
axes.set_title("Gain and loss by month")
axes.margins(x=0.01)
axes.yaxis.set_major_formatter("{x:,.0f}")

# %% [markdown]
"""
## 5. At which costs, from which day?

One policy, thousands of accounts in one pass: every mix of fee, slippage, initial cash and start date, beside buy and
hold under the same terms. Some of them are played again by the evaluation tier, which must come to the same money.
"""

# %%
stress = stress_test(plan.testing, lanes=LANES)
say(*stress.sentences)

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8))
surface = stress.surface("cagr")
left.imshow(surface, cmap="RdBu", vmin=-0.3, vmax=0.3, origin="lower", aspect="auto")
for (row, column), value in np.ndenumerate(surface):
    shade = "white" if abs(value) > 0.2 else "black"
    left.text(column, row, f"{100 * value:z.0f}", ha="center", va="center", color=shade)
left.set_xticks(range(surface.shape[1]), [f"{multiple:g}×" for multiple in surface.columns])
left.set_yticks(range(surface.shape[0]), [f"{multiple:g}×" for multiple in surface.index])
left.set(title="Median return a year over the start dates, %", xlabel="fee", ylabel="slippage")

curve, held = stress.curve(), stress.curve("buy_and_hold")
places = np.arange(len(curve))
right.fill_between(places, curve["low"], curve["high"], alpha=0.15, linewidth=0, label="80% of the start dates")
right.plot(places, curve["median"], "C0", linewidth=2, label="agent, median")
right.plot(places, held["median"], "C1", label="buy and hold, median")
right.axhline(0, color="black", linewidth=0.8)
right.set_xticks(places, [f"{multiple:g}×" for multiple in curve.index])
right.set(title="Return a year", xlabel="fee and slippage")
right.legend(frameon=False)
right.yaxis.set_major_formatter(PercentFormatter(1.0))

# %% [markdown]
"""
## 6. What did it do?

Every bar, fill and trade is a row of a table: `results.history`, `results.fills`, `results.trades`. Trades are matched
first in, first out. These lost most; look them up in a chart before you believe the ones that won.
"""

# %%
columns = ["symbol", "side", "entry_time", "exit_time", "shares", "entry_price", "exit_price", "pnl", "status"]
results.trades.nsmallest(5, "pnl")[columns]

# %% [markdown]
"""
The account can be played by hand. Here are two buys and a sale under the rules of the run, with rewards that only a
tier with a memory can pay: the Sharpe, Sortino and Calmar ratio of the episode so far.
"""

# %%
exact = plan.testing.env
column = int(exact.market.has_bar[exact.start].argmax())  # the first symbol that has a price
symbol = exact.market.symbols[column]


def play(reward):
    """Buy 100 shares, buy 100 more, sell 150; return the environment."""
    rules = exact.config.updated(reward_config={"type": reward})
    env = StatefulTradingEnv(exact.market, rules, exact.features, scaler=exact.scaler, seed=0)
    env.reset()
    for shares in (100, 100, 0, 0, -150, 0):
        orders = np.zeros(env.market.n_symbols)
        orders[column] = shares
        env.step_orders(orders)
    return env


played = {reward: play(reward) for reward in ("sharpe_ratio", "sortino_ratio", "calmar_ratio")}
rewards = {reward: env.history["reward"] for reward, env in played.items()}
env = played["sharpe_ratio"]
display(env.history[["equity", "cash", "costs", f"shares[{symbol}]"]].assign(**rewards))
display(env.trades[columns])
pd.DataFrame(env.portfolio.positions.lots(column))

# %% [markdown]
"""
The sale took the 100 shares that were bought first and 50 of the next. The lot that is left keeps its price and fee.

## 7. Does anybody else get the same?

`to_vectorbt` replays the agent's fills in VectorBT, which knows nothing of this package and works out cash, fees and
value by itself.
"""

# %%
agreement = results.vectorbt_obstacle
if agreement is None:
    portfolio = results.to_vectorbt()
    theirs = {
        "final_equity": portfolio.final_value(),
        "total_return": portfolio.total_return(),
        "max_drawdown": portfolio.max_drawdown(),
        "fees": portfolio.orders.fees.sum(),
    }
    ours = {name: results.metrics[name] for name in theirs}
    display(pd.DataFrame({"batchenv": ours, "VectorBT": theirs}).map("{:,.6f}".format))
    gap = (portfolio.value() / results.equity - 1.0).abs().max()
    agreement = f"VectorBT's equity differs by {gap:.0e} of it at most, over all bars"
say(f"{agreement}.")

# %% [markdown]
"""
## 8. With another seed?

Training is luck as well. The other runs, tested the same way, show how much of it; the mean with its interval is the
fair figure of a configuration, and its best seed is not. Then the first run is tested once more, now that the others
count as trials.
"""

# %%
tested = [results, *(test(prepare_run(Path(run))) for run in RUNS[1:])]
seeds = across_seeds([one.metrics["cagr"] for one in tested])
again = prepare_run(Path(RUNS[0])).testing.run().uncertainty
picking = probability_of_overfitting(held_out_returns([RunFolder.open(Path(run)) for run in RUNS]).to_numpy())
say(
    f"Return a year of each run: {', '.join(percent(one.metrics['cagr']) for one in tested)}.",
    f"Their mean: {words(seeds.mean)}.",
    f"Probability of a true Sharpe ratio above 0, {again.trials} trials: "
    f"{words(again.dependent['deflated_sharpe'], two_digits)}.",
    f"Probability of overfitting (PBO): {words(Figure(picking.probability, picking.reason))}.",
)

# %% [markdown]
"""
PBO picks the best run on half of the bars, over many ways to halve them, and asks how often that run is no better than
the median on the other half: about 50% where picking finds nothing. It is meant for many configurations, and says
little of three seeds. `batchenv compare` puts folders of runs side by side, and `batchenv walk-forward` trains and
tests on one window after another.

## 9. What to believe
"""

# %%
severe = sum(flag.severity == "severe" for flag in results.flags)
verdict = results.headlines[0]
most, even = by_symbol["total"].abs().idxmax(), stress.break_even()
say(
    f"**1. Held out?** Tested on {plan.facts['Tested on']}, with {severe} severe flags.",
    f"**2. Better than the baselines?** {verdict.headline}",
    f"**3. More than luck?** {verdict.detail}",
    f"**4. From more than one source?** {most} brought {by_symbol['total'][most]:,.0f} of {attribution.change:,.0f}.",
    f"**5. With room for more costs?** {words(Figure(even.multiple, even.reason), 'Up to {:.1f} times these'.format)}.",
    f"**7. Is the money right?** {agreement}.",
    f"**8. With another seed?** Mean return a year: {words(seeds.mean)}.",
    "**8. After all trials?** Probability of a true Sharpe ratio above 0: "
    f"{words(again.dependent['deflated_sharpe'], two_digits)}.",
)

# %% [markdown]
"""
Each question has the number of its section. Read from the top and stop at the first answer that does not hold: what
comes after cannot mend it.

* **Held out.** A severe flag means that the figures cannot be believed as they stand, and nothing below it counts.
* **Baselines.** Beating cash is not beating the market. Name the best baseline, after costs. One that could not buy
  what it wanted, or traded its money away, is no measure and is not counted.
* **Luck.** "Not distinguishable" does not mean equal. It means that these bars cannot tell; more bars may.
* **Source.** One symbol, one month or five bars are one observation, however many bars lie around them.
* **Costs.** Real costs are more often above the assumed ones than below. An edge that twice the costs use up is none.
* **Money.** This is arithmetic and has to be exact. Where it is not, stop and find out why.
* **Seeds.** If another seed would have lost, so may this one.
* **Trials.** Only what these folders know of is counted; add what you tried elsewhere, or deleted.

None of this knows a market unlike the one tested, symbols that were chosen because they did well, or fills that nobody
would have given you. And nothing here is investment advice.
"""
