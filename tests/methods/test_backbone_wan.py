"""The Wan backbone against diffusers' own pipeline, on tiny random networks."""

from __future__ import annotations

import json
import re
import shutil
from functools import partialmethod
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from huggingface_hub.errors import LocalEntryNotFoundError
from omegaconf import OmegaConf
from PIL import Image
from pydantic import ValidationError

import conf
from datasets.errors import InputError
from methods.backbones.interface import Grid
from methods.backbones.wan import WanBackbone

WORDS = ["<pad>", "</s>", "<unk>", "a", "red", "blue", "square", "circle", "on", "sand", "&"]
TRANSFORMER = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 8,
    "out_channels": 8,
    "text_dim": 16,
    "freq_dim": 32,
    "ffn_dim": 48,
    "num_layers": 3,
}
VAE = {
    "base_dim": 8,
    "z_dim": 8,
    "dim_mult": [1, 2, 4],
    "num_res_blocks": 1,
    "temperal_downsample": [True, True],
    "scale_factor_spatial": 4,
    "scale_factor_temporal": 4,
    "latents_mean": [0.1 * i for i in range(8)],
    "latents_std": [1.0 + 0.1 * i for i in range(8)],
}
TEXT = {
    "vocab_size": len(WORDS),
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    "feed_forward_proj": "gated-gelu",
}


def backbone(model: str | Path, **changes: object) -> WanBackbone:
    keys: dict[str, object] = {
        "name": "tiny",
        "model": str(model),
        "height": 32,
        "width": 48,
        "steps": 4,
        "shift": 3.0,
        "guidance_scale": 4.0,
        "negative_prompt": "",
        "max_tokens": 12,
    }
    return WanBackbone(**{**keys, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A genuine diffusers WanPipeline folder with random weights."""
    from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline
    from diffusers import WanTransformer3DModel as Transformer
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair=None, special_tokens=[("</s>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = WanPipeline(
            tokenizer=tokenizer,
            text_encoder=UMT5EncoderModel(UMT5Config(**TEXT)),
            vae=AutoencoderKLWan(**VAE),
            transformer=Transformer(**TRANSFORMER),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        )
    path = tmp_path_factory.mktemp("pipeline") / "tiny"
    pipeline.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def wan(folder: Path):
    return backbone(folder).load("cpu")


@pytest.fixture(scope="module")
def pipeline(folder: Path):
    from diffusers import WanPipeline

    loaded = WanPipeline.from_pretrained(folder)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture
def latent() -> torch.Tensor:
    return torch.randn(1, 8, 3, 8, 12, generator=torch.Generator().manual_seed(1))


TIMESTEP = torch.tensor(731.25)


def attention_inputs(wan, latent: torch.Tensor, prompt: torch.Tensor):
    """Queries and keys that reach the attention kernel of every block of diffusers' own forward."""
    from diffusers.models.transformers import transformer_wan

    seen = []
    original = transformer_wan.dispatch_attention_fn

    def recording(query, key, value, **options):
        if query.shape[1] == key.shape[1]:
            seen.append((query.detach().clone(), key.detach().clone()))
        return original(query, key, value, **options)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(transformer_wan, "dispatch_attention_fn", recording)
        wan.transformer(latent.to(wan.dtype), TIMESTEP.reshape(1), prompt.to(wan.dtype), return_dict=False)
    return seen


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_partial_forward_is_what_the_full_forward_computes(folder, latent, dtype):
    wan = backbone(folder, dtype=dtype).load("cpu")
    prompt = wan.embed(["a red square"])
    seen = attention_inputs(wan, latent, prompt)
    assert len(seen) == wan.num_blocks
    for block, (query, key) in enumerate(seen):
        ours = wan.queries_keys(latent, TIMESTEP, prompt, block, grad=False)
        assert ours[0].shape == (3, 4 * 6, wan.heads, wan.head_dim)
        torch.testing.assert_close(ours[0].flatten(0, 1), query[0], rtol=0, atol=0)
        torch.testing.assert_close(ours[1].flatten(0, 1), key[0], rtol=0, atol=0)


def test_hidden_states_are_a_block_s_output_in_the_full_forward(wan, latent):
    prompt = wan.embed(["a blue circle"])
    for index, block in enumerate(wan.transformer.blocks):
        outputs = []
        hook = block.register_forward_hook(lambda *call, outputs=outputs: outputs.append(call[2]))
        wan.predict(latent, TIMESTEP, prompt, None, 1.0)
        hook.remove()
        ours = wan.hidden_states(latent, TIMESTEP, prompt, index, grad=False)
        torch.testing.assert_close(ours.flatten(0, 1), outputs[0][0], rtol=0, atol=0)


def test_a_differentiable_velocity_is_that_of_the_full_forward(wan, latent):
    prompt = wan.embed(["a blue circle"])
    ours = wan.velocity(latent.clone().requires_grad_(), TIMESTEP, prompt, grad=True)
    theirs = wan.predict(latent, TIMESTEP, prompt, None, 1.0)
    torch.testing.assert_close(ours.detach(), theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(wan.velocity(latent, TIMESTEP, prompt, grad=False), theirs, rtol=0, atol=0)


def test_a_partial_forward_runs_no_later_block(wan, latent):
    prompt = wan.embed(["a"])
    ran = []
    hooks = [
        block.register_forward_hook(lambda *call, index=index: ran.append(index))
        for index, block in enumerate(wan.transformer.blocks)
    ]
    hooks.append(wan.transformer.blocks[1].attn1.to_v.register_forward_hook(lambda *call: ran.append("v")))
    wan.queries_keys(latent, TIMESTEP, prompt, 1, grad=False)
    for hook in hooks:
        hook.remove()
    assert ran == [0]


def test_the_gradient_reaches_the_latent_only_and_is_right(wan, latent):
    prompt = wan.embed(["a red circle"])

    def loss(x: torch.Tensor) -> torch.Tensor:
        query, key = wan.queries_keys(x, TIMESTEP, prompt, 2, grad=True)
        return (query * key).sum() + (query**2).sum()

    x = latent.clone().requires_grad_()
    loss(x).backward()
    assert all(p.grad is None for module in wan.modules() for p in module.parameters())
    direction = torch.randn(latent.shape, generator=torch.Generator().manual_seed(2))
    step = 1e-2
    numerical = (loss(latent + step * direction) - loss(latent - step * direction)) / (2 * step)
    torch.testing.assert_close((x.grad * direction).sum(), numerical, rtol=2e-3, atol=1e-2)


def test_checkpointing_changes_no_gradient(folder, wan, latent):
    prompt = wan.embed(["a red circle"])
    gradients = []
    for loaded in (wan, backbone(folder, checkpoint=True).load("cpu")):
        x = latent.clone().requires_grad_()
        loaded.hidden_states(x, TIMESTEP, prompt, 2, grad=True).square().sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("compile_", "device", "offload", "compiler", "expected"),
    [
        ("auto", "cuda", False, "gcc", True),
        ("auto", "cuda:1", False, "clang", True),
        ("auto", "cuda", False, None, False),
        ("auto", "cpu", False, "gcc", False),
        ("auto", "cuda", True, "gcc", False),
        (True, "cpu", False, None, True),
        (False, "cuda", False, "gcc", False),
    ],
)
def test_blocks_are_compiled_on_a_gpu_or_where_that_is_asked_for(
    compile_, device, offload, compiler, expected, monkeypatch
):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: name if name == compiler else None)
    config = backbone("tiny", compile=compile_, cpu_offload=offload)
    assert config.compiles(torch.device(device)) is expected


def test_compiled_blocks_give_the_same_features_gradients_and_velocities(folder, wan, latent, monkeypatch):
    # Traced and differentiated as on a GPU, without the half minute of making kernels.
    traced = partialmethod(WanTransformer3DModel.compile_repeated_blocks, backend="aot_eager")
    monkeypatch.setattr(WanTransformer3DModel, "compile_repeated_blocks", traced)
    compiled = backbone(folder, compile=True).load("cpu")
    assert compiled.compiled and not wan.compiled
    found = []
    for one in (compiled, wan):
        prompt, timestep = one.embed(["a red square"]), torch.tensor([500.0])
        at = latent.clone().requires_grad_()
        query, key = one.queries_keys(at, timestep, prompt, 2, grad=True)
        (gradient,) = torch.autograd.grad((query * key).sum(), at)
        plain = one.velocity(latent, timestep, prompt, grad=False)
        keys, values = one.keys_values(latent.flip(2), timestep, prompt, 1, grad=False)
        with one.injected(1, keys, values):
            injected = one.velocity(latent, timestep, prompt, grad=False)
        assert not torch.allclose(injected, plain, rtol=1e-3)
        found.append((query.detach(), key.detach(), gradient, plain, injected))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("free, recomputed", [(10**15, False), (1, True), (None, False)])
def test_blocks_are_recomputed_when_memory_demands_it(folder, wan, latent, monkeypatch, free, recomputed):
    monkeypatch.setattr("methods.backbones.diffusers_backbone.free_bytes", lambda device: free)
    loaded = backbone(folder, checkpoint="auto").load("cpu")
    prompt = wan.embed(["a red circle"])
    gradients = []
    for one in (wan, loaded):
        x = latent.clone().requires_grad_()
        one.hidden_states(x, TIMESTEP, prompt, 2, grad=True).square().sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients)
    assert loaded.recomputed is recomputed
    assert not wan.recomputed


def test_free_memory_is_a_number_of_this_machine():
    from methods.backbones.memory import free_bytes

    free = free_bytes(torch.device("cpu"))
    assert free is None or 10**6 < free < 10**14


def test_no_gradient_without_being_asked(wan, latent):
    x = latent.clone().requires_grad_()
    query, _ = wan.queries_keys(x, TIMESTEP, wan.embed(["a"]), 1, grad=False)
    assert not query.requires_grad


@pytest.mark.parametrize("prompt", ["a red square", "a  red&amp;blue square ", "", "a " * 40])
def test_embeddings_are_the_pipeline_s(wan, pipeline, prompt):
    theirs, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=12)
    ours = wan.embed([prompt, "a blue circle"])
    assert ours.shape == (2, 12, 16)
    torch.testing.assert_close(ours[:1], theirs)


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("joint", [True, False])
def test_sampling_without_guidance_is_the_pipeline_s_own(wan, pipeline, latent, monkeypatch, scale, joint):
    monkeypatch.setattr("methods.backbones.diffusers_backbone.JOINT_TOKENS", 10**9 if joint else 0)
    theirs = pipeline(
        prompt="a red square on sand",
        negative_prompt="a blue circle",
        height=32,
        width=48,
        num_frames=9,
        num_inference_steps=4,
        guidance_scale=scale,
        latents=latent,
        output_type="latent",
        max_sequence_length=12,
    ).frames
    prompt, negative = wan.embed(["a red square on sand"]), wan.embed(["a blue circle"])
    schedule = wan.schedule(4)
    wan.calls.clear()
    ours = latent
    for index, timestep in enumerate(schedule.timesteps):
        velocity = wan.predict(ours, timestep, prompt, negative, scale)
        ours = wan.step(ours, velocity, schedule, index)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert wan.calls == {"forward": 4 if scale == 1 else 8}


def test_a_decoded_latent_is_the_pipeline_s_video(wan, pipeline, latent):
    theirs = pipeline(
        prompt="a",
        height=32,
        width=48,
        num_frames=9,
        num_inference_steps=1,
        guidance_scale=1.0,
        latents=latent,
        max_sequence_length=12,
    ).frames[0]
    schedule = wan.schedule(1)
    final = wan.step(
        latent, wan.predict(latent, schedule.timesteps[0], wan.embed(["a"]), None, 1.0), schedule, 0
    )
    video = wan.decode(final)
    assert video.shape == (9, 32, 48, 3)
    assert video.dtype == np.uint8
    assert np.abs(video - theirs * 255).max() <= 0.51


def test_encoding_normalises_the_mode_of_the_vae(wan, pipeline):
    frames = np.random.default_rng(0).integers(0, 256, (9, 32, 48, 3), dtype=np.uint8)
    with torch.no_grad():
        pixels = pipeline.video_processor.preprocess_video(
            [Image.fromarray(f) for f in frames], height=32, width=48
        )
        mode = pipeline.vae.encode(pixels).latent_dist.mode()
    ours = wan.encode(frames)
    assert ours.shape == (1, 8, 3, 8, 12)
    mean = torch.tensor(VAE["latents_mean"]).view(1, 8, 1, 1, 1)
    std = torch.tensor(VAE["latents_std"]).view(1, 8, 1, 1, 1)
    torch.testing.assert_close(ours, (mode - mean) / std, rtol=1e-4, atol=1e-5)


def test_schedule_and_step_are_the_scheduler_s(wan, latent):
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(7)
    schedule = wan.schedule(7)
    assert schedule.sigmas.dtype == schedule.timesteps.dtype == torch.float32
    assert torch.equal(schedule.sigmas, scheduler.sigmas)
    assert schedule.sigmas[-1] == 0
    assert torch.equal(schedule.timesteps, scheduler.timesteps)
    velocity = torch.ones_like(latent)
    ours = theirs = latent
    for index, timestep in enumerate(scheduler.timesteps):
        ours = wan.step(ours, velocity, schedule, index)
        theirs = scheduler.step(velocity, timestep, theirs, return_dict=False)[0]
        assert torch.equal(ours, theirs)


def test_adding_noise_interpolates_and_the_sigmas_span_it(wan, latent):
    noise = torch.randn_like(latent)
    assert torch.equal(wan.add_noise(latent, noise, 0.0), latent)
    assert torch.equal(wan.add_noise(latent, noise, 1.0), noise)


def float32_names(transformer) -> set[str]:
    return {name for name, p in transformer.named_parameters() if p.dtype == torch.float32}


@pytest.mark.parametrize("weights", ["pretrained", "random"])
def test_only_the_modules_diffusers_lists_stay_float32(folder, weights):
    loaded = backbone(folder, dtype="bfloat16", weights=weights).load("cpu")
    names = {name for name, _ in loaded.transformer.named_parameters()}
    expected = {
        name for name in names if "time_embedder" in name or "scale_shift_table" in name or ".norm2." in name
    }
    assert {"blocks.0.scale_shift_table", "condition_embedder.time_embedder.linear_1.weight"} <= expected
    assert float32_names(loaded.transformer) == expected
    assert loaded.transformer.rope.freqs_cos.dtype == torch.float32
    assert {p.dtype for p in loaded.vae.parameters()} == {torch.float32}
    modules = loaded.modules()
    assert not any(m.training or p.requires_grad for m in modules for p in m.parameters())


def test_shipped_half_precision_weights_are_computed_with_in_the_precision_asked_for(folder, tmp_path):
    from diffusers import WanPipeline

    WanPipeline.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    loaded = backbone(tmp_path / "half").load("cpu")
    assert {p.dtype for module in loaded.modules() for p in module.parameters()} == {torch.float32}


def test_latents_stay_float32_on_a_half_precision_transformer(folder, latent):
    loaded = backbone(folder, dtype="bfloat16").load("cpu")
    prompt = loaded.embed(["a red square", ""])
    assert prompt.dtype == torch.bfloat16
    velocity = loaded.predict(latent, TIMESTEP, prompt[:1], prompt[1:], 4.0)
    assert velocity.dtype == torch.float32
    assert loaded.step(latent, velocity, loaded.schedule(4), 0).dtype == torch.float32


def test_calls_are_counted_by_kind(wan, latent):
    prompt = wan.embed(["a", "red"])
    wan.calls.clear()
    wan.predict(latent, TIMESTEP, prompt[0], prompt[1], 4.0)
    wan.predict(latent, TIMESTEP, prompt[0], prompt[1], 1.0)
    wan.predict(latent, TIMESTEP, prompt[0], None, 4.0)
    wan.queries_keys(latent, TIMESTEP, prompt[0], 1, grad=False)
    wan.queries_keys(latent, TIMESTEP, prompt[0], 1, grad=True)
    wan.hidden_states(latent, TIMESTEP, prompt[0], 1, grad=True)
    assert wan.calls == {"forward": 4, "partial": 1, "gradient": 2}


@pytest.mark.parametrize(
    "changes", [{"attention": "_native_math"}, {"cpu_offload": True}, {"vae_tiling": True}]
)
def test_ways_to_compute_agree(folder, wan, latent, changes):
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    before = _AttentionBackendRegistry.get_active_backend()[0]
    other = backbone(folder, **changes).load("cpu")
    assert _AttentionBackendRegistry.get_active_backend()[0] == before
    prompt = wan.embed(["a red square"])
    torch.testing.assert_close(
        other.predict(latent, TIMESTEP, other.embed(["a red square"]), None, 1.0),
        wan.predict(latent, TIMESTEP, prompt, None, 1.0),
        rtol=1e-4,
        atol=1e-5,
    )
    assert np.abs(other.decode(latent).astype(int) - wan.decode(latent)).max() <= 1


def test_random_weights_follow_their_seed_and_leave_the_generator_alone(folder, latent):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, same, other = (
        backbone(folder, weights="random", random_seed=seed).load("cpu") for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_default_dtype() == torch.float32
    texts = first.embed(["a red square", "a blue square"])
    assert texts.shape == (2, 12, 16)
    assert torch.equal(texts, same.embed(["a red square", "a blue square"]))
    assert not torch.equal(texts[0], texts[1])
    outputs = [w.predict(latent, TIMESTEP, texts[:1], None, 1.0) for w in (first, same, other)]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_identity_follows_the_weights_and_not_the_path(folder, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "README.md").write_text("a report")
    assert backbone(folder).identity() == backbone(copy).identity()
    assert backbone(folder).identity().startswith("sha256:")
    config = copy / "vae" / "config.json"
    config.write_text(config.read_text().replace("0.1", "0.2"))
    assert backbone(folder).identity() != backbone(copy).identity()
    seeds = {backbone(folder, weights="random", random_seed=seed).identity() for seed in (0, 1)}
    assert len(seeds) == 2
    assert all(seed.startswith("random:") for seed in seeds)


def test_the_grid_of_a_clip(folder, wan, latent):
    config = backbone(folder)
    assert config.check(9, "cpu") == Grid(3, 4, 6) == wan.grid(latent)
    assert config.latent_shape(9) == latent.shape
    assert config.num_blocks == wan.num_blocks == 3


@pytest.mark.parametrize(
    ("frames", "changes", "words"),
    [
        (18, {}, ("frames=18", "17 or 21")),
        (0, {}, ("frames=0", "1 or 5")),
        (9, {"height": 36}, ("backbone.height=36", "32 or 40")),
        (9, {"width": 4}, ("backbone.width=4", "use 8")),
        (9, {"attention": "flahs"}, ("backbone.attention=flahs", "flash")),
    ],
)
def test_sizes_and_options_it_cannot_take_are_named(folder, frames, changes, words):
    with pytest.raises(InputError) as error:
        backbone(folder, **changes).check(frames, "cpu")
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_asked_for_and_absent(folder):
    with pytest.raises(InputError, match="device=cuda"):
        backbone(folder).check(9, "cuda")


def test_a_missing_folder_or_shard_is_named(folder, tmp_path):
    import shutil

    with pytest.raises(InputError, match=r"backbone\.model=\./nowhere"):
        backbone("./nowhere").check(9, "cpu")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    weights = next((copy / "transformer").glob("*.safetensors"))
    weights.unlink()
    with pytest.raises(InputError, match=r"transformer/\*\.safetensors is missing"):
        backbone(copy).check(9, "cpu")
    index = {"weight_map": {"x": "part-1.safetensors"}}
    (copy / "transformer" / "w.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"transformer/part-1\.safetensors is missing"):
        backbone(copy).check(9, "cpu")
    assert backbone(copy, weights="random").check(9, "cpu") == Grid(3, 4, 6)


@pytest.mark.parametrize("part", ["text_encoder", "transformer", "vae"])
def test_a_tensor_missing_in_the_weights_is_named(folder, tmp_path, part):
    import shutil

    from safetensors.torch import load_file, save_file

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (weights,) = (copy / part).glob("*.safetensors")
    tensors = load_file(weights)
    gone = sorted(tensors)[0]
    del tensors[gone]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(InputError, match=rf"{part} lacks {re.escape(gone)}; give a complete"):
        backbone(copy).load("cpu")


@pytest.fixture
def no_hub(tmp_path, monkeypatch):
    """An empty hub cache and no way to the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def published(name: str, **changes: object) -> WanBackbone:
    path = Path(conf.__file__).parent / "backbone" / f"{name}.yaml"
    node = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(node, dict)
    assert node.pop("_target_") == "methods.backbones.wan.WanBackbone"
    return WanBackbone(**{**node, **changes})


def test_a_hub_model_neither_cached_nor_reachable_is_an_input_error(no_hub):
    config = published("wan2.1-1.3b")
    for use in (lambda: config.check(81, "cpu"), config.identity):
        with pytest.raises(InputError) as error:
            use()
        assert "\n" not in str(error.value)
        for remedy in ("connect once", "backbone.model=FOLDER", "backbone.weights=random"):
            assert remedy in str(error.value)
    assert published("wan2.1-1.3b", weights="random").check(81, "cpu") == Grid(21, 30, 52)


def test_a_cached_hub_model_is_found_and_named_by_its_commit(folder, tmp_path, no_hub):
    repo = tmp_path / "models--owner--tiny"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0123abcd" * 5)
    (repo / "snapshots").mkdir()
    (repo / "snapshots" / ("0123abcd" * 5)).symlink_to(folder)
    config = backbone("owner/tiny")
    assert config.check(9, "cpu") == Grid(3, 4, 6)
    assert config.identity() == "hub:owner/tiny@" + "0123abcd" * 5


def test_what_is_downloaded_is_the_commit_that_was_planned(folder, no_hub, monkeypatch):
    """The branch moves between planning and loading; the identity in the cell ids must stay true."""
    planned, asked = "0123abcd" * 5, []

    class Hub:
        def model_info(self, model, revision, timeout):
            return SimpleNamespace(sha="feed" * 10 if asked else planned)

    def fetch(model, revision, allow_patterns=None, local_files_only=False):
        if local_files_only:
            raise LocalEntryNotFoundError("not cached")
        asked.append((revision, len(allow_patterns)))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    config = backbone("owner/moving")
    assert config.identity() == f"hub:owner/moving@{planned}"
    config.load("cpu")
    assert asked[0] == (planned, 5)
    assert [files for revision, files in asked if revision != planned] == [1], "the branch: its name only"
    assert config.identity() == f"hub:owner/moving@{planned}"


def test_a_download_that_breaks_off_is_bad_input(no_hub, monkeypatch):
    def fetch(model, revision, allow_patterns=None, local_files_only=False):
        raise LocalEntryNotFoundError("not cached") if local_files_only else OSError("disk\nfull")

    monkeypatch.setattr("methods.backbones.weights.Weights.commit", lambda self: "0123abcd" * 5)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    with pytest.raises(InputError, match=r"download failed \(OSError: disk full\); run again"):
        backbone("owner/broken").load("cpu")


@pytest.mark.parametrize(
    ("name", "blocks", "heads", "parameters"),
    [("wan2.1-1.3b", 30, 12, 1.42e9), ("wan2.1-14b", 40, 40, 14.29e9)],
)
def test_published_sizes(no_hub, name, blocks, heads, parameters):
    config = published(name)
    assert config.num_blocks == blocks
    assert config.grid(81) == Grid(21, 30, 52)
    wan = config.meta()
    assert (wan.heads, wan.head_dim, wan.device.type) == (heads, 128, "meta")
    count = sum(p.numel() for p in wan.transformer.parameters())
    assert count == pytest.approx(parameters, rel=0.01)
    encoder = sum(p.numel() for p in wan.text_encoder.parameters())
    assert encoder == pytest.approx(5.68e9, rel=0.01)
    assert config.meta().vae.config.latents_std[0] == 2.8184


def test_an_unknown_key_or_type_is_refused(folder):
    with pytest.raises(ValidationError, match="hieght"):
        backbone(folder, hieght=64)
    with pytest.raises(ValidationError, match="dtype"):
        backbone(folder, dtype="float8")
