"""The CogVideoX backbone against diffusers' own pipeline and scheduler, on tiny random networks."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from pydantic import ValidationError

import conf
from datasets.errors import InputError
from harness.cost import calls
from harness.cost import model as cost
from methods.backbones.cogvideox import CogVideoXBackbone
from methods.backbones.interface import Grid, LowRank, MotionEmbedding, TemporalConvolution
from methods.interface import Observer

CONF = Path(conf.__file__).parent
WORDS = ["<pad>", "</s>", "<unk>", "a", "red", "blue", "square", "circle", "on", "sand"]
TOKENS = 12
TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 24,
    "text_embed_dim": 16,
    "num_layers": 3,
    "sample_width": 12,
    "sample_height": 8,
    "sample_frames": 9,
    "max_text_seq_length": TOKENS,
}
VAE = {
    "down_block_types": ["CogVideoXDownBlock3D"] * 3,
    "up_block_types": ["CogVideoXUpBlock3D"] * 3,
    "block_out_channels": [8, 8, 8],
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "scaling_factor": 0.7,
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
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "snr_shift_scale": 3.0,
    "timestep_spacing": "trailing",
    "clip_sample": False,
}
TIMESTEP = torch.tensor(731.0)


def backbone(model: str | Path, **changes: object) -> CogVideoXBackbone:
    keys: dict[str, object] = {
        "name": "tiny",
        "model": str(model),
        "height": 32,
        "width": 48,
        "steps": 4,
        "guidance_scale": 4.0,
        "negative_prompt": "",
        "max_tokens": TOKENS,
    }
    return CogVideoXBackbone(**{**keys, **changes})


def save(path: Path, rotary: bool) -> Path:
    """A genuine diffusers CogVideoXPipeline folder with random weights."""
    from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXPipeline
    from diffusers import CogVideoXTransformer3DModel as Transformer
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

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
        transformer = Transformer(**TRANSFORMER, use_rotary_positional_embeddings=rotary)
        # Fresh, they are all alike: text would be as video, and no norm would do anything.
        for name, parameter in transformer.named_parameters():
            if "norm" in name:
                parameter.data += 0.2 * torch.randn_like(parameter)
        CogVideoXPipeline(
            tokenizer=tokenizer,
            text_encoder=T5EncoderModel(T5Config(**TEXT)),
            vae=AutoencoderKLCogVideoX(**VAE),
            transformer=transformer,
            scheduler=CogVideoXDDIMScheduler(**SCHEDULER),
        ).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("pipelines")
    return {"absolute": save(base / "absolute", False), "rotary": save(base / "rotary", True)}


@pytest.fixture(scope="module", params=["absolute", "rotary"])
def folder(request, folders) -> Path:
    return folders[request.param]


@pytest.fixture(scope="module")
def cog(folder):
    return backbone(folder).load("cpu")


@pytest.fixture(scope="module")
def turning(folders):
    return backbone(folders["rotary"]).load("cpu")


@pytest.fixture(scope="module")
def pipeline(folder):
    from diffusers import CogVideoXPipeline

    loaded = CogVideoXPipeline.from_pretrained(folder)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture
def latent() -> torch.Tensor:
    return torch.randn(1, 4, 3, 8, 12, generator=torch.Generator().manual_seed(1))


def attended(cog, latent, prompt):
    """Queries, keys and values that reach the attention kernel of every block of the full forward."""
    import torch.nn.functional as F

    seen = []
    original = F.scaled_dot_product_attention

    def recording(query, key, value, **options):
        seen.append([part.detach().clone().transpose(1, 2) for part in (query, key, value)])
        return original(query, key, value, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", recording)
        cog.predict(latent, TIMESTEP, prompt, None, 1.0)
    return seen


# --- what is read ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 0.05)])
def test_a_partial_forward_is_what_the_full_forward_computes_for_video_tokens(
    folder, latent, dtype, tolerance
):
    cog = backbone(folder, dtype=dtype).load("cpu")
    prompt = cog.embed(["a red square"])
    seen = attended(cog, latent, prompt)
    assert len(seen) == cog.num_blocks == 3
    for block, parts in enumerate(seen):
        query, key, value = (part[0, TOKENS:] for part in parts)
        queries, keys = cog.queries_keys(latent, TIMESTEP, prompt, block, grad=False)
        assert queries.shape == (3, 4 * 6, cog.heads, cog.head_dim)
        again, values = cog.keys_values(latent, TIMESTEP, prompt, block, grad=False)
        for ours, theirs in [(queries, query), (keys, key), (again, key), (values, value)]:
            torch.testing.assert_close(ours.flatten(0, 1), theirs, rtol=tolerance, atol=tolerance)


def test_hidden_states_are_a_block_s_video_tokens_in_the_full_forward(cog, latent):
    prompt = cog.embed(["a blue circle"])
    for index, block in enumerate(cog.transformer.transformer_blocks):
        outputs = []
        hook = block.register_forward_hook(lambda *call, outputs=outputs: outputs.append(call[2][0]))
        cog.predict(latent, TIMESTEP, prompt, None, 1.0)
        hook.remove()
        ours = cog.hidden_states(latent, TIMESTEP, prompt, index, grad=False)
        assert ours.shape == (3, 4 * 6, 32)
        torch.testing.assert_close(ours.flatten(0, 1), outputs[0][0], rtol=1e-5, atol=1e-5)


def test_a_differentiable_velocity_is_that_of_the_full_forward(cog, latent):
    prompt = cog.embed(["a blue circle"])
    ours = cog.velocity(latent.clone().requires_grad_(), TIMESTEP, prompt, grad=True)
    theirs = cog.predict(latent, TIMESTEP, prompt, None, 1.0)
    torch.testing.assert_close(ours.detach(), theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cog.velocity(latent, TIMESTEP, prompt, grad=False), theirs, rtol=0, atol=0)


def test_a_partial_forward_runs_no_later_block(cog, latent):
    ran = []
    blocks = cog.transformer.transformer_blocks
    hooks = [block.register_forward_hook(lambda *call, i=i: ran.append(i)) for i, block in enumerate(blocks)]
    hooks.append(blocks[1].attn1.to_v.register_forward_hook(lambda *call: ran.append("v")))
    cog.queries_keys(latent, TIMESTEP, cog.embed(["a"]), 1, grad=False)
    for hook in hooks:
        hook.remove()
    assert ran == [0]


@pytest.mark.parametrize("output", ["queries_keys", "hidden_states", "velocity"])
def test_the_gradient_reaches_the_latent_only_and_is_right(cog, latent, output):
    prompt = cog.embed(["a red circle"])
    at = () if output == "velocity" else (2,)

    def loss(x: torch.Tensor) -> torch.Tensor:
        read = getattr(cog, output)(x, TIMESTEP, prompt, *at, grad=True)
        parts = read if isinstance(read, tuple) else (read,)
        return sum((part.double() ** 2).sum() for part in parts)

    x = latent.clone().requires_grad_()
    loss(x).backward()
    assert all(p.grad is None for module in cog.modules() for p in module.parameters())
    direction = torch.randn(latent.shape, generator=torch.Generator().manual_seed(2))
    step = 1e-2
    numerical = (loss(latent + step * direction) - loss(latent - step * direction)).detach() / (2 * step)
    torch.testing.assert_close((x.grad.double() * direction).sum(), numerical, rtol=5e-3, atol=1e-2)


@pytest.mark.parametrize(
    "checkpoint, free, recomputed", [(True, None, True), ("auto", 10**15, False), ("auto", 1, True)]
)
def test_recomputing_blocks_changes_no_gradient(
    folder, cog, latent, monkeypatch, checkpoint, free, recomputed
):
    monkeypatch.setattr("methods.backbones.diffusers_backbone.free_bytes", lambda device: free)
    loaded = backbone(folder, checkpoint=checkpoint).load("cpu")
    prompt = cog.embed(["a red circle"])
    gradients = []
    for one in (cog, loaded):
        x = latent.clone().requires_grad_()
        one.hidden_states(x, TIMESTEP, prompt, 2, grad=True).square().sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients)
    assert loaded.recomputed is recomputed


# --- the change of variables -------------------------------------------------------------------


@pytest.mark.parametrize("steps", [4, 10, 50])
def test_an_euler_step_is_a_ddim_step_in_other_variables(cog, latent, steps):
    from diffusers import CogVideoXDDIMScheduler

    ddim = CogVideoXDDIMScheduler(**SCHEDULER)
    ddim.set_timesteps(steps)
    schedule = cog.schedule(steps)
    assert torch.equal(schedule.timesteps, ddim.timesteps.float())
    assert schedule.sigmas[0] == 1
    assert schedule.sigmas[-1] == 0
    assert (schedule.sigmas.diff() < 0).all()
    generator = torch.Generator().manual_seed(3)
    for index, timestep in enumerate(ddim.timesteps):
        theirs, predicted = (torch.randn(latent.shape, generator=generator) for _ in range(2))
        following = ddim.step(predicted, int(timestep), theirs, return_dict=False)[0]
        alpha = ddim.alphas_cumprod[timestep].double()
        signal, noise = alpha.sqrt().float(), (1 - alpha).sqrt().float()
        ours = theirs / (signal + noise)
        # noise minus clean, from what v-prediction says of either
        velocity = (signal * predicted + noise * theirs) - (signal * theirs - noise * predicted)
        stepped = cog.step(ours, velocity, schedule, index)
        after = schedule.sigmas[index + 1]
        length = ((1 - after) ** 2 + after**2).sqrt()
        torch.testing.assert_close(stepped / length, following, rtol=1e-4, atol=1e-5)


def test_the_velocity_is_noise_minus_clean_of_what_the_network_predicts(cog, latent):
    """The network is asked at the variance-preserving latent, by hand."""
    prompt = cog.embed(["a red square"])
    alpha = cog.config.scheduler().alphas_cumprod[731].double()
    signal, noise = alpha.sqrt().float(), (1 - alpha).sqrt().float()
    theirs = (signal + noise) * latent
    tables = None if "rotary" in cog.config.lacks else cog.rotary(latent)
    with torch.no_grad():
        predicted = cog.transformer(
            theirs.transpose(1, 2), prompt, TIMESTEP.reshape(1), image_rotary_emb=tables
        ).sample.transpose(1, 2)
    wanted = (signal * predicted + noise * theirs) - (signal * theirs - noise * predicted)
    ours = cog.predict(latent, TIMESTEP, prompt, None, 1.0)
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)
    sigma = noise / (signal + noise)
    clean, pure = latent - sigma * ours, latent + (1 - sigma) * ours
    torch.testing.assert_close(cog.add_noise(clean, pure, float(sigma)), latent, rtol=1e-4, atol=1e-5)


def test_timestep_0_is_the_clean_latent_and_fractions_lie_between(cog, latent):
    scaled, (signal, noise) = cog.scaled(latent, torch.tensor(0.0))
    assert torch.equal(scaled, latent)
    assert (float(signal), float(noise)) == (1.0, 0.0)
    scaled, (signal, noise) = cog.scaled(latent, torch.tensor(999.0))
    assert torch.equal(scaled, latent)
    assert (float(signal), float(noise)) == (0.0, 1.0)
    low, middle, high = (cog.scaled(latent, torch.tensor(t))[1][1] for t in (500.0, 500.5, 501.0))
    assert low < middle < high
    past = cog.predict(latent, torch.tensor(1000.0), cog.embed(["a"]), None, 1.0)
    assert torch.equal(past, cog.predict(latent, torch.tensor(999.0), cog.embed(["a"]), None, 1.0))


def test_a_schedule_of_more_steps_than_timesteps_falls_all_the_way(cog):
    schedule = cog.schedule(2001)
    assert (schedule.sigmas.diff() < 0).all()
    assert schedule.timesteps[0] == 999
    assert schedule.timesteps[-1] > 0


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("joint", [True, False])
def test_sampling_without_guidance_is_the_pipeline_s_own(cog, pipeline, latent, monkeypatch, scale, joint):
    monkeypatch.setattr("methods.backbones.diffusers_backbone.JOINT_TOKENS", 10**9 if joint else 0)
    theirs = pipeline(
        prompt="a red square on sand",
        negative_prompt="a blue circle",
        height=32,
        width=48,
        num_frames=9,
        num_inference_steps=4,
        guidance_scale=scale,
        latents=latent.transpose(1, 2),
        output_type="latent",
        max_sequence_length=TOKENS,
    ).frames.transpose(1, 2)
    prompt, negative = cog.embed(["a red square on sand"]), cog.embed(["a blue circle"])
    schedule = cog.schedule(4)
    cog.calls.clear()
    ours = latent
    for index, timestep in enumerate(schedule.timesteps):
        velocity = cog.predict(ours, timestep, prompt, negative, scale)
        ours = cog.step(ours, velocity, schedule, index)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert cog.calls == {"forward": 4 if scale == 1 else 8}


# --- pixels and words --------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [1, 3, 7])
def test_a_decoded_latent_is_the_pipeline_s_video(cog, pipeline, latent, frames):
    latent = latent[:, :, :1].repeat(1, 1, frames, 1, 1) + torch.linspace(0, 1, frames).view(1, 1, -1, 1, 1)
    video = cog.decode(latent)
    assert video.shape == (4 * frames - 3, 32, 48, 3)
    assert video.dtype == np.uint8
    with torch.no_grad():
        theirs = pipeline.decode_latents(latent.transpose(1, 2))
    theirs = pipeline.video_processor.postprocess_video(theirs, output_type="np")[0]
    assert np.abs(video - theirs * 255).max() <= 0.51


def test_encoding_scales_the_mode_of_the_vae(cog, pipeline):
    frames = np.random.default_rng(0).integers(0, 256, (9, 32, 48, 3), dtype=np.uint8)
    with torch.no_grad():
        pixels = pipeline.video_processor.preprocess_video(
            [Image.fromarray(frame) for frame in frames], height=32, width=48
        )
        mode = pipeline.vae.encode(pixels).latent_dist.mode()
    ours = cog.encode(frames)
    assert ours.shape == (1, 4, 3, 8, 12)
    torch.testing.assert_close(ours, 0.7 * mode, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prompt", ["a red square", "", "a " * 40])
def test_embeddings_are_the_pipeline_s(cog, pipeline, prompt):
    theirs, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=TOKENS)
    ours = cog.embed([prompt, "a blue circle"])
    assert ours.shape == (2, TOKENS, 16)
    torch.testing.assert_close(ours[:1], theirs)


# --- other tables, keys and values ---------------------------------------------------------------


@pytest.mark.parametrize("height, width, frames", [(8, 12, 3), (4, 4, 2), (8, 16, 1)])
def test_rotary_tables_are_the_pipeline_s(folders, turning, height, width, frames):
    from diffusers import CogVideoXPipeline

    pipeline = CogVideoXPipeline.from_pretrained(folders["rotary"])
    theirs = pipeline._prepare_rotary_positional_embeddings(height * 4, width * 4, frames, "cpu")
    latent = torch.zeros(1, 4, frames, height, width)
    for ours, table in zip(turning.rotary(latent), theirs, strict=True):
        torch.testing.assert_close(ours, table, rtol=1e-5, atol=1e-5)
    where = torch.cartesian_prod(*(torch.arange(float(size)) for size in turning.grid(latent)))
    for ours, table in zip(turning.rotary(latent, where), theirs, strict=True):
        torch.testing.assert_close(ours, table, rtol=1e-5, atol=1e-5)


def test_absolute_positions_have_no_tables(folders, latent):
    cog = backbone(folders["absolute"]).load("cpu")
    with pytest.raises(InputError, match="CogVideoX offers no 'rotary'; use another backbone"):
        cog.rotary(latent)
    assert backbone(folders["absolute"]).lacks == ("rotary",)
    assert backbone(folders["rotary"]).lacks == ()


def test_our_attention_is_diffusers_own(cog, latent):
    prompt = cog.embed(["a red square"])
    theirs = cog.predict(latent, TIMESTEP, prompt, None, 1.0)
    own = [cog.keys_values(latent, TIMESTEP, prompt, block, grad=False) for block in range(3)]
    before = [block.attn1.processor for block in cog.transformer.transformer_blocks]
    with ExitStack() as everywhere:
        for block, pair in enumerate(own):
            everywhere.enter_context(cog.injected(block, *pair))
        inside = [block.attn1.processor for block in cog.transformer.transformer_blocks]
        assert all(one is not old for one, old in zip(inside, before, strict=True))
        ours = cog.predict(latent, TIMESTEP, prompt, None, 1.0)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert torch.equal(theirs, cog.predict(latent, TIMESTEP, prompt, None, 1.0)), "put back"


@pytest.mark.parametrize("joint", [True, False])
def test_own_keys_and_values_change_nothing_and_others_do(cog, latent, monkeypatch, joint):
    monkeypatch.setattr("methods.backbones.diffusers_backbone.JOINT_TOKENS", 10**9 if joint else 0)
    prompt = cog.embed(["a red square", "a blue circle"])
    plain = cog.predict(latent, TIMESTEP, prompt[:1], None, 1.0)
    own = cog.keys_values(latent, TIMESTEP, prompt[:1], 1, grad=False)
    with cog.injected(1, *own):
        torch.testing.assert_close(
            cog.predict(latent, TIMESTEP, prompt[:1], None, 1.0), plain, rtol=1e-4, atol=1e-5
        )
    other = cog.keys_values(latent.flip(2), TIMESTEP, prompt[:1], 0, grad=False)
    with cog.injected(0, *other):
        seen = attended(cog, latent, prompt[:1])
        both = cog.predict(latent, TIMESTEP, prompt[:1], prompt[1:], 4.0)
        single = [cog.predict(latent, TIMESTEP, words, None, 1.0) for words in prompt.split(1)]
    torch.testing.assert_close(seen[0][1][0, TOKENS:], other[0].flatten(0, 1), rtol=0, atol=0)
    torch.testing.assert_close(seen[0][2][0, TOKENS:], other[1].flatten(0, 1), rtol=0, atol=0)
    untouched = attended(cog, latent, prompt[:1])
    torch.testing.assert_close(seen[0][1][0, :TOKENS], untouched[0][1][0, :TOKENS])
    torch.testing.assert_close(both, single[1] + 4 * (single[0] - single[1]), rtol=1e-4, atol=1e-5)
    assert (single[0] - plain).abs().max() > 1e-3


def test_tables_turn_video_tokens_and_take_gradients(turning, latent):
    prompt = turning.embed(["a red square"])
    own = turning.rotary(latent)
    plain = turning.predict(latent, TIMESTEP, prompt, None, 1.0)
    with turning.rotated(own, own):
        torch.testing.assert_close(
            turning.predict(latent, TIMESTEP, prompt, None, 1.0), plain, rtol=1e-4, atol=1e-5
        )
        queries, _ = turning.queries_keys(latent, TIMESTEP, prompt, 1, grad=False)
    torch.testing.assert_close(queries, turning.queries_keys(latent, TIMESTEP, prompt, 1, grad=False)[0])

    def loss(table: torch.Tensor) -> torch.Tensor:
        with turning.rotated((table, own[1]), own):
            return turning.velocity(latent, TIMESTEP, prompt, grad=True).double().square().sum()

    cos = own[0].clone().requires_grad_()
    loss(cos).backward()
    direction = torch.randn(cos.shape, generator=torch.Generator().manual_seed(4))
    step = 1e-2
    numerical = (loss(own[0] + step * direction) - loss(own[0] - step * direction)).detach() / (2 * step)
    torch.testing.assert_close((cos.grad.double() * direction).sum(), numerical, rtol=1e-2, atol=1e-3)
    assert cos.grad.abs().max() > 0


def test_positions_are_differentiable(turning, latent):
    where = torch.cartesian_prod(*(torch.arange(float(size)) for size in turning.grid(latent)))
    where.requires_grad_()
    cos, sin = turning.rotary(latent, where)
    (cos.sum() + sin.sum()).backward()
    assert (where.grad.abs().sum(0) > 0).all()


@pytest.mark.parametrize(
    "adapter",
    [
        LowRank(("self_attention", "cross_attention", "feed_forward"), 4),
        MotionEmbedding(),
        TemporalConvolution(6),
    ],
    ids=lambda adapter: type(adapter).__name__,
)
def test_adapters_start_without_effect_and_take_gradients(turning, latent, adapter):
    prompt = turning.embed(["a red square"])
    plain = turning.predict(latent, TIMESTEP, prompt, None, 1.0)
    with turning.adapted(adapter, turning.grid(latent)) as found:
        torch.testing.assert_close(turning.predict(latent, TIMESTEP, prompt, None, 1.0), plain)
        turning.velocity(latent, TIMESTEP, prompt, grad=True).square().sum().backward()
        gradients = {name: tensor.grad for name, tensor in found.parameters.items()}
        assert any(grad is not None and grad.abs().max() > 0 for grad in gradients.values())
        with torch.no_grad():
            for tensor in found.parameters.values():
                tensor += 0.1
        assert (turning.predict(latent, TIMESTEP, prompt, None, 1.0) - plain).abs().max() > 1e-4
    assert torch.equal(turning.predict(latent, TIMESTEP, prompt, None, 1.0), plain)


# --- every method runs ---------------------------------------------------------------------------


METHODS = (
    "none",
    "fastvmt",
    "full_attention",
    "no_skipping",
    "no_window_loss",
    "fastvmt_turbo",
    "fastvmt_released",
    "ditflow",
    "ditflow_rope",
    "ropecraft",
    "smm",
    "moft",
    "motionclone",
    "flowmotion",
    "reframe",
)


def composed(method: str):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [f"method={method}", "backbone=cogvideox-5b"])


@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs_on_it(name, turning, latent):
    config = composed(name)
    OmegaConf.set_struct(config, False)
    config.backbone.update({"steps": 4, "guidance_scale": 4.0})
    small = {"block": 1, "window": 3, "tile": [2, 2], "span": 2}
    config.method.update({key: value for key, value in small.items() if key in config.method})
    if "optimiser" in config.method:
        config.method.optimiser.update({"iterations": 2, "guided_fraction": 0.5})
    parts = OmegaConf.create(
        {part: OmegaConf.to_container(config, resolve=False)[part] for part in ("method", "backbone")}
    )
    method = instantiate(parts["method"], _convert_="object")
    method.check(turning.grid(latent), turning.num_blocks)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(5))
    turning.calls.clear()
    result = method.transfer(turning, latent, "a red square", noise, Observer())
    assert result.shape == latent.shape
    assert torch.isfinite(result).all()
    assert turning.calls["forward"] > 0
    assert turning.decode(result).shape == (9, 32, 48, 3)
    assert all(p.grad is None for p in turning.transformer.parameters())
    if name == "fastvmt":
        assert turning.calls["gradient"] == 2
        plain = instantiate(composed("none").method, steps=4, guidance_scale=4.0, _convert_="object")
        other = plain.transfer(turning, latent, "a red square", noise, Observer())
        assert (result - other).abs().max() > 1e-3


# --- before loading ------------------------------------------------------------------------------


def test_latents_stay_float32_on_a_half_precision_transformer(folder, latent):
    loaded = backbone(folder, dtype="bfloat16").load("cpu")
    assert {p.dtype for p in loaded.transformer.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in loaded.vae.parameters()} == {torch.float32}
    prompt = loaded.embed(["a red square", ""])
    velocity = loaded.predict(latent, TIMESTEP, prompt[:1], prompt[1:], 4.0)
    assert velocity.dtype == torch.float32
    assert loaded.step(latent, velocity, loaded.schedule(4), 0).dtype == torch.float32


def test_random_weights_follow_their_seed_and_leave_the_generator_alone(folder, latent):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, same, other = (
        backbone(folder, weights="random", random_seed=seed).load("cpu") for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    prompt = first.embed(["a red square"])
    outputs = [one.predict(latent, TIMESTEP, prompt, None, 1.0) for one in (first, same, other)]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_identity_follows_weights_and_schedule_and_not_the_path(folder, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert backbone(folder).identity() == backbone(copy).identity()
    assert backbone(folder).identity().startswith("sha256:")
    config = copy / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("3.0", "1.0"))
    assert backbone(folder).identity() != backbone(copy).identity()
    random = [backbone(path, weights="random").identity() for path in (folder, copy)]
    assert len(set(random)) == 2
    assert all(one.startswith("random:0-") for one in random)


def test_the_grid_of_a_clip(folder, cog, latent):
    config = backbone(folder)
    assert config.check(9, "cpu") == Grid(3, 4, 6) == cog.grid(latent)
    assert config.latent_shape(9) == latent.shape
    assert config.num_blocks == cog.num_blocks == 3


@pytest.mark.parametrize(
    ("frames", "changes", "words"),
    [
        (13, {}, ("frames=13", "8k+1", "9 or 17")),
        (0, {}, ("frames=0", "1 or 9")),
        (9, {"height": 36}, ("backbone.height=36", "32 or 40")),
        (9, {"width": 4}, ("backbone.width=4", "use 8")),
    ],
)
def test_sizes_it_cannot_take_are_named(folder, frames, changes, words):
    with pytest.raises(InputError) as error:
        backbone(folder, **changes).check(frames, "cpu")
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize(
    "part, name, changes, says",
    [
        ("transformer", "config.json", {"patch_size_t": 2}, "only CogVideoX 1.0 for text to video"),
        ("transformer", "config.json", {"in_channels": 8}, "only CogVideoX 1.0 for text to video"),
        ("scheduler", "scheduler_config.json", {"prediction_type": "epsilon"}, "not v_prediction"),
    ],
)
def test_relatives_that_it_does_not_speak_for_are_refused(folders, tmp_path, part, name, changes, says):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folders["rotary"], copy)
    path = copy / part / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(InputError, match=says):
        backbone(copy).check(9, "cpu")


def test_absolute_positions_fix_the_number_of_text_tokens(folders):
    with pytest.raises(InputError, match=r"backbone\.max_tokens=20.*use backbone\.max_tokens=12"):
        backbone(folders["absolute"], max_tokens=20).check(9, "cpu")
    assert backbone(folders["rotary"], max_tokens=20).check(9, "cpu") == Grid(3, 4, 6)


def test_a_missing_folder_or_file_is_named(folders, tmp_path):
    import shutil

    with pytest.raises(InputError, match=r"backbone\.model=\./nowhere"):
        backbone("./nowhere").check(9, "cpu")
    copy = tmp_path / "copy"
    shutil.copytree(folders["rotary"], copy)
    (copy / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(InputError, match=r"scheduler_config\.json cannot be read"):
        backbone(copy).check(9, "cpu")


def test_an_unknown_key_is_refused(folders):
    with pytest.raises(ValidationError, match="shift"):
        backbone(folders["rotary"], shift=3.0)


@pytest.fixture
def no_hub(tmp_path, monkeypatch):
    """An empty hub cache and no way to the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def published(size: str, **changes: object) -> CogVideoXBackbone:
    node = OmegaConf.to_container(OmegaConf.load(CONF / "backbone" / f"cogvideox-{size}.yaml"))
    assert isinstance(node, dict)
    assert node.pop("_target_") == "methods.backbones.cogvideox.CogVideoXBackbone"
    return CogVideoXBackbone(**{**node, **changes})


def test_weights_that_cannot_be_had_are_an_input_error(no_hub):
    for use in (lambda: published("5b").check(49, "cpu"), published("5b").identity):
        with pytest.raises(InputError, match=r"connect once, or set backbone\.model=FOLDER") as error:
            use()
        assert "\n" not in str(error.value)
    assert published("5b", weights="random").check(49, "cpu") == Grid(13, 30, 45)


@pytest.mark.parametrize(
    ("size", "blocks", "heads", "parameters", "rotary", "scale"),
    [("2b", 30, 30, 1.69e9, False, 1.15258426), ("5b", 42, 48, 5.57e9, True, 0.7)],
)
def test_published_sizes(no_hub, size, blocks, heads, parameters, rotary, scale):
    config = published(size)
    assert config.num_blocks == blocks
    assert config.grid(49) == Grid(13, 30, 45)
    loaded = config.meta()
    assert (loaded.heads, loaded.head_dim, loaded.device.type) == (heads, 64, "meta")
    assert loaded.transformer.config.use_rotary_positional_embeddings is rotary
    count = sum(p.numel() for p in loaded.transformer.parameters())
    assert count == pytest.approx(parameters, rel=0.02)
    encoder = sum(p.numel() for p in loaded.text_encoder.parameters())
    assert encoder == pytest.approx(4.76e9, rel=0.01)
    assert 1 / float(torch.tensor(config.sizes().vae["scaling_factor"])) == pytest.approx(1 / scale)


@pytest.mark.parametrize("size", ["2b", "5b"])
def test_the_cost_of_a_forward_pass_is_that_of_its_matrices(no_hub, size):
    config = published(size)
    width, blocks, (frames, rows, columns) = {"2b": (1920, 30), "5b": (3072, 42)}[size] + (config.grid(49),)
    tokens = frames * rows * columns + 226
    # Per block: q, k, v, out and the two of the feed-forward; queries by keys and weights by values.
    block = 2 * tokens * width * (4 + 8) * width + 4 * tokens**2 * width
    forward = cost.unit_cost(config, 49, calls.Call("", "forward")).model
    assert forward == pytest.approx(blocks * block, rel=0.01)
    partial = cost.unit_cost(config, 49, calls.Call("", "partial", 20, "queries_keys")).model
    projections = 4 * tokens * width**2
    assert partial == pytest.approx(20 * block + projections, rel=0.01)


def test_fastvmt_has_a_cost_on_it(no_hub):
    config = composed("fastvmt")
    node = OmegaConf.create(OmegaConf.to_container(config, resolve=True)["method"])
    method = instantiate(node, _convert_="object")
    rows = cost.cost_report(method, published("2b"), 17)
    total = rows[-1]
    assert total["stage"] == "total"
    assert 100 < total["forward_equivalents"] < 200
    gradients = [row for row in rows if row["operation"].startswith("gradient")]
    assert [row["calls"] for row in gradients] == [10 * math.ceil(10 / 3)]
