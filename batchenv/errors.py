"""Every error that batchenv raises on purpose, under one base, and its warnings.

A message says what was wrong, where (file, key, row, symbol, lane) and what was expected. The command line
prints the message alone; a traceback is reserved for defects.
"""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import FrameType


class BatchenvError(Exception):
    """Base of all errors that batchenv raises on purpose."""


class ConfigError(BatchenvError, ValueError):
    """A configuration file or object is not valid."""


class MarketDataError(BatchenvError, ValueError):
    """Market data are not usable as given."""


class FeatureError(BatchenvError, ValueError):
    """A feature is unknown, or computes something unusable."""


class ActionError(BatchenvError, ValueError):
    """An action has the wrong shape or a value that is not a number."""


class RunError(BatchenvError):
    """A run folder is missing, occupied, damaged, or does not fit what is asked of it."""


class EnvironmentStateError(BatchenvError, RuntimeError):
    """An environment was used out of order, for example stepped before its first reset."""


class CausalityError(BatchenvError, AssertionError):
    """A feature or an environment uses bars that are not known yet."""


def shown(value: object) -> str:
    """Return a value as a message shows it: its ``repr``, cut to 60 characters."""
    try:
        text = repr(value)
    except Exception:  # an integer of thousands of digits has none, and a stranger's object may have a broken one
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


class BatchenvWarning(UserWarning):
    """Base of all warnings of batchenv."""


class LevelFeatureWarning(BatchenvWarning):
    """A feature is a level of prices or volumes that were adjusted for what happened later."""


class CausalityWarning(BatchenvWarning):
    """Something could not be looked at when look-ahead was searched for."""


_shown: set[tuple[str, str, int]] = set()
"""Message, file and line of every warning so far."""


def warn(message: str, category: type[BatchenvWarning]) -> None:
    """Warn at the user's own line that led here, or at this one where there is none, as from the command line.

    Each line warns once of the same thing. Python means to do that too, but forgets what it has shown whenever a
    library changes the filters of warnings.
    """
    project = tuple(str(Path(__file__).parent.parent / name) for name in ("batchenv", "stateful"))
    level = 1
    frame: FrameType | None = sys._getframe()
    while frame is not None and _is_library(frame.f_code.co_filename, project):
        level, frame = level + 1, frame.f_back
    place = ("", 0) if frame is None else (frame.f_code.co_filename, frame.f_lineno)
    if (message, *place) not in _shown:
        _shown.add((message, *place))
        warnings.warn(message, category, stacklevel=1 if frame is None else level)


def _is_library(file: str, project: tuple[str, ...]) -> bool:
    installed = ("site-packages", "dist-packages")
    return file.startswith((*project, "<frozen")) or any(part in installed for part in Path(file).parts)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` when a known name is close to ``name``, else an empty string."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
