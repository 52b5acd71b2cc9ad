"""The compile policy of the kernel, in one place.

Sums may be re-associated, which lets the compiler use vector registers; NaN, infinity and signed zeros keep their
meaning. Reference counting is switched off: the kernel only borrows arrays and allocates none, and counting costs more
than the arithmetic.

Arrays that one function is given must not overlap, unless it reads them only: otherwise every loop over symbols would
begin by finding out whether they do.

Compiled code is cached on disk beside the package, or in the user's cache folder when the package is read-only. numba
stamps a cache entry with the one file that holds the function; ours are put together from several, so the stamp is
a digest of all of them, and an edit of any formula recompiles.

Code that checks every index is another build, with cache files of its own. In both builds an index from -n to -1 of an
array of n counts from the end, as in numpy.

numba looks at every argument of a call from Python, and at forty arrays that takes longer than a step of one lane.
So the arrays are *pinned*: looked at once, when an environment is built, and compiled code finds them by one address.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.compiler import Compiler
from numba.extending import intrinsic

from batchenv.kernel import state
from batchenv.kernel.state import VECTOR

F = TypeVar("F", bound=Callable[..., Any])

PLAIN_PYTHON = bool(getattr(numba.config, "DISABLE_JIT", 0))
"""Whether nothing is compiled, for debuggers and the mutation check."""

BOUNDS_CHECKED = bool(getattr(numba.config, "BOUNDSCHECK", 0))
"""Whether an index beyond an array raises an IndexError: NUMBA_BOUNDSCHECK=1 asks numba for it, see ``make bounds``."""


class Pipeline(Compiler):
    """numba's compiler, told that no two arrays that a function is given overlap."""

    def __init__(self, *arguments: Any) -> None:
        """Take what numba hands in; the flag has no place among the options of ``njit``."""
        cast(Any, super()).__init__(*arguments)
        self.state.flags.noalias = True


_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc"},
    "_nrt": False,
    "pipeline_class": Pipeline,
}


@cache
def source_digest(own: Path) -> str:
    """Return a digest of every source file of the kernel, and of a file of its own."""
    paths = {own, *Path(__file__).parent.glob("*.py")}
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(paths))).hexdigest()


def inlined(function: F, *, counted: bool = False) -> F:
    """Compile ``function`` into the compiled functions that call it; ``counted`` as `compiled` has it."""
    return cast(F, numba.njit(forceinline=True, **_OPTIONS | {"_nrt": counted})(function))


def compiled(function: F, *, counted: bool = False) -> F:
    """Compile ``function`` on its first call, to be called from Python without the interpreter's lock.

    Args:
        function: The function.
        counted: Whether references to arrays are counted, so that functions in it may return arrays.
    """
    if PLAIN_PYTHON:
        return function
    options = _OPTIONS | {"_nrt": counted}
    try:
        dispatcher = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to cache in can be written
        return cast(F, numba.njit(**options)(function))
    file = dispatcher._cache._cache_file
    stamp, base = source_digest(Path(function.__code__.co_filename)), dispatcher._cache._impl.filename_base
    # numba's key of an entry does not say whether bounds are checked: such code has files of its own.
    base += "-bounds" if BOUNDS_CHECKED else ""
    dispatcher._cache._cache_file = type(file)(dispatcher._cache._cache_path, base, stamp)
    return cast(F, dispatcher)


def is_ready(function: Any) -> bool:
    """Whether a `compiled` function needs no compiling: this process or another has used it, with the same sources."""
    if PLAIN_PYTHON or function.signatures:
        return True
    stored = getattr(function._cache, "_cache_file", None)
    return stored is not None and bool(stored._load_index())


# --- pinned arrays ------------------------------------------------------------------------------------------------

_FIELDS = {
    "float": types.float64,
    "int": types.int64,
    "bool": types.boolean,
    "F64x1": types.float64[::1],
    "F64x2": types.float64[:, ::1],
    "F32x2": types.float32[:, ::1],
    "I64x1": types.int64[::1],
    "Boolx1": types.boolean[::1],
    "Boolx2": types.boolean[:, ::1],
}


def _record_type(record: Any) -> Any:
    """Return numba's type of one of the records in ``state``, from its annotations."""
    names = [getattr(hint, "__forward_arg__", hint) for hint in record.__annotations__.values()]
    fields = [_FIELDS[name] if name in _FIELDS else _record_type(getattr(state, name)) for name in names]
    named: Any = types.BaseTuple
    return named.from_types(fields, record)


_STATE = _record_type(state.State)
_PINNED_BYTES = 8192


@intrinsic
def _write(typing: Any, memory: Any, value: Any) -> Any:
    """Write down where the arrays of a record are, and its numbers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_value_type(_STATE)
        if context.get_value_type(value) != kind:
            raise TypeError(f"pin: got {value}, expected {_STATE}")
        if context.get_abi_sizeof(kind) > _PINNED_BYTES:
            raise TypeError(
                f"pin: a State takes {context.get_abi_sizeof(kind)} bytes, expected {_PINNED_BYTES} at most"
            )
        context.pack_value(builder, value, arguments[1], _address(context, builder, memory, arguments[0], value))
        return context.get_dummy_value()

    return types.void(memory, value), generate


@intrinsic
def _read(typing: Any, memory: Any) -> Any:
    """Read the record that `_write` wrote."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.unpack_value(builder, _STATE, _address(context, builder, memory, arguments[0], _STATE))

    return _STATE(memory), generate


_writer, _reader = cast(Any, _write), cast(Any, _read)  # numba hands in the first argument of both


def _address(context: Any, builder: Any, memory: Any, array: Any, kind: Any) -> Any:
    data = context.make_array(memory)(context, builder, array).data
    return builder.bitcast(data, context.get_data_type(kind).as_pointer())


@compiled
def _pin(memory: Any, value: Any) -> None:
    _writer(memory, value)


def arrays_of(record: Any) -> Iterator[tuple[str, Any]]:
    """Return the arrays of a record and of the records in it, by name."""
    for name, value in zip(record._fields, record, strict=True):
        if isinstance(value, tuple):
            yield from arrays_of(value)
        elif isinstance(value, np.ndarray):
            yield name, value


def pin(value: state.State) -> Any:
    """Return a short note of where the arrays of ``value`` are, for `pinned`.

    The arrays must outlive the note, and must not be replaced by others: the note knows addresses.

    Raises:
        ValueError: An array is not C-contiguous; the note would misread it.
    """
    for name, array in arrays_of(value):
        if not array.flags.c_contiguous:
            raise ValueError(f"pin: {name} is not C-contiguous")
    if PLAIN_PYTHON:
        return value
    memory = np.zeros(_PINNED_BYTES, np.uint8)
    _pin(memory, value)
    return memory


def pinned(memory: Any) -> state.State:
    """Return, in compiled code, the record whose arrays were pinned."""
    found: state.State = _reader(memory)
    return found


# --- vectors ------------------------------------------------------------------------------------------------------


@inlined
def padded(width: int) -> int:
    """Return ``width``, which is a multiple of `VECTOR`, in a form that the compiler knows to be one."""
    return width // VECTOR * VECTOR


@inlined
def place(index: int) -> Any:
    """Return ``index`` as what cannot be negative, so that nothing asks whether it counts from the end."""
    return np.uint64(index)


# --- prefetching --------------------------------------------------------------------------------------------------


@intrinsic
def _prefetch(typing: Any, array: Any, offset: Any) -> Any:
    """Ask the processor to bring the cache line of element ``offset`` near."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        data = context.make_array(array)(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), pointer)
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        function = _get_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [address, number(0), number(3), number(1)])  # to read; keep near; data
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


_prefetcher = cast(Any, _prefetch)
_get_function: Any = cgutils.get_or_insert_function


# --- counters that threads share ----------------------------------------------------------------------------------


@intrinsic
def _exchange(typing: Any, counter: Any, place: Any, old: Any, new: Any) -> Any:
    """Put ``new`` in place of ``old``, unless another thread was faster; return whether that was done."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(counter)(context, builder, arguments[0]).data
        address = builder.gep(data, [arguments[1]])
        done = builder.cmpxchg(address, arguments[2], arguments[3], "seq_cst", "seq_cst")
        return builder.extract_value(done, 1)

    return types.boolean(counter, types.intp, types.int64, types.int64), generate


@intrinsic
def _look(typing: Any, counter: Any, place: Any) -> Any:
    """Return what a counter says now."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(counter)(context, builder, arguments[0]).data
        return builder.load_atomic(builder.gep(data, [arguments[1]]), "seq_cst", 8)

    return types.int64(counter, types.intp), generate


_exchanger, _looker = cast(Any, _exchange), cast(Any, _look)
_LOCK = Lock()


def _exchange_in_python(counter: Any, place: int, old: int, new: int) -> bool:
    with _LOCK:
        found = bool(counter[place] == old)
        if found:
            counter[place] = new
        return found


@inlined
def look(counter: Any, place: int) -> int:
    """Return what ``counter[place]`` says now; other threads may be changing it."""
    found: int = _looker(counter, place)
    return found


@inlined
def add(counter: Any, place: int, most: int, limit: int) -> int:
    """Add ``most`` to ``counter[place]``, or what is missing to ``limit``, as one among several threads.

    Returns:
        What it said before; ``limit`` where nothing was missing.
    """
    while True:
        old = look(counter, place)
        if old >= limit:
            return limit
        if _exchanger(counter, place, old, min(old + most, limit)):
            return old


LINE_F64, LINE_F32 = 8, 16  # elements in a cache line of 64 bytes


def prefetch_row(matrix: Any, row: int, step: int) -> None:
    """Ask the processor to bring a row of a C-contiguous matrix near; rows that do not exist do no harm.

    Args:
        matrix: The matrix.
        row: The row.
        step: Elements in a cache line, `LINE_F64` or `LINE_F32`: a constant, since a division costs more than the rest.
    """
    first = row * matrix.shape[1]
    for k in range(0, matrix.shape[1], step):
        _prefetcher(matrix, first + k)


if PLAIN_PYTHON:
    _looker, _exchanger = lambda counter, place: int(counter[place]), _exchange_in_python
    pinned, prefetch_row = lambda memory: memory, lambda matrix, row, step: None
else:
    pinned, prefetch_row = inlined(pinned), inlined(prefetch_row)
