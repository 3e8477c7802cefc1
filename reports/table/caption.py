"""What a table is of, in words: ``32 clips, embedded world, 2 threads of an AMD EPYC``."""

from __future__ import annotations

import re

from reports.table.rows import SETTINGS, Group, experiments_of, plural
from reports.table.words import NAMES, device_words


def caption(group: Group) -> str:
    """Clips (prompts and seeds, where there are several), dataset, backbone, and the device if it is one."""
    cells = [cell for row in group.rows for cell in row.cells.values()]
    clips = {cell.clip for cell in cells}
    parts = [plural(len(clips), "clip")]
    prompts = max((len({cell.prompt for cell in cells if cell.clip == clip}) for clip in clips), default=1)
    seeds = len({cell.seed for cell in cells})
    parts += [f"{prompts} prompts each"] * (prompts > 1) + [f"{seeds} seeds"] * (seeds > 1)
    parts.append(NAMES.get(group.dataset, group.dataset))
    if any(row.uses_backbone for row in group.rows) and group.backbone != group.dataset:
        parts.append(NAMES.get(group.backbone, group.backbone))
    devices, threads = (
        {value for row in group.rows for value in row.setting(SETTINGS[name])}
        for name in ("device", "threads")
    )
    if len(devices) == 1:
        parts.append(device_words(devices.pop(), threads.pop() if len(threads) == 1 else ""))
    elif devices:
        parts.append("several devices")
    return ", ".join(parts)


def name(group: Group) -> str:
    """For files and references: the experiment, if there is one, dataset and backbone."""
    ran = [experiments_of(plan) for plan in group.plans]
    shared = set.intersection(*ran) if ran else set()
    experiments = shared - {plan.name for plan in group.plans} or shared
    words = dict.fromkeys([*sorted(experiments)[:1], group.dataset, group.backbone])
    return re.sub(r"[^a-z0-9.]+", "-", "-".join(words).lower()).strip("-")


__all__ = ["caption", "name"]
