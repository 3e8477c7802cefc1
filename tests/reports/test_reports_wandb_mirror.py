import json
import os
import struct
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from datasets.errors import InputError
from harness.records import store
from harness.records.record import (
    Failure,
    Memory,
    MetricValue,
    Plan,
    PlannedCell,
    Record,
    Source,
    Timing,
    Variant,
)
from reports import wandb_mirror
from reports.wandb_mirror import mirrored, publish, settings
from reports.wandb_runs import main

ROOT = Path(__file__).parents[2]

FAKE = """
import contextlib, io, json, os, subprocess, sys, time
from pathlib import Path
HOW = os.environ["FAKE_WANDB"]
LOG = Path(os.environ["FAKE_LOG"])
if HOW == "refuse import":
    raise ImportError("no wandb today")
if HOW == "hang":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    LOG.write_text(json.dumps({"pids": [os.getpid(), child.pid]}))
    time.sleep(600)

def note(**event):
    with LOG.open("a") as file:
        file.write(json.dumps(event, default=str) + "\\n")

class Table:
    def __init__(self, columns, data):
        self.columns, self.data = columns, data
        assert all(len(row) == len(columns) for row in data)

class Video:
    def __init__(self, path, caption=None, format=None):
        self.path, self.caption, self.format = path, caption, format
        assert Path(path).exists()

class Artifact:
    def __init__(self, name, type):
        self.names = []
    def add_file(self, path, name):
        assert Path(path).exists()
        self.names.append(name)
    @contextlib.contextmanager
    def new_file(self, name, mode):
        self.names.append(name)
        yield io.StringIO()

class Run:
    def __init__(self, id):
        self.id, self.summary, self.step = id, {}, 0
    def define_metric(self, name, step_metric=None, **options):
        note(what="metric", run=self.id, name=name, over=step_metric)
    def log(self, values, step):
        if HOW == "raise on log":
            raise RuntimeError("the server\\nrefused")
        assert step >= self.step
        self.step = step
        note(what="log", run=self.id, step=step,
             values={key: getattr(value, "__dict__", value) for key, value in values.items()})
    def log_artifact(self, artifact):
        note(what="artifact", run=self.id, names=artifact.names)
    def finish(self, exit_code=None):
        note(what="finish", run=self.id, exit_code=exit_code, summary=self.summary)

def init(**given):
    env = {key: value for key, value in os.environ.items() if key.startswith("WANDB")}
    note(what="init", env=env, **given)
    return Run(given["id"])
"""


def write_world(results, statuses=("ok", "ok"), methods=("none",), videos=True):
    variants = []
    for method in methods:
        cells = []
        for index, status in enumerate(statuses):
            clip, id_ = f"clip{index}", f"{method}{index}"
            path = f"cells/{method}/sprites/{clip}-{id_}"
            cells.append(PlannedCell(id=id_, path=path, clip=clip, prompt="a red square", seed=0))
            if status is None:
                continue
            plug_in = Source(name=method, version="1", config={"name": method, "window": 5})
            store.save_record(
                results / path,
                Record(
                    id=id_,
                    status=status,
                    method=plug_in,
                    backbone=Source(name="sprites", version="1", config={"weights": "pretrained"}),
                    dataset=Source(name="sprites", version="1", config={"frames": 17}),
                    clip=clip,
                    prompt="a red square",
                    seed=0,
                    metrics={
                        "clip_t": MetricValue(value=0.2 + index / 10, version="1"),
                        "motion_fidelity": MetricValue(value=None, version="1", reason="nothing moves"),
                    }
                    if status == "ok"
                    else {},
                    timing=Timing(total=1.5 if status == "ok" else None),
                    memory={"guide": Memory(allocated=2 * 10**9)} if status == "ok" else {},
                    finished=f"at {index}",
                    error=None if status == "ok" else Failure(kind="Boom", message="boom", traceback=""),
                    environment={"device": "Some CPU"},
                ),
            )
            if status == "ok":
                trace = [{"step": 0, "iteration": i, "true_gradient": True, "total": 3.0 - i} for i in (0, 1)]
                (results / path / "trace.json").write_text(json.dumps(trace))
            if videos and status == "ok":
                write_video(results / path / "video.mp4", index)
                write_video(results / path / "reference.mp4", 9)
        variants.append(
            Variant(
                label=method, method=method, backbone="sprites", dataset="sprites", config_id="c", cells=cells
            )
        )
    plan = Plan(name="p", variants=variants, command=["method=none"])
    store.save_plan(results, plan)
    return plan


def write_video(path, shade=0):
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for level in (shade, 120):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), level, np.uint8))
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A module ``wandb`` of our own before the real one; returns a setter and a reader."""
    folder = tmp_path / "fake"
    folder.mkdir()
    (folder / "wandb.py").write_text(FAKE)
    log = tmp_path / "calls.jsonl"
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("FAKE_LOG", str(log))
    monkeypatch.chdir(tmp_path)

    def read():
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    return SimpleNamespace(set=lambda how: monkeypatch.setenv("FAKE_WANDB", how), calls=read)


def wandb_keys(results, **given):
    return {"mode": "offline", "dir": str(results), "timeout_s": 240, **given}


def logged_records(path):
    """The protobuf records of a .wandb file (LevelDB's log format behind a header of 7 bytes)."""
    from wandb.proto import wandb_internal_pb2

    data, position, whole = path.read_bytes(), 7, b""
    while position < len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, size, kind = struct.unpack("<IHB", data[position : position + 7])
        whole += data[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def test_a_real_offline_run_holds_history_curves_media_artifact_and_exit_code(tmp_path):
    plan = write_world(tmp_path, ("ok", "ok", "failed"))
    assert publish(tmp_path, [plan], wandb_keys(tmp_path, group="g", videos=1)) is None
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    (log,) = folder.glob("*.wandb")
    config, summary, history, over, files, kinds = {}, {}, [], {}, {}, set()
    for record in logged_records(log):
        kind = record.WhichOneof("record_type")
        kinds.add(kind)
        if kind == "run":
            run = record.run
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "summary":
            summary |= {
                item.key or "/".join(item.nested_key): json.loads(item.value_json)
                for item in record.summary.update
            }
        elif kind == "history":
            history.append(
                {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
            )
        elif kind == "metric":
            over[record.metric.glob_name or record.metric.name] = record.metric.step_metric
            assert record.metric.summary.none
        elif kind == "artifact":
            files |= {record.artifact.name.rpartition("-")[0]: record.artifact.manifest.contents}
        elif kind == "exit":
            assert record.exit.exit_code == 1
    assert "stats" not in kinds, "of the sender's machine"
    assert run.run_group == "g" and run.resume and list(run.tags) == ["none", "sprites"]
    assert config["method"] == {"name": "none", "window": 5}
    cells = [row for row in history if "cell" in row]
    assert [(row["cell"], row.get("cell/clip_t"), row["cell/ok"]) for row in cells] == [
        (0, pytest.approx(0.2), 1), (1, pytest.approx(0.3), 1), (2, None, 0)
    ]  # fmt: skip
    assert cells[0]["cell/gpu_memory_gb"] == 2 and over["cell/*"] == "cell"
    curve = [row for row in history if "curves/clip1/total" in row]
    assert [(row["curves/clip1/iteration"], row["curves/clip1/total"]) for row in curve] == [(0, 3), (1, 2)]
    assert over["curves/clip1/*"] == "curves/clip1/iteration"
    assert summary["clip_t"] == pytest.approx(0.25) and summary["n"] == 2
    counts = {key: value for key, value in summary.items() if key.startswith("cells/")}
    assert counts == {"cells/planned": 3, "cells/ok": 2, "cells/failed": 1, "cells/without_record": 0}
    assert not any(key.startswith(("cell/", "curves/")) or key == "cell" for key in summary)
    media = {one.path: Path(one.local_path) for of_one in files.values() for one in of_one}
    table = json.loads(media["tables/cells.table.json"].read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [(row["clip"], row["prompt"], row["clip_t"], row["error"]) for row in rows] == [
        ("clip0", "a red square", pytest.approx(0.2), None),
        ("clip1", "a red square", pytest.approx(0.3), None),
        ("clip2", "a red square", None, "boom"),
    ]
    assert [row["video"] is None for row in rows] == [row["reference"] is None for row in rows]
    assert [row["video"] is None for row in rows] == [False, True, True]
    first = tmp_path / plan.variants[0].cells[0].path
    for name in ("video", "reference"):
        assert media[rows[0][name]["path"]].read_bytes() == (first / f"{name}.mp4").read_bytes()
    assert {"table.csv", "plans/p.json"} < set(media)
    assert sum(path.endswith("record.json") for path in media) == 3


def test_a_cell_is_sent_while_the_command_runs(tmp_path, fake):
    plan = write_world(tmp_path, ("ok", None), methods=("none", "fastvmt"))
    fake.set("record")
    job = SimpleNamespace(
        results=tmp_path, wandb=wandb_keys(tmp_path, project="mine", entity="us"), resolved={"frames": 17}
    )
    before, loaded = dict(os.environ), "wandb" in sys.modules

    def sent():
        logs = [call for call in fake.calls() if call["what"] == "log" and "cell" in call["values"]]
        return [(call["run"], call["values"]["cell"]) for call in logs]

    def wait_for(count):
        deadline = time.monotonic() + 120
        while len(sent()) < count and time.monotonic() < deadline:
            time.sleep(0.05)
        return sent()

    with mirrored([(job, plan)]):
        (none, _), (fastvmt, _) = wait_for(2)
        write_world(tmp_path, ("ok", "ok"), methods=("none",))
        assert wait_for(3)[2:] == [(none, 1)]
        assert not any(call["what"] == "finish" for call in fake.calls())
    assert dict(os.environ) == before and ("wandb" in sys.modules) == loaded, "ours stay as they were"
    calls = fake.calls()
    inits = [call for call in calls if call["what"] == "init"]
    assert [(init["id"], init["name"]) for init in inits] == [
        (none, "none sprites"), (fastvmt, "fastvmt sprites")
    ]  # fmt: skip
    assert all(init["resume"] == "allow" and init["group"] == "p" for init in inits)
    assert (inits[0]["project"], inits[0]["entity"], inits[0]["mode"]) == ("mine", "us", "offline")
    assert inits[0]["config"]["frames"] == 17 and inits[0]["config"]["plan"] == "p"
    env = inits[0]["env"]
    assert env["WANDB_SILENT"] == "true" and env["WANDB_X_DISABLE_STATS"] == "true"
    assert Path(env["WANDB_DIR"]) == tmp_path
    ends = {call["run"]: call["exit_code"] for call in calls if call["what"] == "finish"}
    assert ends == {none: 0, fastvmt: 1}


def send(results, plans, configs=(), **wandb):
    """What the child does, in this process, of a command that is over."""
    job = results / "job" / "job.json"
    job.parent.mkdir(exist_ok=True)
    given = {
        "results": str(results),
        "plans": [plan.model_dump(mode="json", by_alias=True) for plan in plans],
        "wandb": settings(wandb_keys(results, **wandb)).model_dump(mode="json"),
        "configs": list(configs) or [{} for _ in plans],
    }
    job.write_text(json.dumps(given))
    ended = threading.Event()
    ended.set()
    main(job, ended)


@pytest.fixture
def here(fake, tmp_path, monkeypatch):
    """``fake``, for ``send``: no start-up to wait for."""
    fake.set("record")
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path / "fake"))
    yield fake
    sys.modules.pop("wandb", None)


def test_the_command_run_again_sends_what_is_new_to_the_same_run(tmp_path, here):
    plan = write_world(tmp_path, ("ok", "failed"), videos=False)
    send(tmp_path, [plan])
    first = here.calls()
    send(tmp_path, [plan])
    assert here.calls() == first, "nothing is new"
    write_world(tmp_path, ("ok", "ok"), videos=False)
    send(tmp_path, [plan])
    again = here.calls()[len(first) :]
    init, *_, finish = again
    assert init["what"] == "init" and init["id"] == first[0]["id"]
    assert [call["values"]["cell"] for call in again if "cell" in call.get("values", {})] == [1]
    steps = [call["step"] for call in [*first, *again] if call["what"] == "log"]
    assert steps == list(range(len(steps)))
    assert finish["exit_code"] == 0 and finish["summary"]["cells/ok"] == 2
    send(tmp_path, [plan], project="another")
    assert here.calls()[-1]["run"] != init["id"]


def test_of_two_commands_on_the_same_cells_one_sends(tmp_path, here):
    import fcntl

    plan = write_world(tmp_path, videos=False)
    send(tmp_path, [plan])
    (state,) = (tmp_path / "wandb" / "sent").glob("*.json")
    state.unlink()
    before = len(here.calls())
    with state.with_suffix(".lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        send(tmp_path, [plan])
    assert len(here.calls()) == before
    send(tmp_path, [plan])
    assert len(here.calls()) == 2 * before


@pytest.mark.parametrize("statuses", [("ok", "failed"), ("oom", "oom"), ("ok", None)])
def test_exit_code_is_1_when_a_cell_failed_or_is_missing(tmp_path, here, statuses):
    send(tmp_path, [write_world(tmp_path, statuses, videos=False)])
    assert here.calls()[-1]["exit_code"] == 1


def test_a_sweep_over_seeds_is_one_run_and_all_runs_of_a_command_share_a_group(tmp_path, here):
    """Six plans, two methods by three seeds: two runs."""
    whole = write_world(tmp_path, ("ok", "ok", "failed"), methods=("none", "fastvmt"), videos=False)
    plans, configs = [], []
    for variant in whole.variants:
        for seed, cell in enumerate(variant.cells):
            alone = variant.model_copy(update={"cells": [cell], "overrides": [f"seed={seed}"]})
            plans.append(Plan(schema=1, name=f"{variant.method}{seed}", variants=[alone]))
            configs.append({"frames": 17, "seed": [seed]})
    send(tmp_path, plans, configs)
    inits = [call for call in here.calls() if call["what"] == "init"]
    assert [init["name"] for init in inits] == ["none sprites", "fastvmt sprites"]
    assert {init["group"] for init in inits} == {"none0+5"}
    assert inits[1]["config"]["seed"] == [[0], [1], [2]] and inits[1]["config"]["frames"] == 17
    assert inits[1]["config"]["plan"] == ["fastvmt0", "fastvmt1", "fastvmt2"]
    assert inits[1]["config"]["overrides"] == [["seed=0"], ["seed=1"], ["seed=2"]]
    tables = [call["values"] for call in here.calls() if "tables/cells" in call.get("values", {})]
    assert [len(values["tables/cells"]["data"]) for values in tables] == [3, 3]
    assert [len(values["tables/rows"]["data"]) for values in tables] == [2, 2]
    for finish in (call for call in here.calls() if call["what"] == "finish"):
        counts = finish["summary"]
        assert counts["cells/planned"] == 3 and counts["n"] == 2 and finish["exit_code"] == 1


def test_jobs_of_other_results_folders_or_settings_are_sent_apart(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(wandb_mirror, "Sender", lambda results, plans, wandb, configs: started.append(
        (results.name, wandb["project"], len(plans))
    ))  # fmt: skip
    jobs = []
    for name, project in (("a", "x"), ("b", "x"), ("b", "x"), ("b", "y")):
        wandb = wandb_keys(tmp_path / name, project=project)
        jobs.append((SimpleNamespace(results=tmp_path / name, wandb=wandb, resolved={}), Plan(name=name)))
    wandb_mirror.start(jobs)
    assert started == [("a", "x", 1), ("b", "x", 2), ("b", "y", 1)]


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("refuse import", "no wandb today"),
        ("raise on log", "the server refused"),
    ],
)
def test_a_refusing_wandb_is_one_warning_line(tmp_path, fake, how, reason):
    plan = write_world(tmp_path, videos=False)
    before = {path: path.read_bytes() for path in tmp_path.rglob("record.json")}
    fake.set(how)
    warning = publish(tmp_path, [plan], wandb_keys(tmp_path))
    assert warning is not None and reason in warning and "\n" not in warning
    assert {path: path.read_bytes() for path in tmp_path.rglob("record.json")} == before


def test_a_hanging_wandb_is_stopped_with_all_it_started(tmp_path, fake):
    plan = write_world(tmp_path, videos=False)
    fake.set("hang")
    for limit in (5, 20, 80):  # a busy machine may need longer to come to the hang
        started = time.monotonic()
        warning = publish(tmp_path, [plan], wandb_keys(tmp_path, timeout_s=limit))
        assert time.monotonic() - started < limit + 20
        assert warning is not None and f"wandb.timeout_s={limit}" in warning
        if fake.calls():
            break
    (call,) = fake.calls()
    deadline = time.monotonic() + 5
    while any(map(runs, call["pids"])) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(runs, call["pids"]))


def runs(pid):
    """Whether a process exists and is more than a zombie."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_disabled_and_empty_start_nothing(tmp_path, fake):
    plan = write_world(tmp_path, videos=False)
    fake.set("record")
    job = SimpleNamespace(results=tmp_path, wandb=wandb_keys(tmp_path, mode="disabled"), resolved={})
    assert wandb_mirror.start([(job, plan)]) == []
    with mirrored([]), mirrored([(job, plan)]):
        pass
    assert fake.calls() == []


def test_a_bad_key_is_named_and_never_raised_by_the_mirror(tmp_path):
    plan = write_world(tmp_path, videos=False)
    with pytest.raises(InputError, match=r"wandb\.timeout_s"):
        settings({"timeout_s": -1})
    with pytest.raises(InputError, match=r"wandb\.colour"):
        settings({"colour": "red"})
    warning = publish(tmp_path, [plan], {"mode": "sometimes"})
    assert warning is not None and "wandb.mode" in warning


def test_what_is_left_to_send_is_sent_without_anybody_waiting(tmp_path, fake):
    plan = write_world(tmp_path, videos=False)
    fake.set("record")
    job = SimpleNamespace(results=tmp_path, wandb=wandb_keys(tmp_path), resolved={})
    with pytest.raises(KeyboardInterrupt), mirrored([(job, plan)]):
        raise KeyboardInterrupt
    deadline = time.monotonic() + 120
    while not fake.calls() or fake.calls()[-1]["what"] != "finish":
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("name", ["offline", "online", "disabled"])
def test_the_configurations_are_valid(name):
    folder = ROOT / "conf" / "wandb"
    values = yaml.safe_load((folder / "offline.yaml").read_text())
    values |= yaml.safe_load((folder / f"{name}.yaml").read_text())
    values.pop("defaults", None)
    assert values["dir"] == "${results}"
    assert settings(values).mode == name
