"""Text similarity and temporal consistency against hand computation with a tiny random CLIP."""

from __future__ import annotations

import sys
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from datasets.errors import InputError
from harness.cells.score import metric_version, same_version
from metrics import clip_model
from metrics.clip_model import (
    WordTokenizer,
    build_tiny_clip,
    load_clip,
    save_tiny_clip,
    tiny_config,
    tiny_preprocess,
    vocabulary_of,
)
from metrics.consistency import ClipF
from metrics.interface import MetricUnavailable, Sample
from metrics.text import ClipT

CAPTIONS = ["a red circle on a teal background", "a blue star on a grey background"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Folder, model, configuration and vocabulary of a CLIP with random weights."""
    torch.manual_seed(0)
    vocabulary = vocabulary_of(CAPTIONS)
    config = tiny_config(len(vocabulary))
    model = build_tiny_clip(config).eval()
    folder = tmp_path_factory.mktemp("clip")
    save_tiny_clip(folder, model, config, vocabulary, torch.float32)
    return folder, model, config, vocabulary


def video(seed: int, frames: int = 4, height: int = 64, width: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), np.uint8)


def sample(clip: str, generated, reference, prompt: str, caption: str | None = None) -> Sample:
    return Sample(clip, generated, reference, prompt, None, caption)


def by_hand(model, config, vocabulary, frames, text) -> np.ndarray:
    """Cosine of every frame with a text, one frame at a time."""
    tokens = ["<start>", *text.split(), "<end>"]
    ids = torch.tensor([[vocabulary.index(word) for word in tokens] + [0] * (40 - len(tokens))])
    mean, std = config["preprocess"]["mean"][0], config["preprocess"]["std"][0]
    with torch.no_grad():
        words = model.encode_text(ids)[0].numpy()
        values = []
        for frame in frames:
            pixels = (frame.astype(np.float32) / 255 - mean) / std
            image = model.encode_image(torch.from_numpy(pixels.transpose(2, 0, 1))[None])[0].numpy()
            values.append(image @ words / np.linalg.norm(image) / np.linalg.norm(words))
    return np.array(values)


def test_words_become_ids_and_the_end_is_pooled():
    tokenizer = WordTokenizer(vocabulary_of(["b a", "c"]), context_length=6)
    assert tokenizer.vocabulary == ["<pad>", "<start>", "<unk>", "a", "b", "c", "<end>"]
    ids = tokenizer(["A, b!", "nothing c", "a b c a b c"])
    assert ids.tolist() == [[1, 3, 4, 6, 0, 0], [1, 2, 5, 6, 0, 0], [1, 3, 4, 5, 3, 6]]
    assert ids.dtype == torch.long
    assert len(tokenizer.encode("a b c a b c")) == 8
    with pytest.raises(ValueError, match="<pad>"):
        WordTokenizer(["a", "b"])


def test_padding_does_not_change_a_text(tiny):
    _, model, _, vocabulary = tiny
    ids = WordTokenizer(vocabulary)([CAPTIONS[0]])
    other = ids.clone()
    other[0, 20:] = vocabulary.index("red")
    with torch.no_grad():
        torch.testing.assert_close(model.encode_text(ids), model.encode_text(other))


def test_clip_t_is_the_mean_raw_cosine_over_all_frames(tiny):
    folder, model, config, vocabulary = tiny
    frames = video(1, frames=35)
    score = ClipT("clip_t", "sprites", str(folder)).score(sample("a", frames, frames, CAPTIONS[0]))
    expected = by_hand(model, config, vocabulary, frames, CAPTIONS[0])
    assert score.per_frame == pytest.approx(expected, abs=1e-5)
    assert score.value == pytest.approx(expected.mean(), abs=1e-5)
    assert score.details["tokens"] == 9
    assert score.details["model"].startswith("sprites sha256:")
    assert "truncated_to" not in score.details


def test_clip_t_is_blind_to_the_order_of_frames(tiny):
    metric = ClipT("clip_t", "sprites", str(tiny[0]))
    frames = video(2)
    forward = metric.score(sample("a", frames, frames, CAPTIONS[0])).value
    assert metric.score(sample("a", frames[::-1], frames, CAPTIONS[0])).value == pytest.approx(forward)


def test_a_cut_prompt_is_noted(tiny):
    frames = video(3, frames=1)
    score = ClipT("clip_t", "sprites", str(tiny[0])).score(sample("a", frames, frames, "red " * 60))
    assert score.details["tokens"] == 62
    assert score.details["truncated_to"] == 40


def test_levels_come_from_references_each_clip_once(tiny):
    folder, model, config, vocabulary = tiny
    a, b, c = video(4), video(5), video(6)
    generated = video(7)
    samples = [
        sample("a", generated, a, "x", CAPTIONS[0]),
        sample("a", a, a, "y", CAPTIONS[0]),
        sample("b", generated, b, "x", CAPTIONS[1]),
        sample("c", generated, c, "x", CAPTIONS[0]),
        sample("d", generated, c, "x", None),
    ]
    levels = ClipT("clip_t", "sprites", str(folder)).levels(iter(samples))

    def mean(frames, text):
        return by_hand(model, config, vocabulary, frames, text).mean()

    true = [mean(a, CAPTIONS[0]), mean(b, CAPTIONS[1]), mean(c, CAPTIONS[0])]
    chance = [mean(a, CAPTIONS[1]), mean(b, CAPTIONS[0]), mean(c, CAPTIONS[1])]
    assert levels["true"] == pytest.approx(np.mean(true), abs=1e-5)
    assert levels["chance"] == pytest.approx(np.mean(chance), abs=1e-5)
    assert levels["pairs"] == 3


def test_levels_without_captions_or_other_clips(tiny):
    metric = ClipT("clip_t", "sprites", str(tiny[0]))
    frames = video(4)
    assert metric.levels([sample("a", frames, frames, "x")]) == {}
    alone = metric.levels([sample("a", frames, frames, "x", CAPTIONS[0])])
    assert set(alone) == {"true", "pairs"}
    assert alone["pairs"] == 0


def test_clip_f_is_the_mean_cosine_of_neighbours(tiny):
    folder, model, config, _ = tiny
    frames = video(8, frames=5)
    score = ClipF("clip_f", "sprites", str(folder)).score(sample("a", frames, frames, "x"))
    with torch.no_grad():
        features = model.encode_image(tiny_preprocess(frames, config)).numpy()
    expected = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairwise(features)]
    assert score.per_frame == pytest.approx(expected, abs=1e-5)
    assert score.value == pytest.approx(np.mean(expected), abs=1e-5)


def test_clip_f_of_still_reversed_and_single_frames(tiny):
    metric = ClipF("clip_f", "sprites", str(tiny[0]))
    frames = video(9)
    still = np.repeat(frames[:1], 4, 0)
    assert metric.score(sample("a", still, still, "x")).value == pytest.approx(1, abs=1e-6)
    forward = metric.score(sample("a", frames, frames, "x")).value
    assert metric.score(sample("a", frames[::-1], frames, "x")).value == pytest.approx(forward, abs=1e-6)
    assert metric.score(sample("a", frames[:1], frames, "x")).value is None


def test_frames_of_another_size_are_resized_whole(tiny):
    _, _, config, _ = tiny
    frames = np.zeros((1, 128, 256, 3), np.uint8)
    frames[:, :, 128:] = 255
    images = tiny_preprocess(frames, config)
    assert images.shape == (1, 3, 64, 64)
    assert images[0, 0, 32, 2] == pytest.approx(-2)
    assert images[0, 0, 32, 61] == pytest.approx(2)


def test_bf16_on_disk_is_float32_in_memory(tiny, tmp_path):
    _, model, config, vocabulary = tiny
    save_tiny_clip(tmp_path / "half", model, config, vocabulary)
    loaded = load_clip("sprites", str(tmp_path / "half"))
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert loaded.image_features(video(1)) == pytest.approx(
        load_clip("sprites", str(tiny[0])).image_features(video(1)), abs=0.05
    )
    assert loaded.id != load_clip("sprites", str(tiny[0])).id


@pytest.mark.parametrize("metric", [ClipT, ClipF])
def test_another_clip_is_another_version_wherever_it_lies(tiny, tmp_path, metric):
    folder, model, config, vocabulary = tiny

    def version(place) -> str:
        return metric_version(metric("clip", "sprites", str(place)), None)

    for copy in ("a", "b"):
        save_tiny_clip(tmp_path / copy, model, config, vocabulary, torch.float32)
    before = version(tmp_path / "a")
    assert before == version(tmp_path / "b") == version(folder)
    assert str(tmp_path) not in before and " weights sha256:" in before
    old = load_clip("sprites", str(tmp_path / "a")).image_features(video(1))
    torch.manual_seed(1)
    retrained = build_tiny_clip(config)
    save_tiny_clip(tmp_path / "a", retrained, config, vocabulary, torch.float32)
    assert not same_version(before, version(tmp_path / "a"))
    assert np.abs(load_clip("sprites", str(tmp_path / "a")).image_features(video(1)) - old).max() > 0.01
    # Weights that are not at hand do not make a value stale: it could not be had again.
    (tmp_path / "b" / "model.safetensors").unlink()
    assert "weights" not in version(tmp_path / "b")
    assert same_version(before, version(tmp_path / "b")) and not same_version("2 x", version(tmp_path / "b"))


def test_the_hubs_cache_names_the_weights_without_reading_them(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    name = "ViT-B-32-quickgelu/openai"
    assert clip_model.weights_id(name) == ""
    repository = tmp_path / "models--timm--vit_base_patch32_clip_224.openai"
    snapshot = repository / "snapshots" / ("c" * 40)
    for part in (snapshot, repository / "blobs", repository / "refs"):
        part.mkdir(parents=True)
    (repository / "refs" / "main").write_text("c" * 40)
    (repository / "blobs" / ("ab" * 32)).write_bytes(b"weights")
    (snapshot / "open_clip_model.safetensors").symlink_to(repository / "blobs" / ("ab" * 32))
    assert clip_model.weights_id(name) == "sha256:" + "ab" * 8


@pytest.mark.parametrize("metric", [ClipT, ClipF])
def test_openai_weights_need_quickgelu(metric):
    with pytest.raises(ValidationError, match="ViT-B-32-quickgelu/openai"):
        metric("clip", "ViT-B-32/openai")
    with pytest.raises(ValidationError, match="architecture"):
        metric("clip", "ViT-B-32-quickgelu")


def test_wrong_names_and_checkpoints_are_bad_input(tmp_path):
    with pytest.raises(InputError, match="no such architecture and tag"):
        load_clip("ViT-B-32-quickgelu/nobody")
    with pytest.raises(InputError, match="no such file"):
        load_clip("ViT-B-32-quickgelu/openai", str(tmp_path / "none.pt"))


def test_missing_weights_say_so_at_once(monkeypatch, tmp_path, capfd):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    # a port that nobody listens on: no request leaves this machine
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    import open_clip

    started = time.monotonic()
    with pytest.raises(MetricUnavailable, match="hub cache"):
        load_clip("ViT-B-32-quickgelu/openai")
    assert time.monotonic() - started < 5
    assert open_clip
    assert capfd.readouterr().err == ""


def test_missing_tiny_weights_say_which(tmp_path):
    with pytest.raises(MetricUnavailable, match=r"model\.safetensors"):
        load_clip("sprites", str(tmp_path))
    frames = video(1)
    assert ClipT("clip_t", "sprites", str(tmp_path)).levels([sample("a", frames, frames, "x", "y")]) == {}


def test_footage_gets_open_clips_own_transform(monkeypatch, tmp_path):
    """A published name from a local file: shorter side 224, centre crop, OpenAI's normalisation.

    The architecture behind the name is made small: the published one has 151 M parameters.
    """
    import open_clip
    import open_clip.factory
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from PIL import Image

    small = {
        "embed_dim": 32,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 224, "layers": 1, "width": 64, "patch_size": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-32-quickgelu", small)
    torch.manual_seed(0)
    random = open_clip.create_model("ViT-B-32-quickgelu")
    torch.save(random.state_dict(), tmp_path / "weights.pt")
    clip = load_clip("ViT-B-32-quickgelu/openai", str(tmp_path / "weights.pt"))
    frames = video(1, frames=2, height=120, width=208)
    transform = image_transform_v2(PreprocessCfg(), is_train=False)
    images = torch.stack([transform(Image.fromarray(frame)) for frame in frames])
    with torch.no_grad():
        expected = random.eval().encode_image(images, normalize=True).numpy()
        words = random.encode_text(open_clip.tokenize(["a dog"]), normalize=True).numpy()
    np.testing.assert_allclose(clip.image_features(frames), expected, atol=1e-5)
    np.testing.assert_allclose(clip.text_features(["a dog"]), words, atol=1e-5)
    assert clip.tokens("a dog") == 4
    assert clip.context_length == 77
    assert clip.id.startswith("ViT-B-32-quickgelu/openai sha256:")


def test_metrics_import_without_torch():
    import subprocess

    code = (
        "import sys, metrics.text, metrics.motion, metrics.consistency, metrics.position, "
        "metrics.trackers.dis, metrics.trackers.cotracker3, metrics.trackers.tapnext, "
        "metrics.validate.collage; "
        "assert not {'torch', 'cv2', 'open_clip', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
