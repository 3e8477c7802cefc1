"""What votes say, as tables: of each question its methods and its pairs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

from datasets.errors import InputError, nearest
from harness.records.record import Record
from reports.study import raters
from reports.study.connected import parts
from reports.study.plan import StudyPlan
from reports.study.strengths import Strengths, alpha, circles, strengths
from reports.study.votes import Vote, Votes, comparisons
from reports.table.columns import COUNT, Column, Number
from reports.table.numbers import number_text
from reports.table.ranking import marks
from reports.table.rows import plural
from reports.table.statistics import mean_interval
from reports.table.tables import Table

if TYPE_CHECKING:
    import pandas as pd

FEWEST_VOTES, FEWEST_CLIPS, FEWEST_RATERS = 30, 10, 5
"""Of a pair, below which a row says ``TOO_FEW`` and nothing else."""
TOO_FEW = "too few"
DISAGREE = 0.2
"""Alpha below which the notes say that raters disagree."""
READING = (
    "Rows by the lower end of their strength's interval. Equal ranks cannot be told apart (Holm over all"
    " pairs). 95 % intervals: raters and clips drawn anew, 2000 times."
)
PAIRS = (
    "Won: the share of votes for the first, ties half. p: that both are equally strong (Holm over all pairs);"
    " .000 is below .0005."
)


def _count(key: str, label: str) -> Column:
    return Column(
        key=key, label=label, digits=0, higher_is_better=None, interval=False, exact=True, read=_unread
    )


def _unread(_: Record) -> None:
    """Votes are in no record."""


VOTES = _count("votes", "Votes")
RATERS = _count("raters", "Raters")
CLIPS = _count("clips", "Clips")
RANK = _count("rank", "Rank")
STRENGTH = Column(key="strength", label="Strength", digits=2, read=_unread)
WON = Column(key="won", label="Won", digits=3, read=_unread)
P = Column(key="p", label="p", digits=4, higher_is_better=None, interval=False, read=_unread)


@dataclass(frozen=True, kw_only=True)
class VoteTable(Table):
    """A table of one question; ``of`` is ``methods`` or ``pairs``. ``everyone``: with the raters left out."""

    question: str
    of: str
    everyone: bool

    @property
    def title(self) -> str:
        what = "" if self.of == "methods" else ", pairs"
        who = ", nobody left out" if self.everyone else ""
        return f"People, {self.question}{what}{who}: {self.dataset} on {self.backbone}"

    def flat(self) -> pd.DataFrame:
        """As of any table; first which one it is, last a ``note`` where votes are too few."""
        flat = super().flat().drop(columns=["config_id", "failed"])
        flat.insert(0, "question", self.question)
        flat.insert(1, "of", self.of)
        flat.insert(2, "everyone", self.everyone)
        flat["n"] = [int(of_row[CLIPS.key].value) for of_row in self.numbers.values()]
        flat["note"] = [", ".join(self.failed[label]) for label in self.numbers]
        return flat


def vote_tables(plan: StudyPlan, read: Votes, baseline: str | None = None) -> list[VoteTable]:
    """Of each question its methods and pairs, and its methods again with the raters that the rules leave out.

    ``baseline``: the method that the others are set against, the plan's where it is None. InputError where it
    is none of them, and where votes do not join all methods.
    """
    baseline = baseline or plan.baseline
    if baseline not in plan.methods:
        raise InputError(f"--baseline {baseline}: no such row; {nearest(baseline, plan.methods)}")
    out = raters.exclusions(read.votes)
    everyone = comparisons(read.votes)
    if everyone.empty:
        raise InputError("the files hold no vote on two methods; collect more votes")
    made: list[VoteTable] = []
    for question in plan.questions:
        votes = everyone[everyone["question"] == question]
        if votes.empty:
            continue
        whole = strengths(votes, plan.methods, baseline)
        kept = votes[~votes["rater"].isin(list(out))]
        # Votes that join not all methods are bad input; what the rules leave of them is a finding.
        joined = len(parts(plan.methods, zip(kept["a"], kept["b"], strict=True))) == 1
        found = (strengths(kept, plan.methods, baseline) if joined else None) if out else whole
        counted = [vote for vote in read.votes if vote.question == question and vote.rater not in out]
        notes = [READING, *_question_notes(plan, question, kept, counted, found), *_rater_notes(read, out)]
        part = _Part(plan, question, baseline, kept, found)
        made += [part.methods(notes), part.pairs()]
        if out:
            part = _Part(plan, question, baseline, votes, whole, everyone=True)
            made.append(part.methods(["With the raters whom the rules leave out."]))
    return made


class Counts(NamedTuple):
    """Of some votes."""

    votes: int
    raters: int
    clips: int

    @classmethod
    def of(cls, votes: pd.DataFrame) -> Counts:
        return cls(len(votes), votes["rater"].nunique(), votes["clip"].nunique())

    @property
    def few(self) -> bool:
        return self.votes < FEWEST_VOTES or self.raters < FEWEST_RATERS or self.clips < FEWEST_CLIPS

    @property
    def numbers(self) -> dict[str, Number]:
        known = {VOTES: self.votes, RATERS: self.raters, CLIPS: self.clips}
        return {column.key: Number(float(count)) for column, count in known.items()}


@dataclass(frozen=True)
class _Part:
    """One question's votes of some raters; ``found`` is None where they join not all methods."""

    plan: StudyPlan
    question: str
    baseline: str
    votes: pd.DataFrame
    found: Strengths | None
    everyone: bool = False

    def methods(self, notes: list[str]) -> VoteTable:
        """The methods, by the lower end of their strength."""
        kinds = sorted(set(self.votes["kind"])) if self.votes["kind"].nunique() > 1 else []
        of_kind = {
            kind: Column(key=f"won_{kind}", label=f"Won, {kind}", digits=3, interval=False, read=_unread)
            for kind in kinds
        }
        beats = Column(key="beats", label=f"Beats {self.baseline}", digits=3, read=_unread)
        found, methods, rows = self.found, list(self.plan.methods), {}
        few = {one for pair, counts in self._pairs.items() if counts.votes and counts.few for one in pair}
        if found is not None:
            methods.sort(key=lambda method: -found.logs[method].low)
        for method in methods:
            own = self.votes[(self.votes["a"] == method) | (self.votes["b"] == method)]
            rows[method] = Counts.of(own).numbers
            if found is not None and method not in few:
                rows[method] |= {
                    RANK.key: Number(float(found.rank(method))),
                    STRENGTH.key: found.logs[method],
                    WON.key: found.won[method],
                    beats.key: found.beats.get(method, Number()),
                    **{one.key: _won(own[own["kind"] == kind], method) for kind, one in of_kind.items()},
                }
        columns = (RANK, STRENGTH, WON, beats, *of_kind.values(), VOTES, RATERS, CLIPS)
        made = self._table("methods", columns, rows, notes)
        lows = {method: row[STRENGTH.key].low for method, row in rows.items() if STRENGTH.key in row}
        if found is not None and len(lows) > 1:
            for method, mark in marks(lows, True, found.told).items():
                made.marks[method][STRENGTH.key] = mark
        return made

    def pairs(self) -> VoteTable:
        """The pairs, by name."""
        rows = {}
        for (one, other), counts in self._pairs.items():
            row = rows[f"{one} over {other}"] = counts.numbers
            if self.found is not None and not counts.few:
                row[WON.key] = self.found.rates[one, other]
                row[P.key] = Number(self.found.p[one, other])
        return self._table("pairs", (WON, P, VOTES, RATERS, CLIPS), rows, [PAIRS])

    @cached_property
    def _pairs(self) -> dict[tuple[str, str], Counts]:
        votes = self.votes
        return {
            (one, other): Counts.of(votes[(votes["a"] == one) & (votes["b"] == other)])
            for one, other in combinations(sorted(self.plan.methods), 2)
        }

    def _table(
        self, of: str, columns: tuple[Column, ...], rows: dict[str, dict[str, Number]], notes: list[str]
    ) -> VoteTable:
        """A row of counts alone has too few votes: it says so in place of numbers."""
        few = {label for label, row in rows.items() if len(row) == len(Counts._fields)}
        # ``COUNT``, which is not shown, tells whether a row without a number failed.
        blank = {column.key: Number() for column in columns} | {COUNT.key: Number(0.0)}
        return VoteTable(
            backbone=self.plan.backbone,
            dataset=self.plan.dataset,
            columns=columns,
            numbers={label: blank | row for label, row in rows.items()},
            marks={label: dict.fromkeys(blank, "") for label in rows},
            notes=notes,
            brief=tuple(notes),
            name="-".join(["votes", self.question, of, *(["everyone"] if self.everyone else [])]),
            config_ids=("",) * len(rows),
            failed={label: Counter([TOO_FEW] if label in few else []) for label in rows},
            question=self.question,
            of=of,
            everyone=self.everyone,
        )


def _won(votes: pd.DataFrame, method: str) -> Number:
    """The share of its votes that a method won; nothing below the fewest votes."""
    if len(votes) < FEWEST_VOTES:
        return Number()
    return Number(float(votes["won"].where(votes["a"] == method, 1 - votes["won"]).mean()))


def _question_notes(
    plan: StudyPlan, question: str, kept: pd.DataFrame, counted: Sequence[Vote], found: Strengths | None
) -> Iterator[str]:
    counts, ties = Counts.of(kept), int((kept["won"] == 0.5).sum())
    yield (
        f"{plan.questions[question]} {plural(counts.votes, 'vote')} of {plural(counts.raters, 'rater')} on "
        f"{plural(counts.clips, 'clip')}; {_share(ties, counts.votes)} could not tell."
    )
    if found is None:
        yield "The votes that are left do not join all methods: no strengths."
    else:
        triples, all_ = circles(found.rates, plan.methods)
        if all_:
            yield f"Triples of methods that win in a circle: {triples} of {all_}."
    agreed = alpha(kept)
    if math.isnan(agreed.value):
        yield "Agreement is unknown: no pair and take was judged by two raters."
    else:
        weak = ": raters disagree" if agreed.value < DISAGREE else ""
        yield f"Agreement (Krippendorff's alpha): {_with_interval(agreed)}{weak}."
    of_rater: dict[str, list[Vote]] = {}
    for vote in counted:
        of_rater.setdefault(vote.rater, []).append(vote)
    sides = [raters.left_share(own) for own in of_rater.values()]
    shares = [left / both for left, both in sides if both]
    if shares:
        side = Number(sum(shares) / len(shares), *mean_interval(shares))
        yield f"Share of left among answers for a side, mean over raters: {_with_interval(side)}."
    catches = [right for _, right in raters.caught(counted)]
    if catches:
        yield f"Catches right: {sum(catches)} of {len(catches)}."


def _rater_notes(read: Votes, out: Mapping[str, str]) -> Iterator[str]:
    count = len({vote.rater for vote in read.votes})
    if out:
        why = "; ".join(f"{rater}: {reason}" for rater, reason in out.items())
        yield f"Left out by the rules, {len(out)} of {plural(count, 'rater')}: {why}."
    else:
        yield "The rules leave no rater out."
    yield from read.notes


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "none"


def _with_interval(number: Number) -> str:
    text = number_text(number.value, 2)
    if math.isfinite(number.low):
        text += f" [{number_text(number.low, 2)}, {number_text(number.high, 2)}]"
    return text
