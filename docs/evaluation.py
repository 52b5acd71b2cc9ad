# %% [markdown]
# # Is this agent any good?
#
# A backtest ends in one number, and one number is easy to believe. This notebook takes a trained agent, tests it on bars
# that it has never seen, and asks what a sceptical colleague would ask: better than what? by luck? from what? at which
# costs? with another seed? The last section puts the answers side by side.
#
# `make notebook` runs it and writes its outputs; the code is in [evaluation.py](evaluation.py), the outputs in
# [evaluation.ipynb](evaluation.ipynb).

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
from stateful.evaluation.overfitting import probability_of_overfitting
from stateful.evaluation.seeds import across_seeds
from stateful.evaluation.stress import stress_test
from stateful.evaluation.trials import held_out_returns
from stateful.judge import make_judge
from stateful.verdict import percent

plt.rcParams |= {"figure.dpi": 90, "figure.constrained_layout.use": True}
plt.rcParams |= {"axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left"}
pd.options.display.float_format = "{:,.2f}".format
pd.options.display.max_colwidth = None


def say(*sentences):
    """Show sentences as a list."""
    display(Markdown("\n".join(f"- {sentence}" for sentence in sentences)))


# %% [markdown]
# ## 1. A run
#
# Name run folders of your own, and the first of them is looked into; the others, best the same configuration with other
# seeds, come in section 8. Without any, three small ones are trained here, in seconds, on the bundled bars of five US
# stocks: enough to show the tools, and far too little to trade.

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
            "backtest": {"risk_free_rate": 0.02, "vectorbt": False},  # section 5 asks VectorBT itself
        }
    )
    workplace = TemporaryDirectory()  # gone with the notebook's kernel
    for seed in range(3):
        folder = Path(workplace.name, f"seed{seed}")
        RUNS.append(train(config.updated(seed=seed), folder, make_judge=make_judge).path)

plan = prepare_run(Path(RUNS[0]))
facts = ("Model", "Algorithm", "Seed", "Trained on", "Chosen on", "Tested on")
display(pd.DataFrame({"": {name: plan.facts[name] for name in facts}}))

# %% [markdown]
# The agent learned on the first span, the best of its models was chosen on the second, and only the third counts here.
#
# ## 2. Better than what?
#
# The agent and every baseline play the held-out bars under the same costs and fills. Writing the report also adds a line
# to the run's `looks.jsonl`: every look at the held-out bars is counted, this one too.


# %%
def test(plan):
    """Play the held-out bars, write the report, count the look."""
    results = plan.testing.run()
    plan.write(results, plan.default_output)
    return results


def interval(found, show=percent):
    """Return a figure with its interval, or why it has none."""
    return found.reason if found.low is None else f"{show(found.estimate)} ({show(found.low)} to {show(found.high)})"


results = test(plan)
found = results.uncertainty
accounts = {"agent": found.agent} | {results.labels[name]: figures for name, figures in found.baselines.items()}
table = pd.DataFrame(
    {
        "return a year": {name: interval(figures["cagr"]) for name, figures in accounts.items()},
        "Sharpe ratio": {name: interval(figures["sharpe"], "{:.2f}".format) for name, figures in accounts.items()},
        "largest drawdown": {name: interval(figures["max_drawdown"]) for name, figures in accounts.items()},
    }
)
display(table)
say(*results.headlines)

# %% [markdown]
# Next, what makes these figures look better than they are: the run's red flags, each with its number and the threshold
# that it crossed. A short list is no certificate; [uncertainty.md](uncertainty.md) says what no flag can see.

# %%
say(*(f"**{flag.severity}**: {flag}" for flag in results.flags) if results.flags else ["No flags."])

# %% [markdown]
# ## 3. By luck?
#
# The intervals come from 2,000 histories resampled from this one in blocks of neighbouring bars. On the left, where 95%
# of them take the agent's equity; on the right, what they make of the difference to each baseline. Agent and baseline are
# resampled by the same draws, so a difference is better known than either figure by itself. Where its line crosses zero,
# this test cannot tell the two apart.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=(3, 2))
band = equity_band(results)
if band is not None:
    times = results.equity.index[band.rows]
    left.fill_between(times, band.low, band.high, alpha=0.15, linewidth=0, label="95% of resampled histories")
for name, account in results.baselines.items():
    known = name == "buy_and_hold"
    left.plot(account["equity"], "C1--" if known else "0.8", label=results.labels[name] if known else None, zorder=1)
left.plot(results.equity, "C0", linewidth=2, label="agent")
left.set_title("Equity after costs; other baselines in grey")
left.legend(frameon=False, loc="upper left")

for row, (name, difference) in enumerate(found.differences.items()):
    if difference.cagr.low is not None:
        right.plot([difference.cagr.low, difference.cagr.high], [row, row], "C0" if difference.distinguishable else "0.6")
        right.plot(difference.cagr.estimate, row, "o", color="C0" if difference.distinguishable else "0.6")
right.axvline(0, color="black", linewidth=0.8)
right.set_yticks(range(len(found.differences)), [results.labels[name] for name in found.differences])
right.invert_yaxis()
right.set_title("Agent less baseline, a year; blue: more than luck")
right.xaxis.set_major_formatter(PercentFormatter(1.0))

# %% [markdown]
# A Sharpe ratio of the bars is an estimate too. How likely is the true one above zero, given the length and the shape of
# the record? How many bars would make that 95% sure? The deflated ratio asks the same of the best of several trials, and
# needs more than one; section 8 comes back to it.

# %%
proof = {
    "probability that the true Sharpe ratio is above 0": found.probabilistic_sharpe,
    "the same, deflated by what else was tried": found.deflated_sharpe,
    "bars needed to be 95% sure": found.minimum_track_record,
}
values = {name: one.reason if one.value is None else f"{one.value:,.2f}" for name, one in proof.items()}
pd.DataFrame({"": values | {"bars there are": f"{found.bars:,}", "configurations tried, as counted": found.trials}})

# %% [markdown]
# ## 4. From what?
#
# `attribution` books every change of equity on a symbol, a side and a kind of gain or cost. The parts sum to the whole,
# bar by bar; what is left over is rounding.

# %%
attribution = results.attribution
by_symbol = attribution.by("symbol")
display(by_symbol.loc[by_symbol["total"] != 0, by_symbol.any()])
by_side = attribution.by("side")
display(by_side.loc[:, by_side.any()])
say(f"Sum of the parts {by_symbol['total'].sum():,.2f}, change of equity {attribution.change:,.2f}.")

months = attribution.by("month")["total"]
figure, axes = plt.subplots(figsize=(11, 2.6))
axes.bar(range(len(months)), months, color=np.where(months < 0, "C1", "C0"))
axes.set_xticks(range(0, len(months), 6), months.index[::6])
axes.set_title("Gain and loss by month")
axes.yaxis.set_major_formatter("{x:,.0f}")

# %% [markdown]
# ## 5. Does anybody else get the same?
#
# `to_vectorbt` replays the agent's fills in VectorBT, which knows nothing of this package. It works out cash, fees and
# value by itself.

# %%
gap = None
if results.vectorbt_obstacle:
    say(results.vectorbt_obstacle)
else:
    portfolio = results.to_vectorbt()
    gap = (portfolio.value() / results.equity - 1.0).abs().max()
    theirs = {
        "final_equity": portfolio.final_value(),
        "fees": portfolio.orders.fees.sum(),
        "total_return": portfolio.total_return(),
        "max_drawdown": portfolio.max_drawdown(),
    }
    display(pd.DataFrame({"batchenv": {name: results.metrics[name] for name in theirs}, "VectorBT": theirs}))
    say(f"Over all bars the largest difference in equity is {gap:.0e} of it.")

# %% [markdown]
# ## 6. At which costs, from which day?
#
# One policy, thousands of accounts in one pass: every mix of fee, slippage, initial cash and start date, beside buy and
# hold under the same terms. A few of them are played again by the evaluation tier, which must come to the same money.

# %%
stress = stress_test(plan.testing, lanes=LANES)
say(*stress.sentences)

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8))
surface = stress.surface("cagr")
left.imshow(surface, cmap="RdBu", vmin=-0.3, vmax=0.3, origin="lower", aspect="auto")
for (row, column), value in np.ndenumerate(surface):
    left.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color="white" if value < -0.2 else "black")
left.set_xticks(range(surface.shape[1]), [f"{multiple:g}×" for multiple in surface.columns])
left.set_yticks(range(surface.shape[0]), [f"{multiple:g}×" for multiple in surface.index])
left.set(title="Median return a year, %, over the start dates", xlabel="fee", ylabel="slippage")

curve, held = stress.curve(), stress.curve("buy_and_hold")
places = np.arange(len(curve))
right.fill_between(places, curve["low"], curve["high"], alpha=0.15, linewidth=0, label="80% of the start dates")
right.plot(places, curve["median"], "C0", linewidth=2, label="agent, median")
right.plot(places, held["median"], "C1--", label="buy and hold, median")
right.axhline(0, color="black", linewidth=0.8)
right.set_xticks(places, [f"{multiple:g}×" for multiple in curve.index])
right.set(title="Return a year", xlabel="fee and slippage")
right.legend(frameon=False)
right.yaxis.set_major_formatter(PercentFormatter(1.0))

# %% [markdown]
# ## 7. What did it do?
#
# Every bar, fill and trade is a row of a table: `results.history`, `results.fills`, `results.trades`. Trades are matched
# first in, first out. Here are those that lost most; look them up in a chart before you believe the ones that won.

# %%
columns = ["symbol", "side", "entry_time", "exit_time", "shares", "entry_price", "exit_price", "pnl", "status"]
results.trades.nsmallest(5, "pnl")[columns]

# %% [markdown]
# The account can be played by hand. Two buys and a sale in the first symbol that has a price, under the rules of the run,
# with three rewards that only a tier with a memory can pay: running Sharpe, Sortino and Calmar ratios (0 while they
# cannot be had).

# %%
exact = plan.testing.env
column = int(exact.market.has_bar[exact.start].argmax())


def play(reward):
    """Buy 100 shares, 100 more, sell 150; return the environment."""
    rules = exact.config.updated(reward_config={"type": reward})
    env = StatefulTradingEnv(exact.market, rules, exact.features, scaler=exact.scaler, seed=0)
    env.reset()
    for shares in (100, 100, 0, 0, -150, 0, 0):
        orders = np.zeros(env.market.n_symbols)
        orders[column] = shares
        env.step_orders(orders)
    return env


played = {reward: play(reward) for reward in ("sharpe_ratio", "sortino_ratio", "calmar_ratio")}
env = played["sharpe_ratio"]
symbol = env.market.symbols[column]
rewards = {reward: one.history["reward"] for reward, one in played.items()}
display(env.history[["equity", "cash", "costs", f"shares[{symbol}]"]].assign(**rewards))
display(env.trades[columns])
say(*(f"Still held: {lot}" for lot in env.portfolio.positions.lots(column)))

# %% [markdown]
# 150 shares were sold: the 100 bought first and 50 of the next. The lot that is left remembers its price and its fee.
#
# ## 8. With another seed?
#
# Training is luck as well. The other runs, tested the same way, show how much; the mean with its interval is the fair
# figure of a configuration, and the best seed is not. Then the first run is tested once more, now that its neighbours
# are counted as trials.

# %%
tested = [results, *(test(prepare_run(Path(run))) for run in RUNS[1:])]
seeds = across_seeds([one.metrics["cagr"] for one in tested])
again = prepare_run(Path(RUNS[0])).testing.run().uncertainty
overfitting = probability_of_overfitting(held_out_returns([RunFolder.open(Path(run)) for run in RUNS]).to_numpy())
chance = overfitting.reason if overfitting.probability is None else percent(overfitting.probability, digits=0)
deflated = again.deflated_sharpe
say(
    f"Return a year of each: {', '.join(percent(one.metrics['cagr']) for one in tested)}.",
    f"Their mean: {interval(seeds.mean)}.",
    f"Configurations known to have been tried on these bars: {again.trials}.",
    f"Deflated Sharpe ratio of the first: {deflated.reason if deflated.value is None else f'{deflated.value:.2f}'}.",
    f"Probability that picking the best of them picks luck (PBO): {chance}.",
)

# %% [markdown]
# Three seeds say little about PBO, which is meant for many configurations. `batchenv compare` puts whole folders of runs
# side by side, and `batchenv walk-forward` trains and tests on one window after another.
#
# ## 9. What to believe

# %%
clear = [results.labels[name] for name, one in found.differences.items() if one.distinguishable]
beaten = sum(verdict.outcome == "beat" for verdict in results.verdicts)
top = by_symbol["total"].abs().idxmax()
even = stress.break_even()
answers = {
    "held out? (1, 2)": f"{plan.facts['Tested on']}; {sum(flag.severity == 'severe' for flag in results.flags)} severe flags",
    "better than the baselines? (2)": f"than {beaten} of {len(results.verdicts)}, after costs",
    "more than luck? (3)": f"distinguishable from {', '.join(clear) or 'none of them'}",
    "a Sharpe ratio above 0? (3, 8)": f"probability {values['probability that the true Sharpe ratio is above 0']} alone, "
    f"{deflated.reason if deflated.value is None else f'{deflated.value:.2f} with all trials counted'}",
    "from more than one source? (4)": f"{top} brought {by_symbol.loc[top, 'total']:,.0f} of {attribution.change:,.0f}",
    "is the money right? (4, 5)": "VectorBT could not be asked" if gap is None else f"VectorBT agrees to {gap:.0e}",
    "with room for higher costs? (6)": even.reason if even.multiple is None else f"up to {even.multiple:.1f} times these",
    "with another seed? (8)": f"mean return a year {interval(seeds.mean)}",
}
pd.DataFrame({"here": answers})

# %% [markdown]
# Read it from the top, and stop at the first answer that does not hold; what comes after cannot mend it.
#
# * **Held out.** A severe flag means that this is no test. Nothing below it counts.
# * **Baselines.** Beating cash is not beating the market. The best baseline after costs is the one to name.
# * **Luck.** "Not distinguishable" does not mean "equal": it means that these bars cannot tell. More bars can.
# * **Sharpe.** Take the deflated figure, and count honestly: what was tried elsewhere, or deleted, is not in it.
# * **Source.** One symbol, one month or five bars are one observation, however many bars there are around them.
# * **Money.** This one is arithmetic and should be exact. If it is not, stop and find out why.
# * **Costs.** Real costs are higher than assumed more often than lower. An edge that is gone at twice the costs is none.
# * **Seeds.** If another seed would have lost, then so may this one.
#
# And none of these numbers knows about a market unlike this one, about symbols that were chosen because they did well, or
# about fills that nobody would have given you. Nothing here is investment advice.
