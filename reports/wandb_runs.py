"""The process that sends records to Weights & Biases: ``python -m reports.wandb_runs JOB.json``.

One run a row of the plans' tables, found again by its id: ``DIR/wandb/sent/`` knows what each was sent, so
that a later command adds what is new and makes no second run.

What a run holds. History: ``cell/*`` over ``cell``, the cell's place in its row; ``curves/CLIP/*`` over
``curves/CLIP/iteration``, the losses and gradient norms of its trace. Summary: the row's numbers under the
columns' keys, how many cells ended how under ``cells/*``. Tables ``tables/cells`` (reference, video and
scores) and ``tables/rows``. An artifact with records, traces, plans and tables.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.files import write_whole
from harness.records import store
from harness.records.record import Plan, Record
from reports.table.columns import peak
from reports.table.rows import Row, groups

if TYPE_CHECKING:
    import pandas as pd

POLL = 1.0
"""Seconds between looks at the records."""

Stamp = list[str]
"""When a cell was made and scored, and how it ended."""


def main(job_file: Path, ended: threading.Event) -> None:
    """Send a job file's plans until ``ended``, and then what is left. Raises whatever W&B raises."""
    job = json.loads(job_file.read_text())
    chosen = job["wandb"]
    results, plans = Path(job["results"]), [Plan.model_validate(plan) for plan in job["plans"]]
    sent = Path(chosen["dir"]) / "wandb" / "sent"
    sent.mkdir(parents=True, exist_ok=True)
    configs = {plan.name: config for plan, config in zip(plans, job["configs"], strict=True)}
    group = chosen["group"] or (plans[0].name if len(plans) == 1 else f"{plans[0].name}+{len(plans) - 1}")
    mirror = Mirror(results, configs, {**chosen, "group": group}, sent, job_file.with_name("sent"))
    mirror.follow(plans)
    while True:
        # Asked first: what comes before the end is seen afterwards.
        last = ended.is_set()
        mirror.look()
        if last:
            break
        ended.wait(POLL)
    mirror.close([_as_it_is_now(results, plan) for plan in plans])


def _as_it_is_now(results: Path, plan: Plan) -> Plan:
    """The plan as it was written last, with the levels of its metrics."""
    try:
        written = store.load_plan(store.plan_path(results, plan.name))
    except (OSError, ValueError):
        return plan
    same = [one.config_id for one in written.variants] == [one.config_id for one in plan.variants]
    return written if same else plan


@dataclass
class Mirror:
    """The runs of a command. ``progress`` grows by a byte with everything that is sent."""

    results: Path
    configs: Mapping[str, Mapping[str, Any]]
    chosen: Mapping[str, Any]
    sent: Path
    progress: Path
    runs: dict[str, Run] = field(default_factory=dict)

    def follow(self, plans: Sequence[Plan]) -> None:
        """The rows of these plans."""
        self.runs |= {run.id: run for run in self._of(plans) if run.id not in self.runs}

    def _of(self, plans: Sequence[Plan]) -> Iterator[Run]:
        for row in (row for of_group in groups(self.results, plans) for row in of_group.rows):
            yield Run(self, row, _run_id(row, self.chosen, self.sent))

    def look(self) -> None:
        """Send the cells whose records have come or changed."""
        for run in self.runs.values():
            run.look()

    def close(self, plans: Sequence[Plan]) -> None:
        """Send tables, summaries and artifacts of the rows that have changed, and end the runs."""
        import pandas as pd

        from reports.table.tables import tables

        made = tables(self.results, plans, everything=True)
        lines = pd.concat([table.flat() for table in made], ignore_index=True)
        self.follow(plans)
        rows = {run.id: run.row for run in self._of(plans)}
        for run in self.runs.values():
            run.row = rows.get(run.id, run.row)
            mine = lines[["variant", "dataset", "backbone"]] == [
                run.row.label, run.row.variant.dataset, run.row.variant.backbone
            ]  # fmt: skip
            if run.row.records and mine.all(axis=1).any():
                line = {str(key): value for key, value in lines[mine.all(axis=1)].iloc[0].items()}
                run.close(lines, line, plans)
            run.end()

    def gets_on(self) -> None:
        with self.progress.open("a") as file:
            file.write(".")


def _run_id(row: Row, chosen: Mapping[str, Any], sent: Path) -> str:
    """The same whenever the same command fills the same results folder, another in every other."""
    token = sent / "folder"
    with contextlib.suppress(FileExistsError), token.open("x") as file:
        file.write(secrets.token_hex(8))
    masks = sorted({cell.masks for cell in row.cells.values() if cell.masks is not None})
    where = [token.read_text(), chosen["entity"], chosen["project"], chosen["group"]]
    what = [row.variant.label, row.variant.config_id, masks]
    return hashlib.sha256(json.dumps([*where, *what]).encode()).hexdigest()[:16]


@dataclass
class Run:
    """One row's run, begun when there is something to send.

    ``cells``: what was sent of each; ``step``: history rows so far; ``whole``: digest of what it ended with.
    """

    mirror: Mirror
    row: Row
    id: str
    cells: dict[str, Stamp] = field(default_factory=dict)
    step: int = 0
    whole: str = ""
    _run: Any = None
    _lock: Any = None
    _seen: dict[str, int] = field(default_factory=dict)

    def look(self) -> None:
        """Send the cells whose records have come or changed, unless another process sends this run's."""
        changed = [(place, cell) for place, cell in enumerate(self.row.cells) if self._has_changed(cell)]
        if not changed or not self._mine():
            return
        for place, cell in changed:
            record = store.read_record(self.mirror.results / self.row.cells[cell].path)
            if record is None or record.status == "unscored":
                continue
            if (stamp := _stamp(record)) != self.cells.get(cell):
                self._send(place, cell, record, stamp)

    def _has_changed(self, cell: str) -> bool:
        path = self.mirror.results / self.row.cells[cell].path / store.RECORD
        try:
            written = path.stat().st_mtime_ns
        except OSError:
            return False
        before, self._seen[cell] = self._seen.get(cell), written
        return written != before

    def _mine(self) -> bool:
        """Whether this process is the one that sends the run's cells. Reads first what was sent before."""
        if self._lock is None:
            lock = self._state.with_suffix(".lock").open("a")
            if not _locked(lock):
                # To be looked at again.
                self._seen.clear()
                lock.close()
                return False
            self._lock = lock
            with contextlib.suppress(OSError, ValueError):
                state = json.loads(self._state.read_text())
                self.cells, self.step, self.whole = state["cells"], state["step"], state["whole"]
        return True

    @property
    def _state(self) -> Path:
        # What lies offline has not come to the server.
        return self.mirror.sent / f"{self.id}.{self.mirror.chosen['mode']}.json"

    def _save(self) -> None:
        state = {"cells": self.cells, "step": self.step, "whole": self.whole}
        write_whole(self._state, json.dumps(state).encode())
        self.mirror.gets_on()

    def _send(self, place: int, cell: str, record: Record, stamp: Stamp) -> None:
        made_before = self.cells.get(cell, [""])[0] == stamp[0]
        self.cells[cell] = stamp
        self._log({"cell": place, **_scalars(record)})
        if not made_before:
            self._curves(cell, record)
        self._begun.summary.update(self._counts())
        self._save()

    def _counts(self) -> dict[str, int]:
        """How many cells ended how."""
        ends = Counter(end for *_, end in self.cells.values())
        counts = {f"cells/{end}": count for end, count in sorted(ends.items())}
        return {
            "cells/planned": len(self.row.cells),
            **counts,
            "cells/without_record": len(self.row.cells.keys() - self.cells.keys()),
        }

    def _log(self, values: Mapping[str, Any]) -> None:
        self._begun.log(dict(values), step=self.step)
        self.step += 1

    def _curves(self, cell: str, record: Record) -> None:
        """The cell's trace, over its own axis."""
        try:
            trace = json.loads((self.mirror.results / self.row.cells[cell].path / store.TRACE).read_text())
            lines = [_numbers(line) for line in trace]
        except (OSError, ValueError, AttributeError, TypeError):
            return
        if not any(lines):
            return
        name = f"curves/{_curve_name(record, self.row)}"
        self._begun.define_metric(f"{name}/iteration", hidden=True, summary="none")
        self._begun.define_metric(f"{name}/*", step_metric=f"{name}/iteration", summary="none")
        for place, line in enumerate(lines):
            if line:
                self._log({f"{name}/iteration": place, **{f"{name}/{key}": line[key] for key in line}})

    @property
    def _begun(self) -> Any:
        """W&B's run; begun, or resumed, on the first call."""
        if self._run is None:
            import wandb

            chosen, variant = self.mirror.chosen, self.row.variant
            where = dict.fromkeys([variant.dataset, variant.backbone])
            self._run = wandb.init(
                project=chosen["project"],
                entity=chosen["entity"],
                group=chosen["group"],
                name=" ".join([self.row.label, *where]),
                id=self.id,
                resume="allow",
                # Others of this process stay open beside it.
                reinit="create_new",
                job_type=variant.method,
                mode=chosen["mode"],
                dir=chosen["dir"],
                tags=list(dict.fromkeys([variant.method, *where])),
                config=self._config(),
            )
            self._run.define_metric("cell", hidden=True, summary="none")
            self._run.define_metric("cell/*", step_metric="cell", summary="none")
        return self._run

    def _config(self) -> dict[str, Any]:
        plans = [
            {
                **self.mirror.configs.get(plan.name, {}),
                "plan": plan.name,
                "command": plan.command,
                "overrides": variant.overrides,
            }
            for plan, variant in self.row.parts
        ]
        variant = self.row.variant
        config = {**_common(plans), "label": variant.label, "config_id": variant.config_id}
        paths = (self.mirror.results / cell.path for cell in self.row.cells.values())
        first = next((record for path in paths if (record := store.read_record(path))), None)
        if first is not None:
            # The variant's own, where an experiment's variants override the command's.
            sources = {"method": first.method, "backbone": first.backbone, "dataset": first.dataset}
            config |= {name: source.config for name, source in sources.items()}
            config["environment"] = first.environment
        return config

    def close(self, lines: pd.DataFrame, line: Mapping[str, Any], plans: Sequence[Plan]) -> None:
        """Send the row's tables, summary and artifact, unless that is what it ended with last time."""
        if not self._mine():
            return
        self.cells = {cell: _stamp(record) for cell, record in self.row.records.items()}
        summary = {name: one for name, one in line.items() if isinstance(one, float) and math.isfinite(one)}
        whole = json.dumps([summary, self.cells], sort_keys=True)
        digest = hashlib.sha256(whole.encode()).hexdigest()
        if self._run is None and digest == self.whole:
            return
        import wandb

        run = self._begun
        try:
            texts = lines.astype(object).where(lines.notna(), None)
            rows = wandb.Table(columns=list(texts.columns), data=list(texts.to_numpy().tolist()))
            columns, cells = self._media(wandb)
            self._log({"tables/cells": wandb.Table(columns=columns, data=cells), "tables/rows": rows})
            run.summary.update({**summary, **self._counts()})
            run.log_artifact(self._artifact(wandb, lines, plans))
        finally:
            ended_well = all(one.status == "ok" for one in self.row.records.values())
            complete = len(self.row.records) == len(self.row.cells)
            self._finish(0 if ended_well and complete else 1)
        self.whole = digest
        self._save()

    def _finish(self, exit_code: int) -> None:
        if self._run is not None:
            self._run.finish(exit_code=exit_code)
            self._run = None

    def end(self) -> None:
        """Let others send its cells; what was begun and has no row any more has failed."""
        self._finish(1)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _media(self, wandb: Any) -> tuple[list[str | int], list[Iterable[Any]]]:
        """Columns and rows of the cells: reference, video, prompt and scores. Videos of the first ones."""
        records = self.row.records
        metrics = sorted({name for record in records.values() for name in record.metrics})
        columns: list[str | int] = ["clip", "reference", "video", "prompt", "prompt_kind", "seed", *metrics]
        columns += ["seconds", "forward_equivalents", "status", "error", "id"]
        rows: list[Iterable[Any]] = []
        left = int(self.mirror.chosen["videos"])
        for cell, record in records.items():
            folder = self.mirror.results / self.row.cells[cell].path
            paths = [folder / name if left > 0 else None for name in (store.REFERENCE, store.VIDEO)]
            # Our own mp4 files, as they are: W&B's encoder is slow and breaks.
            media = [
                wandb.Video(str(path), format="mp4") if path is not None and path.exists() else None
                for path in paths
            ]
            left -= media[1] is not None
            values = [record.metrics[name].value if name in record.metrics else None for name in metrics]
            costs = [record.timing.first_video, record.flops.forward_equivalents]
            error = record.error.message if record.error else None
            what = [record.prompt, record.prompt_kind, record.seed]
            numbers = map(_plain, [*values, *costs])
            rows.append([record.clip, *media, *what, *numbers, record.status, error, record.id])
        return columns, rows

    def _artifact(self, wandb: Any, lines: pd.DataFrame, plans: Sequence[Plan]) -> Any:
        made = wandb.Artifact(f"records-{self.id}", type="records")
        for planned in self.row.cells.values():
            for name in (store.RECORD, store.TRACE):
                path = self.mirror.results / planned.path / name
                if path.is_file():
                    made.add_file(str(path), name=f"{planned.path}/{name}")
        for plan in plans:
            path = store.plan_path(self.mirror.results, plan.name)
            if path.is_file():
                made.add_file(str(path), name=f"{store.PLANS}/{path.name}")
        with made.new_file("table.csv", mode="w") as file:
            file.write(lines.to_csv(index=False))
        return made


def _locked(file: Any) -> bool:
    """Take a file for this process; False while another has it."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _stamp(record: Record) -> Stamp:
    return [record.finished, record.scored, record.status]


def _plain(value: Any) -> Any:
    """W&B's tables take no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """The losses and norms of a row of a trace, without its places."""
    places = ("step", "iteration", "train_step")
    return {
        key: float(value)
        for key, value in line.items()
        if key not in places and type(value) in (int, float) and math.isfinite(value)
    }


def _scalars(record: Record) -> dict[str, float]:
    """A cell's numbers, those that it has."""
    memory, kind = peak([record])
    numbers: dict[str, float | None] = {name: one.value for name, one in record.metrics.items()}
    numbers |= {
        "seconds": record.timing.first_video,
        "forward_equivalents": record.flops.forward_equivalents,
        "gpu_memory_gb": memory / 1e9 if memory is not None and kind == "allocated" else None,
        "energy_j": record.energy,
        "ok": float(record.status == "ok"),
    }
    return {
        f"cell/{name}": value for name, value in numbers.items() if value is not None and math.isfinite(value)
    }


def _curve_name(record: Record, row: Row) -> str:
    """The clip's, with prompt and seed where it has several cells."""
    several = sum(cell.clip == record.clip for cell in row.cells.values()) > 1
    words = [record.clip, record.prompt_kind, str(record.seed)] if several else [record.clip]
    if several:
        words.append(record.id[:4])
    return re.sub(r"[^A-Za-z0-9_-]+", "_", "-".join(words))


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


def _until_left(ended: threading.Event, timeout: float, progress: Path) -> None:
    """Set ``ended`` when the command closes our input or is gone; end all when W&B then hangs."""
    while os.read(0, 1):
        pass
    ended.set()
    before = -1
    while (size := progress.stat().st_size if progress.exists() else 0) != before:
        before = size
        threading.Event().wait(2 * timeout)
    if sys.platform != "win32":
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _run_from_command_line(job_file: Path) -> int:
    if hasattr(os, "nice"):
        # The cells' time is measured.
        os.nice(19)
    timeout = float(json.loads(job_file.read_text())["wandb"]["timeout_s"])
    ended = threading.Event()
    watching = (ended, timeout, job_file.with_name("sent"))
    threading.Thread(target=_until_left, args=watching, daemon=True).start()
    try:
        main(job_file, ended)
    except Exception as error:
        # The last line is the warning.
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", flush=True)
        return 1
    # Nobody may be left to do it.
    shutil.rmtree(job_file.parent, ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(_run_from_command_line(Path(sys.argv[1])))
