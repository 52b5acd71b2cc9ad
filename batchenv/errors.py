"""Every error that batchenv raises on purpose, under one base.

A message says what was wrong, where (file, key, row, symbol, lane) and what was expected. The command line
prints the message alone; a traceback is reserved for defects.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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


class CausalityWarning(UserWarning):
    """Something could not be looked at when look-ahead was searched for."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` when a known name is close to ``name``, else an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
