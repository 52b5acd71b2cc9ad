"""The door to compiled code: every number and array that a user hands in is cast and checked here.

Compiled code does not look at the type of an array, at its layout, or at whether an index lies within it. What it is
given must therefore be right. Every function here casts first and compares afterwards, in float64, in int64 or between
Python's own integers, so that no comparison is made in a type that wraps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from batchenv.errors import BatchenvError, ConfigError, shown

Array = npt.NDArray[Any]
Index = tuple[int, ...]
Place = Callable[[Index], str]
"""Names the place of an element in a message, such as ``[lane 2, symbol 'IBM']``."""
Shapes = tuple[Index, ...]

_FLOAT32 = np.dtype(np.float32)
LARGEST_INT = 2**63 - 1
"""The largest int64."""


def place_of(index: Index, symbols: tuple[str, ...]) -> str:
    """Return the place of an element of an array ``[lanes]`` or ``[lanes, symbols]`` for a message."""
    symbol = f", symbol {symbols[index[1]]!r}" if len(index) > 1 else ""
    return f"[lane {index[0]}{symbol}]"


def whole(value: Any, name: str, least: int, most: int, more: str = "") -> int:
    """Return a whole number as an ``int``.

    Args:
        value: An ``int`` or a numpy integer.
        name: Its name in messages.
        least: The smallest number allowed.
        most: The largest number allowed.
        more: What else is allowed, for the message.

    Raises:
        ConfigError: It is of another type, or out of range.
    """
    known = isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.timedelta64))
    if not known or not least <= int(value) <= most:
        raise ConfigError(f"{name}: got {shown(value)}, expected an integer from {least} to {most}{more}")
    return int(value)


def plain(value: Any, name: str, error: type[BatchenvError] = ConfigError) -> Array:
    """Return an array-like as an array of numpy's own class, without a copy where that is possible.

    Args:
        value: An array of any class, a list, a tensor, a pandas object, a number ...
        name: Its name in messages.
        error: What to raise.

    Raises:
        BatchenvError: It cannot be read as an array, or some of its values are masked.
    """
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray) and np.any(value.mask):
        raise error(f"{name}: {np.sum(value.mask)} values are masked, expected a value everywhere")
    try:
        return np.asarray(value)
    except Exception as why:  # a stranger's __array__ may raise anything
        text = "rows differ in length" if "inhomogeneous" in str(why) else f"cannot be read as an array: {why}"
        raise error(f"{name}: {text}") from None


def booleans(value: Any, name: str, shapes: Shapes, place: Place) -> npt.NDArray[np.bool_]:
    """Return an array of booleans; the arguments are those of `floats`.

    Raises:
        ConfigError: Wrong shape, or other values than true and false.
    """
    return _checked(value, name, shapes, place, "b", "true or false")


def integers(
    value: Any, name: str, shapes: Shapes, place: Place, least: int = 0, most: int = LARGEST_INT
) -> npt.NDArray[np.int64]:
    """Return an array of whole numbers as int64.

    Args:
        value: Integers of any width; see `plain`.
        name: Its name in messages.
        shapes: Shapes allowed; where the first is ``()``, a number stands for a whole array of the second.
        place: Names an element.
        least: The smallest number allowed.
        most: The largest number allowed, at most 2**63 - 1.

    Raises:
        ConfigError: Wrong shape, another kind of number, or a number out of range; names its place.
    """
    array = _checked(value, name, shapes, place, "iu", "whole numbers")
    outside = (array < least) | (array > most)  # numpy compares with Python's integers as they are
    _refuse(array, outside, name, place, f"a whole number from {least} to {most}")
    return array.astype(np.int64)


def floats(
    value: Any,
    name: str,
    shapes: Shapes,
    place: Place,
    least: float = -np.inf,
    below: float = np.inf,
    *,
    positive: bool = False,
    error: type[BatchenvError] = ConfigError,
) -> npt.NDArray[np.float64]:
    """Return an array of finite numbers as float64.

    Args:
        value: Integers or floating-point numbers of any width; see `plain`.
        name: Its name in messages.
        shapes: Shapes allowed; where the first is ``()``, a number stands for a whole array of the second.
        place: Names an element.
        least: The smallest number allowed.
        below: The number that all must stay below.
        positive: Whether 0 is refused too.
        error: What to raise.

    Raises:
        BatchenvError: Wrong shape, another kind of number, or a number out of range; names its place.
    """
    array = _checked(value, name, shapes, place, "fiu", "numbers", error)
    with np.errstate(over="ignore", under="ignore"):  # too large for float64 becomes infinite, and is refused
        cast = array.astype(np.float64)
    outside = ~(np.isfinite(cast) & (cast >= least) & (cast < below)) | (positive & (cast <= 0.0))
    bounded = np.isfinite(least) or np.isfinite(below)
    what = f"a number from {least:.12g} to below {below:.12g}" if bounded else "a finite number"
    _refuse(array, outside, name, place, what, error)
    return cast


def check_memory(out: Any, name: str, shape: Index) -> None:
    """Check that compiled code can write float32 numbers of a shape into an array.

    Raises:
        ConfigError: It cannot; says why.
    """
    if type(out) is np.ndarray and out.dtype == _FLOAT32 and out.shape == shape and out.flags.carray:
        return
    expected = f"expected writable, C-contiguous float32 {list(shape)}"
    if type(out) not in (np.ndarray, np.memmap):
        raise ConfigError(f"{name}: got {type(out).__name__}, {expected}")
    if out.dtype != _FLOAT32 or out.shape != shape:
        raise ConfigError(f"{name}: got {out.dtype} {list(out.shape)}, {expected}")
    if not out.flags.carray:
        flags = {"not writable": out.flags.writeable, "not C-contiguous": out.flags.c_contiguous}
        why = next((what for what, good in flags.items() if not good), "not aligned")
        raise ConfigError(f"{name}: got {out.dtype} {list(out.shape)}, {expected}; it is {why}")


def read_only(array: Array) -> Array:
    """Return a view of an array that cannot be written to."""
    view = array.view()
    view.flags.writeable = False
    return view


def overlaps(a: Array, b: Array) -> bool:
    """Return whether two arrays have an element in common."""
    return bool(np.may_share_memory(a, b) and np.shares_memory(a, b))


def _checked(
    value: Any, name: str, shapes: Shapes, place: Place, kinds: str, what: str, error: type[BatchenvError] = ConfigError
) -> Array:
    """Return an array of one of the ``kinds`` of numpy's types and one of the ``shapes``."""
    array = plain(value, name, error)
    if array.shape not in shapes:
        wanted = " or ".join(str(list(shape)) if shape else "a number" for shape in shapes)
        raise error(f"{name}: got shape {list(array.shape)}, expected {wanted}")
    if array.ndim == 0 and len(shapes) > 1:
        array = np.broadcast_to(array, shapes[1])
    if array.dtype.kind == "O":
        return _from_objects(array, name, place, kinds, what, error)
    # numpy counts a span of time among the integers, but not by its kind, which is "m".
    if array.dtype.kind not in kinds:
        raise error(f"{name}: got dtype {array.dtype}, expected {what}")
    return array


def _from_objects(array: Array, name: str, place: Place, kinds: str, what: str, error: type[BatchenvError]) -> Array:
    """Return an array of Python objects as one of numbers: that is what integers beyond 64 bits arrive as."""
    for index in np.ndindex(array.shape):
        item = np.asarray(array[index])
        if item.ndim or item.dtype.kind not in kinds:
            raise error(f"{name}{place(index)}: got {shown(array[index])}, expected {what} of at most 64 bits")
    return np.array(array.tolist()).reshape(array.shape)


def _refuse(
    array: Array, wrong: Array, name: str, place: Place, what: str, error: type[BatchenvError] = ConfigError
) -> None:
    """Name the first wrong element of an array, if there is one."""
    if wrong.any():
        index = tuple(int(k) for k in np.argwhere(wrong)[0])
        raise error(f"{name}{place(index)}: got {array[index]}, expected {what}")
