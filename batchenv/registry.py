"""Functions that users register by name, and how they get to other processes.

What is registered lives in one process. A worker that was started anew (``spawn`` or ``forkserver``, joblib, Ray) knows
the built-in features and rewards and nothing else. `MarketData` and `EnvConfig` therefore take the registered functions
along when they are pickled (`carried`), and register them where they arrive (`arrive`). A function that the other
process can import travels by name; any other, as from a notebook or a script, travels by value. What cannot, from a
file that was loaded by its path, is loaded from that file again.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import multiprocessing
import pickle
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import local
from types import ModuleType
from typing import Any

from batchenv.errors import BatchenvError, ConfigError, FeatureError

Function = Callable[..., Any]
Carried = Mapping[str, Mapping[str, bytes]]
"""Pickled functions by kind and name."""


class Registry:
    """The user's functions of one kind, by name.

    A function that was registered here comes before one that another process sent. Of those that were sent the last one
    counts, so that a worker which lives on gets what a notebook has changed since.
    """

    def __init__(self, kind: str, error: type[BatchenvError]) -> None:
        """Start empty.

        Args:
            kind: What the functions are, for messages: ``feature`` or ``reward``.
            error: What is raised where something is wrong.
        """
        self.kind = kind
        self._error = error
        self._functions: dict[str, Function] = {}
        self._sent: dict[str, bytes] = {}

    def register(self, name: str, function: Function, *, replace: bool) -> None:
        """Take ``function`` in as ``name``.

        The same place may register again: the same module and qualified name, as when a notebook's cell runs twice.

        Raises:
            BatchenvError: The name is taken by a function from another place, or ``function`` cannot be called.
        """
        if not callable(function):
            raise self._error(f"{self.kind} {name!r}: expected a function, got {type(function).__name__}")
        before = self._functions.get(name)
        if before is not None and not replace and _place(before) != _place(function):
            raise self._error(
                f"{self.kind} {name!r} is registered already, as {'.'.join(_place(before))}; pass replace=True to "
                f"replace it by {'.'.join(_place(function))}"
            )
        self._functions[name] = function

    def get(self, name: str) -> Function | None:
        """Return the function of that name, or None.

        Raises:
            BatchenvError: It was sent by another process and cannot be loaded in this one.
        """
        if name in self._functions or name not in self._sent:
            return self._functions.get(name)
        try:
            return _loaded(self._sent[name])
        except Exception as error:  # unpickling runs the user's own modules
            raise self._error(
                f"{self.kind} {name!r} was registered in another process and cannot be loaded in this one: "
                f"{type(error).__name__}: {error}; expected a module that both processes can import"
            ) from error

    def names(self) -> tuple[str, ...]:
        """Return all names, sorted."""
        return tuple(sorted(self._functions.keys() | self._sent.keys()))

    def hint(self) -> str:
        """Return what to say where a name is unknown: in a worker, how a function gets here; else nothing."""
        if multiprocessing.parent_process() is None:
            return ""
        return (
            f" (this is a worker process; a {self.kind} that was registered in the process that started it comes along "
            "with a MarketData or EnvConfig made there and handed to the worker)"
        )

    def pickled(self) -> dict[str, bytes]:
        """Return all functions pickled, by name.

        Raises:
            BatchenvError: A function cannot be pickled.
        """
        return {**self._sent, **{name: self._pickle(name, function) for name, function in self._functions.items()}}

    def _pickle(self, name: str, function: Function) -> bytes:
        try:
            return _dumped(function)
        except Exception as error:  # whatever the function holds may raise anything
            file = _file_of(function)
            if file is not None:
                return pickle.dumps(_FromFile(str(file), self.kind, name))
            raise self._error(
                f"{self.kind} {name!r} cannot be sent to another process: {type(error).__name__}: {error}; expected a "
                "function that holds no open files, locks or other things of this process alone"
            ) from error

    def load(self, name: str, file: Path) -> Function:
        """Return a function that ``file`` registers.

        Raises:
            LookupError: It does not.
        """
        load_file(file)
        if name not in self._functions:
            raise LookupError(f"{file} does not register {name!r}")
        return self._functions[name]

    def receive(self, functions: Mapping[str, bytes]) -> None:
        """Take in what another process sent; each is loaded when it is first used."""
        self._sent.update(functions)


FEATURES = Registry("feature", FeatureError)
REWARDS = Registry("reward", ConfigError)
_REGISTRIES = (FEATURES, REWARDS)

_now = local()
"""Whether this thread is pickling functions: they may hold a market, which takes no functions along then."""


def carried() -> Carried | None:
    """Return all registered functions, to be pickled along with something; None where there are none.

    Raises:
        BatchenvError: A function cannot be pickled; names it.
    """
    if getattr(_now, "carrying", False):
        return None
    _now.carrying = True
    try:
        return {registry.kind: found for registry in _REGISTRIES if (found := registry.pickled())} or None
    finally:
        _now.carrying = False


def arrive(functions: Carried | None) -> None:
    """Register what `carried` returned in another process."""
    for registry in _REGISTRIES:
        registry.receive((functions or {}).get(registry.kind, {}))


def _place(function: Function) -> tuple[str, str]:
    """Return the module and the qualified name of a function, or of what made it."""
    while isinstance(function, functools.partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    return str(named.__module__), str(named.__qualname__)


def _dumped(function: Function) -> bytes:
    import cloudpickle

    module = sys.modules.get(_place(function)[0])
    if module is None or _importable(module):
        return bytes(cloudpickle.dumps(function))
    cloudpickle.register_pickle_by_value(module)
    try:
        return bytes(cloudpickle.dumps(function))
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def _importable(module: ModuleType) -> bool:
    """Return whether another process finds the module by its name; not one that was loaded from a file by its path."""
    top = module.__name__.partition(".")[0]
    found = (finder.find_spec(top, None) for finder in sys.meta_path if hasattr(finder, "find_spec"))
    spec = next((spec for spec in found if spec is not None), None)
    return spec is not None and spec.origin in (None, "built-in", getattr(sys.modules.get(top), "__file__", None))


def _file_of(function: Function) -> Path | None:
    """Return the file that a function stands in at its top level; None for one of a notebook or the main script."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    file = Path(getattr(code, "co_filename", "")).absolute()
    module, name = _place(function)
    return file if file.is_file() and module not in ("__main__", "__mp_main__") and "<locals>" not in name else None


@dataclass(frozen=True)
class _FromFile:
    """What travels in place of a function that is loaded from its file again.

    Attributes:
        file: The file.
        kind: The kind of function.
        name: The name that it is registered by.
    """

    file: str
    kind: str
    name: str


@functools.lru_cache(maxsize=256)
def _loaded(content: bytes) -> Function:
    found = pickle.loads(content)
    if isinstance(found, _FromFile):
        registry = next(registry for registry in _REGISTRIES if registry.kind == found.kind)
        found = registry.load(found.name, Path(found.file))
    function: Function = found
    return function


def load_file(path: Path) -> None:
    """Run a Python file that registers functions, as a module of its own.

    Raises:
        OSError: It cannot be read.
        Exception: Whatever it raises.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # the suffix is .py
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
