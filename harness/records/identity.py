"""What a cell's id is made of: kinds, names, versions, configurations and contents, never import paths."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, cast

from pydantic import TypeAdapter
from pydantic.dataclasses import is_pydantic_dataclass

from datasets.plugin import Plugin

OF_ONE_CELL = ("clip", "prompt", "seed", "video")
"""Keys of an identity that differ between the cells of one variant."""

PARTS = ("method", "backbone", "dataset")
WEIGHTS = " weights "
"""What stands before the identity of weights in a metric's version."""


def digest(value: Any) -> str:
    """sha256 hex digest of the canonical JSON of plain data."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def short_id(value: Any) -> str:
    """The first 16 hex digits of the digest: the id of a cell, from its identity, or of a variant."""
    return digest(value)[:16]


def of_variant(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What the cells of one variant have in common."""
    return {key: value for key, value in identity.items() if key not in OF_ONE_CELL}


def of_settings(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for: ``of_variant`` without versions, weights and program, which may change under it."""
    common = of_variant(identity)
    parts = {name: common[name] for name in PARTS if name in common}
    return common | {
        name: {key: part[key] for key in ("kind", "config") if key in part} for name, part in parts.items()
    }


def is_whole(identity: Mapping[str, Any], cell_id: str | None) -> bool:
    """Whether an identity is all that was hashed into the id: a record hides what is secret in it."""
    return short_id(identity) == cell_id


def same_version(recorded: str, version: str) -> bool:
    """Whether a recorded value is of this version; weights that are not at hand cannot have changed."""
    return version in (recorded, recorded.partition(WEIGHTS)[0])


def configuration(plugin: Plugin, node: Mapping[str, Any]) -> dict[str, Any]:
    """A plug-in's configuration as it enters an id: all its fields less ``outside_id``.

    It is read back from the plug-in, so that ``3`` and ``3.0`` for a float are the same
    and a default counts whether it is written or not. An entry of ``outside_id`` may name
    a nested field with a dot. Of a plug-in that is no pydantic dataclass it is ``node``, its YAML.
    """
    if is_pydantic_dataclass(type(plugin)):
        config = TypeAdapter(type(plugin)).dump_python(plugin, mode="json", warnings=False)
        for entry in dataclasses.fields(cast("Any", plugin)):
            if not entry.init:
                config.pop(entry.name, None)
    else:
        config = json.loads(json.dumps({k: v for k, v in node.items() if k != "_target_"}))
    for name in plugin.outside_id:
        *path, last = name.split(".")
        inner = config
        for part in path:
            inner = inner.get(part) or {}
        inner.pop(last, None)
    return cast("dict[str, Any]", config)


def of_plugin(plugin: Plugin, node: Mapping[str, Any]) -> dict[str, Any]:
    """A plug-in in an identity: its kind, version and configuration, which holds its name."""
    return {"kind": plugin.plugin_kind, "version": plugin.version, "config": configuration(plugin, node)}


__all__ = [
    "PARTS",
    "WEIGHTS",
    "configuration",
    "digest",
    "is_whole",
    "of_plugin",
    "of_settings",
    "of_variant",
    "same_version",
    "short_id",
]
