"""Jobs in processes of their own, so that they use all cores, and that one that fails or is killed fails alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from batchenv.errors import BatchenvError

Key = TypeVar("Key")
Job = TypeVar("Job")
Tell = Callable[[Any], None]


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_in_processes(
    work: Callable[[Job, Tell], None],
    jobs: Mapping[Key, Job],
    *,
    workers: int,
    heard: Callable[[Key, Any], None],
    ended: Callable[[Key, str | None], None],
) -> None:
    """Do every job in a new process, ``workers`` at once, in order.

    An exception here, Ctrl-C among them, ends the processes at once; so does the end of this process, however it comes.

    Args:
        work: Called as ``work(job, tell)``; a function of a module, as `multiprocessing` needs it to be.
        jobs: The jobs by key; what they hold must pickle.
        workers: How many processes at once.
        heard: Called with key and message for whatever a job tells.
        ended: Called with the key when a job has ended, with None or with the reason why it failed.
    """
    context = multiprocessing.get_context("spawn")
    waiting = deque(jobs)
    running: dict[Connection, tuple[Key, SpawnProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                key = waiting.popleft()
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_enter, args=(work, jobs[key], sender), daemon=True)
                with _deaf_to_interrupts():
                    process.start()
                    sender.close()  # so that the pipe ends with the process
                    running[receiver] = (key, process)
            for pipe in wait(list(running)):
                assert isinstance(pipe, Connection)
                key, process = running[pipe]
                try:
                    message = pipe.recv()
                except (EOFError, OSError):  # it ended without a last word
                    process.join()
                    message = _Ended(_cause_of_death(process.exitcode))
                if not isinstance(message, _Ended):
                    heard(key, message)
                    continue
                process.join()
                del running[pipe]
                ended(key, message.reason)
    finally:
        for _, process in running.values():
            process.kill()
            process.join()


@dataclass(frozen=True)
class _Ended:
    """The last message of a process.

    Attributes:
        reason: Why the job failed; None where it did not.
    """

    reason: str | None


def _enter(work: Callable[[Job, Tell], None], job: Job, pipe: Connection) -> None:
    """What a new process does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        work(job, pipe.send)
    except BatchenvError as error:
        pipe.send(_Ended(str(error)))
    except Exception as error:  # a defect, or a user's own code: the traceback is for whoever mends it
        traceback.print_exc()
        pipe.send(_Ended(f"{type(error).__name__}: {error}"))
    else:
        pipe.send(_Ended(None))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _cause_of_death(code: int | None) -> str:
    if code is not None and code < 0:
        return f"its process was ended by signal {-code} ({signal.Signals(-code).name}); too little memory does that"
    return f"its process ended with exit code {code}"


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Let processes that are started in here not hear Ctrl-C, which a terminal sends to all: this one ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
