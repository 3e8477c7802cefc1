"""What a protocol states of a table: ``harness/protocol/NAME.yaml``, which never changes once it is out.

Another version of a metric, other prompts or other clips make another protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from harness.records.identity import digest
from harness.records.record import Masks, Strict

VERSIONS = ("vmtbench-v1",)
"""The files there are."""


class Part(Strict):
    """A plug-in as a cell's identity has it; ``weights``: a backbone's, None where they are left open."""

    kind: str
    version: str
    config: dict[str, Any]
    weights: str | None = None


class Stated(Strict):
    """What a table of a protocol holds, whatever its rows: the methods.

    ``experiment`` makes it. ``sampling``: keys of the method's configuration. ``prompts``: their kinds.
    ``metrics`` and ``tracker``: versions as records have them, less the identity of weights. ``clips``:
    names, and the digest of each one's prompts (``prompts_digest``).
    """

    experiment: str
    dataset: Part
    backbone: Part
    sampling: dict[str, Any]
    frames: int
    seeds: list[int]
    prompts: list[str]
    masks: Masks
    tracker: str
    metrics: dict[str, str]
    clips: dict[str, str]
    prompts_a_clip: int

    @property
    def cells(self) -> int:
        """Of one row."""
        return len(self.clips) * self.prompts_a_clip * len(self.seeds)


def prompts_digest(prompts: Sequence[tuple[str, str]]) -> str:
    """12 hex digits of a clip's prompts, each its kind and text, in any order."""
    return digest(sorted([kind, text] for kind, text in prompts))[:12]


@cache
def stated_tables() -> dict[str, Stated]:
    """Every table of every protocol, by its experiment.

    In the files a table ``like`` another has the keys of that one which it does not give itself.
    """
    import yaml

    found: dict[str, Stated] = {}
    for version in VERSIONS:
        nodes = yaml.safe_load(Path(__file__).with_name(f"{version}.yaml").read_text())
        whole: dict[str, dict[str, Any]] = {}
        for experiment, node in nodes.items():
            whole[experiment] = {**whole.get(node.pop("like", ""), {}), **node}
            found[experiment] = Stated.model_validate({"experiment": experiment, **whole[experiment]})
    return found


__all__ = ["VERSIONS", "Part", "Stated", "prompts_digest", "stated_tables"]
