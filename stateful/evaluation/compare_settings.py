"""The settings of several runs: which of them differ, and what to call configurations."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

NOT_SET = "not set"
"""What stands for a setting that a configuration does not have."""


def differing_settings(settings: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """Return the settings that are not the same in all configurations, by dotted key: the value of each, in order."""
    flat = [flatten(one) for one in settings]
    keys = dict.fromkeys(key for one in flat for key in one)
    values = {key: tuple(one.get(key, NOT_SET) for one in flat) for key in keys}
    return {key: found for key, found in values.items() if any(value != found[0] for value in found)}


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted key; lists and empty mappings stay whole."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def setting_text(value: Any) -> str:
    """Return the value of a setting as it is shown."""
    if isinstance(value, str):
        return value
    return ", ".join(map(setting_text, value)) if isinstance(value, list) and value else json.dumps(value)


def group_names(members: Sequence[Sequence[str]]) -> list[str]:
    """Name configurations by what the names of their runs begin with, or by the first run where that is nobody's own.

    Args:
        members: Names of the runs of each configuration.
    """
    stems = [_stem(names) if len(names) > 1 else names[0] for names in members]
    return [
        stem if len(names) == 1 or (stem and stems.count(stem) == 1) else f"{names[0]} and {len(names) - 1} more"
        for stem, names in zip(stems, members, strict=True)
    ]


def _stem(names: Sequence[str]) -> str:
    """Return what all names begin with, without a number that only begins there and without the word seed."""
    stem = os.path.commonprefix(list(names))  # noqa: RUF071 (of the characters, not of folders)
    if any(name[len(stem) : len(stem) + 1].isdigit() for name in names):
        stem = stem.rstrip("0123456789")
    return re.sub(r"([-_. /=]*seed)?[-_. /=]*$", "", stem, flags=re.IGNORECASE)
