"""The house rules that a script can hold: where imports may point, and what may stand where."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.proof.mutate import MUTANTS

ROOT = Path(__file__).parent.parent
ORDER = {
    "errors": 0,
    "calendars": 1,
    "loaders": 1,
    "market": 2,
    "config": 2,
    "features": 3,
    "episodes": 3,
    "rewards": 3,
    "spaces": 4,
    "parameters": 4,
    "base": 5,
    "kernel": 6,
    "batch": 7,
    "fast": 8,
    "sb3": 8,
    "runs": 8,
    "extractors": 6,
    "networks": 6,
    "rollout": 7,
    "mlp": 7,
    "small_batches": 8,
    "ppo": 9,
    "causality": 4,
    "record": 9,
    "agent": 10,
    "train": 11,
    "cli": 12,
}
"""A module may import only modules of a lower number, or of its own folder."""
FACTS = {"errors", "calendars", "market", "features", "config", "spaces", "base", "episodes", "rewards", "parameters"}
"""What the evaluation tier may know of the training tier: facts, never arithmetic."""
FACES = {"agent", "batch", "fast", "record", "runs", "sb3", "train"}
COMMAND_LINE = {
    "stateful/command.py",
    "stateful/evaluation/compare.py",
    "stateful/evaluation/fold_run.py",
    "stateful/evaluation/selfcheck.py",
    "stateful/evaluation/stress.py",
    "stateful/evaluation/trials.py",
    "stateful/evaluation/walk_forward.py",
    "stateful/replay.py",
    "stateful/verify.py",
}
"""Modules that put both tiers together: for the command line, and to compare them."""


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Return every dotted module that a file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def home(path: Path) -> str:
    parts = path.relative_to(ROOT / "batchenv").parts
    return parts[0] if len(parts) > 1 else path.stem


def test_imports_of_the_training_tier_point_one_way() -> None:
    checked = 0
    for path in sources("batchenv"):
        here = home(path)
        if here in ("__init__", "__main__", "data"):
            continue
        for name in imports(path):
            package, _, rest = name.partition(".")
            target = rest.split(".")[0]
            if package == "stateful":
                assert here == "cli", f"{path}: imports {name}, but only the command line may"
            if package == "batchenv" and target in ORDER and target != here:
                checked += 1
                assert ORDER[target] < ORDER[here], f"{path}: imports {name} against the order"
    assert checked > 40


def test_the_evaluation_tier_knows_facts_only() -> None:
    for path in sources("stateful"):
        allowed = FACTS | (FACES if str(path.relative_to(ROOT)) in COMMAND_LINE else set())
        for name in imports(path):
            package, _, rest = name.partition(".")
            if package == "batchenv" and rest:
                assert rest.split(".")[0] in allowed, f"{path}: imports {name}"


ROOMS = {
    r"\bn?jit\(|\bprange\b|fastmath": {"batchenv/kernel/jit.py", "batchenv/kernel/loops.py"},
    r"\bimport pandas\b": {
        "batchenv/loaders.py",
        "batchenv/market.py",
        "batchenv/features.py",
        "stateful/",
    },
    r"\bvectorbt\b.*import|import vectorbt": {"stateful/analysis.py"},
    r"terminal_observation": {"batchenv/sb3.py", "batchenv/ppo.py"},
    r"\bnp\.random\b|\bimport random\b": {"batchenv/rollout.py", "stateful/verify.py"},
    r"^\s*print\(": set(),
}
"""A pattern of code, and the only files that may hold it."""


@pytest.mark.parametrize("pattern", ROOMS)
def test_a_line_of_code_lives_in_its_room(pattern: str) -> None:
    for path in sources("batchenv") + sources("stateful"):
        name = str(path.relative_to(ROOT))
        if any(name.startswith(room) for room in ROOMS[pattern]):
            continue
        code = re.sub(r'"""(.|\n)*?"""|``[^`]*``', "", path.read_text())
        hits = [line for line in code.splitlines() if re.search(pattern, line.split("#")[0])]
        assert not hits, f"{name}: {hits[0].strip()!r} belongs to {sorted(ROOMS[pattern]) or 'no file'}"


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import batchenv, stateful", ["torch", "vectorbt", "numba", "pandas", "gymnasium", "stable_baselines3"]),
        ("from batchenv import BatchTradingEnv, FastTrainingEnv", ["torch", "vectorbt", "stable_baselines3"]),
        ("from stateful import StatefulTradingEnv, BackTesting", ["torch", "vectorbt", "plotly", "quantstats"]),
        ("import batchenv.cli", ["torch", "vectorbt", "numba", "pandas"]),
    ],
)
def test_an_import_brings_no_more_than_it_needs(statement: str, forbidden: list[str]) -> None:
    code = f"import sys; {statement}; print(*[m for m in {forbidden!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout.split() == []


def test_the_kernel_is_recompiled_when_any_of_its_files_changes(tmp_path: Path) -> None:
    """numba stamps its cache with one file only; a changed formula in another must not be served stale."""
    import shutil

    for package in ("batchenv", "stateful"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import numpy as np; from batchenv import BatchTradingEnv, MarketData\n"
        "env = BatchTradingEnv(MarketData.bundled(), {}, n_envs=1, seed=0); env.reset()\n"
        "env.step(np.ones((1, 5), np.float32)); print(env.cash[0])"
    )

    def cash() -> float:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
        return float(done.stdout)

    before = cash()
    formulas = tmp_path / "batchenv" / "kernel" / "accounting.py"
    text = formulas.read_text()
    assert "return rate * notional" in text
    formulas.write_text(text.replace("return rate * notional", "return 2.0 * rate * notional"))
    assert cash() < before


def test_every_mutant_has_one_place_to_break() -> None:
    """`make mutants` takes minutes to find out; a kernel that was rewritten must bring its mutants along."""
    for mutant in MUTANTS:
        text = (ROOT / "batchenv" / "kernel" / f"{mutant.file}.py").read_text(encoding="utf-8")
        assert text.count(mutant.old) == 1, mutant.name


def test_the_kernel_runs_as_plain_python() -> None:
    """That is how mutants are run, and how a debugger steps through it; numpy's warnings are errors there."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "tests/proof/test_exact.py"]
    done = subprocess.run(
        command, env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:]
