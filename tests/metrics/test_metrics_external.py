"""Programs that score all videos in one call: what is made of their answers, and the job files in docs/."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from datasets.media import video
from metrics.external_scorer import ExternalScorer
from metrics.interface import WAITS, Column, MetricUnavailable, Sample, Score, Stored
from metrics.trackers.dis import Dis

DOCS = Path(__file__).parents[2] / "docs"
CLIPS = ("fox", "hen")


@pytest.fixture
def videos(tmp_path: Path) -> list[Stored]:
    """Two clips of 6 frames, 32x48, generations and references apart, as lossless files."""
    made = []
    for number, clip in enumerate(CLIPS):
        rng = np.random.default_rng(number)
        paths = [tmp_path / f"{clip}-{which}.mkv" for which in ("generated", "reference")]
        for path, blur in zip(paths, (1.5, 1.0), strict=True):
            frames = rng.integers(0, 256, (6, 32, 48, 3), dtype=np.uint8)
            video.write_ffv1(path, np.stack([cv2.GaussianBlur(one, (0, 0), blur) for one in frames]), 12)
        made.append(Stored(f"{number:016x}", *paths, f"a {clip}, running", None, clip, number, 12.0))
    return made


def scores(
    videos: list[Stored], folder: Path, program: Path, *words: str, **keys: Any
) -> tuple[dict[str, Score], str]:
    """By clip, and what the program printed."""
    metric = ExternalScorer("mine", command=[sys.executable, str(program), *words], **keys)
    place = folder / "scorers" / "mine" / "0"
    place.mkdir(parents=True)
    found = metric.score_all(videos, place, "cpu")
    names = {one.id: one.clip for one in videos}
    return {names[one]: score for one, score in found.items()}, (place / "log.txt").read_text()


def read(path: Path) -> np.ndarray:
    return video.read_video(path)[0]


def test_a_single_video_waits_for_its_program() -> None:
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    sample = Sample("fox", frames, frames, "a fox", Dis("dis"))
    metric = ExternalScorer("mine", command=["no-such-program-9"])
    assert metric.score(sample) == Score(None, reason=WAITS)
    assert metric.together


def test_the_configuration_is_the_column() -> None:
    assert ExternalScorer("mine").column == Column("mine")
    metric = ExternalScorer("mine", None, label="Mine", unit="%", digits=1, higher_is_better=False)
    assert metric.column == Column("Mine", "%", higher_is_better=False, digits=1)
    assert ExternalScorer("mine", sees_motion=True).column == Column("mine", sees_motion=True)
    assert ExternalScorer("mine", beside_motion=True).column == Column("mine", beside_motion=True)


def test_the_version_follows_command_and_options_and_shows_neither(tmp_path: Path) -> None:
    def version(*command: str, **options: Any) -> str:
        return ExternalScorer("mine", command=list(command), options=options).version

    first = version("python", "/home/me/score.py", key="s3cr3t")
    assert first == version("python", "/home/me/score.py", key="s3cr3t")
    assert "me" not in first.partition("program=")[0] and "/home" not in first and "s3cr3t" not in first
    others = [version("python", "/home/me/score.py", key="other"), version("python", "-x", key="s3cr3t")]
    assert len({first, *others}) == 3


def test_the_files_of_the_command_are_its_weights(tmp_path: Path) -> None:
    path = tmp_path / "score.py"
    path.write_text("pass")
    metric = ExternalScorer("mine", command=["sh", "score.py"], folder=str(tmp_path))
    metric.ready()
    before = metric.weights_id()
    path.write_text("changed")
    assert before and metric.weights_id() not in ("", before)
    path.unlink()
    assert metric.weights_id() == ""
    with pytest.raises(MetricUnavailable, match=r"metrics\.metrics\.mine\.command: score\.py does not exist"):
        metric.ready()


def test_the_worked_example_tells_sharp_frames_from_blurred_ones(
    videos: list[Stored], tmp_path: Path
) -> None:
    found, log = scores(videos, tmp_path, DOCS / "external_scorer_example.py")
    for one in videos:
        score = found[one.clip]
        for path, value in ((one.video, score.value), (one.reference, score.details["reference"])):
            grey = [cv2.cvtColor(f.astype(np.float32), cv2.COLOR_RGB2GRAY).astype(float) for f in read(path)]
            wanted = [cv2.Laplacian(image, cv2.CV_64F, ksize=1)[1:-1, 1:-1].var() for image in grey]
            assert value == pytest.approx(np.mean(wanted), rel=1e-3)
        assert score.per_frame is not None and len(score.per_frame) == 6
        assert score.value is not None and score.value < float(score.details["reference"])
        assert f"{one.clip}: {score.value:.1f}" in log


# --- job files of published metrics, with stand-ins for their packages ---------------------------

VBENCH = """
import json, os
import cv2
class VBench:
    def __init__(self, device, full_info_dir, output_path):
        assert type(device).__name__ == "device"
        os.makedirs(output_path)
        self.output_path = output_path
    def evaluate(self, videos_path, name, prompt_list=[], dimension_list=None, mode="vbench_standard"):
        assert mode == "custom_input" and set(prompt_list) == set(os.listdir(videos_path))
        (dimension,) = dimension_list
        results = []
        for file in os.listdir(videos_path):
            assert file.endswith(".mp4"), "it leaves out others"
            reader, frames = cv2.VideoCapture(os.path.join(videos_path, file)), []
            while (read := reader.read())[0]:
                frames.append(float(read[1].mean()))
            print(prompt_list[file], len(frames))
            value = sum(frames) / len(frames)
            value = value > 100 if dimension == "dynamic_degree" else value
            results.append({"video_path": os.path.join(videos_path, file), "video_results": value})
        with open(os.path.join(self.output_path, name + "_eval_results.json"), "w") as output:
            json.dump({dimension: [0.5, results]}, output)
"""

PYIQA = """
import torch
class Metric:
    lower_better = False
    def __init__(self, name):
        self.metric_mode = "FR" if name == "psnr" else "NR"
    def __call__(self, target, ref=None):
        assert target.shape == (1, 3, 32, 48) and 0 <= target.min() and target.max() <= 1
        assert (ref is not None) == (self.metric_mode == "FR")
        return (target if ref is None else (target - ref).abs()).mean().reshape(1, 1)
def create_metric(name, device=None):
    assert device == torch.device("cpu")
    return Metric(name)
"""

TRANSFORMERS = """
import torch
class AutoProcessor:
    @classmethod
    def from_pretrained(cls, name, torch_dtype=None):
        return cls()
    def __call__(self, text, images, return_tensors):
        assert return_tensors == "pt" and text.count("<image>") == len(images)
        print(text.replace("<image> ", ""), images[0].size)
        return {"pixels": torch.tensor([[float(len(images)), images[-1].getpixel((0, 0))[0]]])}
"""

MANTIS = """
import types, torch
class Idefics2ForSequenceClassification:
    @classmethod
    def from_pretrained(cls, name, torch_dtype=None):
        assert name == "TIGER-Lab/VideoScore-v1.1"
        return cls()
    def eval(self):
        return self
    def to(self, device):
        assert device == "cpu"
    def __call__(self, pixels):
        count, red = pixels[0]
        return types.SimpleNamespace(logits=torch.stack([count, red, 2 * red, 3 * red, 4 * red])[None])
"""

TAPNET = {
    "jax": "def jit(function):\n    return function\n",
    "mediapy": "import cv2, numpy\ndef resize_video(video, size):\n"
    "    return numpy.stack([cv2.resize(one, size[::-1]) for one in video])\n",
    "tapnet/__init__": "",
    "tapnet/models/__init__": "",
    "tapnet/trajan/__init__": "",
    "tapnet/utils/__init__": "",
    "tapnet/utils/model_utils": """
import numpy as np
def preprocess_frames(frames):
    return frames.astype(np.float32) / 255 * 2 - 1
def postprocess_occlusions(occlusions, expected_dist):
    return (1 / (1 + np.exp(occlusions))) * (1 / (1 + np.exp(expected_dist))) > 0.5
""",
    # Points move to the right by a pixel a frame; those that begin in the upper half are seen.
    "tapnet/models/tapir_model": """
import numpy as np
class ParameterizedTAPIR:
    def __init__(self, params, state, tapir_kwargs):
        assert params == {"w": 1} and tapir_kwargs["pyramid_level"] == 1
    def get_feature_grids(self, video, is_training):
        return video.shape
    def __call__(self, video, query_points, is_training, query_chunk_size, feature_grids):
        assert video.shape == feature_grids == (1, 6, 256, 256, 3) and query_points.shape == (1, 32, 3)
        t, y, x = np.moveaxis(query_points[..., None], 2, 0)
        x = x + np.arange(6) - t
        occlusion = np.where(y < 128, -9.0, 9.0) + 0 * x
        return {"tracks": np.stack([x, y + 0 * x], -1), "occlusion": occlusion, "expected_dist": 0 * x - 9.0}
""",
    # It knows that motion, and takes all points for visible: those of the lower half are wrong.
    "tapnet/trajan/track_autoencoder": """
import types
import numpy as np
class TrackAutoEncoder:
    def __init__(self, decoder_scan_chunk_size):
        assert decoder_scan_chunk_size == 32
    def apply(self, variables, inputs):
        assert variables == {"params": {"a": {"b": 1.0, "c": 2.0}}}
        assert inputs["support_tracks"].shape == (1, 2048, 150, 2) and inputs["boundary_frame"] == 6
        assert inputs["support_tracks_visible"].shape == (1, 2048, 150, 1)
        t, x, y = np.moveaxis(inputs["query_points"][0][..., None], 1, 0)
        x = x + (np.arange(150) - t) / 256
        tracks = np.stack([x, y + 0 * x], -1)[None]
        logits = np.full((*x.shape, 1), 9.0)[None]
        return types.SimpleNamespace(tracks=tracks, visible_logits=logits, certain_logits=logits)
""",
}


@pytest.fixture
def stand_ins(tmp_path: Path) -> Any:
    """Puts packages where the program finds them; the environment that does."""

    def write(packages: dict[str, str]) -> dict[str, str]:
        for name, text in packages.items():
            path = tmp_path / "packages" / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return {"PYTHONPATH": str(tmp_path / "packages"), "OMP_NUM_THREADS": "1"}

    return write


@pytest.mark.parametrize("dimension", ["motion_smoothness", "imaging_quality", "dynamic_degree"])
def test_vbench_gets_mp4_files_and_prompts_and_its_values_are_per_video(
    videos: list[Stored], tmp_path: Path, stand_ins: Any, dimension: str
) -> None:
    found, log = scores(
        videos,
        tmp_path,
        DOCS / "scorers" / "score_vbench.py",
        options={"dimension": dimension},
        environment=stand_ins({"vbench": VBENCH}),
    )
    for one in videos:
        assert f"a {one.clip}, running 6" in log
        mean = float(read(one.video).mean())
        wanted = {"imaging_quality": mean / 100, "dynamic_degree": float(mean > 100)}.get(dimension, mean)
        # OpenCV read the very frames behind the name.
        assert found[one.clip].value == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("name", ["psnr", "musiq"])
def test_pyiqa_gets_frames_and_a_full_reference_metric_the_reference_s(
    videos: list[Stored], tmp_path: Path, stand_ins: Any, name: str
) -> None:
    found, _ = scores(
        videos,
        tmp_path,
        DOCS / "scorers" / "score_pyiqa.py",
        options={"metric": name},
        environment=stand_ins({"pyiqa": PYIQA}),
    )
    for one in videos:
        frames, beside = (read(path).astype(float) / 255 for path in (one.video, one.reference))
        per_frame = (abs(frames - beside) if name == "psnr" else frames).mean((1, 2, 3))
        assert found[one.clip].per_frame == pytest.approx(per_frame, rel=1e-4)
        assert found[one.clip].value == pytest.approx(per_frame.mean(), rel=1e-4)


def test_videoscore_is_asked_its_own_question_and_gives_the_aspect(
    videos: list[Stored], tmp_path: Path, stand_ins: Any
) -> None:
    clone = tmp_path / "clone" / "examples"
    clone.mkdir(parents=True)
    (clone / "run_videoscore.py").write_text(
        'import nothing\nREGRESSION_QUERY_PROMPT = """\nHow good is "{text_prompt}"?\n"""\nMORE = 1\n'
    )
    packages = {"transformers": TRANSFORMERS, "mantis/__init__": "", "mantis/models/__init__": ""}
    found, log = scores(
        videos,
        tmp_path,
        DOCS / "scorers" / "score_videoscore.py",
        options={"clone": str(clone.parent), "aspect": "dynamic degree"},
        environment=stand_ins({**packages, "mantis/models/idefics2": MANTIS}),
    )
    for one in videos:
        red = float(read(one.video)[-1, 0, 0, 0])
        details = found[one.clip].details
        assert found[one.clip].value == 2 * red == details["dynamic degree"]
        assert (details["frames"], details["visual quality"], details["factual consistency"]) == (
            6,
            6,
            4 * red,
        )
        assert f'How good is "a {one.clip}, running"?' in log and "(48, 32)" in log


def test_trajan_scores_what_its_autoencoder_gives_back(
    videos: list[Stored], tmp_path: Path, stand_ins: Any
) -> None:
    np.save(tmp_path / "tapir.npy", {"params": {"w": 1}, "state": {}}, allow_pickle=True)
    np.savez(tmp_path / "trajan.npz", **{"a/b": np.array(1.0), "a/c": np.array(2.0)})
    found, _ = scores(
        videos,
        tmp_path,
        DOCS / "scorers" / "score_trajan.py",
        options={"tapir": str(tmp_path / "tapir.npy"), "autoencoder": str(tmp_path / "trajan.npz")},
        environment=stand_ins(TAPNET),
    )
    # Half of the points are visible, exactly right, and the other half taken for visible.
    assert found["fox"].value == pytest.approx(0.5, abs=0.05)
    assert found["fox"].value == found["hen"].value


def program(name: str, monkeypatch: pytest.MonkeyPatch, *packages: str) -> Any:
    """A job file of docs/scorers as a module, without the packages that it calls."""
    for package in packages:
        parent, _, child = package.rpartition(".")
        module = ModuleType(package)
        monkeypatch.setitem(sys.modules, package, module)
        if parent:
            monkeypatch.setattr(sys.modules[parent], child, module, raising=False)
    spec = importlib.util.spec_from_file_location(name, DOCS / "scorers" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_trajan_s_jaccard_counts_right_wrong_and_hidden_points(monkeypatch: pytest.MonkeyPatch) -> None:
    utils, models = "tapnet.utils", "tapnet.models"
    packages = ("jax", "mediapy", "tapnet", models, f"{models}.tapir_model", "tapnet.trajan")
    more = ("tapnet.trajan.track_autoencoder", utils, f"{utils}.model_utils")
    jaccard = program("score_trajan", monkeypatch, *packages, *more).jaccard
    tracks, visible = np.zeros((1, 5, 2)), np.ones((1, 5), bool)
    assert jaccard(tracks, visible, tracks, visible) == 1
    # The first frame does not count; 3 px off is right from 4 px on.
    off = tracks + np.array([3.0, 0])
    assert jaccard(tracks, visible, off, visible) == pytest.approx(3 / 5)
    first = np.array([[False, True, True, True, True]])
    assert jaccard(tracks, visible, tracks, first) == 1
    # Two of four missed: 2 / 4; two of four made up: 2 / (2 + 2).
    half = np.array([[True, True, True, False, False]])
    assert jaccard(tracks, visible, tracks, half) == jaccard(tracks, half, tracks, visible) == 0.5


def test_every_job_file_says_that_it_was_not_run_and_stands_in_the_document() -> None:
    text = (DOCS / "external.md").read_text()
    paths = sorted((DOCS / "scorers").glob("*.py"))
    assert len(paths) == 4
    for path in paths:
        head = path.read_text().partition('"""')[2].partition('"""')[0]
        assert "Not run against the real" in head and f"scorers/{path.name}" in text
