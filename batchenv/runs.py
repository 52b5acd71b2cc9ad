"""A run folder: all that is needed to know what was trained, on what, and to judge it again."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from batchenv.config import RunConfig, read_json
from batchenv.errors import ConfigError, FeatureError, RunError
from batchenv.features import FeatureScaler

FORMAT = 1
_PACKAGES = ("batchenv", "gymnasium", "numba", "numpy", "pandas", "stable-baselines3", "torch", "vectorbt")


@dataclass(frozen=True)
class RunFolder:
    """The files of one run.

    Attributes:
        path: The folder.
        config: The complete configuration of the run.
        scaler: The feature scaling fitted on the training part.
        info: Seed, versions, fingerprints and dates, as ``run.json`` holds them.
    """

    path: Path
    config: RunConfig
    scaler: FeatureScaler
    info: dict[str, Any]

    @classmethod
    def check_free(cls, path: Path) -> Path:
        """Return ``path`` when nothing is there.

        Raises:
            RunError: Something is there already.
        """
        if path.exists() or path.is_symlink():
            raise RunError(f"{path}: exists already; expected a new folder, for example --output {free_name(path)}")
        return path

    @classmethod
    def create(cls, path: Path, config: RunConfig, scaler: FeatureScaler, info: dict[str, Any]) -> RunFolder:
        """Make the folder and write what is known before training.

        Raises:
            RunError: Something is there already, or the folder cannot be made.
        """
        cls.check_free(path)
        run = cls(path, config, scaler, {"format": FORMAT, "status": "training", **info, **_surroundings()})
        try:
            run.checkpoints.mkdir(parents=True)
        except OSError as error:
            raise RunError(f"{path}: cannot make the folder: {error.strerror}") from None
        write_json(path / "config.json", config.model_dump(mode="json"))
        write_json(path / "scaler.json", scaler.to_dict())
        write_json(path / "run.json", run.info)
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Read a run folder.

        Raises:
            RunError: It is not a run folder, a file is missing or damaged, or another version wrote it.
        """
        if not path.is_dir():
            raise RunError(f"{path}: there is no run folder here; expected one written by 'batchenv train'")
        for name in ("run.json", "config.json", "scaler.json"):
            if not (path / name).is_file():
                raise RunError(f"{path}: not a complete run folder: {name} is missing")
        try:
            info = read_json(path / "run.json")
            if not isinstance(info, dict) or info.get("format") != FORMAT:
                found = info.get("format") if isinstance(info, dict) else None
                raise RunError(f"{path / 'run.json'}: format {found!r}, expected {FORMAT}; another version wrote it")
            _check_facts(info)
            config = RunConfig.from_json(path / "config.json")
            scaler = FeatureScaler.from_dict(read_json(path / "scaler.json"))
        except (AttributeError, ConfigError, FeatureError, KeyError, TypeError, ValueError) as error:
            raise RunError(f"{path}: damaged run folder: {error}") from None
        return cls(path, config, scaler, info)

    @property
    def checkpoints(self) -> Path:
        """Folder of the intermediate models."""
        return self.path / "checkpoints"

    @property
    def recording(self) -> Path:
        """Folder of the recorded actions and episodes; missing where nothing was recorded."""
        return self.path / "recording"

    @property
    def tensorboard(self) -> Path:
        """Folder of the TensorBoard logs."""
        return self.path / "tensorboard"

    @property
    def model(self) -> Path:
        """The model at the end of training."""
        return self.path / "model.zip"

    @property
    def best_model(self) -> Path:
        """The model that did best on the validation part; missing where there was none."""
        return self.path / "best_model.zip"

    @property
    def evaluations(self) -> Path:
        """CSV with a row for every evaluation during training."""
        return self.path / "evaluations.csv"

    def chosen_model(self, which: str = "best") -> Path:
        """Return the path of the ``best`` or ``final`` model; best falls back to final where nothing was validated.

        Raises:
            RunError: There is no such model, for example because training did not finish.
        """
        path = self.best_model if which == "best" and self.best_model.is_file() else self.model
        if not path.is_file():
            status = self.info.get("status")
            raise RunError(f"{self.path}: no trained model ({path.name} is missing; the run's status is {status!r})")
        return path

    def finish(self, status: str, **facts: Any) -> None:
        """Record how training ended."""
        self.info.update({"status": status, "finished": _now(), **facts})
        write_json(self.path / "run.json", self.info)


def _check_facts(info: dict[str, Any]) -> None:
    """Check that ``run.json`` says what everybody takes from it.

    Raises:
        ConfigError: Something is missing.
    """
    for name in ("symbols", "versions", "data"):
        if name not in info:
            raise ConfigError(f"run.json: {name} is missing")
    for part in ("train", "test"):
        facts = info["data"].get(part, {})
        missing = [name for name in ("first", "last", "bars", "fingerprint") if name not in facts]
        if missing:
            raise ConfigError(f"run.json: data.{part}: {', '.join(missing)} missing")


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that a reader finds either the old file or the whole new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def free_name(path: Path) -> Path:
    """Return ``path``, or ``path-2``, ``path-3`` ...: the first that does not exist."""
    candidate, number = path, 2
    while candidate.exists():
        candidate = path.with_name(f"{path.name}-{number}")
        number += 1
    return candidate


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _surroundings() -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {"started": _now(), "machine": platform.machine(), "system": platform.system(), "versions": versions}
