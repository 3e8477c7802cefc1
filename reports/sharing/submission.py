"""One file of results for others: a ZIP file of plans, records, tables and a manifest of their hashes.

``manifest.json``, ``plans/NAME.json``, ``cells/ID/record.json``, ``tables.md``, ``tables.csv``; no more.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from datasets.errors import InputError
from datasets.files import size_text
from harness.records import store
from harness.records.hidden import HIDDEN
from harness.records.identity import is_whole, of_settings, of_variant, short_id
from harness.records.record import Strict
from reports.table.rows import find_plans

if TYPE_CHECKING:
    from harness.records.record import Plan, PlannedCell, Record, Variant

SCHEMA = 1
MANIFEST, TABLES = "manifest.json", ("tables.md", "tables.csv")
NAME = r"\w[\w .+-]{0,60}"
ENTRY = re.compile(r"plans/\w[\w.-]*\.json|cells/[0-9a-f]{16}/record\.json|tables\.(md|csv)|manifest\.json")
MOST_BYTES = 1_000_000_000
"""Of a submission unpacked; vmtbench-v1 with 17 methods takes about a tenth."""
MOST_FILES = 100_000
ENDED = ("ok", "failed", "oom", "timeout", "killed", "invalid")
"""How a cell ended that need not be run again."""

# What stands in records in the place of a secret or of a machine's folder.
_HIDES = re.compile(rf"{re.escape(HIDDEN)}|^(DATASET|RESULTS|vmtbench|site-packages|\.\.\.|~)(/|$)")


class Manifest(Strict):
    """What a submission says of itself. ``files``: sha256 of each other file."""

    format: Literal["vmtbench submission"]
    schema_: int = Field(alias="schema", ge=1)
    name: str = Field(pattern=rf"^{NAME}$")
    files: dict[str, str]


@dataclass(frozen=True)
class Submission:
    """A checked submission, unpacked into ``folder`` as results. ``sha256``: of its file.

    ``hidden``: of how many records a value is hidden, so that the id cannot be computed again.
    """

    name: str
    sha256: str
    folder: Path
    plans: list[Plan]
    hidden: int


def pack(name: str, files: Mapping[str, bytes]) -> bytes:
    """The ZIP file of these files and their manifest: the same bytes for the same content."""
    manifest = {
        "format": "vmtbench submission",
        "schema": SCHEMA,
        "name": name,
        "files": {path: hashlib.sha256(data).hexdigest() for path, data in sorted(files.items())},
    }
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for path, data in {MANIFEST: to_json(manifest), **dict(sorted(files.items()))}.items():
            entry = zipfile.ZipInfo(path)  # dated 1980
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED, compresslevel=6)
    return made.getvalue()


def to_json(data: Any) -> bytes:
    """Plain data as JSON; keys keep their order, by which metrics stand in tables."""
    return json.dumps(data, indent=1).encode() + b"\n"


def unpack(path: Path, folder: Path) -> Submission:
    """Check a submission and write its files into ``folder``. InputError, one line, for the first fault."""
    try:
        data = path.read_bytes() if path.is_file() else None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if data is None:
        raise InputError(f"{path}: no such file; name one that `python -m reports submit` has written")
    try:
        name = _unpack(path, data, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{path}: is damaged ({error}); fetch it again") from error
    try:
        plans = find_plans(folder)
    except InputError as error:
        raise InputError(f"{path}: {str(error).replace(f'{folder}/', '')}") from error
    hidden = _check(path, folder, plans)
    return Submission(name, hashlib.sha256(data).hexdigest(), folder, plans, hidden)


def _unpack(path: Path, data: bytes, folder: Path) -> str:
    """Write the files whose hashes are the manifest's; the submission's name."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise InputError(f"{path}: is no submission (no ZIP file); `python -m reports submit` packs one")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        _check_entries(path, entries)
        manifest = _manifest(path, archive.read(MANIFEST))
        names = {entry.filename for entry in entries} - {MANIFEST}
        if names != manifest.files.keys():
            odd = sorted(names ^ manifest.files.keys())[0]
            raise InputError(
                f"{path}: {odd} is not both in the file and in its manifest; it was changed by hand"
            )
        for name in sorted(names):
            content = archive.read(name)
            if hashlib.sha256(content).hexdigest() != manifest.files[name]:
                raise InputError(f"{path}: {name} is not what the manifest says; it was changed by hand")
            # One of the forms of ``ENTRY``: it stays in the folder.
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    return manifest.name


def _check_entries(path: Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    names = [entry.filename for entry in entries]
    if MANIFEST not in names:
        raise InputError(f"{path}: is no submission (it holds no {MANIFEST})")
    for name in names:
        if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or ":" in name:
            raise InputError(f"{path}: names {name!r}, a place outside of the archive; do not open it")
        if not ENTRY.fullmatch(name):
            raise InputError(f"{path}: holds {name!r}, which is no part of a submission")
    if len(set(names)) < len(names):
        raise InputError(f"{path}: holds a name twice; it was changed by hand")
    size = sum(entry.file_size for entry in entries)
    if size > MOST_BYTES or len(names) > MOST_FILES:
        raise InputError(
            f"{path}: unpacks to {size_text(size)} in {len(names)} files, more than the "
            f"{size_text(MOST_BYTES)} in {MOST_FILES} that a submission may take"
        )


def _manifest(path: Path, data: bytes) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or MANIFEST
        raise InputError(f"{path}: is no submission ({where}: {first['msg']})") from error
    if manifest.schema_ > SCHEMA:
        raise InputError(f"{path}: is of schema {manifest.schema_}; this version reads {SCHEMA}: update it")
    return manifest


def cell_path(cell_id: str) -> str:
    """A cell's folder in a submission."""
    return f"{store.CELLS}/{cell_id}"


def incomplete(record: Record) -> str | None:
    """Why a cell cannot be submitted as it is; None where it can."""
    if record.status not in ENDED:
        return f"is {record.status}"
    if record.status == "ok" and not re.fullmatch(r"[0-9a-f]{64}", record.frames_sha256 or ""):
        return "has no hash of its frames"
    return None


def _check(path: Path, folder: Path, plans: Sequence[Plan]) -> int:
    """Each cell's record is there and is the plan's; the number of those whose ids hide something."""
    named: set[str] = set()
    hidden: set[str] = set()
    for plan in plans:
        for variant in plan.variants:
            for cell in variant.cells:
                named.add(cell.path)
                if cell.path != cell_path(cell.id):
                    raise InputError(f"{path}: plan {plan.name} names {cell.path!r}, no cell of a submission")
                try:
                    record = store.load_record(folder / cell.path)
                except FileNotFoundError as error:
                    raise InputError(
                        f"{path}: is incomplete: {cell.path} has no record; pack it again"
                    ) from error
                except (OSError, ValueError) as error:
                    raise InputError(f"{path}: {cell.path}/{store.RECORD}: {error}") from error
                fault = incomplete(record) or next(_faults(record, cell, variant), None)
                if fault is not None:
                    raise InputError(f"{path}: {cell.path} {fault}")
                if not is_whole(record.identity, record.id):
                    hidden.add(record.id)
    stray = {f"{store.CELLS}/{one.name}" for one in (folder / store.CELLS).glob("*")} - named
    if stray:
        raise InputError(f"{path}: no plan names {min(stray)}; it was changed by hand")
    return len(hidden)


def _faults(record: Record, cell: PlannedCell, variant: Variant) -> Iterator[str]:
    """Where a record is not of its cell, or its id not of its settings."""
    identity, by_hand = record.identity, "; it was changed by hand"
    if record.id != cell.id:
        yield f"holds the record of another cell, {record.id}"
    told = identity.get("clip", {}).get("name"), identity.get("prompt"), identity.get("seed")
    if not (told == (record.clip, record.prompt, record.seed) == (cell.clip, cell.prompt, cell.seed)):
        yield f"is of another clip, prompt or seed than its plan or id says{by_hand}"
    if not is_whole(identity, record.id):
        if not any(_hides(value) for value in identity.values()):
            yield f"has an id that is not of its settings{by_hand}"
        return
    if short_id(of_variant(identity)) != variant.config_id or variant.settings not in (
        "",
        short_id(of_settings(identity)),
    ):
        yield f"stands in a row of other settings{by_hand}"
    for part, source in (
        ("method", record.method),
        ("backbone", record.backbone),
        ("dataset", record.dataset),
    ):
        if identity[part]["version"] != source.version:
            yield f"says another version of its {part} than its id{by_hand}"


def _hides(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_hides(one) for pair in value.items() for one in pair)
    if isinstance(value, list):
        return any(map(_hides, value))
    return isinstance(value, str) and _HIDES.search(value) is not None


__all__ = ["MOST_BYTES", "Submission", "cell_path", "incomplete", "pack", "to_json", "unpack"]
