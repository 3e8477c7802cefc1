"""What every page of ours is made with: templates whose text is escaped, and a folder that is ours to fill.

A page needs no server and no network: its script and style are part of it, its files lie beside it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.errors import InputError
from datasets.files import temporary_path
from harness.records.printable import printable
from reports.plots.files import slug

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
GENERATOR = "vmtbench reports"
MEDIA = "media"


@dataclass
class Media:
    """Brings files into the page's folder under readable names, each once.

    ``taken``: name -> where it came from. Names are relative to the page.
    """

    out: Path
    taken: dict[str, Path] = field(default_factory=dict)

    def name(self, source: Path, *words: str) -> tuple[str, bool]:
        """A free name made of the words, and whether its file is still to be brought."""
        stem = "-".join(slug(word)[:60] for word in words)
        name = f"{stem}{source.suffix}"
        while self.taken.get(name, source) != source:
            stem += "_"
            name = f"{stem}{source.suffix}"
        new = name not in self.taken
        self.taken[name] = source
        return f"{MEDIA}/{name}", new

    def add(self, source: Path, *words: str) -> str:
        """Link or copy a file under a name made of the words."""
        name, new = self.name(source, *words)
        if new:
            link(source, self.out / name)
        return name

    def write(self, name: str, data: bytes) -> str:
        """Write a file of ours. Not synced: a page that is cut short is made again."""
        (self.out / MEDIA / name).unlink(missing_ok=True)  # It may be a link to a result.
        (self.out / MEDIA / name).write_bytes(data)
        self.taken[name] = self.out / MEDIA / name
        return f"{MEDIA}/{name}"

    def tidy(self) -> None:
        """Remove what an earlier page brought and this one did not."""
        for path in (self.out / MEDIA).iterdir():
            if path.is_file() and path.name not in self.taken:
                path.unlink()

    @property
    def size(self) -> int:
        """Bytes of the whole page."""
        return sum(path.stat().st_size for path in self.out.rglob("*") if path.is_file())


def environment() -> Environment:
    """jinja2's, for the templates: all that is put in is escaped."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Names may hold control characters. Markup, a kind of str, is ours and stays.
        finalize=lambda value: printable(value) if type(value) is str else value,
    )


def sources(*names: str) -> str:
    """Templates one after the other: a page's script or style."""
    return "\n".join((TEMPLATES / name).read_text() for name in names)


def json_text(data: Any) -> str:
    """Plain data as JSON that may stand inside a script element: only ``<`` could end that."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return printable(text).replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def script_hash(script: str) -> str:
    """By which a content security policy knows a page's own script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def check_ours(out: Path) -> None:
    """InputError unless ``out`` is free, empty or a page of ours: nobody's files are removed or replaced."""
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"--out {out}: is a file; name a folder for the page")
    index = out / "index.html"
    ours = index.is_file() and f'content="{GENERATOR}"' in index.read_text(errors="replace")[:2000]
    if not ours and any(out.iterdir()):
        raise InputError(f"--out {out}: holds other files; name an empty or new folder for the page")


def link(source: Path, target: Path) -> None:
    """A hard link, or a copy where there can be none; replaces what is there."""
    temporary = temporary_path(target)
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
        temporary.replace(target)
    finally:
        # Two links to one file: rename leaves both names.
        temporary.unlink(missing_ok=True)


__all__ = [
    "GENERATOR",
    "MEDIA",
    "TEMPLATES",
    "Media",
    "check_ours",
    "environment",
    "json_text",
    "link",
    "script_hash",
    "sources",
]
