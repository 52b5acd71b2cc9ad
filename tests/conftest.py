"""What every test shares: registrations and warnings do not outlive the test that made them.

No test depends on how fast the machine is. Hypothesis sets no deadline, and processes that share the cores
(pytest-xdist) use one thread each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from batchenv import errors
from batchenv.registry import FEATURES, REWARDS

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch and numpy are imported, which comes later
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def _registries() -> Iterator[None]:
    errors._shown.clear()
    tables = [table for registry in (FEATURES, REWARDS) for table in (registry._functions, registry._sent)]
    before = [dict(table) for table in tables]
    yield
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)
