"""VBench's columns against literal code and plain loops, on networks of the real classes, random weights."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import random_raft, tiny_dino
from torchvision.transforms import v2 as transforms
from torchvision.transforms.functional import InterpolationMode

from datasets.errors import InputError
from datasets.sprites.world import HELD_OUT, draw, paint
from harness.cells.score import metric_version
from metrics import dino, raft
from metrics.interface import MetricUnavailable, Sample
from metrics.vbench import (
    BackgroundConsistency,
    DynamicDegree,
    MotionSmoothness,
    SubjectConsistency,
    TemporalFlicker,
    consistency,
    fastest,
    is_dynamic,
    vbench_clip_images,
)


def sample(generated: np.ndarray, reference: np.ndarray | None = None, fps: float = 24.0) -> Sample:
    return Sample("a", generated, generated if reference is None else reference, "", None, fps=fps)


def video(seed: int, frames: int = 4, height: int = 40, width: int = 72) -> np.ndarray:
    """Coarse random pictures that change a little."""
    rng = np.random.default_rng(seed)
    small = rng.uniform(0, 255, (1, 5, 9, 3)) + rng.normal(0, 25, (frames, 5, 9, 3))
    big = small.repeat(height // 5, 1).repeat(width // 9, 2)
    return np.clip(big, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    return tiny_dino(tmp_path_factory.mktemp("dino"))


@pytest.fixture(scope="module")
def flows(tmp_path_factory):
    return random_raft(tmp_path_factory.mktemp("raft") / "raft.pth")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Empty caches and no network."""
    for module in (dino, raft):
        monkeypatch.setattr(module, "reachable", lambda _: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))


# --- second implementations


def aggregate(features: list[torch.Tensor]) -> float:
    """As in VBench: the first frame is kept, the one before follows, cosines below 0 count 0."""
    total, first, former = 0.0, features[0], features[0]
    for feature in features[1:]:
        before = max(0.0, F.cosine_similarity(former, feature, dim=0).item())
        start = max(0.0, F.cosine_similarity(first, feature, dim=0).item())
        total += (before + start) / 2
        former = feature
    return total / (len(features) - 1)


def dino_by_hand(folder: str, frames: np.ndarray) -> list[torch.Tensor]:
    """The original's forward pass, written with the state dict of the hub's names alone."""
    from safetensors.torch import load_file

    state = load_file(f"{folder}/model.safetensors")
    resize = transforms.Compose(
        [
            transforms.Resize(224, antialias=False),
            transforms.Lambda(lambda x: x.float().div(255.0)),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    images = resize(torch.Tensor(frames).permute(0, 3, 1, 2))
    return [_vit(state, image) for image in images]


def _vit(state: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
    def named(*parts: str) -> torch.Tensor:
        (name,) = (name for name in state if all(part in name for part in parts))
        return state[name]

    def norm(x: torch.Tensor, *parts: str) -> torch.Tensor:
        return F.layer_norm(x, (24,), named(*parts, "weight"), named(*parts, "bias"), eps=1e-6)

    def linear(x: torch.Tensor, *parts: str) -> torch.Tensor:
        return F.linear(x, named(*parts, "weight"), named(*parts, "bias"))

    _, height, width = image.shape
    kernel, bias = named("projection", "weight"), named("projection", "bias")
    tokens = F.conv2d(image[None], kernel, bias, stride=16).flatten(2).transpose(1, 2)[0]
    table = named("position_embeddings")[0]
    grid = table[1:].reshape(1, 14, 14, 24).permute(0, 3, 1, 2)
    if (height, width) != (224, 224):
        rows, columns = height // 16 + 0.1, width // 16 + 0.1
        grid = F.interpolate(grid, scale_factor=(rows / 14, columns / 14), mode="bicubic")
    places = torch.cat([table[:1], grid.permute(0, 2, 3, 1).reshape(-1, 24)])
    x = torch.cat([named("cls_token")[0], tokens]) + places
    for layer in ("layer.0.", "layer.1."):
        y = norm(x, layer, "before")
        q, k, v = (
            linear(y, layer, word).reshape(-1, 3, 8).transpose(0, 1) for word in ("query", "key", "value")
        )
        mixed = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(8), -1) @ v
        x = x + linear(mixed.transpose(0, 1).reshape(-1, 24), layer, "attention.output")
        hidden = F.gelu(linear(norm(x, layer, "after"), layer, "intermediate"))
        x = x + linear(hidden, f"{layer}output.dense")
    return norm(x, "layernorm.")[0]


# --- subject consistency


@pytest.mark.parametrize(("height", "width"), [(40, 72), (72, 40), (48, 48)])
def test_subject_consistency_equals_its_second_implementation(vit, height, width):
    frames = np.random.default_rng(1).integers(0, 256, (3, height, width, 3), np.uint8)
    score = SubjectConsistency("s", vit).score(sample(frames))
    features = dino_by_hand(vit, frames)
    assert score.value == pytest.approx(aggregate(features), abs=2e-5)
    assert len(score.per_frame) == 2 and np.mean(score.per_frame) == pytest.approx(score.value)
    own = dino.load_dino(vit).features(frames)
    torch.testing.assert_close(
        torch.tensor(own), F.normalize(torch.stack(features), dim=-1), atol=2e-5, rtol=0
    )


def test_frames_are_resized_as_vbench_does_and_never_cropped():
    frames = np.random.default_rng(0).integers(0, 256, (1, 480, 832, 3), np.uint8)
    images = dino.vbench_images(frames)
    assert tuple(images.shape) == (1, 3, 224, 388)
    resize = transforms.Resize(224, InterpolationMode.BILINEAR, antialias=False)
    expected = resize(torch.Tensor(frames).permute(0, 3, 1, 2)) / 255
    mean, deviation = (torch.tensor(one).view(3, 1, 1) for one in (dino.MEAN, dino.DEVIATION))
    torch.testing.assert_close(images, (expected - mean) / deviation)


def test_positions_are_resized_by_a_factor_and_left_alone_at_their_own_size():
    table = torch.randn(1, 197, 6, generator=torch.Generator().manual_seed(0))
    own = dino.positions(table, 16, torch.zeros(1, 197, 6), 224, 224)
    torch.testing.assert_close(own, table)
    wide = dino.positions(table, 16, torch.zeros(1, 14 * 24 + 1, 6), 224, 388)
    grid = table[:, 1:].reshape(1, 14, 14, 6).permute(0, 3, 1, 2)
    literal = F.interpolate(grid, scale_factor=(14.1 / 14, 24.1 / 14), mode="bicubic")
    torch.testing.assert_close(wide[:, 1:], literal.permute(0, 2, 3, 1).reshape(1, -1, 6))
    to_size = F.interpolate(grid, size=(14, 24), mode="bicubic").permute(0, 2, 3, 1).reshape(1, -1, 6)
    assert (wide[:, 1:] - to_size).norm() / to_size.norm() > 0.02


def test_every_layer_norm_has_the_original_epsilon(vit):
    norms = [m for m in dino.load_dino(vit).model.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert len(norms) == 5 and {norm.eps for norm in norms} == {1e-6}


def test_known_aggregates():
    still = np.array([[0.6, 0.8]] * 4, np.float32)
    assert consistency(still) == pytest.approx([1, 1, 1])
    two = np.array([[1, 0], [0.6, 0.8]] * 2, np.float32)
    assert consistency(two) == pytest.approx([(0.6 + 0.6) / 2, (0.6 + 1) / 2, 0.6])
    opposite = np.array([[1, 0], [-1, 0], [-1, 0]], np.float32)
    assert consistency(opposite) == pytest.approx([0, 0.5])
    random = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    random /= np.linalg.norm(random, axis=1, keepdims=True)
    assert consistency(random).mean() == pytest.approx(aggregate(list(torch.from_numpy(random))), abs=1e-6)


# --- background consistency


def test_background_consistency_reads_the_whole_frame_through_the_worlds_clip():
    from metrics.clip_model import load_clip

    frames = video(2, height=60, width=90)
    features = torch.from_numpy(load_clip("sprites").image_features(frames))
    score = BackgroundConsistency("b", "sprites").score(sample(frames))
    assert score.value == pytest.approx(aggregate(list(features)), abs=1e-6)


@pytest.mark.parametrize(("height", "width"), [(48, 83), (83, 48), (300, 420)])
def test_frames_for_clip_are_those_of_vbenchs_transform(height, width):
    frames = np.random.default_rng(3).integers(0, 256, (2, height, width, 3), np.uint8)
    literal = transforms.Compose(
        [
            transforms.Resize(224, InterpolationMode.BICUBIC, antialias=False),
            transforms.CenterCrop(224),
            transforms.Lambda(lambda x: x.float().div(255.0)),
            transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ]
    )
    expected = literal(torch.Tensor(frames).permute(0, 3, 1, 2))
    torch.testing.assert_close(vbench_clip_images(frames, 224), expected, atol=1e-4, rtol=1e-4)


def test_a_published_clip_gets_vbenchs_images(monkeypatch):
    """On a CLIP of open_clip's own class, tiny and random."""
    import open_clip

    from metrics import clip_model

    torch.manual_seed(0)
    model = open_clip.model.CLIP(
        embed_dim=16,
        vision_cfg=open_clip.model.CLIPVisionCfg(
            image_size=32, layers=1, width=32, head_width=16, patch_size=8
        ),
        text_cfg=open_clip.model.CLIPTextCfg(context_length=8, vocab_size=20, width=16, heads=1, layers=1),
    ).eval()
    tiny = clip_model.ClipModel("tiny", model, lambda _: pytest.fail("its own preprocessing"), None, None, 8)
    monkeypatch.setattr(BackgroundConsistency, "clip", lambda _: tiny)
    frames = video(4)
    with torch.inference_mode():
        features = list(model.encode_image(vbench_clip_images(frames, 32)))
    score = BackgroundConsistency("b", "ViT-B-32-quickgelu/openai").score(sample(frames))
    assert score.value == pytest.approx(aggregate(features), abs=1e-5)


# --- flicker


def test_flicker_equals_its_second_implementation():
    frames, reference = video(5), video(6)
    score = TemporalFlicker("f").score(sample(frames, reference))

    def by_hand(clip):
        pairs = [
            np.mean(np.abs(np.array(a, np.float32) - np.array(b, np.float32))) for a, b in pairwise(clip)
        ]
        return (255.0 - np.mean(pairs)) / 255.0

    assert score.value == pytest.approx(by_hand(frames))
    assert score.details["reference"] == pytest.approx(by_hand(reference))
    assert score.details["difference"] == pytest.approx(by_hand(frames) - by_hand(reference), abs=1e-6)


# --- dynamic degree


def degree_by_hand(path: str, frames: np.ndarray, fps: float) -> tuple[bool, float]:
    """VBench's loops around torchvision's network; frames of 128 pixels and more."""
    from torchvision.models.optical_flow import raft_large

    model = raft_large(weights=None).eval()
    model.load_state_dict(torch.load(path, weights_only=True))
    kept = [frames[i] for i in range(0, len(frames), max(1, round(fps / 8)))]
    height, width = kept[0].shape[:2]
    down, across = ((side // 8 + 1) * 8 - side for side in (height, width))
    down, across = down % 8, across % 8
    speeds = []
    for first, second in pairwise(kept):
        images = [torch.from_numpy(one).permute(2, 0, 1)[None].float() for one in (first, second)]
        edges = (across // 2, across - across // 2, down // 2, down - down // 2)
        images = [2 * (F.pad(one, edges, mode="replicate") / 255.0) - 1 for one in images]
        with torch.no_grad():
            flow = model(*images, num_flow_updates=20)[-1][0].numpy()
        lengths = np.sqrt(flow[0] ** 2 + flow[1] ** 2).flatten()
        cut = int(flow.shape[1] * flow.shape[2] * 0.05)
        speeds.append(np.mean(abs(np.sort(-lengths))[:cut]))
    threshold = 6.0 * min(height, width) / 256.0
    needed = round(4 * (len(kept) / 16.0))
    count, moves = 0, False
    for speed in speeds:
        count += speed > threshold
        moves |= count >= needed
    return moves, float(np.mean(speeds)) / threshold


def test_dynamic_degree_equals_its_second_implementation(flows):
    frames, reference = video(7, 7, 130, 144), video(8, 4, 130, 144)
    frames = np.pad(frames, ((0, 0), (0, 1), (0, 5), (0, 0)), mode="reflect")
    score = DynamicDegree("d", flows).score(sample(frames, reference, fps=25))
    moves, degree = degree_by_hand(flows, frames, 25)
    assert score.value == float(moves)
    assert score.details["degree"] == pytest.approx(degree, rel=1e-4)
    assert score.details["reference"] == pytest.approx(degree_by_hand(flows, reference, 25)[1], rel=1e-4)
    assert len(score.per_frame) == 2


def test_the_flag_of_vbench():
    assert is_dynamic([7, 0, 0, 0, 0, 0, 0], 6) is False  # round(2.0) = 2
    assert is_dynamic([7, 7, 0, 0, 0, 0, 0], 6) is True
    assert is_dynamic([7, 7, *[0] * 7], 6) is True  # round(2.5) = 2, as Python rounds
    assert is_dynamic([6] * 5, 6) is False
    assert is_dynamic([0], 6) is True  # round(.5) = 0: whatever moves
    flow = np.zeros((10, 20, 2), np.float32)
    flow[0, :10] = [3, 4]
    assert fastest(flow) == pytest.approx(5)
    flow[0, :5] = 0
    assert fastest(flow) == pytest.approx(2.5)


def test_too_few_kept_frames_have_no_degree(flows):
    score = DynamicDegree("d", flows).score(sample(video(0), fps=60))
    assert score.value is None and "60 a second" in score.reason


# --- what is not to be had, and what is not asked


def test_one_frame_is_null(vit, flows):
    frames = video(0, frames=1)
    for metric in (
        SubjectConsistency("s", vit),
        BackgroundConsistency("b", "sprites"),
        TemporalFlicker("f"),
        DynamicDegree("d", flows),
    ):
        score = metric.score(sample(frames))
        assert score.value is None and score.reason


def test_weights_that_are_not_there_are_one_line_with_id_size_licence_and_remedy(offline):
    for metric, words in (
        (SubjectConsistency("s"), ("facebook/dino-vitb16", "343 MB", "Apache-2.0", "checkpoint")),
        (DynamicDegree("d"), ("raft_large_C_T_V1", "21.1 MB", "BSD-3", "checkpoint")),
        (MotionSmoothness("m"), ("amt-s", "12 MB", "CC BY-NC", "external")),
    ):
        for ask in (metric.ready, lambda metric=metric: metric.score(sample(video(0, 8)))):
            with pytest.raises(MetricUnavailable) as raised:
                ask()
            assert "\n" not in str(raised.value) and all(word in str(raised.value) for word in words)
        (weight,) = metric.needed_weights()
        assert weight.path is None and weight.licence in str(raised.value) and metric.weights_id() == ""


def test_a_checkpoint_that_does_not_exist_is_named(tmp_path):
    for metric in (SubjectConsistency("s", str(tmp_path)), DynamicDegree("d", str(tmp_path / "none.pth"))):
        with pytest.raises(InputError, match=re.escape(str(tmp_path))):
            metric.ready()


def test_the_weights_are_part_of_the_version(vit, flows):
    for metric in (SubjectConsistency("s", vit), DynamicDegree("d", flows)):
        metric.ready()
        assert metric.weights_id().startswith("sha256:")
        version = metric_version(metric, None)
        assert metric.weights_id() in version and "checkpoint" not in version
        assert metric.needed_weights()[0].path.is_file()


def test_a_frozen_video_wins_what_says_so(vit):
    frames = paint(draw(HELD_OUT, 8, 64, 64))
    frozen = np.repeat(frames[:1], 8, 0)
    for metric in (SubjectConsistency("s", vit), BackgroundConsistency("b", "sprites"), TemporalFlicker("f")):
        assert metric.column.beside_motion
        assert metric.score(sample(frozen)).value == pytest.approx(1)
        assert metric.score(sample(frames)).value < 1
