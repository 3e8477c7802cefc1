"""What a page says of the work it shows: ``--about FILE``.

.. code-block:: yaml

    title: Motion transfer without training
    authors: [Ada Lovelace, Emmy Noether]
    abstract: We show ...
    links: {Paper: https://arxiv.org/abs/..., Code: https://github.com/...}
    bibtex: |
      @article{...}
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets.errors import InputError, nearest

TITLE = "Video motion transfer"


@dataclass(frozen=True)
class About:
    """Title, authors' names, abstract, BibTeX entry, and links by their names; empty where not given."""

    title: str = TITLE
    authors: tuple[str, ...] = ()
    abstract: str = ""
    bibtex: str = ""
    links: dict[str, str] = field(default_factory=dict)


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{key}: is no text; quote it")
    return value.strip()


def _authors(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise InputError(f"{key}: is no list of names; write [First Author, Second Author]")
    return tuple(value)


def _links(key: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(one, str) for pair in value.items() for one in pair):
        raise InputError(f"{key}: is no list of names with addresses; write {{Paper: https://...}}")
    for name, address in value.items():
        if not address.startswith(("https://", "http://")):
            raise InputError(f"{key}.{name}: {address} does not begin with https://")
    return value


KEYS: dict[str, Callable[[str, Any], Any]] = {
    "title": _text,
    "authors": _authors,
    "abstract": _text,
    "bibtex": _text,
    "links": _links,
}


def load_about(path: Path) -> About:
    """Read a YAML file of ``KEYS``. InputError for one that cannot be read, and for an unknown or odd key."""
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        line = " ".join(str(error).split())[:160]
        raise InputError(f"--about {path}: cannot be read ({line})") from error
    if not isinstance(data, dict):
        raise InputError(f"--about {path}: holds no keys; write {', '.join(KEYS)}")
    for key in data:
        if key not in KEYS:
            raise InputError(f"--about {path}: {key}: no such key; {nearest(str(key), KEYS)}")
    try:
        return About(**{key: KEYS[key](key, value) for key, value in data.items()})
    except InputError as error:
        raise InputError(f"--about {path}: {error}") from error


__all__ = ["About", "load_about"]
