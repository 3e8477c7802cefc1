"""What the tests from outside the package share: a user's folder, and the command run in it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from brief import BRIEF, WITHOUT_SLOW

from harness import __main__ as command_line
from harness.records import store
from harness.records.record import Record

# The smallest run that is one: two steps, nothing measured twice.
SMALL = ("method=none", "backbone.steps=2", "frames=17", "measure.warmup_steps=0", *BRIEF)


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Record]]:
    """Runs ``python -m harness`` in a folder that holds these files, their path there to their text.

    The first file's package is trusted, YAML stands in ``configs``. It gives the records by clip; another
    package for each test, since Python imports one only once.
    """

    def run(files: dict[str, str], *words: str) -> list[Record]:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        package = next(iter(files)).partition("/")[0]
        own = ("--config-dir", "configs", f"trust=[{package}]", "device=cpu", "results=results")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.chdir(tmp_path)
        given = {word.partition("=")[0] for word in words}
        # A set of metrics of one's own has none of ours to leave out.
        ours = SMALL if "metrics" not in given else set(SMALL) - set(WITHOUT_SLOW)
        small = [word for word in ours if word.partition("=")[0] not in given]
        monkeypatch.setattr(sys, "argv", ["harness", *own, *small, *words])
        assert command_line.main() == 0
        records = (
            store.load_record(path.parent) for path in (tmp_path / "results" / "cells").rglob("record.json")
        )
        return sorted(records, key=lambda record: record.clip)

    return run
