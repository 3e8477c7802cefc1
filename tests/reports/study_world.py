"""Takes without videos, and raters whose taste is known."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from reports.study.plan import StudyPlan, Trial, make_plan
from reports.study.source import Source, Take
from reports.study.votes import COLUMNS, Vote

METHODS = ("alpha", "beta", "gamma")
STRENGTHS = dict(zip(METHODS, (4.0, 2.0, 1.0), strict=True))
BEGIN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
Rater = Callable[[Trial, str, random.Random], str]
"""What a rater answers on a trial and a question."""


def source(
    methods: tuple[str, ...] = METHODS,
    clips: int = 12,
    broken: tuple[str, ...] = ("reversed", "frozen"),
    prompt: Callable[[int], str] = lambda index: f"a thing number {index}",
) -> Source:
    takes = tuple(
        Take(
            clip=f"clip-{index}",
            prompt=prompt(index),
            kind="target" if index % 2 else "easy",
            seed=0,
            reference=Path(f"reference-{index}.mp4"),
            reference_id=f"r{index}",
            videos={method: Path(method) / f"{index}.mp4" for method in methods},
            ids={method: f"{method}{index}" for method in methods},
            seconds=2.0,
            size=(64, 64),
            broken=broken,
        )
        for index in range(clips)
    )
    return Source("world", "machine", methods[-1], methods, takes, ())


def plan_of(methods: tuple[str, ...] = METHODS, clips: int = 12, **options: int) -> StudyPlan:
    return make_plan(source(methods, clips), **options)[0]


def honest(strengths: dict[str, float] = STRENGTHS, ties: float = 0.0) -> Rater:
    """One rater who prefers methods in proportion to their strengths, and passes every check."""
    chosen: dict[tuple[str, str], str] = {}

    def answer(trial: Trial, question: str, chance: random.Random) -> str:
        if trial.kind == "catch":
            return trial.answer if question == trial.question else "tie"
        key = trial.of or trial.id, question
        if key not in chosen:
            a, b = strengths[trial.left], strengths[trial.right]
            won = trial.left if chance.random() < a / (a + b) else trial.right
            chosen[key] = "tie" if chance.random() < ties else won
        won = chosen[key]
        return {trial.left: "left", trial.right: "right"}.get(won, "tie")

    return answer


def coin(trial: Trial, question: str, chance: random.Random) -> str:
    """Does not look."""
    return chance.choice(["left", "right"])


def leftist(trial: Trial, question: str, chance: random.Random) -> str:
    """Always clicks left."""
    return "left"


def simulate(plan: StudyPlan, raters: Iterable[Rater], seed: int = 0, seconds: float = 9.0) -> list[Vote]:
    """The votes of raters on the slots in turn, ``r0`` and so on."""
    votes = []
    for number, rater in enumerate(raters):
        chance, time = random.Random(1000 * seed + number), BEGIN
        for trial in plan.slots[number % len(plan.slots)]:
            for question in plan.questions:
                time += timedelta(seconds=3)
                answer = rater(trial, question, chance)
                votes.append(Vote(f"r{number}", trial, question, answer, seconds, 2.0, time))
    return votes


def write_votes(path: Path, plan: StudyPlan, votes: Iterable[Vote]) -> Path:
    """The votes in a file such as the page downloads."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*COLUMNS, "screen"])
        for vote in votes:
            row = (vote.rater, vote.trial.id, vote.question, vote.answer, vote.seconds, vote.loops)
            writer.writerow((plan.hash, *row, vote.time.isoformat(), "390x844"))
    return path
