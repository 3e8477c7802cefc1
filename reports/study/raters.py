"""Which raters count, by rules that were fixed before any vote was read.

They are those of docs/study.md; changing one after votes are in is choosing a result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median

from reports.study.plan import OTHER
from reports.study.votes import Vote

CATCHES = 0.8
"""Share of catches that a rater must get right; "can't tell" is wrong."""
REPEATS, FEWEST_REPEATS = 0.6, 8
"""Share of repeated questions answered alike, and from how many on it is asked for."""
ONE_SIDE, FEWEST_SIDES = 0.85, 20
"""Share of answers on one side above which a rater does not look, and from how many on it is asked for."""


def caught(votes: Sequence[Vote]) -> list[tuple[Vote, bool]]:
    """The answers to what catches ask, and whether they are right."""
    return [
        (vote, vote.answer == vote.trial.answer)
        for vote in votes
        if vote.trial.kind == "catch" and vote.question == vote.trial.question
    ]


def repeated(votes: Sequence[Vote]) -> list[bool]:
    """Whether a rater answered alike, for each question asked a second time with its sides swapped."""
    known = {vote.key: vote.answer for vote in votes}
    found = []
    for vote in votes:
        first = known.get((vote.rater, vote.trial.of or "", vote.question))
        if first is not None:
            found.append(OTHER.get(first, first) == vote.answer)
    return found


def left_share(votes: Sequence[Vote]) -> tuple[int, int]:
    """How many answers are left, and how many left or right."""
    sides = Counter(vote.answer for vote in votes)
    return sides["left"], sides["left"] + sides["right"]


def reason(votes: Sequence[Vote]) -> str | None:
    """Why one rater's votes are left out; None where they count."""
    catches = [right for _, right in caught(votes)]
    if catches and sum(catches) < CATCHES * len(catches):
        return f"{sum(catches)} of {len(catches)} catches right"
    repeats = repeated(votes)
    if len(repeats) >= FEWEST_REPEATS and sum(repeats) < REPEATS * len(repeats):
        return f"{sum(repeats)} of {len(repeats)} repeated questions answered alike"
    # A trial takes as long as its last answer; it counts in loops of its own clip.
    spent: dict[str, float] = {}
    for vote in votes:
        loops = vote.seconds / vote.trial.seconds
        spent[vote.trial.id] = max(loops, spent.get(vote.trial.id, 0.0))
    if spent and median(spent.values()) < 1:
        return f"median time {median(spent.values()):.2f} of one loop"
    left, sides = left_share(votes)
    if sides >= FEWEST_SIDES and max(left, sides - left) > ONE_SIDE * sides:
        side = "left" if 2 * left > sides else "right"
        return f"{side} in {max(left, sides - left)} of {sides} answers"
    return None


def exclusions(votes: Sequence[Vote]) -> dict[str, str]:
    """Rater -> why they are left out; who counts is not in it."""
    of_rater: dict[str, list[Vote]] = {}
    for vote in votes:
        of_rater.setdefault(vote.rater, []).append(vote)
    found = {rater: reason(own) for rater, own in of_rater.items()}
    return {rater: why for rater, why in found.items() if why is not None}
