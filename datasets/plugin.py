"""What every plug-in declares: datasets, methods, backbones, metrics and trackers derive from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from datasets.weights import Weight


class Plugin(ABC):
    """A plug-in: a pydantic dataclass whose fields are the keys of its YAML.

    ``name``: what tables and folders call it. ``version`` changes when its code changes what comes out.
    ``outside_id``: fields that do not enter a cell's id, such as paths; a dot leads into a nested one.
    ``plugin_kind``: which of our classes this is, whatever module it stands in; given as
    ``class Mine(Method, kind="mine")``. It enters the id, so that a YAML copied for another class cannot
    take over results of the first. Not inherited; empty for classes from outside. ``runs``: packages whose
    code it fetches or takes from a clone and runs; each must stand in ``trust``.
    """

    name: str
    plugin_kind: ClassVar[str]
    outside_id: ClassVar[Sequence[str]] = ()
    runs: ClassVar[Sequence[str]] = ()

    def __init_subclass__(cls, kind: str = "", **keys: Any) -> None:
        super().__init_subclass__(**keys)
        cls.plugin_kind = kind

    def needed_weights(self) -> Sequence[Weight]:
        """The weights it reads, at hand or not: what ``action=weights`` lists and fetches."""
        return ()

    @property
    @abstractmethod
    def version(self) -> str:
        """As a rule a class attribute, ``version = "1"``."""


__all__ = ["Plugin"]
