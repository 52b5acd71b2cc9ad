"""The notebook of the documents, executed: ``python -m tests.notebook`` writes ``docs/evaluation.ipynb``.

What is written depends on the code, the packages and the processor alone: cells are named by their content, and neither
times nor versions are kept.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jupytext
import nbformat
import numpy as np
from nbclient import NotebookClient
from nbformat import NotebookNode
from traitlets.config import Config

from batchenv import BatchTradingEnv, MarketData

DOCS = Path(__file__).parent.parent / "docs"
TEXT, NOTEBOOK = DOCS / "evaluation.py", DOCS / "evaluation.ipynb"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def read_text() -> NotebookNode:
    """Return the text form as a notebook without outputs."""
    notebook = jupytext.read(TEXT, fmt="py:percent")
    notebook.metadata = NotebookNode(METADATA)
    for cell in notebook.cells:
        cell.id = hashlib.sha256(cell.source.encode()).hexdigest()[:8]
        cell.metadata = NotebookNode({"tags": cell.metadata["tags"]} if "tags" in cell.metadata else {})
    return notebook


def execute(notebook: NotebookNode, folder: Path, **parameters: Any) -> NotebookNode:
    """Run all cells in ``folder``, after which the notebook holds their outputs.

    Args:
        notebook: It is changed.
        folder: Working directory.
        **parameters: Values in place of those in the cell that is tagged ``parameters``.

    Raises:
        CellExecutionError: A cell failed.
    """
    _compile_kernel()
    for cell in notebook.cells:
        if parameters and "parameters" in cell.metadata.get("tags", ()):
            cell.source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    client = NotebookClient(
        notebook,
        config=Config(KernelManager={"transport_encryption": "auto"}),  # without it the kernel warns
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
        timeout=None,  # however slow the machine is
        startup_timeout=600,
    )
    client.execute()
    notebook.metadata = NotebookNode(METADATA)
    return notebook


def _compile_kernel() -> None:
    """Compile the kernel if this is its first run, so that no cell says that it does."""
    env = BatchTradingEnv(MarketData.bundled(), {}, n_envs=1, seed=0)
    env.reset()
    env.step(np.zeros((1, 5), np.float32))


def main() -> None:
    """Write the notebook anew."""
    with TemporaryDirectory() as folder:
        nbformat.write(execute(read_text(), Path(folder)), NOTEBOOK)


if __name__ == "__main__":
    main()
