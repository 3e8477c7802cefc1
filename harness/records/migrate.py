"""Records and plans of older schemas, turned into today's when they are read.

Schema 1 (until version 0.1): ids hash the import paths of plug-ins, and a metric's value does not say how
it stands in tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.records.identity import PARTS, is_whole, of_variant, short_id
from harness.records.record import SCHEMA

Data = dict[str, Any]
NOT_OURS = "it is no record or plan of ours"

KINDS = {
    "methods.plain.Plain": "none",
    "methods.fastvmt.FastVMT": "fastvmt",
    "methods.turbo.Turbo": "fastvmt_turbo",
    "methods.released.Released": "fastvmt_released",
    "methods.reframe.Reframe": "reframe",
    "methods.ditflow.DiTFlow": "ditflow",
    "methods.ditflow_rope.DiTFlowRope": "ditflow_rope",
    "methods.moft.MOFT": "moft",
    "methods.smm.SMM": "smm",
    "methods.motionclone.MotionClone": "motionclone",
    "methods.flowmotion.FlowMotion": "flowmotion",
    "methods.ropecraft.RoPECraft": "ropecraft",
    "methods.motion_director.MotionDirector": "motion_director",
    "methods.motion_inversion.MotionInversion": "motion_inversion",
    "methods.det.DeT": "det",
    "methods.external.External": "external",
    "methods.precomputed.Precomputed": "precomputed",
    "methods.backbones.wan.WanBackbone": "wan",
    "methods.backbones.cogvideox.CogVideoXBackbone": "cogvideox",
    "datasets.davis.Davis": "davis",
    "datasets.folder.Folder": "folder",
    "datasets.sprites.Sprites": "sprites",
}
"""What schema 1 called the classes that have a ``plugin_kind`` now."""

MOTION = {"sees_motion": True}
COLUMNS: dict[str, Data] = {
    "motion_fidelity": MOTION,
    "motion_fidelity_speed": {"primary": False, **MOTION},
    "motion_fidelity_legacy": {"primary": False, **MOTION},
    "warp_consistency": {"primary": False, "beside_motion": True},
    "position_error": {**MOTION, "truth": True},
    "direction_cosine": {**MOTION, "truth": True},
    "objects_right": {"primary": False},
    "background_right": {"primary": False},
    "count_right": {"primary": False},
}
"""How metrics of schema 1 stand in tables, where it is not as any other does."""


class Unreadable(ValueError):
    """A record or plan that this version cannot read; the message says why, in a few words."""


def schema_of(data: Any) -> int:
    """The schema of a record or plan as it lies on disk. Raises Unreadable where there is none."""
    schema = data.get("schema") if isinstance(data, dict) else None
    if not isinstance(schema, int):
        raise Unreadable(NOT_OURS)
    if schema > SCHEMA:
        raise Unreadable(f"it is of schema {schema}; this version reads up to {SCHEMA}: update it")
    return schema


def record(data: Any) -> Data:
    """The data of a record in today's schema. Raises Unreadable."""
    if schema_of(data) == 1:
        data = _record_from_1(data)
    return dict(data)


def _record_from_1(data: Data) -> Data:
    identity, metrics = data.get("identity", {}), data.get("metrics", {})
    for held in (identity, metrics):
        if not isinstance(held, dict):
            raise Unreadable(NOT_OURS)
    for part in (*(identity[name] for name in PARTS if name in identity), *metrics.values()):
        if not isinstance(part, dict):
            raise Unreadable(NOT_OURS)
    whole = is_whole(identity, data.get("id"))
    identity = {**identity}
    for name in PARTS:
        if name in identity:
            part = {**identity[name]}
            part["kind"] = KINDS.get(part.pop("target", ""), "")
            identity[name] = part
    metrics = {
        name: {**value, "digits": 2 if value.get("unit") else 4, **COLUMNS.get(name, {})}
        for name, value in metrics.items()
    }
    # Where a value is hidden, or there is no identity (records of hand-made tests), the id stays.
    new_id = short_id(identity) if whole else data.get("id")
    former_id = data.get("id") if whole else None
    return {
        **data,
        "schema": 2,
        "id": new_id,
        "former_id": former_id,
        "identity": identity,
        "metrics": metrics,
    }


def plan(data: Any, read: Callable[[str], Data | None]) -> Data:
    """The data of a plan in today's schema; ``read`` gives the migrated record of a cell's folder, if any.

    Ids of cells that have not run stay as they were. Raises Unreadable.
    """
    schema = schema_of(data)
    # Until plans said when they ran, they were written by runs as a rule.
    data = {"ran": data.get("created", ""), **data}
    if schema > 1:
        return dict(data)
    variants = []
    for variant in data.get("variants", []):
        cells, config_id = [], variant.get("config_id")
        for cell in variant.get("cells", []):
            found = read(cell["path"])
            if found is not None and found["identity"]:
                cell = {**cell, "id": found["id"]}
                if is_whole(found["identity"], found["id"]):
                    config_id = short_id(of_variant(found["identity"]))
            cells.append(cell)
        variants.append({**variant, "cells": cells, "config_id": config_id})
    return {**data, "schema": 2, "variants": variants}


__all__ = ["Unreadable", "plan", "record", "schema_of"]
