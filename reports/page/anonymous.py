"""What ``--anonymous`` takes out of a page: names, links, paths, and what tells whose machine it was."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reports.page.about import About

if TYPE_CHECKING:
    from reports.table.tables import Table

_FOLDERS = re.compile(r"""(?<![\w:/.~\\<])(?:~|[A-Za-z]:)?(?:[/\\][^\s"'/\\:,;()<>|]+)+[/\\](?=[^\s/\\])""")
"""The folders of an absolute path. Not those of an address (``https://``), nor of a fraction."""

_HOMES = re.compile(
    r"""(?:file://)?(?:(?<![\w.])/(?:home|Users|scratch)/|\b[A-Za-z]:\\Users\\)[^\s"'/\\:,;()<>|]+|~[A-Za-z][\w.-]*(?=[/\\])"""
)
"""A folder that is called as a person is."""

_TELLING = ("git", "dirty", "run", "command", "system", "hostname", "user", "dataset_source")
"""Keys of records that say whose they are."""


def without_names(about: About) -> About:
    """Title and abstract alone."""
    return About(title=about.title, abstract=about.abstract)


def without_paths(data: Any) -> Any:
    """Plain data whose texts name files without the folders they lie in."""
    if isinstance(data, str):
        return _FOLDERS.sub("", _HOMES.sub("~", data))
    if isinstance(data, dict):
        return {key: without_paths(value) for key, value in data.items()}
    return [without_paths(value) for value in data] if isinstance(data, list | tuple) else data


def anonymous_table(table: Table) -> Table:
    """The table without folders in its rows' labels, which stay different, and in its texts."""
    names: dict[str, str] = {}
    for label in table.numbers:
        short = without_paths(label)
        number = sum(name == short or name.startswith(f"{short} (") for name in names.values())
        names[label] = f"{short} ({number + 1})" if number else short

    def renamed(of_rows: dict[str, Any]) -> dict[str, Any]:
        return {names[label]: of_row for label, of_row in of_rows.items()}

    return replace(
        table,
        numbers=renamed(table.numbers),
        marks=renamed(table.marks),
        failed=renamed(table.failed),
        differences=renamed(table.differences),
        base=names.get(table.base, ""),
        notes=without_paths(table.notes),
        brief=tuple(without_paths(table.brief)),
        caption=without_paths(table.caption),
    )


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


__all__ = ["anonymous_record", "anonymous_table", "without_names", "without_paths"]
