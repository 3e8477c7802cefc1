"""Weights & Biases as a mirror of finished records.

``mirror`` is called after the timed work. It hands a plan to a process of its own
(``python -m harness.tracking JOB.json``) and ends it after ``timeout_s`` seconds, so
that a W&B that is missing, refuses or hangs costs one warning line and nothing else.
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
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from datasets.errors import InputError
from harness.records import Plan, Record, Variant, load_plan, load_record

if TYPE_CHECKING:
    from harness.config import Job


class Settings(BaseModel):
    """The keys of ``conf/wandb``. ``dir`` gets the folder ``wandb``, which holds the runs."""

    model_config = ConfigDict(extra="forbid")

    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "vmtbench"
    entity: str | None = None
    group: str | None = None
    timeout_s: float = Field(60, gt=0, allow_inf_nan=False)
    videos: int = Field(8, ge=0)
    dir: Path = Path("results")


def settings(wandb: Mapping[str, Any]) -> Settings:
    """Check the ``wandb`` group. InputError that names the first wrong key."""
    try:
        return Settings.model_validate(dict(wandb))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(["wandb", *map(str, first["loc"])])
        raise InputError(f"{key}: {first['msg'][0].lower()}{first['msg'][1:]}") from error


def mirror(job: Job, plan: Plan, outcome_records: Sequence[Record], exit_code: int) -> str | None:
    """Publish a command's plan to W&B; a warning line when that did not work, else None. Never raises.

    One run for each variant (so for each backbone and dataset too). Nothing happens
    when ``mode`` is ``disabled`` or there is no record.
    """
    if not outcome_records:
        return None
    return publish(
        job.results, plan, job.wandb, exit_code=exit_code, config=job.resolved, overrides=job.overrides
    )


def publish(
    results: Path,
    plan: Plan | Path,
    wandb: Mapping[str, Any],
    *,
    exit_code: int = 0,
    config: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
) -> str | None:
    """``mirror`` from plain data: a results folder, a plan (or its file) and the ``wandb`` group.

    ``exit_code`` is the command's; a run whose cells are all ok ends with 0 all the same.
    """
    try:
        chosen = settings(wandb)
        if chosen.mode == "disabled":
            return None
        loaded = load_plan(plan) if isinstance(plan, Path) else plan
        with tempfile.TemporaryDirectory(prefix="vmtbench-wandb-") as scratch:
            job = Path(scratch) / "job.json"
            job.write_text(
                json.dumps(
                    {
                        "results": str(results.resolve()),
                        "plan": loaded.model_dump(mode="json", by_alias=True),
                        "wandb": chosen.model_dump(mode="json") | {"dir": str(chosen.dir.resolve())},
                        "exit_code": exit_code,
                        "config": dict(config or {}),
                        "overrides": list(overrides),
                    },
                    default=str,
                )
            )
            problem = _run(job, chosen, Path(scratch) / "log")
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    if problem is None:
        return None
    line = " ".join(problem.split())
    return f"W&B mirror failed ({line[:300]}); the results are complete without it"


def _environment(chosen: Settings) -> dict[str, str]:
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


def _run(job: Path, chosen: Settings, log: Path) -> str | None:
    """Publish in a child; what went wrong, or None.

    Its output goes to a file: a pipe would stay open as long as W&B's own service lives.
    """
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "harness.tracking", str(job)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(chosen),
            start_new_session=True,
        )
        try:
            code = child.wait(chosen.timeout_s)
        except BaseException as error:
            _end(child)
            if isinstance(error, subprocess.TimeoutExpired):
                return f"stopped after wandb.timeout_s={chosen.timeout_s:g} seconds"
            raise
    if code == 0:
        return None
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit code {code}"


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the child and what it started (its session is its own)."""
    if hasattr(os, "killpg"):
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
        path = results / cell.path / "record.json"
        if path.exists():
            found.append((cell.path, load_record(path)))
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
                _plain(record.timing.total),
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
        path = results / folder / "video.mp4"
        if len(videos) < most and path.exists():
            caption = f"{record.clip} | {record.prompt} | seed {record.seed}"
            videos.append(wandb.Video(str(path), caption=caption, format="mp4"))
    return videos


def _publish_variant(
    wandb: Any, results: Path, plan: Plan, variant: Variant, job: Mapping[str, Any], lines: Any
) -> None:
    chosen: dict[str, Any] = job["wandb"]
    columns, rows, found = _cells(results, variant)
    failed = len(found) < len(variant.cells) or any(record.status != "ok" for _, record in found)
    config = {
        **job["config"],
        "plan": plan.name,
        "command": plan.command,
        "label": variant.label,
        "overrides": [*job["overrides"], *variant.overrides],
        "config_id": variant.config_id,
    }
    if found:
        first = found[0][1]
        # The variant's own, where an experiment's variants override the command's.
        config |= {name: getattr(first, name).config for name in ("method", "backbone", "dataset")}
        config["environment"] = first.environment
    run = wandb.init(
        project=chosen["project"],
        entity=chosen["entity"],
        group=chosen["group"] or plan.name,
        name=f"{variant.label} {variant.dataset} {variant.backbone}",
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
        mine = lines[(lines["variant"] == variant.label) & (lines["config_id"] == variant.config_id)]
        run.summary.update(_summary(mine.iloc[0].to_dict() if len(mine) else {}, variant, found))
    finally:
        run.finish(exit_code=(job["exit_code"] or 1) if failed else 0)


def main(job_file: Path) -> None:
    """Publish a job file's plan, one run a variant. Raises whatever W&B raises."""
    job = json.loads(job_file.read_text())
    results, plan = Path(job["results"]), Plan.model_validate(job["plan"])
    Path(job["wandb"]["dir"]).mkdir(parents=True, exist_ok=True)

    import pandas as pd
    import wandb

    from reports.tables import tables

    lines = pd.concat([table.flat() for table in tables(results, [plan], everything=True)], ignore_index=True)
    for variant in plan.variants:
        _publish_variant(wandb, results, plan, variant, job, lines)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except Exception as error:
        # The last line is the warning.
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", flush=True)
        raise SystemExit(1) from None
