"""Try hostile inputs: ``python -m tests.hostile GROUP ...``; without a group, all of them.

Compiled code that is given a wrong index reads foreign memory or ends the process. So each input is named before it is
tried, and the last name tells which one ended it. What is refused must be refused with an error of ours that names it.
What is accepted must play as the same numbers do in plain int64, float64 or float32.

Under ``NUMBA_BOUNDSCHECK=1`` every index beyond an array is an error too.
"""

from __future__ import annotations

import resource
import sys
import traceback
import warnings

from tests.hostile import inputs, stepping

GROUPS = {
    "parameters": inputs.parameters,
    "tables": inputs.tables,
    "scalars": inputs.scalars,
    "configurations": inputs.configurations,
    "actions": stepping.actions,
    "masks": stepping.masks,
    "memory": stepping.memory,
    "broken off": stepping.broken_off,
    "update": stepping.update,
}
_MEMORY = 24 << 30  # so that a machine of any size refuses what needs more


def main(names: list[str]) -> int:
    """Try the inputs of some groups; return 1 if one went wrong."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    warnings.simplefilter("ignore")
    tried = wrong = 0
    for group in names or GROUPS:
        for name, attempt in GROUPS[group]():
            sys.stdout.write(f"try {group}: {name}\n")
            sys.stdout.flush()
            tried += 1
            try:
                attempt()
            except BaseException as error:
                wrong += 1
                lines = traceback.format_exception(error)
                sys.stdout.write(f"wrong {group}: {name}: {type(error).__name__}: {error}\n{''.join(lines[-3:])}\n")
    sys.stdout.write(f"tried {tried}, wrong {wrong}\n")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
