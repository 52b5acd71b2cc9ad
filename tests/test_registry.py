"""Registered features and rewards: registering again, and the way into processes that were started anew."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from batchenv import EnvConfig, MarketData, RunConfig, register_feature, register_reward
from batchenv.errors import ConfigError, FeatureError
from batchenv.features import available_features, compute_features
from batchenv.registry import FEATURES, REWARDS
from batchenv.rewards import registered_reward, registered_rewards
from batchenv.train import import_plugins
from stateful.evaluation.workers import run_in_processes
from tests import jobs
from tests.markets import market

ROOT = Path(__file__).parent.parent


def python(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in another process, which knows this package and not the tests' registrations."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True)


def cell(code: str, name: str = "__notebook__") -> dict[str, Any]:
    """Run a notebook's cell: its functions belong to one module, whatever the cell says today."""
    space: dict[str, Any] = {"__name__": name, "register_feature": register_feature, "register_reward": register_reward}
    exec(code, space)
    return space


def value(name: str) -> float:
    return float(compute_features(market(), [name], scaling="none").values[0, 0])


# --- registering again --------------------------------------------------------------------------------------


def test_a_cell_that_runs_again_replaces_its_function_quietly() -> None:
    code = "def mine(market):\n    return market.close * 0 + {}\nregister_feature('mine', mine)"
    for number in (1.0, 1.0, 2.0):
        cell(code.format(number))
        assert value("mine") == number
    cell("register_feature('short', lambda market: market.close * 0 + 3)")
    cell("register_feature('short', lambda market: market.close * 0 + 4)")
    assert value("short") == 4.0
    code = "def gain(step):\n    return {}\nregister_reward('gain', gain)"
    for number in (1.0, 2.0):
        cell(code.format(number))
        function = registered_reward("gain")
        assert function is not None and function(None) == number


@pytest.mark.parametrize(
    ("register", "error", "taken"), [(register_feature, FeatureError, "rsi"), (register_reward, ConfigError, None)]
)
def test_another_place_is_refused_unless_it_says_replace(
    register: Callable[..., None], error: type[Exception], taken: str | None
) -> None:
    def first(*_: Any) -> float:
        return 1.0

    def second(*_: Any) -> float:
        return 2.0

    class Rule:
        def __call__(self, *_: Any) -> float:
            return 3.0

    register("one", first)
    register("one", partial(first, 1))  # made of the same function
    for other in (second, partial(second, 1), Rule(), np.sin):
        with pytest.raises(error, match=r"'one' is registered already, as tests\.test_registry\..*first; pass replace"):
            register("one", other)
    register("one", Rule(), replace=True)
    register("one", Rule())
    with pytest.raises(error, match="'two': expected a function, got int"):
        register("two", 2)
    if taken is not None:
        with pytest.raises(error, match=f"'{taken}' is built in; pass replace=True"):
            register(taken, first)


def test_a_name_that_is_built_in_is_replaced_by_the_same_place_once_it_was_allowed() -> None:
    def rsi(market: MarketData, n: int = 14) -> np.ndarray[Any, Any]:
        return market.close * 0.0 + n

    register_feature("rsi", rsi, replace=True)
    register_feature("rsi", rsi)
    assert value("rsi_3") == 3.0


# --- into other processes -----------------------------------------------------------------------------------

SCRIPT = """
import sys
import numpy as np
from batchenv import EnvConfig, FastTrainingEnv, MarketData, register_feature, register_reward

SCALE = 3.0

def helper(values):
    return SCALE * values

def mine(market, n):
    return helper(market.close * 0 + n)

def gain(step, bonus):
    return step.equity_after * 0 + bonus

if __name__ == "__main__":
    from stable_baselines3.common.vec_env import SubprocVecEnv

    register_feature("mine", mine)
    register_reward("gain", gain)
    market = MarketData.bundled().select(["IBM", "MSFT"]).between("2005-01-01", "2006-01-01")
    rules = {"features": ["mine_7"], "feature_scaling": "none",
             "reward_config": {"type": "gain", "kwargs": {"bonus": 5.0}}}
    config = EnvConfig.model_validate(rules)
    made = {
        "data": lambda: FastTrainingEnv(market, rules, seed=0),
        "configuration": lambda: FastTrainingEnv(MarketData.bundled(), config, seed=0),
    }
    envs = SubprocVecEnv([made[name] for name in sys.argv[2:]], start_method=sys.argv[1])
    print(envs.reset()[:, 0].tolist(), flush=True)
    print(envs.step(np.zeros((len(sys.argv) - 2, envs.action_space.shape[0]), np.float32))[1].tolist(), flush=True)
    envs.close()
"""


@pytest.mark.parametrize("sent", ["data", "configuration"])
@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_workers_of_stable_baselines3_know_what_a_script_registered(start: str, sent: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = python("script.py", start, sent, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[21.0], [5.0]]


def test_workers_of_a_walk_know_what_was_registered_here() -> None:
    number = 2.5
    register_feature("registry_number", lambda market: market.close * 0 + number)
    register_reward("registry_gain", lambda step: number * (step.equity_after - step.equity_before))
    config = EnvConfig.model_validate({"features": ["registry_number"]})
    run = RunConfig.model_validate({"data": {"train_end": "2020-03-01"}, "env": config.model_dump()})
    sent = {"market": market(), "part": market().split("2020-03-02")[1], "config": config, "run": run}
    todo: dict[str, Any] = {name: (["registry_number"], thing) for name, thing in sent.items()}
    todo["nothing"] = (["registry_number"], None)
    told: dict[str, Any] = {}
    ended: dict[str, str | None] = {}
    run_in_processes(jobs.features_and_reward, todo, workers=2, heard=told.__setitem__, ended=ended.__setitem__)
    cells = market().close.size
    assert told.pop("part") == (number * sent["part"].close.size, 7.5)
    assert told == dict.fromkeys(("market", "config", "run"), (number * cells, 7.5))
    why = ended.pop("nothing")
    assert why is not None and "unknown feature 'registry_number'" in why and "comes along with a MarketData" in why
    assert set(ended.values()) == {None}


def read_elsewhere(content: bytes, folder: Path, name: str) -> str:
    (folder / "market.pickle").write_bytes(content)
    code = (
        "import pickle\nfrom batchenv.features import compute_features\n"
        "from batchenv.errors import BatchenvError\n"
        "market = pickle.load(open('market.pickle', 'rb'))\n"
        f"try: print(compute_features(market, [{name!r}], scaling='none').values[0, 0])\n"
        "except BatchenvError as error: print(error)"
    )
    done = python("-c", code, folder=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def module_from(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def test_functions_of_a_file_outside_the_path_travel_by_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import numpy as np\nLEVEL = 4.0\ndef steady(market):\n    return np.full(market.close.shape, LEVEL)\n"
    (tmp_path / "registry_plugin.py").write_text(text)
    monkeypatch.setitem(sys.modules, "registry_plugin", None)  # type: ignore[arg-type]
    register_feature("steady", module_from(tmp_path / "registry_plugin.py").steady)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert read_elsewhere(pickle.dumps(market()), elsewhere, "steady") == "4.0"


def test_a_plugin_that_cannot_travel_by_value_is_loaded_from_its_file_again(tmp_path: Path) -> None:
    """As where it keeps something in a cache that only its own module can name."""
    (tmp_path / "registry_cached.py").write_text(
        "from functools import lru_cache\nfrom threading import Lock\n"
        "from batchenv import register_feature, register_reward\nLOCK = Lock()\n\n"
        "@lru_cache\ndef number():\n    with LOCK:\n        return 6.0\n\n"
        "register_feature('cached', lambda market: market.close * 0 + number())\n"
        "register_reward('cached', lambda step: number())\n"
    )
    import_plugins((str(tmp_path / "registry_cached.py"),))
    content = pickle.dumps((market(), EnvConfig()))
    assert value("cached") == 6.0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert read_elsewhere(pickle.dumps(market()), elsewhere, "cached") == "6.0"
    forget()
    pickle.loads(content)
    function = registered_reward("cached")
    assert function is not None and function(None) == 6.0
    (tmp_path / "registry_cached.py").write_text("")
    assert "LookupError: " in read_elsewhere(pickle.dumps(market()), elsewhere, "cached")


def test_a_function_that_cannot_be_loaded_is_named_where_it_is_used_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "registry_module.py").write_text("def steady(market):\n    return market.close\n")
    monkeypatch.syspath_prepend(tmp_path)
    register_feature("steady", importlib.import_module("registry_module").steady)
    content = pickle.dumps(market())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    found = read_elsewhere(content, elsewhere, "steady")
    assert "feature 'steady' was registered in another process and cannot be loaded in this one" in found
    assert "No module named 'registry_module'" in found
    assert float(read_elsewhere(content, elsewhere, "return_1")) == 0.0


def test_a_built_in_feature_that_was_replaced_is_replaced_there_too(tmp_path: Path) -> None:
    register_feature("rsi", lambda market, n: market.close * 0 + n, replace=True)
    assert read_elsewhere(pickle.dumps(market()), tmp_path, "rsi_9") == "9.0"


@pytest.mark.parametrize("register", [register_feature, register_reward])
def test_what_cannot_be_sent_is_named_before_anything_is_sent(register: Callable[..., None]) -> None:
    lock = threading.Lock()
    register("with_lock", lambda *_: lock)
    sent: list[Any] = [market(), market().split("2020-03-02")[1], EnvConfig()]
    for thing in sent:
        with pytest.raises((FeatureError, ConfigError), match=r"'with_lock' cannot be sent to another process: .*lock"):
            pickle.dumps(thing)
    assert EnvConfig().model_copy(deep=True) == EnvConfig()


def test_a_function_that_holds_a_market_can_be_sent(tmp_path: Path) -> None:
    reference = market(1)
    register_feature("spread", lambda market: market.mark - reference.mark[: len(market.mark)])
    assert float(read_elsewhere(pickle.dumps(market()), tmp_path, "spread")) == pytest.approx(value("spread"))


# --- what counts where it arrives ---------------------------------------------------------------------------


def forget() -> None:
    for registry in (FEATURES, REWARDS):
        registry._functions.clear()


def sent_with(number: float) -> bytes:
    """Pickle a market and a configuration in a process that registered its own functions; this one forgets them."""
    register_feature("registry_number", lambda market: market.close * 0 + number, replace=True)
    register_reward("registry_gain", lambda step: number, replace=True)
    content = pickle.dumps((market(), EnvConfig()))
    forget()
    return content


def test_what_was_sent_last_counts_and_what_was_registered_here_before_that() -> None:
    for number in (1.0, 2.0):  # a worker that lives on while a notebook changes
        pickle.loads(sent_with(number))
        assert value("registry_number") == number
    assert "registry_number" in available_features() and registered_rewards() == ("registry_gain",)
    passed_on = pickle.dumps(market())
    register_feature("registry_number", lambda market: market.close * 0 + 5)  # what was sent is in nobody's way
    pickle.loads(sent_with(3.0))
    assert value("registry_number") == 3.0
    register_feature("registry_number", lambda market: market.close * 0 + 5)
    pickle.loads(passed_on)
    assert value("registry_number") == 5.0


def test_nothing_is_added_where_nothing_was_registered() -> None:
    bars = market(0, 400)
    train, test = bars.split("2020-10-01")
    matrices = sum(a.nbytes for a in (bars.timestamps, bars.open, bars.high, bars.low, bars.close, bars.volume))
    for thing in (bars, train, test):
        assert len(pickle.dumps(thing)) < matrices + 4_000
    assert b"registry" not in pickle.dumps(test) + pickle.dumps(EnvConfig())
    register_feature("small", lambda market: market.close)
    bare = sum(len(content) for content in FEATURES.pickled().values())
    assert len(pickle.dumps(test)) < matrices + 4_000 + bare, "the history takes no functions of its own"
