"""Votes as raters hand them over: CSV files, read strictly and set against the study's plan."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from datasets.errors import InputError
from reports.study.plan import StudyPlan, Trial

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("plan", "rater", "trial", "question", "answer", "seconds", "loops", "ts")
ANSWERS = ("left", "right", "tie")


class Vote(NamedTuple):
    """An answer: ``left``, ``right`` or ``tie``, given ``seconds`` and ``loops`` after the videos began."""

    rater: str
    trial: Trial
    question: str
    answer: str
    seconds: float
    loops: float
    time: datetime

    @property
    def key(self) -> tuple[str, str, str]:
        """What is asked once."""
        return self.rater, self.trial.id, self.question

    @property
    def chosen(self) -> str:
        """The method, or what a catch names its sides; ``tie`` for neither."""
        return {"left": self.trial.left, "right": self.trial.right}.get(self.answer, "tie")


class Votes(NamedTuple):
    """All votes, one a question, and lines that say what was in the files twice."""

    votes: list[Vote]
    notes: list[str]


def read_votes(plan: StudyPlan, paths: Sequence[Path]) -> Votes:
    """The votes of all files; of an answer given twice the later one.

    InputError naming file and line: no CSV, a column that lacks, another plan, an unknown trial or question,
    an answer or number that is none.
    """
    trials = {trial.id: trial for trial in plan.trials}
    kept: dict[tuple[str, str, str], Vote] = {}
    notes = []
    for path in paths:
        same, changed, count = 0, 0, 0
        for line, row in _rows(path):
            vote = _vote(plan, trials, f"{path}, line {line}", row)
            before = kept.get(vote.key)
            count += 1
            if before is not None and before == vote:
                same += 1
                continue
            changed += before is not None
            if before is None or vote.time >= before.time:
                kept[vote.key] = vote
        if not count:
            raise InputError(f"{path}: holds no vote; leave it out")
        if same:
            notes.append(f"{path.name}: {same} of {count} votes were read before; they count once")
        if changed:
            notes.append(f"{path.name}: {changed} of {count} answers were given twice; the later one counts")
    return Votes(list(kept.values()), notes)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The lines of a CSV with their numbers. A byte order mark, as spreadsheets write, is no part of it."""
    remedy = "ask its rater for the file as it was downloaded"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            for column in COLUMNS:
                if column not in (reader.fieldnames or ()):
                    raise InputError(f"{path}: has no column {column}; {remedy}")
            for row in reader:
                if None in row or None in row.values():
                    raise InputError(
                        f"{path}, line {reader.line_num}: has not the {len(reader.fieldnames or ())} fields "
                        f"of the first line; {remedy}"
                    )
                yield reader.line_num, row
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name files of votes") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is no CSV file ({error}); {remedy}") from error


def _vote(plan: StudyPlan, trials: dict[str, Trial], where: str, row: dict[str, str]) -> Vote:
    if row["plan"] != plan.hash:
        raise InputError(
            f"{where}: votes of another study ({row['plan'] or 'none named'}, not {plan.hash}); "
            "name the folder of that study"
        )
    if not row["rater"].strip():
        raise InputError(f"{where}: names no rater; ask for the file as it was downloaded")
    if row["trial"] not in trials:
        raise InputError(f"{where}: the study has no trial {row['trial']}; remove the line")
    for column, known in (("question", tuple(plan.questions)), ("answer", ANSWERS)):
        if row[column] not in known:
            raise InputError(
                f"{where}: {column} {row[column]!r} is none of {', '.join(known)}; remove the line"
            )
    try:
        time = datetime.fromisoformat(row["ts"])
    except ValueError as error:
        raise InputError(f"{where}: ts {row['ts']!r} is no ISO time; remove the line") from error
    return Vote(
        row["rater"].strip(),
        trials[row["trial"]],
        row["question"],
        row["answer"],
        _positive(where, "seconds", row),
        _positive(where, "loops", row),
        # Without a zone they are taken to be UTC, as the page writes them: times of one kind compare.
        time if time.tzinfo else time.replace(tzinfo=UTC),
    )


def _positive(where: str, column: str, row: dict[str, str]) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise InputError(f"{where}: {column} {row[column]!r} is no number from 0 on; remove the line")
    return value


def comparisons(votes: Sequence[Vote]) -> pd.DataFrame:
    """The votes that count (neither catches nor repeats), a line each.

    Columns: ``rater``, ``question``, ``clip``, ``take`` (clip, prompt, seed), ``kind`` (of the prompt), ``a``
    and ``b`` (methods, by name) and ``won`` (1 if a did, 0 if b did, .5 for a tie).
    """
    import pandas as pd

    lines = []
    for vote in votes:
        trial = vote.trial
        if trial.kind == "vote":
            a, b = sorted((trial.left, trial.right))
            won = {a: 1.0, b: 0.0}.get(vote.chosen, 0.5)
            take = trial.clip, trial.prompt, trial.seed
            lines.append((vote.rater, vote.question, trial.clip, take, trial.prompt_kind, a, b, won))
    return pd.DataFrame(lines, columns=["rater", "question", "clip", "take", "kind", "a", "b", "won"])
