"""The command line, end to end: training, backtest, and every kind of bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from batchenv import FastTrainingEnv
from batchenv.cli import main
from batchenv.runs import RunFolder
from stateful.command import prepare_run
from tests.markets import frame, ragged_frame

SMALL: dict[str, Any] = {
    "data": {"source": "bundled", "train_end": "2010-01-01"},
    "env": {
        "features": ["momentum_20", "rsi_14"],
        "episode_config": {"length": 60, "random_start": True},
        "reward_config": {"type": "fast_profit_reward", "reward_scaling": 100.0},
    },
    "agent": {
        "n_envs": 16,
        "total_timesteps": 1024,
        "evaluations": 2,
        "checkpoints": 1,
        "hyperparameters": {"n_steps": 16, "batch_size": 64, "n_epochs": 2},
    },
    "backtest": {"vectorbt": False},
}


class Shell:
    """Runs the command in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self.out = self.err = ""

    def run(self, *arguments: object) -> int:
        self._monkeypatch.setattr("sys.argv", ["batchenv", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        self.out, self.err = self._capsys.readouterr()
        assert "Traceback" not in self.out + self.err
        code = left.value.code
        return 0 if code is None else int(code)

    def refuse(self, *arguments: object) -> str:
        """Run a command that must fail, and return its one message in one line."""
        assert self.run(*arguments) == 1
        assert self.err.startswith("Error: ")
        return " ".join(self.err.split())


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return Shell(monkeypatch, capsys)


def write(path: Path, changes: dict[str, Any] | None = None) -> Path:
    """Write `SMALL` with some sections updated."""
    content = json.loads(json.dumps(SMALL))
    for section, values in (changes or {}).items():
        content[section] = {**content.get(section, {}), **values} if isinstance(values, dict) else values
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished run; tests that change it take a copy."""
    from batchenv import RunConfig
    from batchenv.train import train
    from stateful.judge import make_judge

    return train(RunConfig.model_validate(SMALL), tmp_path_factory.mktemp("runs") / "run", make_judge=make_judge).path


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_train_then_backtest(shell: Shell, tmp_path: Path) -> None:
    config = write(tmp_path / "run.json")
    assert shell.run("train", "--config", config, "--output", "runs/first", "--timesteps", 512, "--seed", 3) == 0
    assert "validation at" in shell.out
    assert "batchenv backtest --run runs/first" in shell.out
    run = RunFolder.open(Path("runs/first"))
    assert run.info["status"] == "finished"
    assert (run.info["seed"], run.config.seed, run.config.agent.total_timesteps) == (3, 3, 512)
    assert run.info["versions"]["torch"].startswith("2.")
    assert len(run.info["data"]["train"]["fingerprint"]) == 64
    for path in (run.model, run.best_model, run.evaluations):
        assert path.is_file()
    assert list(run.checkpoints.glob("*.zip"))
    assert list(run.tensorboard.rglob("events.*"))
    assert shell.run("backtest", "--run", "runs/first") == 0
    assert "buy and hold" in shell.out
    report = Path("runs/first/backtest/report.html")
    assert report.is_file()
    assert str(report) in shell.out
    assert shell.run("backtest", "--run", "runs/first") == 0
    assert Path("runs/first/backtest-2/report.html").is_file()
    assert max(map(len, shell.out.splitlines())) <= 80


def test_a_csv_of_ones_own_with_ragged_histories(shell: Shell, tmp_path: Path) -> None:
    ragged_frame(seed=5, n_bars=400).to_csv("mine.csv", index=False)
    data = {"source": "mine.csv", "train_end": "2021-01-01"}
    config = write(tmp_path / "run.json", {"data": data})
    assert shell.run("train", "-c", config, "-o", "out", "--timesteps", 256) == 0
    assert shell.run("backtest", "-r", "out", "-o", "report", "--model", "final") == 0
    metrics = json.loads(Path("report/metrics.json").read_text())
    assert metrics["first_date"] == "2021-01-01"


def test_a_seed_repeats_a_run_bit_for_bit(shell: Shell, tmp_path: Path) -> None:
    from stable_baselines3 import PPO

    config = write(tmp_path / "run.json", {"agent": {"evaluations": 1}})
    weights = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert shell.run("train", "-c", config, "-o", name, "--timesteps", 512, "--seed", seed) == 0
        model = PPO.load(f"{name}/model.zip", device="cpu")
        weights[name] = np.concatenate([p.detach().numpy().ravel() for p in model.policy.parameters()])
    np.testing.assert_array_equal(weights["a"], weights["b"])
    assert (weights["a"] != weights["c"]).any()
    assert Path("a/evaluations.csv").read_text() == Path("b/evaluations.csv").read_text()


def test_own_features_and_rewards_come_through_imports(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from batchenv import register_feature, register_reward\n"
        "register_feature('test_gap', lambda market: market.open / market.close - 1)\n"
        "register_reward('test_gain', lambda step: step.equity_after - step.equity_before)\n"
    )
    env = {"features": ["test_gap"], "reward_config": {"type": "test_gain"}}
    config = write(tmp_path / "run.json", {"imports": ["mine.py"], "env": env})
    assert shell.run("train", "-c", config, "-o", "run", "--timesteps", 256) == 0
    assert shell.run("backtest", "-r", "run") == 0
    assert "imports: cannot import 'other.py'" in shell.refuse(
        "train", "-c", write(tmp_path / "bad.json", {"imports": ["other.py"]}), "-o", "no"
    )


def test_backtest_of_a_configuration_with_a_model(shell: Shell, tmp_path: Path, trained: Path) -> None:
    config = write(tmp_path / "run.json", {"backtest": {"model": str(trained / "model.zip")}})
    assert shell.run("backtest", "--config", config, "--output", "report") == 0
    by_run = json.loads(Path("report/metrics.json").read_text())
    assert shell.run("backtest", "--run", trained, "--output", "again", "--model", "final") == 0
    assert json.loads(Path("again/metrics.json").read_text())["final_equity"] == by_run["final_equity"]


def test_the_learning_curve_is_that_of_the_best_model(trained: Path) -> None:
    curve = pd.read_csv(trained / "evaluations.csv")
    assert list(curve["timesteps"]) == sorted(set(curve["timesteps"])), "one row for each evaluation"
    best = curve[curve["best"]].iloc[-1]
    assert best["sharpe"] == curve["sharpe"].max()
    assert RunFolder.open(trained).info["best_timesteps"] == best["timesteps"]


BAD_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown feature": ({"env": {"features": ["momentun_20"]}}, "did you mean 'momentum"),
    "split outside the data": ({"data": {"train_end": "2030-01-01"}}, "2013-03-01"),
    "too short a history": ({"data": {"start": "2009-11-01"}}, "history too short"),
    "no such file": ({"data": {"source": "nowhere.csv"}}, "nowhere.csv"),
    "unknown symbol": ({"data": {"symbols": ["IBM", "MSFTT"]}}, "did you mean 'MSFT'"),
    "unknown hyperparameter": ({"agent": {"hyperparameters": {"n_step": 4}}}, "did you mean 'n_steps'"),
    "unusable hyperparameter": ({"agent": {"hyperparameters": {"learning_rate": "fast"}}}, "agent: PPO refused"),
    "unknown policy": ({"agent": {"policy": "MlpPolice"}}, "MlpPolice"),
    "dqn without joint": ({"agent": {"algorithm": "dqn", "hyperparameters": {}}}, "joint = true"),
    "reward that needs history": ({"env": {"reward_config": {"type": "sharpe_ratio"}}}, "evaluation tier"),
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_a_bad_configuration_is_one_message_and_leaves_nothing(shell: Shell, tmp_path: Path, name: str) -> None:
    changes, message = BAD_CONFIGS[name]
    config = write(tmp_path / "run.json", changes)
    assert message in shell.refuse("train", "--config", config, "--output", "out")
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def spoil(df: pd.DataFrame, name: str) -> pd.DataFrame:
    if name == "missing column":
        return df.drop(columns="close")
    if name == "duplicated date":
        return pd.concat([df, df.tail(1)])
    if name == "unsorted dates":
        return df.iloc[[1, 0, *range(2, len(df))]]
    df.loc[7, "open"] = {"nan price": np.nan, "negative price": -3.0}[name]
    return df


@pytest.mark.parametrize(
    ("name", "words"),
    {
        "missing column": ("close", "mine.csv"),
        "duplicated date": ("D", "duplicate"),
        "unsorted dates": ("sort",),
        "nan price": ("open", "'A'", "mine.csv", "2020-01-10"),
        "negative price": ("open", "'A'", "-3", "2020-01-10"),
    }.items(),
)
def test_a_bad_csv_is_one_message_and_leaves_nothing(
    shell: Shell, tmp_path: Path, name: str, words: tuple[str, ...]
) -> None:
    spoil(frame(n_bars=300), name).to_csv("mine.csv", index=False)
    before = files(tmp_path)
    config = write(tmp_path / "run.json", {"data": {"source": "mine.csv", "train_end": "2020-12-01"}})
    message = shell.refuse("train", "--config", config, "--output", "out")
    for word in words:
        assert word in message
    assert files(tmp_path) == {**before, "run.json": config.read_bytes()}


def test_an_occupied_output_is_refused_and_left_alone(shell: Shell, tmp_path: Path, trained: Path) -> None:
    config = write(tmp_path / "run.json")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    assert "mine: exists already" in shell.refuse("train", "-c", config, "-o", "mine")
    assert "mine: exists already" in shell.refuse("backtest", "-r", trained, "-o", "mine")
    assert files(tmp_path / "mine") == {"notes.txt": b"keep"}
    for command in (("backtest", "-r", trained), ("stress", "-r", trained), ("selfcheck",)):
        message = shell.refuse(*command, "-o", "mine/notes.txt/x")
        assert "mine/notes.txt/x: no folder can be made here, since" in message
        assert shell.out == ""  # it says so at once, and not after the work is done


def test_a_damaged_run_folder_is_named(shell: Shell, tmp_path: Path, trained: Path) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(trained, tmp_path / name))

    assert "there is no run folder here" in shell.refuse("backtest", "-r", "nowhere")
    (copy("a") / "scaler.json").unlink()
    assert "scaler.json is missing" in shell.refuse("backtest", "-r", "a")
    (copy("b") / "run.json").write_text("{")
    assert "not valid JSON" in shell.refuse("backtest", "-r", "b")
    (copy("c") / "run.json").write_text('{"format": 99}')
    assert "format 99, expected 1" in shell.refuse("backtest", "-r", "c")
    (copy("d") / "best_model.zip").write_bytes(b"PK not a zip")
    assert "not a usable PPO model" in shell.refuse("backtest", "-r", "d")
    (copy("e") / "model.zip").unlink()
    assert "no trained model" in shell.refuse("backtest", "-r", "e", "--model", "final")
    config = json.loads((copy("f") / "config.json").read_text())
    config["env"]["features"] = ["momentum_20"]
    (tmp_path / "f" / "config.json").write_text(json.dumps(config))
    assert "scaler" in shell.refuse("backtest", "-r", "f")
    info = json.loads((copy("g") / "run.json").read_text())
    del info["data"]["test"]["fingerprint"]
    (tmp_path / "g" / "run.json").write_text(json.dumps(info))
    for command in (("backtest",), ("stress",), ("replay", "--lane", 0)):
        assert "g: damaged run folder: run.json: data.test: fingerprint missing" in shell.refuse(*command, "-r", "g")
    (copy("h") / "looks.jsonl").write_text("half a li")
    assert "h/looks.jsonl: damaged record of backtests" in shell.refuse("backtest", "-r", "h")
    copy("i")
    for content in ("", "timesteps,sharpe\n", "timesteps,sharpe,best\n10,a word,True\n"):
        (tmp_path / "i" / "evaluations.csv").write_text(content)
        assert "i/evaluations.csv: damaged: " in shell.refuse("backtest", "-r", "i")


def test_the_best_model_of_a_run_that_was_cut_off_can_be_tested(tmp_path: Path, trained: Path) -> None:
    """Training that is killed has no time to write down how long it went."""
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    info = json.loads((run / "run.json").read_text())
    steps, seconds = info.pop("timesteps"), info.pop("seconds")
    for known, told in (
        ({}, "a number of steps that is not known; status 'training'"),
        ({"timesteps": steps}, f"{steps:,} steps; status 'training'"),
        ({"timesteps": steps, "seconds": seconds}, f"{steps:,} steps in {seconds:,.1f} s"),
    ):
        (run / "run.json").write_text(json.dumps({**info, "status": "training", **known}))
        assert prepare_run(run).facts["Trained for"] == told


def test_a_model_that_does_not_fit_is_named(shell: Shell, tmp_path: Path, trained: Path) -> None:
    changes = {"backtest": {"model": str(trained / "model.zip")}, "env": {"features": ["momentum_20"]}}
    message = shell.refuse("backtest", "-c", write(tmp_path / "run.json", changes), "-o", "out")
    assert "does not fit" in message
    assert "trained on the features momentum_20, rsi_14, and the environment lacks rsi_14" in message
    assert not (tmp_path / "out").exists()


def test_changed_data_are_noticed(shell: Shell, tmp_path: Path) -> None:
    df = frame(n_bars=400)
    df.to_csv("mine.csv", index=False)
    config = write(tmp_path / "run.json", {"data": {"source": "mine.csv", "train_end": "2021-01-01"}})
    assert shell.run("train", "-c", config, "-o", "run", "--timesteps", 256) == 0
    df.loc[df.index[-1], "volume"] += 1
    df.to_csv("mine.csv", index=False)
    assert "have changed since training" in shell.refuse("backtest", "-r", "run")


def test_an_episode_of_training_is_played_again(
    shell: Shell, tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    episodes = pd.read_csv(run / "recording" / "episodes.csv")
    row = episodes[episodes["episode"] == 0].iloc[3]
    assert shell.run("replay", "--run", run, "--lane", int(row["lane"]), "--episode", 0) == 0
    folder = run / f"replay-lane{int(row['lane'])}-episode0"
    assert "bit for bit" in shell.out
    assert (folder / "report.html").is_file()
    assert json.loads((folder / "metrics.json").read_text())["final_equity"] == pytest.approx(row["equity"], rel=1e-9)
    assert "no finished episode 999 of lane 2" in shell.refuse("replay", "-r", run, "--lane", 2, "--episode", 999)
    rows = (run / "recording" / "episodes.csv").read_text().splitlines()
    changed = rows[1].rsplit(",", 1)[0] + ",1.0"
    (run / "recording" / "episodes.csv").write_text("\n".join([rows[0], changed]))
    lane = rows[1].split(",")[0]
    assert "ended with 1.0 in training" in shell.refuse("replay", "-r", run, "--lane", lane, "--episode", 0)
    monkeypatch.setattr(FastTrainingEnv, "holdings", property(lambda env: env._engine.holdings[0] * (1.0 + 1e-7)))
    (run / "recording" / "episodes.csv").write_text("\n".join(rows))
    message = shell.refuse("replay", "-r", run, "--lane", lane, "--episode", 0)
    assert "the training tier holds" in message and "should agree to 1e-09 of the account" in message
    shutil.rmtree(run / "recording")
    assert "was not recorded" in shell.refuse("replay", "-r", run, "--lane", 0)


def test_recording_stops_at_its_limit_and_keeps_what_it_has(shell: Shell, tmp_path: Path) -> None:
    agent = {"record_megabytes": 16 * 5 * 4 * 40 / 2**20, "evaluations": 0}  # 40 steps of 16 lanes and 5 symbols
    config = write(tmp_path / "run.json", {"agent": agent, "env": {"episode_config": {"length": 30}}})
    assert shell.run("train", "-c", config, "-o", "run") == 0
    assert Path("run/recording/actions.bin").stat().st_size == 16 * 5 * 4 * 40
    assert set(pd.read_csv("run/recording/episodes.csv")["episode"]) == {0}
    assert shell.run("replay", "-r", "run", "--lane", 7) == 0


def test_verify_prints_a_certificate(shell: Shell, tmp_path: Path) -> None:
    rules = {"margin_config": {"allow_short": True, "leverage": 2.0}, "execution_config": {"lot_size": 1.0}}
    config = write(tmp_path / "run.json", {"env": rules})
    assert shell.run("verify", "--config", config, "--steps", 2000, "--lanes", 8) == 0
    assert "2,000" in shell.out
    assert "Largest difference, equity" in shell.out
    assert "8 lanes, 250 steps each" in shell.out and "seed 0" in shell.out
    assert "within 2e-06" in shell.out
    assert "evaluation tier" in shell.refuse(
        "verify", "-c", write(tmp_path / "bad.json", {"env": {"reward_config": {"type": "sharpe_ratio"}}})
    )


def test_usage(shell: Shell) -> None:
    assert shell.run("--help") == 0
    for command in ("train", "backtest", "replay", "verify"):
        assert command in shell.out
    assert shell.run("--version") == 0
    assert shell.run("train", "--timesteps", "0") == 2
    assert "expected --config" in shell.refuse("train")
    assert "one of --run DIR" in shell.refuse("backtest")
    assert "one of --run DIR" in shell.refuse("backtest", "-r", "x", "-c", "y")
