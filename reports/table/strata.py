"""Tables of one kind of clips or prompts each: ``python -m reports results --by motion``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from datasets.errors import InputError, nearest

if TYPE_CHECKING:
    from harness.records.record import Plan, PlannedCell

PROMPT = "prompt"
"""The stratum that every cell has: the kind of its prompt."""


def by_stratum(plans: Sequence[Plan], name: str) -> dict[str, list[Plan]]:
    """The plans once for each value of a stratum, with the cells of that value alone.

    Levels (chance, true clips) are of all clips, and are left out. InputError where no cell has the stratum.
    """
    cells = [cell for plan in plans for variant in plan.variants for cell in variant.cells]
    known = {PROMPT, *(key for cell in cells for key in cell.strata)}
    if name not in known:
        raise InputError(f"--by {name}: no clip has such a stratum; {nearest(name, known)}")
    values = sorted({value for cell in cells if (value := _value(cell, name)) is not None})
    return {f"{name} {value}": [_only(plan, name, value) for plan in plans] for value in values}


def _value(cell: PlannedCell, name: str) -> str | None:
    return cell.prompt_kind if name == PROMPT else cell.strata.get(name)


def _only(plan: Plan, name: str, value: str) -> Plan:
    variants = [
        variant.model_copy(
            update={
                "cells": [cell for cell in variant.cells if _value(cell, name) == value],
                "levels": {},
            }
        )
        for variant in plan.variants
    ]
    return plan.model_copy(
        update={"variants": [variant for variant in variants if variant.cells], "left_out": []}
    )


__all__ = ["by_stratum"]
