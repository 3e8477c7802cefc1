"""Generations beside the references of other clips: what a metric gives where nothing was transferred."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar

MAX_PAIRS = 200
"""Mismatched pairs averaged for a chance level, at most."""

Read = TypeVar("Read")


def mismatched(
    generations: Sequence[tuple[str, Read]], references: Mapping[str, Read]
) -> Iterator[tuple[Read, Read]]:
    """At most ``MAX_PAIRS`` pairs of what was read from a generation and from another clip's reference.

    ``generations``: (clip, what was read). Generation i of clip c meets the reference of clip c + 1, then
    (all generations again) c + 2 and so on, cyclically: every clip gets about an equal share.
    """
    order = list(references.values())
    place = {clip: index for index, clip in enumerate(references)}
    pairs = (
        (read, order[(place[clip] + shift) % len(order)])
        for shift in range(1, len(order))
        for clip, read in generations
    )
    return islice(pairs, MAX_PAIRS)
