"""DiTFlow's 50 DAVIS clips at its frame ranges, with its prompts from the user's own copy of its page.

Pondaven et al., "Video Motion Transfer with Diffusion Transformers", CVPR 2025 (arXiv:2412.07776). The names
and ranges (``ditflow50.csv``: frames ``start``, ``start + step``, ... below ``end``) are facts from
``ditflow/ditflow.github.io:supp/assets/prompts.js``. The prompts there are under CC BY-SA 4.0 and not
shipped: ``prompts`` names a copy of that file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic.dataclasses import dataclass

from datasets import davis
from datasets.davis import DavisFootage, Row
from datasets.davis_folder import DavisFolder
from datasets.errors import InputError
from datasets.footage import FPS
from datasets.media.frame_files import FrameFiles
from datasets.tables import read_table

KINDS = {"easy": "caption", "medium": "subject", "hard": "scene"}
WHERE = "https://ditflow.github.io/supp/assets/prompts.js (repository ditflow/ditflow.github.io)"

_TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?\*/)
    |(?P<text>'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`(?:\\.|[^`\\])*`)
    |(?P<word>[A-Za-z_$][\w$]*)""",
    re.VERBOSE | re.DOTALL,
)
_LAST_COMMA = re.compile(r'("(?:\\.|[^"\\])*")|,(?=\s*[}\]])')
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(\r?\n|.))", re.DOTALL)


class Range(NamedTuple):
    """Frames ``start``, ``start + step``, ... below ``end``."""

    start: int
    end: int
    step: int


@cache
def ranges() -> dict[str, Range]:
    """The 50 clips' frames in DAVIS, by sequence."""
    columns = ("sequence", *Range._fields)
    rows = read_table(Path(__file__).with_name("ditflow50.csv"), columns, ())
    return {row["sequence"]: Range(*(int(row[column]) for column in Range._fields)) for row in rows}


@dataclass(config={"extra": "forbid"})
class DiTFlow50(DavisFootage, kind="ditflow50"):
    """The 50 clips of DiTFlow: each is its range of a DAVIS sequence, at 24 frames a second over its step.

    ``start``, ``stride``, ``fps`` and ``frames`` count in the frames of the range: 24, of motorbike 22.
    ``prompts`` names a copy of the page's ``prompts.js``, whose easy, medium and hard are ``caption``,
    ``subject`` and ``scene`` here. Six clips are of DAVIS' test-dev; where that is not in ``root``, or in a
    folder below it beside trainval's, they are left out. Other fields as in ``DavisFootage``.
    """

    name: str = "ditflow50"
    prompt_set: Literal["caption", "subject", "scene", "all"] = "all"

    source: ClassVar[str] = (
        "DiTFlow's clips and prompts (Pondaven et al., CVPR 2025, arXiv:2412.07776): page under "
        f"CC BY-SA 4.0; footage of {davis.SOURCE}"
    )
    remedy: ClassVar[str] = "Set a smaller frames (or frames=auto)"

    def _halves(self) -> Sequence[bool]:
        return (False, True)

    def _chosen(self, folders: Sequence[DavisFolder]) -> list[str]:
        return sorted(ranges())

    def _texts(self) -> Mapping[str, Row]:
        if not self.prompts:
            raise InputError(f"dataset.prompts: not set; save {WHERE} and name the file")
        texts = read_prompts(Path(self.prompts).expanduser())
        return {name: texts[name] for name in ranges() if name in texts}

    def _without(self, name: str) -> str:
        return f"is not in {self.prompts}" if name in ranges() else "is none of DiTFlow's 50 clips"

    def _pictures(self, folder: DavisFolder, name: str) -> FrameFiles:
        files = folder.pictures(name)
        return replace(files, frames=files.frames[slice(*ranges()[name])]) if name in ranges() else files

    def _rate(self, name: str) -> float:
        return FPS / ranges()[name].step if name in ranges() else FPS


def read_prompts(path: Path) -> dict[str, Row]:
    """Prompts by clip and kind (caption, subject, scene), from DiTFlow's ``prompts.js``.

    InputError: no such file, none of that kind, or a clip without one of its three prompts.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise InputError(f"dataset.prompts: {path}: cannot be read ({said}); save {WHERE}") from error
    found: dict[str, Row] = {}
    for clip, entry in _object(path, text).items():
        texts = {kind: entry.get(key) for key, kind in KINDS.items()}
        if any(not isinstance(one, str) or not one.strip() for one in texts.values()):
            raise InputError(
                f"dataset.prompts: {path}: {clip} lacks one of {', '.join(KINDS)}; save {WHERE} anew"
            )
        found[clip] = {kind: str(one).strip() for kind, one in texts.items()}
    return found


def _object(path: Path, text: str) -> dict[str, dict[str, Any]]:
    """The first object of objects in JavaScript: read as JSON once its texts and keys are JSON's."""
    plain = _LAST_COMMA.sub(lambda found: found[1] or "", _TOKEN.sub(_plain, text))
    problem = "it holds no object of prompts"
    for brace in re.finditer("{", plain):
        try:
            found, _ = json.JSONDecoder().raw_decode(plain, brace.start())
        except json.JSONDecodeError as error:
            problem = f"line {error.lineno}: {error.msg}"
            continue
        if found and all(isinstance(entry, dict) for entry in found.values()):
            return dict(found)
    raise InputError(f"dataset.prompts: {path}: cannot be read ({problem}); save {WHERE} anew")


def _plain(token: re.Match[str]) -> str:
    if token["comment"]:
        return "\n" * token[0].count("\n")
    return json.dumps(token["word"] or _ESCAPE.sub(_unescaped, token["text"][1:-1]))


def _unescaped(escape: re.Match[str]) -> str:
    code = escape[1] or escape[2]
    if code:
        return chr(int(code, 16))
    return "" if escape[3].endswith("\n") else {"n": "\n", "t": "\t", "r": "\r"}.get(escape[3], escape[3])
