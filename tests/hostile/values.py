"""Numbers at the ends of every type, in every way that memory or another program may hold them; and what is none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch

from batchenv.errors import BatchenvError

Case = tuple[str, Callable[[], None]]
"""What is tried, and the trial, which raises an AssertionError where the outcome is wrong."""
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float16", "float32", "float64", "longdouble")
NUMBERS = (*INTEGERS, *FLOATS)
_TENSORS = ("bool", "int8", "int16", "int32", "int64", "uint8", "float16", "float32", "float64")


def extremes(name: str) -> list[Any]:
    """Return the numbers at the ends of a type, and some from between."""
    kind = np.dtype(name).type
    if np.dtype(name).kind in "iu":
        info = np.iinfo(name)
        return [kind(x) for x in (info.min, info.max, info.max - 5, 0, 1, 7, 20, 100)]
    one = np.finfo(kind)
    ends = [one.min, one.max, one.tiny, one.eps, np.nan, np.inf, -np.inf, -0.0, 1.0 - one.eps]
    return [kind(x) for x in (*ends, 0.0, 0.5, 1.0, 1.5, 7.0)]


def layouts(array: np.ndarray) -> Iterator[tuple[str, Any, np.ndarray]]:
    """Return what each way of holding numbers is called, the value, and the same numbers as a plain array."""
    for name, value in _layouts(array):
        yield name, value, array
    yield "zero-strided", np.broadcast_to(array[1:2], array.shape), np.repeat(array[1:2], len(array), axis=0)


def _layouts(array: np.ndarray) -> Iterator[tuple[str, Any]]:
    yield "contiguous", array.copy()
    yield "strided", np.repeat(array, 2, axis=0)[::2]
    yield "backwards", array[::-1].copy()[::-1]
    yield "columns first", np.asfortranarray(array)
    yield "byte-swapped", array.astype(array.dtype.newbyteorder())
    locked = array.copy()
    locked.flags.writeable = False
    yield "read-only", locked
    crooked = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    crooked[...] = array
    yield "not aligned", crooked
    records = np.zeros(array.shape, np.dtype([("flag", "u1"), ("x", array.dtype)]))
    records["x"] = array
    yield "a field of records", records["x"]
    yield "masked, without a masked value", np.ma.array(array)
    yield "of a subclass", array.view(_Subclass)
    yield "a list", array.tolist()
    yield "objects", array.astype(object)
    if array.ndim == 1:
        yield "a Series", pd.Series(array, index=range(len(array), 0, -1))
    if array.dtype.name in _TENSORS:
        yield "a tensor", torch.from_numpy(array.copy())


def no_numbers(array: np.ndarray) -> Iterator[tuple[str, Any]]:
    """Return what is no array of numbers of that shape."""
    yield "with a masked value", np.ma.array(array, mask=np.arange(array.size).reshape(array.shape) == 1)
    yield "booleans", np.ones(array.shape, np.bool_)
    yield "complex", array.astype(np.complex128)
    yield "text", array.astype(str)
    yield "bytes", array.astype(np.bytes_)
    yield "times", np.zeros(array.shape, "datetime64[s]")
    yield "spans of time", np.ones(array.shape, "timedelta64[s]")
    yield "records", np.zeros(array.shape, [("x", "f8")])
    yield "rows that differ", [[1.0], [1.0, 2.0], 3.0]
    yield "nothing", None
    yield "a set", {1, 2, 3}
    yield "a mapping", {"lane": 1}
    yield "none in it", [1, None, 2]
    yield "an object that raises", _Broken()
    yield "a tensor with gradients", torch.ones(array.shape, requires_grad=True)
    yield "one more", np.concatenate([array, array[:1]])
    yield "one more dimension", array[..., None]
    yield "none at all", array[:0]
    yield "integers of 80 bits", [2**80] * len(array)


class _Subclass(np.ndarray):
    pass


class _Broken:
    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise RuntimeError("broken on purpose")


_ODD = (1.0, math.nan, True, None, "1", 1j, (1,), np.array([1]), np.timedelta64(1), np.datetime64(1, "s"))
_MORE = (np.bool_(True), np.str_("1"), np.float64(1.0), np.void(b"1"))


def scalars() -> Iterator[tuple[str, Any, int | None]]:
    """Return descriptions, values, and the whole numbers that they are; None for those that are none."""
    for kind in INTEGERS:
        for x in extremes(kind):
            yield f"{x!r} of {kind}", x, int(x)
    for x in (-1, 2**31 - 1, 2**31, 2**62, 2**63 - 1, 2**63, 2**64):
        yield str(x), x, x
    yield "10**5000", 10**5000, 10**5000
    for odd in (*_ODD, *_MORE):
        yield repr(odd), odd, None


def refusal(call: Callable[[], Any], *names: str) -> str | None:
    """Return None where a call succeeds; else the message of our error, which must hold one of the names."""
    try:
        call()
    except BatchenvError as error:
        assert any(name in str(error) for name in names), f"names none of {names}: {error}"
        return str(error)
    return None


def must_refuse(call: Callable[[], Any], *names: str) -> None:
    """Check that a call is refused with an error of ours that holds one of the names."""
    assert refusal(call, *names) is not None, "was accepted"


def must_be(good: bool, call: Callable[[], Any], *names: str) -> None:
    """Check that a call succeeds where its input is good, and is refused where it is not."""
    message = refusal(call, *names)
    assert (message is None) == good, message or "was accepted"
