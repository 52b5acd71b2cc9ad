"""``batchenv verify``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from batchenv.cli.screen import ConfigOption, advance, app, bars_progress, console, read_config, required


@app.command()
def verify(
    config: ConfigOption = None,
    steps: Annotated[int, typer.Option(min=1, help="Lane-steps to compare.")] = 100_000,
    lanes: Annotated[int, typer.Option(min=1, help="Lanes to compare at once.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Seed of actions and episodes.")] = 0,
) -> None:
    """Prove the money on your own configuration and data: both tiers play the same episodes, every number compared."""
    run_config = read_config(required(config, "verify"))
    with console.status("Loading libraries, and compiling the kernel if this is its first run (about 20 s) ..."):
        from stateful.command import verify_config
        from stateful.verify import OBSERVATION_TOLERANCE, TOLERANCE
    bars = -(-steps // lanes)
    with bars_progress() as progress:
        task = progress.add_task("Verify", total=bars * lanes)
        certificate = verify_config(
            run_config, lanes, bars, seed, lambda done: advance(progress, task, done, bars * lanes)
        )
    table = Table(title="Certificate: batch tier against evaluation tier", show_header=False)
    table.add_row("Configuration", escape(str(config)))
    source = escape(str(run_config.data.source))
    table.add_row("Compared", f"{lanes:,} lanes, {bars:,} steps each, training bars of {source}, seed {seed}")
    table.add_row("Lane-steps compared", f"{certificate.lane_steps:,}")
    table.add_row("Episodes ended", f"{certificate.episodes:,} ({certificate.terminated:,} in bankruptcy)")
    table.add_row("Fills", f"{certificate.fills:,}")
    for name, worst in certificate.worst.items():
        table.add_row(f"Largest difference, {name}", f"{worst:.1e} (allowed {TOLERANCE:.0e})")
    table.add_row("Done flags", "equal")
    table.add_row("Observations, float32", f"within {OBSERVATION_TOLERANCE:.0e}")
    console.print(table)
