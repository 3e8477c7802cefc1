"""A cache for functions of plug-ins, which are dataclasses and have no hash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Arguments:
    text: str
    # Kept as long as the text: another object at the same address could have the same one.
    values: tuple[Any, ...] = field(compare=False)
    named: dict[str, Any] = field(compare=False)


def cached_by_text(maxsize: int) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """As ``functools.lru_cache``, for arguments that are equal where their ``repr`` is.

    That of a dataclass holds all its fields.
    """

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        @lru_cache(maxsize)
        def call(arguments: _Arguments) -> Result:
            return function(*arguments.values, **arguments.named)

        @wraps(function)
        def cached(*values: Parameters.args, **named: Parameters.kwargs) -> Result:
            return call(_Arguments(repr((values, named)), values, named))

        return cached

    return decorate


__all__ = ["cached_by_text"]
