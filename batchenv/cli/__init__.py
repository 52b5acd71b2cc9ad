"""The ``batchenv`` command. The only place that prints: each family of commands is a module, imported below."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.markup import escape

from batchenv.cli.screen import app, console, errors
from batchenv.errors import BatchenvError

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; errors raised on purpose become one message and exit code 1."""
    try:
        app()
    except BatchenvError as error:
        errors.print(f"[bold red]Error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("[yellow]Interrupted.[/]")
        sys.exit(130)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)] = False,
) -> None:
    if version:
        from batchenv import __version__

        console.print(__version__)
        raise typer.Exit


from batchenv.cli import backtest, compare, selfcheck, stress, train, verify, walk_forward  # noqa: E402, F401  (each registers its commands, in this order)
