"""What ``--anonymous`` takes out of a page: names, links, paths, and what tells whose machine it was."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from reports.page.about import About

_FOLDERS = re.compile(r"""(?<![\w:/.~\\<])(?:~|[A-Za-z]:)?(?:[/\\][^\s"'/\\:,;()<>|]+)+[/\\](?=[^\s/\\])""")
"""The folders of an absolute path. Not those of an address (``https://``), nor of a fraction."""

_TELLING = ("git", "dirty", "run", "command", "system", "hostname", "user", "dataset_source")
"""Keys of records that say whose they are."""


def without_names(about: About) -> About:
    """Title and abstract alone."""
    return About(title=about.title, abstract=about.abstract)


def without_paths(data: Any) -> Any:
    """Plain data whose texts name files without the folders they lie in."""
    if isinstance(data, str):
        return _FOLDERS.sub("", data)
    if isinstance(data, dict):
        return {key: without_paths(value) for key, value in data.items()}
    return [without_paths(value) for value in data] if isinstance(data, list | tuple) else data


def anonymous_record(path: Path) -> bytes:
    """A record's file without its configuration's paths and without what tells whose it is."""
    try:
        data = json.loads(path.read_bytes())
    except ValueError:
        return b"{}\n"
    return json.dumps(_less(without_paths(data)), indent=1).encode() + b"\n"


def _less(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _less(value) for key, value in data.items() if key not in _TELLING}
    return [_less(value) for value in data] if isinstance(data, list) else data


__all__ = ["anonymous_record", "without_names", "without_paths"]
