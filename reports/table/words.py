"""Settings in words: what tells rows apart, and what a table is of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

NAMES = {"sprites": "embedded world", "davis": "DAVIS", "ditflow50": "DitFlow's 50", "folder": "own clips"}
"""Datasets and backbones as people call them; the others by their own names."""
COUNTED = ("steps", "frames", "clips")
"""Settings whose value comes first: ``25 steps``."""
MOST_WORDS = 4
"""Settings that a label holds."""
LONGEST = 40
"""Characters of a value in a label."""
VOWELS = "AEIOU"


def apart(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each row's settings have of its own, in words: ``25 steps, window 5``; empty where all are alike.

    ``rows``: nested settings; a key is said by its last parts, without ``method``, ``backbone``, ``config``.
    """
    flat = [_flat(row) for row in rows]
    keys = dict.fromkeys(key for row in flat for key in row)
    own = [key for key in keys if len({json.dumps(row.get(key), default=str) for row in flat}) > 1]
    return [", ".join(list(dict.fromkeys(_words(row, own)))[:MOST_WORDS]) for row in flat]


def device_words(device: str, threads: str) -> str:
    """``on an NVIDIA H200``, ``2 threads of an AMD EPYC``."""
    article = "an" if device[:1].upper() in VOWELS or device.startswith("NVIDIA") else "a"
    part = "on " if not threads else f"{threads} thread{'' if threads == '1' else 's'} of "
    return f"{part}{article} {device}"


def _flat(settings: Mapping[str, Any], path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            found |= _flat(value, (*path, *key.split(".")))
        else:
            found[*path, *key.split(".")] = value
    return found


def _words(settings: Mapping[tuple[str, ...], Any], keys: Sequence[tuple[str, ...]]) -> list[str]:
    found, sides = [], {key[-1] for key in keys} >= {"width", "height"}
    for key in keys:
        if key not in settings:
            continue
        if sides and key[-1] in ("width", "height"):
            both = ((*key[:-1], side) for side in ("width", "height"))
            found.append("x".join(str(settings.get(side)) for side in both))
        else:
            found.append(_setting(key, settings[key]))
    return found


def _setting(key: tuple[str, ...], value: Any) -> str:
    """One setting in words."""
    within = [part for part in key if part not in ("method", "backbone", "dataset", "config")]
    name = " ".join(within).replace("_", " ")
    if not name or within in (["name"], ["kind"]):
        return NAMES.get(str(value), str(value))
    if isinstance(value, bool) or value in (None, "", []):
        return name if value else f"no {name}"
    if within[-1] in COUNTED and isinstance(value, int | str):
        return f"{value} {name.removesuffix('s') if str(value) == '1' else name}"
    return f"{name} {_value(value)}"


def _value(value: Any) -> str:
    if isinstance(value, list):
        numbers = all(isinstance(one, int) and not isinstance(one, bool) for one in value)
        return ("x" if numbers else " ").join(map(_value, value))
    if isinstance(value, float):
        return f"{value:g}"
    # Paths and long names differ at their ends.
    text = str(value)
    return text if len(text) <= LONGEST else f"…{text[1 - LONGEST :]}"


__all__ = ["NAMES", "apart", "device_words"]
