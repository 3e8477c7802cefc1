"""What records, plans, pages, logs and W&B must not say: secret values, and where folders lie."""

from __future__ import annotations

import json
import re
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.records.identity import PARTS
from harness.records.record import Plan, Record

HIDDEN = "***"
SHORTEST, BEGINNING = 4, 16
"""Characters of a secret that is looked for in free text: a shorter one is part of too many words; and of
the beginning by which one is known that a message cut off."""

Key = tuple[str | int, ...]

# Two names at least: a slash alone is no path.
_PATH = re.compile(r"(?<![\w.~/$>-])(?:/[^\s/'\"`,;:()\[\]{}<>|=]+){2,}")
_TEXTS = (".json", ".txt", ".log")


@dataclass(frozen=True)
class Hidden:
    """Keeps a job's secrets and its machine's folders out of what is written.

    ``keys``: where the configuration holds a secret; its value is written ``***``. ``values``: the secrets,
    which are also cut out of free text. ``folders``: an absolute path, and what is written in its place; of
    a path in none of them only the last name is. Without folders paths stay.
    """

    keys: frozenset[Key] = frozenset()
    values: tuple[str, ...] = field(default=(), repr=False)
    folders: tuple[tuple[str, str], ...] = ()

    @cached_property
    def _secret(self) -> re.Pattern[str] | None:
        lines = {line.strip() for value in self.values for line in value.splitlines()}
        # As they are, and as JSON writes them.
        forms = {form for line in lines for form in (line, json.dumps(line)[1:-1]) if len(line) >= SHORTEST}
        whole = [re.escape(form) for form in sorted(forms, key=len, reverse=True)]
        cut = [re.escape(form[:BEGINNING]) + r"\S*" for form in forms if len(form) > BEGINNING]
        return re.compile("|".join([*whole, *cut])) if forms else None

    @cached_property
    def _folders(self) -> list[tuple[re.Pattern[str], str]]:
        return [(re.compile(re.escape(path) + r"(?![\w.-])"), shown) for path, shown in self.folders]

    def secrets(self, text: str) -> str:
        """A text without the secrets."""
        return text if self._secret is None else self._secret.sub(HIDDEN, text)

    def text(self, text: str) -> str:
        """A text without the secrets and without absolute paths."""
        text = self.secrets(text)
        if not self.folders:
            return text
        for path, shown in self._folders:
            text = path.sub(shown, text)
        return _PATH.sub(lambda found: f".../{found[0].rpartition('/')[2]}", text)

    def data(self, value: Any, at: Key = ()) -> Any:
        """Plain data without either; ``at`` is where it stands in the configuration."""
        if isinstance(value, Mapping):
            return {self._name(key): self.data(one, (*at, key)) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [self.data(one, (*at, number)) for number, one in enumerate(value)]
        if at in self.keys:
            return HIDDEN
        if not isinstance(value, str):
            return value
        # A value may be a path whose names hold spaces, or of one name.
        if self.folders and (place := re.fullmatch(r"/.*?([^/]+)/*", value)):
            return self.text(value) if self._known(value) else f".../{self.secrets(place[1])}"
        return self.text(value)

    def _known(self, path: str) -> bool:
        return any(known.match(path) for known, _ in self._folders)

    def _name(self, key: Any) -> Any:
        return self.text(key) if isinstance(key, str) else key

    def identity(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        """What was hashed into an id. Names, prompts and contents stay."""
        shown = dict(identity)
        for part in PARTS:
            if isinstance(shown.get(part), Mapping):
                own = dict(shown[part])
                own |= {"config": self.data(own["config"], (part,))} if "config" in own else {}
                own |= {"program": self.data(own["program"])} if "program" in own else {}
                shown[part] = own
        return shown

    def record(self, record: Record) -> Record:
        """The record, changed to what may be written of it: its id stays that of the real values."""
        record.config = self.data(record.config)
        record.identity = self.identity(record.identity)
        for part, source in zip(PARTS, (record.method, record.backbone, record.dataset), strict=True):
            source.config = self.data(source.config, (part,))
        record.notes = [self.text(note) for note in record.notes]
        if record.error is not None:
            record.error.message = self.text(record.error.message)
            record.error.traceback = self.text(record.error.traceback)
        for value in record.metrics.values():
            value.reason = value.reason and self.text(value.reason)
            value.details = self.data(value.details)
        return record

    def plan(self, plan: Plan) -> Plan:
        """The plan, changed likewise: its command's words, and why clips and variants are left out."""
        plan.command = [self.text(word) for word in plan.command]
        for variant in plan.variants:
            variant.overrides = [self.text(word) for word in variant.overrides]
        for clip in [*plan.left_out, *plan.remarks]:
            clip.reason = self.text(clip.reason)
        for left in plan.variants_out:
            left.reason = self.text(left.reason)
        return plan

    def scrub(self, folder: Path) -> None:
        """Cut the secrets out of the text files in a folder: what a program was told, and what it printed."""
        if self._secret is None:
            return
        for path in folder.rglob("*"):
            if path.suffix in _TEXTS and path.is_file() and not path.is_symlink():
                text = path.read_text(errors="surrogateescape")
                if (clean := self.secrets(text)) != text:
                    path.write_text(clean, errors="surrogateescape")


def folders(results: Path, dataset: str | None) -> tuple[tuple[str, str], ...]:
    """What stands in the place of the folders of this machine: the longest first."""
    code = Path(__file__).resolve().parents[2]
    places: Iterable[tuple[Path, str]] = (
        (results, "RESULTS"),
        *([(Path(dataset), "DATASET")] if dataset else []),
        # What tracebacks name.
        (code, "vmtbench"),
        (Path(sysconfig.get_path("purelib")), "site-packages"),
        (Path(sysconfig.get_path("stdlib")), "python"),
        (Path.home(), "~"),
    )
    found = {
        str(path): shown
        for place, shown in places
        for path in (place.expanduser().absolute(), place.expanduser().resolve())
        if path != Path("/")
    }
    return tuple(sorted(found.items(), key=lambda one: len(one[0]), reverse=True))


__all__ = ["HIDDEN", "Hidden", "Key", "folders"]
