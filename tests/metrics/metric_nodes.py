"""The metrics of ``conf/metric``, and the sets of ``conf/metrics``, as plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

CONF = Path(__file__).parents[2] / "conf"


def node(name: str) -> dict[str, Any]:
    """A metric's node, its interpolations as they stand."""
    nodes: Any = OmegaConf.to_container(OmegaConf.load(CONF / "metric" / f"{name}.yaml"), resolve=False)
    return dict(nodes[name])


def names(of_set: str) -> list[str]:
    """The metrics of a set, in its order."""
    listed: Any = OmegaConf.to_container(OmegaConf.load(CONF / "metrics" / f"{of_set}.yaml"), resolve=False)
    return [entry.removeprefix("/metric/") for entry in listed["defaults"] if entry != "_self_"]
