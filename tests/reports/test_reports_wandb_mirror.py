import json
import os
import struct
import sys
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
    MetricValue,
    Plan,
    PlannedCell,
    Record,
    Source,
    Timing,
    Variant,
)
from reports import wandb_mirror
from reports.wandb_mirror import main, mirror, publish, settings

ROOT = Path(__file__).parents[2]

FAKE = """
import json, os, subprocess, sys, time
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

class Run:
    def __init__(self):
        self.summary = {}
    def log(self, values):
        if HOW == "raise on log":
            raise RuntimeError("the server\\nrefused")
        note(what="log", values={key: value if not hasattr(value, "data") else vars(value)
                                 for key, value in values.items() if key != "videos"},
             videos=[vars(video) for video in values.get("videos", [])])
    def finish(self, exit_code=None):
        note(what="finish", exit_code=exit_code, summary=self.summary)

def init(**given):
    env = {key: value for key, value in os.environ.items() if key.startswith("WANDB")}
    note(what="init", env=env, **given)
    return Run()
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
                    error=None if status == "ok" else Failure(kind="Boom", message="boom", traceback=""),
                    environment={"device": "Some CPU"},
                ),
            )
            if videos and status == "ok":
                write_video(results / path / "video.mp4")
        variants.append(
            Variant(
                label=method, method=method, backbone="sprites", dataset="sprites", config_id="c", cells=cells
            )
        )
    plan = Plan(name="p", variants=variants, command=["method=none"])
    store.save_plan(results, plan)
    return plan


def write_video(path):
    import av

    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=8)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for level in (0, 120):
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


def test_a_real_offline_run_holds_config_summary_table_videos_and_exit_code(tmp_path):
    plan = write_world(tmp_path, ("ok", "ok", "failed"))
    assert publish(tmp_path, [plan], wandb_keys(tmp_path, group="g"), [{"seed": 0}]) is None
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    (log,) = folder.glob("*.wandb")
    config, summary, exit_code, group = {}, {}, None, None
    for record in logged_records(log):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            group = record.run.run_group
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "summary":
            summary |= {item.key: json.loads(item.value_json) for item in record.summary.update if item.key}
        elif kind == "exit":
            exit_code = record.exit.exit_code
    assert exit_code == 1 and group == "g"
    assert config["seed"] == 0 and config["method"] == {"name": "none", "window": 5}
    assert summary["clip_t"] == pytest.approx(0.25)
    assert summary["cells_ok"] == 2 and summary["cells_failed"] == 1
    (cells,) = (folder / "files" / "media" / "table").glob("cells_*.json")
    table = json.loads(cells.read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [row["clip"] for row in rows] == ["clip0", "clip1", "clip2"]
    assert [row["clip_t"] for row in rows] == [pytest.approx(0.2), pytest.approx(0.3), None]
    assert rows[2]["error"] == "boom"
    (video,) = (folder / "files" / "media" / "videos").glob("*.mp4")  # the two are equal: kept once
    first = tmp_path / plan.variants[0].cells[0].path / "video.mp4"
    assert video.read_bytes() == first.read_bytes()


def test_one_run_a_variant_with_config_rows_means_and_videos(tmp_path, fake):
    plan = write_world(tmp_path, methods=("none", "fastvmt"))
    fake.set("record")
    job = SimpleNamespace(
        results=tmp_path,
        wandb=wandb_keys(tmp_path, videos=1, project="mine", entity="us"),
        resolved={"frames": 17, "wandb": {"mode": "offline"}},
    )
    before, loaded = dict(os.environ), "wandb" in sys.modules
    assert mirror([(job, plan)]) == []
    assert dict(os.environ) == before and ("wandb" in sys.modules) == loaded, "ours stay as they were"
    calls = fake.calls()
    assert [call["what"] for call in calls] == ["init", "log", "finish"] * 2
    init, log, finish = calls[3:]
    assert (init["project"], init["entity"], init["group"], init["mode"]) == ("mine", "us", "p", "offline")
    assert init["name"] == "fastvmt sprites sprites"
    assert init["config"]["frames"] == 17 and init["config"]["plan"] == "p"
    assert init["env"]["WANDB_SILENT"] == "true" and init["env"]["WANDB_CONSOLE"] == "off"
    assert Path(init["env"]["WANDB_DIR"]) == tmp_path
    cells = log["values"]["cells"]
    assert [row[cells["columns"].index("clip_t")] for row in cells["data"]] == [0.2, pytest.approx(0.3)]
    assert [row[cells["columns"].index("motion_fidelity")] for row in cells["data"]] == [None, None]
    table = log["values"]["table"]
    assert [row[table["columns"].index("variant")] for row in table["data"]] == ["none", "fastvmt"]
    (video,) = log["videos"]
    assert video["format"] == "mp4" and video["path"].endswith("video.mp4")
    assert finish["exit_code"] == 0
    assert finish["summary"]["clip_t"] == pytest.approx(0.25)
    assert finish["summary"]["time"] == 1.5 and finish["summary"]["n"] == 2


@pytest.fixture
def here(fake, tmp_path, monkeypatch):
    """``fake``, with the child's work done in this process: no start-up to wait for."""
    fake.set("record")
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path / "fake"))
    monkeypatch.setattr(wandb_mirror, "in_child", lambda job, chosen, log: wandb_mirror.main(job))
    yield fake
    sys.modules.pop("wandb", None)


@pytest.mark.parametrize("statuses", [("ok", "failed"), ("oom", "oom"), ("ok", None)])
def test_exit_code_is_1_when_a_cell_failed_or_is_missing(tmp_path, here, statuses):
    plan = write_world(tmp_path, statuses, videos=False)
    assert publish(tmp_path, [plan], wandb_keys(tmp_path)) is None
    assert here.calls()[-1]["exit_code"] == 1


def test_only_the_run_of_the_failed_variant_ends_with_1(tmp_path, here):
    plan = write_world(tmp_path, methods=("none", "fastvmt"), videos=False)
    folder = tmp_path / plan.variants[1].cells[0].path
    record = store.load_record(folder)
    record.status = "timeout"
    store.save_record(folder, record)
    assert publish(tmp_path, [plan], wandb_keys(tmp_path)) is None
    assert [call["exit_code"] for call in here.calls() if call["what"] == "finish"] == [0, 1]


def test_a_sweep_over_seeds_is_one_run_and_all_runs_of_a_command_share_a_group(tmp_path, here):
    """Six jobs, two methods by three seeds: two runs."""
    whole = write_world(tmp_path, ("ok", "ok", "failed"), methods=("none", "fastvmt"), videos=False)
    jobs = []
    for variant in whole.variants:
        for seed, cell in enumerate(variant.cells):
            alone = variant.model_copy(update={"cells": [cell], "overrides": [f"seed={seed}"]})
            plan = Plan(schema=1, name=f"{variant.method}{seed}", variants=[alone])
            resolved = {"frames": 17, "seed": [seed]}
            job = SimpleNamespace(results=tmp_path, wandb=wandb_keys(tmp_path), resolved=resolved)
            jobs.append((job, plan))
    assert mirror(jobs) == []
    calls = here.calls()
    assert [call["what"] for call in calls] == ["init", "log", "finish"] * 2
    inits = [call for call in calls if call["what"] == "init"]
    assert [init["name"] for init in inits] == ["none sprites sprites", "fastvmt sprites sprites"]
    assert {init["group"] for init in inits} == {"none0+5"}
    assert inits[1]["config"]["seed"] == [[0], [1], [2]] and inits[1]["config"]["frames"] == 17
    assert inits[1]["config"]["plan"] == ["fastvmt0", "fastvmt1", "fastvmt2"]
    assert inits[1]["config"]["overrides"] == [["seed=0"], ["seed=1"], ["seed=2"]]
    for log in (call for call in calls if call["what"] == "log"):
        assert len(log["values"]["cells"]["data"]) == 3 and len(log["values"]["table"]["data"]) == 2
    for finish in (call for call in calls if call["what"] == "finish"):
        assert finish["summary"]["cells"] == 3 and finish["summary"]["n"] == 2 and finish["exit_code"] == 1


def test_jobs_of_other_results_folders_or_settings_are_published_apart(tmp_path, here):
    jobs = []
    for name, project in (("a", "x"), ("b", "x"), ("b", "y")):
        plan = write_world(tmp_path / name, videos=False)
        wandb = wandb_keys(tmp_path / name, project=project)
        jobs.append((SimpleNamespace(results=tmp_path / name, wandb=wandb, resolved={}), plan))
    assert mirror(jobs) == []
    inits = [call for call in here.calls() if call["what"] == "init"]
    assert [(Path(init["dir"]).name, init["project"]) for init in inits] == [
        ("a", "x"),
        ("b", "x"),
        ("b", "y"),
    ]


def test_a_plan_file_is_enough(tmp_path, here):
    write_world(tmp_path, videos=False)
    assert publish(tmp_path, [tmp_path / "plans" / "p.json"], wandb_keys(tmp_path)) is None
    assert here.calls()[-1]["exit_code"] == 0


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
    assert mirror([]) == [] and mirror([(job, plan)]) == []
    assert publish(tmp_path, [plan], wandb_keys(tmp_path, mode="disabled")) is None
    assert fake.calls() == []


def test_a_bad_key_is_named_and_never_raised_by_the_mirror(tmp_path):
    plan = write_world(tmp_path, videos=False)
    with pytest.raises(InputError, match=r"wandb\.timeout_s"):
        settings({"timeout_s": -1})
    with pytest.raises(InputError, match=r"wandb\.colour"):
        settings({"colour": "red"})
    warning = publish(tmp_path, [plan], {"mode": "sometimes"})
    assert warning is not None and "wandb.mode" in warning
    unreadable = publish(tmp_path, [tmp_path / "plans" / "none.json"], wandb_keys(tmp_path))
    assert unreadable is not None and "none.json" in unreadable


def test_the_child_raises_what_wandb_raises(tmp_path):
    with pytest.raises(FileNotFoundError):
        main(tmp_path / "missing.json")


@pytest.mark.parametrize("name", ["offline", "online", "disabled"])
def test_the_configurations_are_valid(name):
    folder = ROOT / "conf" / "wandb"
    values = yaml.safe_load((folder / "offline.yaml").read_text())
    values |= yaml.safe_load((folder / f"{name}.yaml").read_text())
    values.pop("defaults", None)
    assert values["dir"] == "${results}"
    assert settings(values).mode == name
