"""The notebook runs, for its own runs and a reader's; what is stored of it is what its text form gives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import nbformat
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from nbformat import NotebookNode

from batchenv.config import RunConfig
from batchenv.train import train
from tests import notebook

SMALL = {"RUNS": [], "TIMESTEPS": 4096, "LANES": 294}


def outputs(found: NotebookNode) -> Iterator[NotebookNode]:
    for cell in found.cells:
        yield from cell.get("outputs", ())


def words(found: NotebookNode) -> str:
    """Return all that the cells show, but for pictures."""
    shown = []
    for output in outputs(found):
        data = output.get("data", {})
        shown += [output.get("text", ""), *(text for kind, text in data.items() if kind.startswith("text/"))]
    return "\n".join(shown)


def check_outputs(found: NotebookNode) -> None:
    """Every code cell has run, in order, without errors and warnings, and nothing of the machine shows."""
    code = [cell for cell in found.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert {output.output_type for output in outputs(found)} == {"display_data", "execute_result"}
    assert sum("image/png" in output.data for output in outputs(found)) == 3
    text = words(found)
    assert not re.search(r"(?<![\w.])/(tmp|home|root|work|usr|var|Users|private)\b|[A-Z]:\\", text)
    assert not re.search(r"\b\d+(\.\d+)? ?(ms|s|seconds)\b|object at 0x|nan\b|\binf\b", text)


def test_the_notebook_runs_in_an_empty_folder(tmp_path: Path) -> None:
    found = notebook.execute(notebook.read_text(), tmp_path, **SMALL)
    check_outputs(found)
    assert not list(tmp_path.iterdir())  # its own runs leave nothing behind
    text = words(found)
    total, change = re.search(r"Sum of the parts: (\S+)\. Change of equity: (\S+)\.", text).groups()  # type: ignore[union-attr]
    assert total == change
    assert float(re.search(r"VectorBT's equity differs by (\S+) of it", text)[1]) < 1e-9  # type: ignore[index]
    assert "above 0, 3 trials: 0." in text


def test_a_reader_s_own_run_is_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run, without intervals for several seeds; played by this interpreter, which is faster."""
    monkeypatch.chdir(tmp_path)
    config = RunConfig.model_validate(
        {
            "data": {"source": "bundled", "train_end": "2012-01-01", "validation_fraction": 0.0, "symbols": ["IBM"]},
            "env": {"features": ["return_1"], "portfolio_config": {"initial_cash": 5000.0}},
            "agent": {"n_envs": 8, "total_timesteps": 256, "hyperparameters": {"n_steps": 32}},
            "backtest": {"baselines": ["buy_and_hold", "cash"], "vectorbt": False},
        }
    )
    train(config, Path("runs/mine"))
    cells = [cell.source for cell in notebook.read_text().cells if cell.cell_type == "code"]
    shown: list[Any] = []
    names: dict[str, Any] = {}
    with mpl.rc_context(), pd.option_context("display.float_format", None, "display.max_colwidth", 50):
        mpl.use("agg")
        for cell in cells:
            exec(cell, names)
            names |= {"display": shown.append}
            if "RUNS =" in cell:
                names |= {"RUNS": ["runs/mine"], "LANES": 147}
        plt.close("all")
    text = "\n".join(getattr(one, "data", str(one)) for one in shown)
    assert names["results"].history["equity"].iloc[0] == 5000.0
    assert "not enough data (needs 2 seeds, has 1)" in text
    assert "not enough data (needs 2 configurations, has 1)" in text
    assert len(Path("runs/mine/looks.jsonl").read_text().splitlines()) == 1  # the look was counted, once
    assert Path("runs/mine/backtest/report.html").is_file()


def test_what_is_stored_has_the_cells_of_its_text_form() -> None:
    stored = nbformat.read(notebook.NOTEBOOK, as_version=4)
    nbformat.validate(stored)
    text = notebook.read_text()
    for mine, theirs in zip(stored.cells, text.cells, strict=True):
        expected = (theirs.cell_type, theirs.source, theirs.id, theirs.metadata)
        assert (mine.cell_type, mine.source, mine.id, mine.metadata) == expected, "run: make notebook"
    assert stored.metadata == text.metadata


def test_what_is_stored_is_whole_and_small() -> None:
    check_outputs(nbformat.read(notebook.NOTEBOOK, as_version=4))
    assert notebook.NOTEBOOK.stat().st_size < 500_000


def test_links_of_the_notebook_lead_somewhere() -> None:
    prose = "\n".join(cell.source for cell in notebook.read_text().cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)#\s]+)(?:#([^)]*))?\)", prose)
    assert links
    for target, anchor in links:
        path = notebook.DOCS / target
        assert path.is_file(), target
        headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {heading.lower().replace(" ", "-") for heading in headings}, anchor
