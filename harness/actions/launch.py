"""Jobs of a sweep side by side, by Hydra's launcher: each in a process of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from datasets.errors import InputError
from harness.actions.run import Run
from harness.cells.score import Outcome
from harness.command.compose import environment_variable, run_hydra
from harness.command.experiment import Composed
from harness.command.explain import CONFIG_ERRORS, explain
from harness.command.interface import Ended, Prepared
from harness.command.prepare import prepare
from harness.command.terminal import say
from harness.records import store

if TYPE_CHECKING:
    from omegaconf import DictConfig


def work_beside(parts: Sequence[Composed], name: str, launcher: str) -> None:
    """One job of a sweep whose jobs run at the same time, under the plan name it was given.

    Raises InputError, once it has told it, for input found bad late.
    """
    code = 0
    for action, prepared in prepare([parts]):
        if not isinstance(action, Run):
            continue
        for one in prepared:
            one.job.launcher = launcher
            if one.plan is not None:
                one.plan.name = name
        # Bars of several processes would write over each other.
        with environment_variable("TTY_COMPATIBLE", "0"):
            code = max(code, action.work(prepared)[1])
    if code == 2:
        raise InputError("told already")


def launch(
    arguments: Sequence[str],
    launcher: str,
    composed: Sequence[Sequence[Composed]],
    prepared: Sequence[Prepared],
) -> tuple[list[Ended], int]:
    """As ``Run.work``, each job of the sweep in a process of its own.

    They work on what was planned here; the records tell how it went.
    """
    names = {one.job.number: one.plan.name for one in prepared if one.plan is not None}

    def task(config: DictConfig) -> None:
        from hydra.core.hydra_config import HydraConfig

        number = HydraConfig.get().job.num
        if number in names:
            work_beside(composed[number], names[number], launcher)

    code = 0
    try:
        run_hydra(arguments, task)
    except CONFIG_ERRORS as error:
        say(explain(error))
        return [], 2
    except InputError:
        code = 2
    except Exception as error:
        say(f"hydra/launcher={launcher}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
        code = 1
    ended: list[Ended] = []
    for one in prepared:
        if one.plan is None:
            continue
        found = [store.read_record(one.job.results / cell.path) for cell in one.cells]
        outcome = Outcome([record for record in found if record is not None])
        with contextlib.suppress(OSError, ValueError):
            kept = store.load_plan(store.plan_path(one.job.results, one.plan.name))
            levels = {(variant.config_id, variant.label): variant.levels for variant in kept.variants}
            for variant in one.plan.variants:
                variant.levels = levels.get((variant.config_id, variant.label), variant.levels)
        ended.append((one.job, one.plan, outcome))
        if outcome.failed:
            code = max(code, 1)
    return ended, code


__all__ = ["launch"]
