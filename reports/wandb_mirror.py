"""Weights & Biases as a mirror of finished records.

``mirror`` is called after the timed work. It hands a command's plans to a process of its
own (``python -m reports.wandb_mirror JOB.json``) and ends it when ``timeout_s`` seconds pass
without a run, so that a W&B that is missing, refuses or hangs costs one warning line and
nothing else.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from datasets.errors import InputError
from harness.command.config import WandbSettings
from harness.records import store
from harness.records.record import Plan, Record, Variant

if TYPE_CHECKING:
    from harness.cells.job import Job


def settings(wandb: Mapping[str, Any]) -> WandbSettings:
    """Check the ``wandb`` group. InputError that names the first wrong key."""
    try:
        return WandbSettings.model_validate(dict(wandb))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(["wandb", *map(str, first["loc"])])
        raise InputError(f"{key}: {first['msg'][0].lower()}{first['msg'][1:]}") from error


def mirror(jobs: Sequence[tuple[Job, Plan]]) -> list[str]:
    """Publish the plans of one command to W&B; a warning line where that did not work. Never raises.

    Jobs of one results folder and one ``wandb`` group are published together.
    """
    together: dict[str, list[tuple[Job, Plan]]] = {}
    for job, plan in jobs:
        key = json.dumps([str(job.results), job.wandb], sort_keys=True, default=str)
        together.setdefault(key, []).append((job, plan))
    warnings: list[str] = []
    for same in together.values():
        first, plans = same[0][0], [plan for _, plan in same]
        warning = publish(first.results, plans, first.wandb, [job.resolved for job, _ in same])
        if warning:
            warnings.append(warning)
    return warnings


def publish(
    results: Path,
    plans: Sequence[Plan | Path],
    wandb: Mapping[str, Any],
    configs: Sequence[Mapping[str, Any]] = (),
) -> str | None:
    """``mirror`` from plain data: a results folder, plans (or their files) and the ``wandb`` group.

    One run for each variant, so for each backbone and dataset too; variants of equal
    ``config_id`` and label (a sweep over seeds) share theirs, and all runs share a group.
    A run ends with exit code 1 when one of its cells failed or has no record. ``configs``
    are the plans' composed configurations. Nothing happens when ``mode`` is ``disabled``.
    """
    try:
        chosen = settings(wandb)
        if chosen.mode == "disabled" or not plans:
            return None
        loaded = [store.load_plan(plan) if isinstance(plan, Path) else plan for plan in plans]
        with tempfile.TemporaryDirectory(prefix="vmtbench-wandb-") as scratch:
            job = Path(scratch) / "job.json"
            job.write_text(
                json.dumps(
                    {
                        "results": str(results.resolve()),
                        "plans": [plan.model_dump(mode="json", by_alias=True) for plan in loaded],
                        "wandb": chosen.model_dump(mode="json") | {"dir": str(chosen.dir.resolve())},
                        "configs": [dict(config) for config in configs] or [{} for _ in loaded],
                    },
                    default=str,
                )
            )
            problem = in_child(job, chosen, Path(scratch) / "log")
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    if problem is None:
        return None
    line = " ".join(problem.split())
    return f"W&B mirror failed ({line[:300]}); the results are complete without it"


def _environment(chosen: WandbSettings) -> dict[str, str]:
    """Ours, with W&B quiet and its files under ``dir``."""
    folder = chosen.dir.resolve() / "wandb"
    root = str(Path(__file__).resolve().parent.parent)
    # A run or service of the caller's own must not be taken over.
    inherited = ("WANDB_SERVICE", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_NAME", "WANDB_SWEEP_ID")
    environment = {name: value for name, value in os.environ.items() if name not in inherited}
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    # Last, so that our folder shadows nothing of the user's.
    environment["PYTHONPATH"] = os.pathsep.join([*paths, root])
    environment |= {
        "WANDB_DIR": str(folder.parent),
        "WANDB_MODE": chosen.mode,
        "WANDB_SILENT": "true",
        "WANDB_CONSOLE": "off",
        "WANDB_DISABLE_GIT": "true",
        "WANDB_DISABLE_CODE": "true",
        "WANDB_ERROR_REPORTING": "false",
    }
    environment.setdefault("WANDB_CACHE_DIR", str(folder / "cache"))
    environment.setdefault("WANDB_DATA_DIR", str(folder / "cache"))
    return environment


def in_child(job: Path, chosen: WandbSettings, log: Path) -> str | None:
    """Publish in a child; what went wrong, or None.

    Its output goes to a file: a pipe would stay open as long as W&B's own service lives.
    """
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "reports.wandb_mirror", str(job)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(chosen),
            start_new_session=True,
        )
        try:
            code = None
            while code is None:
                before = _published(job)
                try:
                    code = child.wait(chosen.timeout_s)
                except subprocess.TimeoutExpired:
                    if _published(job) == before:
                        _end(child)
                        return f"stopped after wandb.timeout_s={chosen.timeout_s:g} seconds without a run"
        except BaseException:
            _end(child)
            raise
    if code == 0:
        return None
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit code {code}"


def _published(job: Path) -> int:
    """How many runs the child of a job file has published."""
    path = job.with_name("published")
    return path.stat().st_size if path.exists() else 0


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the child and what it started (its session is its own)."""
    if sys.platform != "win32":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    child.kill()
    child.wait()


# In the child


def _plain(value: Any) -> Any:
    """W&B's summary and tables take no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cells(results: Path, variant: Variant) -> tuple[list[str], list[list[Any]], list[tuple[str, Record]]]:
    """Columns and rows of a variant's cells, and the folder and record of each that has one."""
    found: list[tuple[str, Record]] = []
    for cell in variant.cells:
        with contextlib.suppress(FileNotFoundError):
            found.append((cell.path, store.load_record(results / cell.path)))
    metrics = sorted({name for _, record in found for name in record.metrics})
    columns = ["clip", "prompt", "prompt_kind", "seed", "status", *metrics]
    columns += ["seconds", "forward_equivalents", "error", "id"]
    rows: list[list[Any]] = []
    for _, record in found:
        values = [record.metrics[name].value if name in record.metrics else None for name in metrics]
        rows.append(
            [
                record.clip,
                record.prompt,
                record.prompt_kind,
                record.seed,
                record.status,
                *map(_plain, values),
                _plain(record.timing.first_video),
                _plain(record.flops.forward_equivalents),
                record.error.message if record.error else None,
                record.id,
            ]
        )
    return columns, rows, found


def _summary(line: Mapping[str, Any], variant: Variant, found: list[tuple[str, Record]]) -> dict[str, Any]:
    """A table row's means and intervals, and how the cells ended."""
    summary = {name: _plain(value) for name, value in line.items() if isinstance(value, float)}
    summary["cells"] = len(variant.cells)
    for status in sorted({record.status for _, record in found}):
        summary[f"cells_{status}"] = sum(record.status == status for _, record in found)
    summary["cells_without_record"] = len(variant.cells) - len(found)
    return summary


def _videos(wandb: Any, results: Path, found: list[tuple[str, Record]], most: int) -> list[Any]:
    """Our own mp4 files, as they are: W&B's encoder is slow and breaks."""
    videos: list[Any] = []
    for folder, record in found:
        path = results / folder / store.VIDEO
        if len(videos) < most and path.exists():
            caption = f"{record.clip} | {record.prompt} | seed {record.seed}"
            videos.append(wandb.Video(str(path), caption=caption, format="mp4"))
    return videos


@dataclass
class _Run:
    """Variants of equal configuration and label, their cells in one, with what their plans say."""

    variant: Variant
    plans: list[dict[str, Any]] = field(default_factory=list)


def _merged(plans: Sequence[Plan], configs: Sequence[Mapping[str, Any]]) -> list[_Run]:
    """The runs that the plans make, in their order."""
    runs: dict[tuple[str, str], _Run] = {}
    for plan, config in zip(plans, configs, strict=True):
        for variant in plan.variants:
            run = runs.setdefault(
                (variant.config_id, variant.label), _Run(variant.model_copy(update={"cells": []}))
            )
            known = {cell.path for cell in run.variant.cells}
            run.variant.cells.extend(cell for cell in variant.cells if cell.path not in known)
            run.plans.append(
                {**config, "plan": plan.name, "command": plan.command, "overrides": variant.overrides}
            )
    return list(runs.values())


def _common(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Each key's value, or the list of its different ones."""
    common: dict[str, Any] = {}
    for key in {name: None for config in configs for name in config}:
        values: list[Any] = []
        for config in configs:
            if config.get(key) not in values:
                values.append(config.get(key))
        common[key] = values if len(values) > 1 else values[0]
    return common


def _publish_run(
    wandb: Any, results: Path, one: _Run, group: str, chosen: Mapping[str, Any], lines: Any
) -> None:
    variant = one.variant
    columns, rows, found = _cells(results, variant)
    failed = len(found) < len(variant.cells) or any(record.status != "ok" for _, record in found)
    mine = lines[lines["config_id"] == variant.config_id]
    if len(mine) > 1:
        mine = mine[mine["variant"] == variant.label]
    line: dict[str, Any] = mine.iloc[0].to_dict() if len(mine) else {}
    config = {**_common(one.plans), "label": variant.label, "config_id": variant.config_id}
    if found:
        first = found[0][1]
        # The variant's own, where an experiment's variants override the command's.
        sources = {"method": first.method, "backbone": first.backbone, "dataset": first.dataset}
        config |= {name: source.config for name, source in sources.items()}
        config["environment"] = first.environment
    run = wandb.init(
        project=chosen["project"],
        entity=chosen["entity"],
        group=chosen["group"] or group,
        name=f"{line.get('variant', variant.label)} {variant.dataset} {variant.backbone}",
        job_type=variant.method,
        mode=chosen["mode"],
        dir=chosen["dir"],
        tags=[variant.method, variant.backbone, variant.dataset],
        config=config,
    )
    try:
        logged: dict[str, Any] = {"cells": wandb.Table(columns=columns, data=rows)}
        texts = lines.astype(object).where(lines.notna(), None)
        logged["table"] = wandb.Table(columns=list(texts.columns), data=texts.to_numpy().tolist())
        if videos := _videos(wandb, results, found, chosen["videos"]):
            logged["videos"] = videos
        run.log(logged)
        run.summary.update(_summary(line, variant, found))
    finally:
        run.finish(exit_code=1 if failed else 0)


def main(job_file: Path) -> None:
    """Publish a job file's plans. Raises whatever W&B raises."""
    job = json.loads(job_file.read_text())
    results, plans = Path(job["results"]), [Plan.model_validate(plan) for plan in job["plans"]]
    Path(job["wandb"]["dir"]).mkdir(parents=True, exist_ok=True)

    import pandas as pd
    import wandb

    from reports.tables import tables

    lines = pd.concat([table.flat() for table in tables(results, plans, everything=True)], ignore_index=True)
    group = plans[0].name if len(plans) == 1 else f"{plans[0].name}+{len(plans) - 1}"
    for run in _merged(plans, job["configs"]):
        _publish_run(wandb, results, run, group, job["wandb"], lines)
        with job_file.with_name("published").open("a") as file:
            file.write(".")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except Exception as error:
        # The last line is the warning.
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", flush=True)
        raise SystemExit(1) from None
