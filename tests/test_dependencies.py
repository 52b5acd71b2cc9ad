"""What setup.cfg says of the dependencies is true: bounds on both sides, tested at both, and nothing left out."""

from __future__ import annotations

import configparser
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.test_house import imports, sources

ROOT = Path(__file__).parent.parent
IMPORTED_AS = {"stable_baselines3": "stable-baselines3"}
PART_OF = {"llvmlite": "numba", "pydantic_core": "pydantic"}
"""Packages that another one pins to one version, and which one."""


def requirements() -> dict[str, Requirement]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"].split()
    return {canonicalize_name(found.name): found for found in map(Requirement, lines)}


def pins(name: str) -> dict[str, Version]:
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    pairs = [line.split("==") for line in lines if line]
    return {canonicalize_name(package): Version(version) for package, version in pairs}


@pytest.mark.parametrize("name", requirements())
def test_a_dependency_has_true_bounds(name: str) -> None:
    requirement = requirements()[name]
    bounds = {specifier.operator: Version(specifier.version) for specifier in requirement.specifier}
    assert bounds.keys() == {">=", "<"}, f"{requirement}: expected one lower and one upper bound"
    assert pins("constraints-minimum.txt")[name] == bounds[">="], "the oldest version is the one that is tested"
    assert requirement.specifier.contains(pins("constraints.txt")[name]), "the newest tested version is admitted"


def test_the_oldest_versions_are_those_of_the_dependencies_and_of_nothing_else() -> None:
    assert pins("constraints-minimum.txt").keys() == requirements().keys()


def test_every_package_that_is_imported_is_a_dependency() -> None:
    found = {name.partition(".")[0] for package in ("batchenv", "stateful") for path in sources(package)
             for name in imports(path)}  # fmt: skip
    third = found - sys.stdlib_module_names - {"batchenv", "stateful"}
    needed = {canonicalize_name(PART_OF.get(name, IMPORTED_AS.get(name, name))) for name in third}
    assert needed <= requirements().keys()
