"""Nothing that a user hands in may end the process, or let it read or write memory that is not its own.

Compiled code does not look whether an index lies within an array. So each of these tests is a process of its own: what
becomes of it is the result.
"""

from __future__ import annotations

import pytest

from tests.hostile.__main__ import GROUPS
from tests.hostile.child import CHECKED, KERNELS, PLACES, child, plant, try_group


@pytest.mark.parametrize("group", GROUPS)
def test_no_input_ends_the_process_or_plays_other_numbers(group: str) -> None:
    """See `tests.hostile`: every type with its extremes, in every layout; it names each input before it tries it."""
    wrong, tried = try_group(group)
    assert not wrong, wrong
    assert int(tried.split()[1].rstrip(",")) >= 8, tried


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("place", [*PLACES, "nowhere"])
def test_the_build_that_checks_bounds_notices_an_index_beyond_an_array(place: str, kernel: str) -> None:
    """`make bounds` means something only where it fails when it should; the ordinary build would read on."""
    code, output = plant(place, kernel)
    if place == "nowhere":
        assert (code, output.splitlines()[-1]) == (0, "nothing was noticed"), output
    else:
        assert code == 1 and "IndexError" in output, output


def test_the_two_builds_do_not_share_their_files() -> None:
    """numba's cache takes code that checks bounds and code that does not for the same."""
    code = (
        "from batchenv.kernel import loops, jit\n"
        "file = loops.advance_plain._cache._cache_file\n"
        "print(jit.BOUNDS_CHECKED, file._index_name, file._data_name(1))"
    )
    (_, plain), (_, checked) = child("-c", code), child("-c", code, **CHECKED)
    (no, *plain_files), (yes, *checked_files) = plain.split(), checked.split()
    assert (no, yes) == ("False", "True")
    assert not set(plain_files) & set(checked_files), plain_files
