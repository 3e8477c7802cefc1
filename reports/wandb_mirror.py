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
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from datasets.errors import InputError
from harness.command.config import WandbSettings
from harness.records import store
from harness.records.record import Plan

if TYPE_CHECKING:
    from harness.cells.job import Job
    from reports.rows import Row


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

    One run for each row of their tables, so for each backbone and dataset too; a sweep over
    seeds is one, and all runs share a group.
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
        # Host, user and paths; the records say what the machine is.
        "WANDB_X_DISABLE_META": "true",
        "WANDB_X_DISABLE_MACHINE_INFO": "true",
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


def _cells(row: Row) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the row's cells that have a record."""
    metrics = sorted({name for record in row.records.values() for name in record.metrics})
    columns = ["clip", "prompt", "prompt_kind", "seed", "status", *metrics]
    columns += ["seconds", "forward_equivalents", "error", "id"]
    rows: list[list[Any]] = []
    for record in row.records.values():
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
    return columns, rows


def _summary(line: Mapping[str, Any], row: Row) -> dict[str, Any]:
    """A table row's means and intervals, and how the cells ended."""
    summary = {name: _plain(value) for name, value in line.items() if isinstance(value, float)}
    summary["cells"] = len(row.cells)
    for status in sorted({record.status for record in row.records.values()}):
        summary[f"cells_{status}"] = sum(record.status == status for record in row.records.values())
    summary["cells_without_record"] = len(row.cells) - len(row.records)
    return summary


def _videos(wandb: Any, results: Path, row: Row, most: int) -> list[Any]:
    """Our own mp4 files, as they are: W&B's encoder is slow and breaks."""
    videos: list[Any] = []
    for key, record in row.records.items():
        path = results / row.cells[key].path / store.VIDEO
        if len(videos) < most and path.exists():
            caption = f"{record.clip} | {record.prompt} | seed {record.seed}"
            videos.append(wandb.Video(str(path), caption=caption, format="mp4"))
    return videos


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
    wandb: Any,
    results: Path,
    row: Row,
    plans: Sequence[Mapping[str, Any]],
    group: str,
    chosen: Mapping[str, Any],
    lines: Any,
) -> None:
    """One row of a table as a run; ``plans`` are the configurations of the plans that hold it."""
    variant = row.variant
    failed = len(row.records) < len(row.cells) or any(one.status != "ok" for one in row.records.values())
    mine = lines[["variant", "dataset", "backbone"]] == [row.label, variant.dataset, variant.backbone]
    line: dict[str, Any] = lines[mine.all(axis=1)].iloc[0].to_dict()
    config = {**_common(plans), "label": variant.label, "config_id": variant.config_id}
    first = next(iter(row.records.values()), None)
    if first is not None:
        # The variant's own, where an experiment's variants override the command's.
        sources = {"method": first.method, "backbone": first.backbone, "dataset": first.dataset}
        config |= {name: source.config for name, source in sources.items()}
        config["environment"] = first.environment
    run = wandb.init(
        project=chosen["project"],
        entity=chosen["entity"],
        group=chosen["group"] or group,
        name=f"{row.label} {variant.dataset} {variant.backbone}",
        job_type=variant.method,
        mode=chosen["mode"],
        dir=chosen["dir"],
        tags=[variant.method, variant.backbone, variant.dataset],
        config=config,
    )
    try:
        columns, rows = _cells(row)
        logged: dict[str, Any] = {"cells": wandb.Table(columns=columns, data=rows)}
        texts = lines.astype(object).where(lines.notna(), None)
        logged["table"] = wandb.Table(columns=list(texts.columns), data=texts.to_numpy().tolist())
        if videos := _videos(wandb, results, row, chosen["videos"]):
            logged["videos"] = videos
        run.log(logged)
        run.summary.update(_summary(line, row))
    finally:
        run.finish(exit_code=1 if failed else 0)


def main(job_file: Path) -> None:
    """Publish a job file's plans. Raises whatever W&B raises."""
    job = json.loads(job_file.read_text())
    results, plans = Path(job["results"]), [Plan.model_validate(plan) for plan in job["plans"]]
    Path(job["wandb"]["dir"]).mkdir(parents=True, exist_ok=True)

    import pandas as pd
    import wandb

    from reports.rows import groups
    from reports.tables import tables

    lines = pd.concat([table.flat() for table in tables(results, plans, everything=True)], ignore_index=True)
    group = plans[0].name if len(plans) == 1 else f"{plans[0].name}+{len(plans) - 1}"
    configs = {id(plan): config for plan, config in zip(plans, job["configs"], strict=True)}
    for row in (row for of_group in groups(results, plans) for row in of_group.rows):
        said = [
            {
                **configs[id(plan)],
                "plan": plan.name,
                "command": plan.command,
                "overrides": variant.overrides,
            }
            for plan, variant in row.parts
        ]
        _publish_run(wandb, results, row, said, group, job["wandb"], lines)
        with job_file.with_name("published").open("a") as file:
            file.write(".")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except Exception as error:
        # The last line is the warning.
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", flush=True)
        raise SystemExit(1) from None
