"""The kernel with every index checked: ``python -m tests.proof.bounds [--lane-steps N]``.

First an index beyond an array is planted in both kernels, which must be noticed: else the rest would mean nothing. Then
hostile inputs (`tests.hostile`) and random worlds (`tests.proof.run`) are played: one ends them with an IndexError.

An index from -n to -1 of an array of n counts from the end, as in numpy, and is not noticed. It stays within the array,
and the comparison of the tiers finds what it reads there.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from rich.console import Console

from tests.hostile.__main__ import GROUPS
from tests.hostile.child import CHECKED, KERNELS, plant, try_group


def main() -> int:
    """Run all three; return 1 where one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lane-steps", type=int, default=200_000)
    options = parser.parse_args()
    console = Console(width=100, highlight=False)
    for kernel in KERNELS:
        code, output = plant("a bar", kernel)
        if code != 1 or "IndexError" not in output:
            console.print(f"[red]A planted index was not noticed in the {kernel} kernel:[/]\n{output[-2000:]}")
            return 1
        console.print(f"A planted index was noticed in the {kernel} kernel.")
    for group in GROUPS:
        wrong, tried = try_group(group, **CHECKED)
        if wrong:
            console.print(f"[red]Hostile inputs, {group}:[/]\n{wrong}", markup=True)
            return 1
        console.print(f"Hostile inputs, {group}: {tried}.")
    command = [sys.executable, "-m", "tests.proof.run", "--lane-steps", str(options.lane_steps)]
    return subprocess.run(command, env={**os.environ, **CHECKED}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
