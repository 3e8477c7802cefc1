"""A configuration's secrets: what came from ``oc.env`` or stands under ``environment``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness.records.hidden import HIDDEN, Key

ENVIRONMENT = "environment"


@contextmanager
def _asked() -> Iterator[list[str]]:
    """The names that ``oc.env`` is asked for meanwhile."""
    from omegaconf import OmegaConf
    from omegaconf.resolvers import oc

    names: list[str] = []

    def env(*words: Any) -> Any:
        names.append(str(words[0]))
        return oc.env(*words)

    OmegaConf.register_new_resolver("oc.env", env, replace=True)
    try:
        yield names
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def secrets(config: Any) -> dict[Key, str]:
    """Where a configuration, an OmegaConf container that can be resolved, holds a secret, and which."""
    with _asked() as names:
        return dict(_within(config, (), False, names))


def _within(node: Any, at: Key, secret: bool, names: list[str]) -> Iterator[tuple[Key, str]]:
    from omegaconf import Container, DictConfig

    for key in list(node) if isinstance(node, DictConfig) else range(len(node)):
        before = len(names)
        value = node[key]
        mine = secret or key == ENVIRONMENT or len(names) > before
        if isinstance(value, Container):
            yield from _within(value, (*at, key), mine, names)
        elif mine and value is not None:
            yield (*at, key), str(value)


def without_secrets(override: str) -> str:
    """An override with ``***`` for each value under ``environment``; interpolations name no value."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    key, _, _ = override.partition("=")
    under = ENVIRONMENT in key.lstrip("+~").split(".")
    if "=" not in override or ENVIRONMENT not in override:
        return override
    try:
        value = OverridesParser.create().parse_override(override).value()
    except OverrideParseException:
        return f"{key}={HIDDEN}" if under else override
    return f"{key}={_shown(value, under)}" if under or isinstance(value, dict | list) else override


def _shown(value: Any, secret: bool) -> str:
    """A parsed value in the notation of overrides."""
    if isinstance(value, dict):
        pairs = (f"{key}:{_shown(one, secret or str(key) == ENVIRONMENT)}" for key, one in value.items())
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_shown(one, secret) for one in value) + "]"
    return HIDDEN if secret else str(value)


__all__ = ["secrets", "without_secrets"]
