"""The command line, from outside: exit codes and the one line that bad input gets."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from datasets.media.video import write_h264
from harness import __main__ as cli
from harness.execute.here import Here
from harness.records import store

ROOT = Path(cli.__file__).resolve().parent.parent

PLUGINS = """
from dataclasses import field
from typing import ClassVar
import numpy as np
from pydantic.dataclasses import dataclass
from datasets.errors import InputError
from datasets.interface import Clip, ClipInfo, Dataset, LeftOut, Listing, Prompt
from methods.backbones.interface import BackboneConfig, Grid
from methods.interface import LatentMethod, VideoMethod
from metrics.interface import Column, Metric, MetricUnavailable, Score, Tracker

plain = dataclass(config={"extra": "forbid"})


@plain
class Loss:
    weight: float = 1.0


@plain
class Moves(LatentMethod):
    name: str
    window: int = 3
    steps: int = 2
    loss: Loss = field(default_factory=Loss)
    version: ClassVar[str] = "1"

    def check(self, grid, num_blocks):
        if self.window > grid.height:
            most = f"at most {grid.height}"
            raise InputError(f"method.window={self.window} is larger than the token grid; {most}")

    def transfer(self, backbone, reference, prompt, noise, observer):
        raise AssertionError("nothing may run here")


@plain
class Backbone(BackboneConfig):
    name: str
    height: int = 16
    width: int = 16
    version: ClassVar[str] = "1"
    num_blocks = 4
    own_world_only = True

    def grid(self, frames):
        return Grid(frames // 4 + 1, 4, 4)

    def check(self, frames, device):
        if frames % 4 != 1:
            raise InputError(f"frames={frames}: give 4 k + 1")
        return self.grid(frames)

    def identity(self):
        return "sha256:0"

    def load(self, device):
        raise AssertionError("no model may be loaded here")


@plain
class Clips(Dataset):
    name: str
    frames: int
    default_frames: int
    clips: int = 3
    broken: bool = False
    real: bool = False
    version: ClassVar[str] = "1"
    outside_id: ClassVar[tuple] = ("clips", "broken", "default_frames")

    @property
    def real_footage(self):
        return self.real

    def listing(self):
        if not self.clips:
            raise InputError("dataset.clips=0: the folder is empty; give another")
        infos = [ClipInfo(f"c {i}", f"content {i}", (Prompt("p"),)) for i in range(self.clips)]
        return Listing(tuple(infos), (LeftOut("short", "has 3 frames"),))

    def load(self, name):
        if self.broken:
            raise RuntimeError("moov atom not found\\nmore")
        return Clip(ClipInfo(name, "", ()), np.zeros((self.frames, 16, 16, 3), np.uint8))


@plain
class Finished(VideoMethod):
    name: str
    manifest: list[list] = field(default_factory=list)
    version: ClassVar[str] = "1"
    outside_id: ClassVar[tuple] = ("manifest",)
    made_here = False
    uncounted = "the video was made elsewhere"

    def listed(self):
        return [tuple(row) for row in self.manifest]

    def missing(self, *row):
        return None if row in self.listed() else f"no row for {row}"

    def content(self, *row):
        return "content"

    def video(self, request):
        raise AssertionError("nothing may run here")


@plain
class One(Metric):
    name: str
    weights: str = "here"
    version: ClassVar[str] = "1"
    column = Column("M")

    def ready(self):
        if self.weights != "here":
            raise MetricUnavailable("no weights of one:\\nfetch them")

    def score(self, sample):
        return Score(1.0)


@plain
class Points(Tracker):
    name: str
    version: ClassVar[str] = "1"

    def track(self, frames, masks=None):
        raise AssertionError("nothing may run here")
"""

CONFIGS = {
    "method/fake": "_target_: cliplugins.Moves\nname: fake\nwindow: 3\nsteps: 2\nloss:\n  weight: 1.0\n",
    "method/sealed": "_target_: cliplugins.Moves\nname: ???\n",
    "method/gone": "_target_: cliplugins.Movess\nname: gone\n",
    "method/finished": "_target_: cliplugins.Finished\nname: finished\nmanifest: []\n",
    "method/outside": "_target_: os.system\ncommand: 'true'\n",
    "backbone/fake": "_target_: cliplugins.Backbone\nname: fake\n",
    "dataset/fake": (
        "_target_: cliplugins.Clips\nname: fake\nframes: ${frames}\ndefault_frames: 5\nclips: 3\n"
    ),
    "metrics/fake": "required: []\nmetrics:\n  one:\n    _target_: cliplugins.One\n    name: one\n",
    "tracker/fake": "_target_: cliplugins.Points\nname: fake\n",
}


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package of plug-ins and a config folder of their groups."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "cliplugins.py").write_text(PLUGINS)
    for name, text in CONFIGS.items():
        path = folder / "groups" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


class Harness:
    """Calls ``main`` in this process, as if from the command line, in a folder of its own."""

    def __init__(self, world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
        self.world, self.patch, self.capsys = world, monkeypatch, capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        groups = ("method", "backbone", "dataset", "metrics", "tracker")
        chosen = {argument.lstrip("+").partition("=")[0] for argument in arguments}
        words = [f"{group}=fake" for group in groups if group not in chosen]
        words += [] if "device" in chosen else ["device=cpu"]
        words += [] if "trust" in chosen else ["trust=[cliplugins]"]
        words += [] if "execute" in chosen else ["execute=here"]
        command = ["harness", "--config-dir", str(self.world / "groups"), *words, *arguments]
        self.patch.setattr(sys, "argv", command)
        code = cli.main()
        out, err = self.capsys.readouterr()
        return code, out, err


@pytest.fixture
def harness(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Harness:
    monkeypatch.syspath_prepend(str(world))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    return Harness(world, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sede=3", ["sede", "did you mean seed?"]),
        ("+typo=1", ["typo", "no such key"]),
        ("++sede=1", ["sede", "did you mean seed?"]),
        ("method.windwo=3", ["method.windwo", "did you mean method.window?"]),
        ("+method.windwo=3", ["method.windwo", "did you mean method.window?"]),
        ("+method.loss.wieght=3", ["method.loss.wieght", "did you mean method.loss.weight?"]),
        ("measure.repeat=3", ["measure.repeat", "did you mean measure.repeats?"]),
        ("+measure.repeat=3", ["measure.repeat", "did you mean measure.repeats?"]),
        ("+wandb.mod=3", ["wandb.mod", "did you mean wandb.mode?"]),
        ("method.window=abc", ["method.window", "'abc'", "integer"]),
        ("method.window.x=1", ["method.window"]),
        ("seed=abc", ["seed", "'abc'", "integer"]),
        ("limit=0", ["limit", "greater than or equal to 1"]),
        ("action=pln", ["action", "did you mean action=plan?"]),
        ("action=null", ["action=null: name one of its options; there are: amf, cost"]),
        ("tracker=null", ["tracker=null: name one of its options; there are: cotracker3, dis, tapnext"]),
        ("name=a/b", ["name", "'a/b'"]),
        ("method=fastvm", ["method=fastvm", "did you mean method=fastvmt?"]),
        ("+experiment=nothing", ["experiment=nothing", "no such option"]),
        ("method=sealed", ["method.name", "set method.name="]),
        ("method=gone", ["method._target_", "Movess", "did you mean Moves?"]),
        ("method=outside", ["method._target_", "os.system", "trust=[os]"]),
        ("trust=[]", ["_target_", "cliplugins", "trust=[cliplugins]"]),
        ("method.window='${nothing}'", ["method.window", "nothing"]),
        ("method=[", ["method=["]),
        ("method.window=9", ["method.window=9", "token grid", "at most 4"]),
        ("frames=6", ["frames=6", "4 k + 1"]),
        ("dataset.clips=0", ["dataset.clips=0", "empty"]),
        ("metrics.required=[on]", ["metrics.required", "'on'", "did you mean one?"]),
        ("device=gpu", ["device", "'gpu'"]),
        ("execute.on_error=halt", ["execute.on_error", "'stop'"]),
    ],
)
def test_bad_input_gets_one_line_and_exit_2(harness: Harness, override: str, words: list[str]) -> None:
    code, out, err = harness(override)
    assert code == 2, err
    assert err.count("\n") == 1 and not out, err
    for word in words:
        assert word in err


def test_a_bad_value_in_a_sweep_stops_all_jobs_before_any_runs(harness: Harness, tmp_path: Path) -> None:
    code, _, err = harness("-m", "method.window=3,9", "seed=0,1,2")
    assert code == 2
    assert err == "method.window=9 is larger than the token grid; at most 4\n"
    assert not (tmp_path / "results" / "cells").exists()


@pytest.mark.parametrize(
    "swept",
    [
        "method=fake,fakee",
        "method.window=3,abc",
        "method.windwo=1,2",
        "+typo=1",
        "+method.windwo=1,2",
        "method=sealed",
        "method=outside,fake",
        "method.window='${nothing}'",
        "frames=5,6",
        "seed=[",
    ],
)
def test_bad_input_in_a_sweep_gets_one_line_and_exit_2(harness: Harness, swept: str) -> None:
    code, out, err = harness("limit=2", "-m", swept, "action=plan")
    assert code == 2 and err.count("\n") == 1 and not out, err
    assert swept.partition("=")[0].lstrip("+") in err


def test_several_values_without_multirun_name_the_remedy(harness: Harness) -> None:
    code, _, err = harness("seed=0,1,2")
    assert code == 2
    assert "-m" in err and "seed=[0,1,2]" in err


def test_an_only_clip_that_cannot_be_read_is_bad_input(harness: Harness) -> None:
    code, _, err = harness("limit=1", "+dataset.broken=true")
    assert code == 2
    assert "c 0" in err and "moov atom not found" in err and err.count("\n") == 1


@pytest.mark.parametrize("multirun", [False, True], ids=["run", "multirun"])
@pytest.mark.parametrize("results", ["afile", "/proc/nowhere"])
def test_a_results_folder_that_cannot_be_written_is_bad_input(
    harness: Harness, tmp_path: Path, results: str, multirun: bool
) -> None:
    (tmp_path / "afile").touch()
    code, _, err = harness(f"results={results}", *["-m"] * multirun)
    assert code == 2
    assert err.startswith(f"results: cannot write {results}") and "results=DIR" in err
    assert err.count("\n") == 1


def test_cuda_asked_for_and_absent_is_bad_input(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, err = harness("device=cuda")
    assert code == 2
    assert err.startswith("device=cuda") and "device=cpu" in err and err.count("\n") == 1


@pytest.mark.parametrize("arguments", [("--nonsense",), ("-m", "--nonsense")])
def test_an_unknown_flag_is_bad_input(harness: Harness, arguments: tuple[str, ...]) -> None:
    code, _, err = harness(*arguments)
    assert code == 2
    assert "--nonsense" in err and err.count("\n") == 1


def test_a_missing_config_dir_is_bad_input(harness: Harness) -> None:
    code, _, err = harness("--config-dir", "nowhere")
    assert code == 2 and "nowhere" in err and err.count("\n") == 1


def test_hydra_full_error_shows_the_traceback_too(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    code, _, err = harness("method.windwo=3")
    assert code == 2 and "Traceback" in err
    assert err.rstrip().splitlines()[-1].startswith("method.windwo: no such key")


def test_plan_prints_the_cells_and_leaves_only_results_behind(harness: Harness, tmp_path: Path) -> None:
    code, out, err = harness("action=plan", "name=mine", "seed=[0,1]")
    assert code == 0 and not err
    assert "6 cells, 0 done, 6 to run" in out
    assert "left out: short: has 3 frames" in out
    assert (tmp_path / "results" / "plans" / "mine.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    assert {path.name for path in (tmp_path / "results").iterdir()} <= {"plans", "hydra"}
    assert not list(tmp_path.rglob("*.log"))


def test_a_sweep_plans_every_job(harness: Harness, tmp_path: Path) -> None:
    code, _, _ = harness("-m", "action=plan", "seed=0,1,2", "limit=1")
    assert code == 0
    assert len(list((tmp_path / "results" / "plans").glob("*.json"))) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_jobs_of_a_sweep_with_one_name_do_not_overwrite_each_other(harness: Harness, tmp_path: Path) -> None:
    code, _, _ = harness("-m", "action=plan", "seed=0,1", "name=mine")
    assert code == 0
    assert sorted(path.stem for path in (tmp_path / "results" / "plans").iterdir()) == ["mine", "mine-2"]


def test_real_footage_on_a_backbone_of_its_own_world_gets_one_line(harness: Harness) -> None:
    code, _, err = harness("action=plan", "+dataset.real=true")
    assert code == 0
    assert "knows only its own world" in err and "wan2.1-1.3b" in err and err.count("\n") == 1


def test_finished_videos_of_real_footage_are_told_nothing_of_a_backbone(harness: Harness) -> None:
    words = ("method=finished", "method.manifest=[['c 0',p,0]]", "action=plan", "+dataset.real=true")
    code, _, err = harness(*words)
    assert code == 0 and not err


def test_rows_of_a_manifest_that_match_no_cell_are_counted_in_one_line(harness: Harness) -> None:
    rows = "method.manifest=[['c 0',p,0],['c 0',p,1],['c 0',q,0],[bear,p,0]]"
    code, out, err = harness("method=finished", rows, "action=plan", "-m", "seed=0,1")
    assert code == 0
    assert err == (
        "method.manifest: 2 of 4 rows match no planned cell; the first: clip 'c 0', prompt 'q', seed 0\n"
    )
    assert "left out: c 1: no row for" in out


def test_a_required_metric_without_its_weights_is_bad_input_before_anything_runs(
    harness: Harness, fake_run: list[str], tmp_path: Path
) -> None:
    gone = ("metrics.required=[one]", "+metrics.metrics.one.weights=gone")
    for action in ("run", "score"):
        code, out, err = harness(*gone, f"action={action}")
        assert code == 2 and not out
        assert err == "metrics.required: one cannot be computed: no weights of one: fetch them\n"
    assert not list((tmp_path / "results").rglob("record.json"))
    assert harness("metrics.required=[one]")[0] == 0
    assert harness(gone[1])[0] == 0, "null with the reason where it is not required"


def test_an_interrupt_ends_with_130(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(Here, "work", interrupt)
    code, _, err = harness()
    assert code == 130
    assert "kept" in err


@pytest.fixture
def fake_run(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """``harness.cells.run.run`` without models: seed 1 fails, a window of 1 is found bad late."""
    from datasets.errors import InputError
    from harness.cells import run as running
    from harness.cells.score import Outcome
    from harness.records import record as records

    mirrored: list[str] = []

    def run(job: Any, plan: records.Plan, cells: list[Any], loaded: Any) -> Outcome:
        outcome = Outcome([])
        if job.method.window == 1:
            raise InputError("backbone.model: the download failed; try again")
        for cell in cells:
            bad = cell.seed == 1
            sources = {
                part: records.Source(name=getattr(job, part).name, version="1", config={})
                for part in ("method", "backbone", "dataset")
            }
            record = records.Record(
                schema=records.SCHEMA,
                id=cell.id,
                status="oom" if bad else "ok",
                clip=cell.clip.name,
                prompt=cell.prompt.text,
                seed=cell.seed,
                error=records.Failure(kind="MemoryError", message="no memory\nleft", traceback="")
                if bad
                else None,
                metrics={"one": records.MetricValue(value=None, version="1", reason="weights are missing")},
                **sources,
            )
            folder = job.results / cell.path
            store.save_record(folder, record)
            if not bad:
                for name in ("video.mp4", "reference.mp4"):
                    write_h264(folder / name, np.zeros((5, 16, 16, 3), np.uint8), 8.0)
            outcome.records.append(record)
        plan.variants[0].levels = {"one": {"chance": 0.5}}
        return outcome

    def start(jobs: list[tuple[Any, records.Plan]]) -> list[Any]:
        mirrored.append(" ".join(plan.name for _, plan in jobs))
        return [SimpleNamespace(finish=lambda: "W&B: no login", leave=lambda: None)]

    monkeypatch.setattr(running, "run", run)
    monkeypatch.setattr("reports.wandb_mirror.start", start)
    return mirrored


def test_a_run_ends_with_table_videos_and_picture(
    harness: Harness, fake_run: list[str], tmp_path: Path
) -> None:
    code, out, err = harness("name=mine")
    assert code == 0
    assert err == "W&B: no login\n" and fake_run == ["mine"]
    order = [
        out.index(words)
        for words in ("fake", "weights are missing", "short", "videos: results/cells/fake/fake")
    ]
    assert order == sorted(order)
    assert out.splitlines()[-1] == "picture: results/picture.png"
    assert (tmp_path / "results" / "picture.png").stat().st_size
    saved = store.load_plan(tmp_path / "results" / "plans" / "mine.json")
    assert saved.variants[0].levels == {"one": {"chance": 0.5}}
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_a_failed_cell_ends_with_1_and_is_listed(harness: Harness, fake_run: list[str]) -> None:
    code, out, _ = harness("-m", "seed=0,1", "name=mine", "limit=1")
    assert code == 1
    assert out.splitlines()[-1] == 'oom: fake, c 0, seed 1, "p": no memory left'
    assert fake_run == ["mine mine-2"], "one mirror for the command"


def test_input_found_bad_late_ends_with_2_and_the_other_jobs_go_on(
    harness: Harness, fake_run: list[str], tmp_path: Path
) -> None:
    code, out, err = harness("-m", "method.window=1,2", "limit=1")
    assert code == 2
    assert "the download failed" in err
    assert "videos: " in out and len(fake_run) == 1
    assert len(list((tmp_path / "results" / "cells").rglob("record.json"))) == 1


def test_the_second_plan_says_what_is_done(harness: Harness, fake_run: list[str]) -> None:
    harness("limit=1")
    code, out, _ = harness("action=plan", "limit=2")
    assert code == 0 and "2 cells, 1 done, 1 to run" in out


def run(*arguments: str, cwd: Path, code: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *(("-c", code) if code else ("-m", "harness")), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def test_help_is_quick_and_lists_groups_and_keys(world: Path, tmp_path: Path) -> None:
    before = os.times()
    done = run("--help", "--config-dir", str(world / "groups"), cwd=tmp_path)
    after = os.times()
    # Processor time: a busy machine is not our doing.
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent < 1.5
    assert done.returncode == 0 and not done.stderr
    for word in (
        "action=plan",
        "fastvmt",
        "fake",
        "limit=null",
        "measure.repeats",
        "--config-dir",
        "Examples",
    ):
        assert word in done.stdout
    assert not list(tmp_path.iterdir())


def test_the_process_ends_with_the_exit_code(tmp_path: Path) -> None:
    done = run("method=fastvm", "--multirun", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "method=fastvm: no such option; did you mean method=fastvmt?\n"


def test_hydra_help_still_works(tmp_path: Path) -> None:
    done = run("--hydra-help", cwd=tmp_path)
    assert done.returncode == 0
    assert "--config-dir" in done.stdout


def test_bad_input_loads_no_torch(tmp_path: Path) -> None:
    code = textwrap.dedent("""
        import sys
        from harness.__main__ import main
        assert main() == 2
        assert "torch" not in sys.modules
    """)
    done = run("method=fastvm", cwd=tmp_path, code=code)
    assert done.returncode == 0, done.stderr


def test_another_package_called_datasets_is_named(tmp_path: Path) -> None:
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").touch()
    done = run("--help", cwd=tmp_path)
    assert done.returncode == 2
    assert "'datasets' is not ours" in done.stderr and "virtual environment" in done.stderr
    assert done.stderr.count("\n") == 1
