"""The compile policy of the kernel, in one place.

Sums may be re-associated, which lets the compiler use vector registers; NaN, infinity and signed zeros keep their
meaning. Reference counting is switched off: the kernel only borrows arrays and allocates none, and counting costs more
than the arithmetic.

Compiled code is cached on disk beside the package, or in the user's cache folder when the package is read-only. numba
stamps a cache entry with the one file that holds the function; ours are put together from several, so the stamp is
a digest of all of them, and an edit of any formula recompiles.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc"}, "_nrt": False}


@cache
def source_digest() -> str:
    """Return a digest of every source file of the kernel."""
    folder = Path(__file__).parent
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))).hexdigest()


def inlined(function: F) -> F:
    """Compile ``function`` into the compiled functions that call it."""
    return cast(F, numba.njit(forceinline=True, **_OPTIONS)(function))


def compiled(function: F) -> F:
    """Compile ``function`` on its first call, to be called from Python without the interpreter's lock."""
    if getattr(numba.config, "DISABLE_JIT", 0):  # plain Python, for debuggers and the mutation check
        return function
    try:
        dispatcher = numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # no folder to cache in can be written
        return cast(F, numba.njit(**_OPTIONS)(function))
    dispatcher._cache._cache_file._source_stamp = source_digest()
    return cast(F, dispatcher)
