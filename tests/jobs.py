"""What the processes of `tests.test_walk_forward` do; it imports little, so that they start fast."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from batchenv.errors import RunError
from stateful.evaluation.workers import Tell, run_in_processes


def double(job: Any, tell: Tell) -> None:
    """Tell twice the number; some jobs fail, in each of the ways there are."""
    if job == "error":
        raise RunError("the disk is full")
    if job == "defect":
        raise KeyError("nothing")
    if job == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    tell(2 * job)


def beat(path: Path, tell: Tell) -> None:
    """Write to a file for ever."""
    while True:
        path.write_text(str(time.monotonic()))
        tell("alive")
        time.sleep(0.02)


if __name__ == "__main__":  # a parent that only a signal ends
    run_in_processes(beat, {0: Path(sys.argv[1])}, workers=1, heard=lambda *_: None, ended=lambda *_: None)
