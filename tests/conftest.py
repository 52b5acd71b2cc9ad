"""What every test shares: registrations of features and rewards do not outlive the test that made them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from batchenv.registry import FEATURES, REWARDS


@pytest.fixture(autouse=True)
def _registries() -> Iterator[None]:
    tables = [table for registry in (FEATURES, REWARDS) for table in (registry._functions, registry._sent)]
    before = [dict(table) for table in tables]
    yield
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)
