"""What an environment shows and understands, remembered by its spaces, and so by every model that is trained in it.

stable-baselines3 saves a model's observation and action space with it, so facts that are attached to the two spaces
come back with a model that is loaded. They are plain JSON: reading them needs no class of this package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from gymnasium import spaces

from batchenv.config import EnvConfig
from batchenv.errors import FeatureError, RunError
from batchenv.features import FeatureMatrix, FeatureScaler
from batchenv.market import MarketData

__all__ = ["MadeFor"]

FORMAT = 1
_SAME = 1e-6
"""Scalings whose numbers differ by less, as parts of a standard deviation, are the same: other versions of numpy and
pandas round differently."""
_MEANING = {"observation": ("mode", "unrealized_pnl", "time_left"), "action": ("mode", "joint")}
"""What must be the same for observations and actions to mean the same."""
_ATTRIBUTE = "made_for"
"""The attribute of a space that holds the facts."""
_Space = TypeVar("_Space", bound=spaces.Space[Any])


@dataclass(frozen=True)
class MadeFor:
    """The facts about an environment that give an agent's observations and actions their meaning.

    Attributes:
        symbols: Symbol names, in order.
        features: Feature names, in order.
        scaler: How the features were scaled, and what bars that was measured on.
        observation: The settings ``observation_config``, and ``episode_length``, which ``time_left`` is a part of.
        action: The settings ``action_config``, and the limits of an action: ``trade_limit_percent``, ``allow_short``,
            ``leverage`` and ``net_limit``.
        fill: The fill rule.
        bars: First and last timestamp of the environment's bars, ISO 8601.
    """

    symbols: tuple[str, ...]
    features: tuple[str, ...]
    scaler: FeatureScaler
    observation: Mapping[str, Any]
    action: Mapping[str, Any]
    fill: str
    bars: tuple[str, str]

    @classmethod
    def from_parts(cls, market: MarketData, config: EnvConfig, features: FeatureMatrix) -> Self:
        """Return the facts about an environment with these bars, rules and features."""
        margin = config.margin_config
        limits = {name: getattr(margin, name) for name in ("allow_short", "leverage", "net_limit")}
        limits["trade_limit_percent"] = config.portfolio_config.trade_limit_percent
        return cls(
            symbols=market.symbols,
            features=features.names,
            scaler=features.scaler,
            observation={
                **config.observation_config.model_dump(mode="json"),
                "episode_length": config.episode_config.length,
            },
            action=config.action_config.model_dump(mode="json") | limits,
            fill=config.fill,
            bars=(str(market.timestamps[0]), str(market.timestamps[-1])),
        )

    @classmethod
    def of(cls, owner: Any) -> Self | None:
        """Return what a model, an agent or an environment was made for, as its spaces remember it.

        Args:
            owner: Anything with an ``observation_space`` and an ``action_space``.

        Returns:
            The facts; None where neither space remembers any, since no environment of this package made it.

        Raises:
            RunError: Another version of this package wrote them.
        """
        for name in ("action_space", "observation_space"):
            found = cls.of_space(getattr(owner, name, None))
            if found is not None:
                return found
        return None

    @classmethod
    def of_space(cls, space: Any) -> Self | None:
        """Return what a space remembers; None where that is nothing.

        Raises:
            RunError: As `of` says.
        """
        facts = getattr(space, _ATTRIBUTE, None)
        return None if facts is None else cls.from_dict(facts)

    def remembered_by(self, space: _Space) -> _Space:
        """Attach the facts to a space, and return it; it stays equal to the space that it was."""
        setattr(space, _ATTRIBUTE, self.as_dict())
        return space

    def as_dict(self) -> dict[str, Any]:
        """Return the facts as JSON has them."""
        return {
            "format": FORMAT,
            "symbols": list(self.symbols),
            "features": list(self.features),
            "scaler": self.scaler.to_dict(),
            "observation": dict(self.observation),
            "action": dict(self.action),
            "fill": self.fill,
            "bars": list(self.bars),
        }

    @classmethod
    def from_dict(cls, facts: Any) -> Self:
        """Return the facts that `as_dict` described.

        Raises:
            RunError: They are of another format, or damaged.
        """
        try:
            if facts["format"] != FORMAT:
                raise RunError(
                    f"the model remembers what it was made for in format {facts['format']!r}, expected {FORMAT}: "
                    "another version of batchenv trained it"
                )
            first, last = facts["bars"]
            return cls(
                symbols=tuple(map(str, facts["symbols"])),
                features=tuple(map(str, facts["features"])),
                scaler=FeatureScaler.from_dict(facts["scaler"]),
                observation=dict(facts["observation"]),
                action=dict(facts["action"]),
                fill=str(facts["fill"]),
                bars=(str(first), str(last)),
            )
        except (FeatureError, KeyError, TypeError, ValueError) as error:
            raise RunError(f"what the model was made for cannot be read: {error}") from None

    # --- comparison, in words -------------------------------------------------------------------------------

    def conflict(self, here: MadeFor) -> str | None:
        """Say why observations and actions mean something else in an environment; None where they mean the same.

        The order of symbols and features, and the scaling, are left out: both can be put right.

        Args:
            here: The facts about that environment.
        """
        for what, known, there, how in (
            ("symbols", self.symbols, here.symbols, "market.select([...])"),
            ("features", self.features, here.features, "features=[...]"),
        ):
            if set(known) != set(there):
                return (
                    f"it was trained on the {what} {_names(known)}, and the environment {_apart(known, there)}; "
                    f"expected the same {what}, in any order ({how})"
                )
        for section, keys in _MEANING.items():
            for key in keys:
                was, now = getattr(self, section).get(key), getattr(here, section)[key]
                if was != now:
                    return (
                        f"{section}_config.{key} was {was!r} in training, and is {now!r} here; expected the training's"
                    )
        return None

    def reordered(self, here: MadeFor) -> str | None:
        """Say which symbols or features have another order in an environment; None where all have the same."""
        pairs = (("symbols", self.symbols, here.symbols), ("features", self.features, here.features))
        changed = [f"{what} {_names(a)} (here {_names(b)})" for what, a, b in pairs if a != b]
        return " and on the ".join(changed) or None

    def rescaled(self, scaler: FeatureScaler) -> str | None:
        """Say where another scaling of the same features differs first; None where it does not."""
        known = self.scaler
        for name, mean, std in zip(known.names, known.mean, known.std, strict=True):
            at = scaler.names.index(name)
            for what, was, now in (("mean", mean, scaler.mean[at]), ("std", std, scaler.std[at])):
                if abs(was - now) > _SAME * std:
                    return f"{name} has {what} {now:.6g} here, and had {was:.6g} in training"
        if known.names and known.clip != scaler.clip:
            return f"values are cut at {scaler.clip:g} here, and were at {known.clip:g} in training"
        return None


def _apart(known: Sequence[str], there: Sequence[str]) -> str:
    missing = [name for name in known if name not in there]
    extra = [name for name in there if name not in known]
    parts = ([f"lacks {_names(missing)}"] if missing else []) + ([f"has {_names(extra)} too many"] if extra else [])
    return " and ".join(parts)


def _names(names: Sequence[str]) -> str:
    most = 12
    return (", ".join(names[:most]) or "none") + (f" and {len(names) - most} more" if len(names) > most else "")
