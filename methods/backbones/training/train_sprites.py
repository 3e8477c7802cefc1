"""Train ``backbone=sprites``: a tiny genuine WanPipeline, from nothing, on two cores.

    python -m methods.backbones.training.train_sprites all --work training

Stages, each resumable (run the same command again after an interruption):

``vae``      AutoencoderKLWan on crops, then on whole clips (L1; fixed noise on the latent)
``latents``  encodes the training clips and images once, in shards; measures latents_mean and latents_std
``dit``      WanTransformer3DModel and UMT5 encoder together: rectified flow, shifted logit-normal
             sigmas, dropped captions, an exponential moving average of the weights; images first, since
             in the noise of a clip its shapes are seen before they need be read from the caption; then
             a second course in which half of each batch has two objects, which are rare and harder
``export``   writes the bf16 WanPipeline folder with the losses (``training.json``), and beside the
             checkpoints ``samples.png``, the samples over time, and ``losses.png``

Clips are drawn from seeds below ``datasets.sprites.world.HELD_OUT``; evaluation never sees them.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from datasets.sprites import world as sprites
from methods.backbones.training import train_sprites_report as report

LATENT_CHANNELS = 8
MAX_TOKENS = 16
LATENT_NOISE = 0.05
"""Standard deviation of what is added to the VAE's latents in training."""
SHARD = 250
"""Clips or images in one file of encoded latents."""
SHAPES_FROM = 700
"""Step of the DiT from which less noise than the sampler's is drawn (``training_shift``)."""
FOCUS_FROM = 800
"""Step of the DiT from which errors on objects weigh more (``importance``)."""
BIND_FROM = 4300
"""Step of the DiT from which the text encoder's attention starts anew (``look_at_neighbours``)."""
TEXT_RATE = 0.1
"""The text encoder's share of the learning rate from then on: its scores are not scaled, and saturate."""
SHIFT = 3.0
"""Of the sampler, as Wan's at 480p."""
FRAMES, SIDE = 17, 64
SAMPLE_EVERY = 400
"""Steps of the DiT between two rows of ``samples.png``."""
CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "sprites"


def build_vae(mean: list[float] | None = None, std: list[float] | None = None) -> nn.Module:
    """Four-fold compression in space and time, with Wan 2.2's residual shortcuts (they learn faster).

    The scale factors must be explicit: without them the pipeline returns videos of another size.
    """
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(
        base_dim=16,
        decoder_base_dim=16,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        is_residual=True,
        latents_mean=mean or [0.0] * LATENT_CHANNELS,
        latents_std=std or [1.0] * LATENT_CHANNELS,
        scale_factor_spatial=4,
        scale_factor_temporal=4,
    )


@torch.no_grad()
def see_single_frames(vae: nn.Module) -> None:
    """Start temporal convolutions as if time did not exist, so that training may begin on images."""
    for name, module in vae.named_modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size[0] == 3:
            module.weight[:, :, :2] = 0
            if name.endswith("time_conv"):
                module.weight.zero_()
                module.bias.zero_()
                copies = module.out_channels // module.in_channels
                module.weight[:, :, 2, 0, 0] = torch.eye(module.in_channels).repeat(copies, 1)


def build_transformer() -> nn.Module:
    """Eight blocks of width 128."""
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=128,
        freq_dim=128,
        ffn_dim=512,
        num_layers=8,
        rope_max_seq_len=64,
    )


def build_tokenizer() -> Any:
    """Word-level tokenizer over ``sprites.vocabulary()`` that ends every text with </s>, as T5's does."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "</s>", "<unk>", *sprites.vocabulary()]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=MAX_TOKENS,
    )


def build_text_encoder(vocabulary: int) -> nn.Module:
    """Two layers of width 128."""
    from transformers import UMT5Config, UMT5EncoderModel

    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=vocabulary,
            d_model=128,
            d_kv=32,
            d_ff=256,
            num_layers=2,
            num_heads=4,
            relative_attention_num_buckets=16,
            relative_attention_max_distance=16,
            dropout_rate=0.0,
            pad_token_id=0,
            eos_token_id=1,
            decoder_start_token_id=0,
        )
    )


@torch.no_grad()
def look_at_neighbours(text_encoder: nn.Module) -> None:
    """Self-attention anew: a head for the word before, one for the word after, none by the words themselves.

    UMT5 does not scale its scores: at the transformer's learning rate they grow until every head sees one
    word like "a" or "on" whatever the rest, and the encoding of "a red square and a blue star" is that of
    "a blue square and a red star".
    """
    for block in text_encoder.encoder.block:  # type: ignore[union-attr]
        attention = block.layer[0].SelfAttention
        attention.q.weight.zero_()
        bias = attention.relative_attention_bias.weight  # (buckets, heads)
        bias.zero_()
        # Buckets of distances: 0, 1, ... backwards in the first half, forwards in the second.
        bias[1, 0] = bias[len(bias) // 2 + 1, 1] = 5.0


def to_model_range(frames: np.ndarray) -> Tensor:
    """(..., T, H, W, 3) uint8 to (..., 3, T, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.moveaxis(frames, -1, -4).astype(np.float32)) / 127.5 - 1


class Pool(NamedTuple):
    """Training data: clips, or single frames of other clips; ``two``: only clips of two objects."""

    name: str
    count: int
    first_seed: int
    images: bool = False
    two: bool = False

    def truths(self) -> tuple[sprites.Truth, ...]:
        """What its clips show, from ``first_seed`` on."""
        return _truths(self.count, self.first_seed, self.two)


@cache
def _truths(count: int, first_seed: int, two: bool) -> tuple[sprites.Truth, ...]:
    drawn = map(sprites.draw, range(first_seed, sprites.HELD_OUT))
    return tuple(islice((truth for truth in drawn if truth.motion == "two" or not two), count))


class Settings(NamedTuple):
    """What the command line says, and ``training.json`` repeats."""

    vae_steps: int = 2200
    dit_steps: int = 3100
    """Of its first course."""
    image_steps: int = 2000
    """Of ``dit_steps``, those on images alone."""
    pair_steps: int = 3700
    """Of the DiT's second course."""
    pair_image_steps: int = 2000
    """Of ``pair_steps``, those on images alone."""
    clips: int = 2000
    images: int = 8000
    pair_clips: int = 1000
    """With two objects, for the second course."""
    pair_images: int = 6000
    batch: int = 16
    """Clips; of images as many as have the same number of tokens."""
    seed: int = 0

    def command(self) -> str:
        """That trains with these settings."""
        given = (f"--{k.replace('_', '-')} {v}" for k, v in self._asdict().items())
        return " ".join(["python -m methods.backbones.training.train_sprites all", *given])

    def pools(self) -> dict[str, Pool]:
        """Training data of the DiT by name; no two pools share a clip."""
        every = (
            Pool("clips", self.clips, 0),
            Pool("images", self.images, 500_000, images=True),
            Pool("pair_clips", self.pair_clips, 100_000, two=True),
            Pool("pair_images", self.pair_images, 700_000, images=True, two=True),
        )
        return {pool.name: pool for pool in every}


class Run:
    """State of one stage on disk: weights, optimiser, step and the log of losses."""

    def __init__(self, work: Path, stage: str, modules: dict[str, Any], save_every: int = 100) -> None:
        self.state, self.log = work / f"{stage}.pt", work / f"{stage}_losses.csv"
        self.modules, self.save_every = modules, save_every
        self.step, self.rows, self.started = 0, [], time.monotonic()
        if self.state.exists():
            saved = torch.load(self.state, weights_only=True)
            self.step, self.rows = saved["step"], saved["rows"]
            for name, module in modules.items():
                module.load_state_dict(saved[name])

    def steps(self, total: int) -> Iterator[int]:
        """Remaining steps; the state is saved after every ``save_every`` of them and at the end."""
        while self.step < total:
            yield self.step
            self.step += 1
            if self.step % self.save_every == 0 or self.step == total:
                self.save()

    def note(self, every: int, **values: float) -> None:
        """Log a row every ``every`` steps."""
        if self.step % every == 0:
            row = {"step": self.step, **{k: round(v, 6) for k, v in values.items()}}
            self.rows.append(row)
            print({**row, "seconds": round(time.monotonic() - self.started)}, flush=True)

    def save(self) -> None:
        data = {"step": self.step, "rows": self.rows}
        data |= {name: module.state_dict() for name, module in self.modules.items()}
        temporary = self.state.with_suffix(".tmp")
        torch.save(data, temporary)
        temporary.replace(self.state)
        with self.log.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0]) if self.rows else ["step"])
            writer.writeheader()
            writer.writerows(self.rows)


def schedule_lr(step: int, total: int, peak: float, warmup: int = 100) -> float:
    """Linear warm-up, then cosine decay to 0."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + float(np.cos(np.pi * (step - warmup) / max(1, total - warmup))))


def vae_batch(step: int, steps: int) -> tuple[int, int, int]:
    """Clips, frames and side of a batch: images first, then short crops, at last whole clips."""
    if step < 0.4 * steps:
        return 16, 1, 32
    if step < 0.97 * steps:
        return 6, 9, 32
    return 2, FRAMES, SIDE


def trapezoid_lr(step: int, total: int, peak: float, warmup: int = 100) -> float:
    """Linear warm-up, constant, then linear decay to 0 over the last 40 %.

    The constant part lets a run be ended earlier than planned: start it again with fewer steps.
    """
    return peak * min((step + 1) / warmup, 1.0, (total - step) / (0.4 * total))


def train_vae(work: Path, steps: int, seed: int) -> nn.Module:
    """From images to clips: an image step costs a twentieth of a clip's."""
    torch.manual_seed(seed)
    vae = build_vae()
    see_single_frames(vae)
    optimiser = torch.optim.AdamW(vae.parameters(), betas=(0.9, 0.99), weight_decay=1e-4)
    run = Run(work, "vae", {"model": vae, "optimiser": optimiser})
    if run.step < steps:
        pool = [sprites.render(i)[0] for i in range(800)]
    for step in run.steps(steps):
        rng = np.random.default_rng([seed, step])
        batch, length, side = vae_batch(step, steps)
        clips = []
        for i in rng.integers(len(pool), size=batch):
            t, y, x = rng.integers((FRAMES - length + 1, SIDE - side + 1, SIDE - side + 1))
            clip = pool[i][t : t + length, y : y + side, x : x + side]
            clips.append(clip[:, :, ::-1] if rng.random() < 0.5 else clip)
        video = to_model_range(np.stack(clips))
        latent = vae.encode(video).latent_dist.mean
        # Sampling the posterior drowns the signal early on (its variance starts near 1).
        generator = torch.Generator().manual_seed(step)
        noise = torch.randn(latent.shape, generator=generator)
        decoded = vae.decode(latent + LATENT_NOISE * noise).sample
        error = (decoded - video).abs().mean()
        penalty = latent.square().mean()
        optimiser.param_groups[0]["lr"] = schedule_lr(step, steps, 2e-3, 30)
        optimiser.zero_grad()
        (error + 1e-4 * penalty).backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimiser.step()
        mse = (decoded.detach() - video).square().mean() / 4
        run.note(
            20, l1=float(error.detach()), latent_square=float(penalty.detach()), psnr=float(-10 * mse.log10())
        )
    return vae.eval().requires_grad_(False)


def fingerprint(module: nn.Module) -> str:
    """Eight hex digits of the sha256 of a module's weights."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]


def image_frame(number: int) -> int:
    """Which frame of its clip a training image is."""
    return number % SHARD % FRAMES


def encode_latents(work: Path, vae: nn.Module, pool: Pool) -> tuple[Tensor, list[str]]:
    """Unnormalised latents (count, C, F, h, w) float16 and captions."""
    # Of this VAE: another one's latents lie in another folder.
    folder = work / f"latents-{fingerprint(vae)}"
    folder.mkdir(exist_ok=True)
    latents, captions, truths = [], [], pool.truths()
    for first in range(0, pool.count, SHARD):
        shard = truths[first : first + SHARD]
        path = folder / f"{pool.name}-{first:06d}-{len(shard)}.pt"
        if not path.exists():
            parts = []
            for start in range(0, len(shard), 10):
                clips = [
                    sprites.paint(truth, [image_frame(start + i)] if pool.images else None)
                    for i, truth in enumerate(shard[start : start + 10])
                ]
                with torch.no_grad():
                    parts.append(vae.encode(to_model_range(np.stack(clips))).latent_dist.mode().half())
            texts = [sprites.caption(truth.attributes) for truth in shard]
            torch.save({"latents": torch.cat(parts), "captions": texts}, path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)
            print(f"{path.stem}: {first + len(shard)} of {pool.count}", flush=True)
        saved = torch.load(path, weights_only=True)
        latents.append(saved["latents"])
        captions += saved["captions"]
    return torch.cat(latents), captions


class Average(nn.Module):
    """Exponential moving average of parameters (a short memory at first)."""

    def __init__(self, modules: dict[str, nn.Module], decay: float = 0.998) -> None:
        super().__init__()
        self.decay, self.live = decay, modules
        self.shadow = {
            f"{n}/{k}": v.detach().clone() for n, m in modules.items() for k, v in m.state_dict().items()
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for n, module in self.live.items():
            for k, v in module.state_dict().items():
                shadow = self.shadow[f"{n}/{k}"]
                shadow.lerp_(v, 1 - decay) if v.is_floating_point() else shadow.copy_(v)

    def state_dict(self) -> dict[str, Tensor]:  # type: ignore[override]
        return dict(self.shadow)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:  # type: ignore[override]
        for k, v in state.items():
            self.shadow[k].copy_(v)

    def weights(self, name: str) -> dict[str, Tensor]:
        """State dict of one module."""
        return {k.split("/", 1)[1]: v for k, v in self.shadow.items() if k.startswith(name + "/")}


class Muon(torch.optim.Optimizer):
    """Nesterov momentum of each matrix, orthogonalised by five Newton-Schulz steps in float32.

    Scaled so that AdamW's learning rates apply (Liu et al., arXiv 2502.16982, section 2.2;
    coefficients of KellerJordan/Muon:muon.py). ``torch.optim.Muon`` does the same in bfloat16,
    which is slow on a CPU that only emulates it.
    """

    def __init__(self, matrices: list[nn.Parameter], momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": 0.0, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Matrices of one shape are orthogonalised together."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, matrices in by_shape.items():
                momenta = []
                for matrix in matrices:
                    state = self.state[matrix]
                    mean = state.setdefault("mean", torch.zeros_like(matrix))
                    mean.lerp_(matrix.grad, 1 - group["momentum"])
                    momenta.append(matrix.grad.lerp(mean, group["momentum"]))
                rate = group["lr"] * 0.2 * max(shape) ** 0.5
                for matrix, update in zip(matrices, orthogonalised(torch.stack(momenta)), strict=True):
                    matrix.mul_(1 - group["lr"] * 0.01).add_(update, alpha=-rate)


def orthogonalised(matrices: Tensor, steps: int = 5) -> Tensor:
    """Nearly the closest semi-orthogonal matrices to (n, rows, columns) ones: singular values 0.7 to 1.2."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (2.0315 * gram @ gram - 4.7750 * gram) @ x
    return x.mT if tall else x


def embed(text_encoder: nn.Module, tokenizer: Any, captions: list[str]) -> Tensor:
    """(n, MAX_TOKENS, 128), zeros after the text, as WanPipeline pads."""
    tokens = tokenizer(
        captions, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    )
    mask = tokens.attention_mask
    return text_encoder(tokens.input_ids, mask).last_hidden_state * mask[..., None]


class Course(NamedTuple):
    """Steps of the DiT with one rise and fall of the learning rate; ``images`` of them on images alone."""

    start: int
    steps: int
    images: int
    two: bool = False
    """Whether half of each batch has two objects."""

    def is_image_step(self, step: int) -> bool:
        """Images only at first, then every fourth step, so that what they taught is not lost."""
        return step - self.start < self.images or step % 4 == 3

    def learning_rate(self, step: int) -> float:
        """``trapezoid_lr`` over its own steps, up to 2e-3."""
        return trapezoid_lr(step - self.start, self.steps, 2e-3)


def course_of(step: int, settings: Settings) -> Course:
    """Which course a step of the DiT belongs to."""
    first = Course(0, settings.dit_steps, settings.image_steps)
    if step < first.steps:
        return first
    return Course(first.steps, settings.pair_steps, settings.pair_image_steps, two=True)


def training_shift(step: int, image_step: bool) -> float:
    """Shift of the logit-normal sigmas: in much noise where objects are is learnt, in less their shapes.

    A clip shows in more noise what an image shows in less.
    """
    if step < SHAPES_FROM:
        return SHIFT
    return 1.5 if image_step else 2.5


def object_masks(pool: Pool) -> Tensor:
    """(count, 1, F, h, w) float32: 1 on the latent pixels that an object touches."""
    import cv2

    side, scale = SIDE // 4, SIDE / 4 / SIDE
    clip_times = [[0], *([4 * k + i for i in range(1, 5)] for k in range((FRAMES - 1) // 4))]
    masks = np.zeros((pool.count, 1, 1 if pool.images else len(clip_times), side, side), np.uint8)
    for number, truth in enumerate(pool.truths()):
        for place, frames in enumerate([[image_frame(number)]] if pool.images else clip_times):
            for frame in frames:
                for thing in range(len(truth.things)):
                    corners = (truth.polygon(thing, frame) + 0.5) * scale - 0.5
                    fixed = [np.round(corners * 256).astype(np.int32)]
                    cv2.fillPoly(masks[number, 0, place], fixed, 1, shift=8)
    return torch.from_numpy(masks).float()


def importance(masks: Tensor, sigma: Tensor) -> Tensor:
    """Weight of each latent pixel's error: objects are a tenth of the frame, and their outlines still less.

    In much noise, where no pixel is surely an object's, weights would bias the mean that is learnt.
    """
    return 1 + 5 * (1 - sigma) * masks


def train_dit(work: Path, vae: nn.Module, settings: Settings, compile_: bool) -> Average:
    """Transformer and text encoder together; a batch holds ``batch`` clips or images of as many tokens."""
    torch.manual_seed(settings.seed)
    tokenizer = build_tokenizer()
    modules = {"transformer": build_transformer(), "text_encoder": build_text_encoder(len(tokenizer))}
    for module in modules.values():
        module.train()
    average = Average(modules)
    matrices = [p for p in modules["transformer"].blocks.parameters() if p.ndim == 2]  # type: ignore[union-attr]
    taken = {id(p) for p in matrices}
    others = [p for p in modules["transformer"].parameters() if id(p) not in taken]
    words = list(modules["text_encoder"].parameters())
    adamw = torch.optim.AdamW([{"params": others}, {"params": words}], betas=(0.9, 0.98))
    optimisers = {"muon": Muon(matrices), "adamw": adamw}
    run = Run(work, "dit", {**modules, **optimisers, "average": average})
    steps = settings.dit_steps + settings.pair_steps
    if run.step >= steps:
        return average
    data = {
        name: (*encode_latents(work, vae, pool), object_masks(pool))
        for name, pool in settings.pools().items()
    }
    mean, std = statistics(data["clips"][0])
    per_clip = data["clips"][0].shape[2]
    forward: Callable[..., Any] = (
        torch.compile(modules["transformer"], dynamic=False) if compile_ else modules["transformer"]
    )
    for step in run.steps(steps):
        if step % SAMPLE_EVERY == 0:
            write_samples(work, step, build_pipeline(vae, average, mean, std))
        if step == BIND_FROM:
            look_at_neighbours(modules["text_encoder"])
        rng = np.random.default_rng([settings.seed, step])
        course = course_of(step, settings)
        image_step = course.is_image_step(step)
        kind = "images" if image_step else "clips"
        names = [kind, f"pair_{kind}"] if course.two else [kind]
        size = settings.batch * (per_clip if image_step else 1) // len(names)
        batch = [(name, int(i)) for name in names for i in rng.integers(len(data[name][1]), size=size)]
        clean = (torch.stack([data[name][0][i] for name, i in batch]).float() - mean) / std
        texts = ["" if rng.random() < 0.1 else data[name][1][i] for name, i in batch]
        shift = training_shift(step, image_step)
        u = 1 / (1 + np.exp(-rng.standard_normal(len(batch))))
        sigma = torch.from_numpy(shift * u / (1 + (shift - 1) * u)).float()
        noise = torch.from_numpy(rng.standard_normal(clean.shape, dtype=np.float32))
        weight = sigma.view(-1, 1, 1, 1, 1)
        noisy = (1 - weight) * clean + weight * noise
        velocity = forward(
            hidden_states=noisy,
            timestep=sigma * 1000,
            encoder_hidden_states=embed(modules["text_encoder"], tokenizer, texts),
            return_dict=False,
        )[0]
        error = (velocity - (noise - clean)).square()
        loss = error.mean()
        if step >= FOCUS_FROM:
            masks = torch.stack([data[name][2][i] for name, i in batch])
            error = error * importance(masks, weight)
        error.mean().backward()
        norm = nn.utils.clip_grad_norm_(matrices + others + words, 1.0)
        for optimiser in optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = course.learning_rate(step)
        if step >= BIND_FROM:
            adamw.param_groups[1]["lr"] *= TEXT_RATE
        for optimiser in optimisers.values():
            optimiser.step()
            optimiser.zero_grad()
        average.update(step)
        run.note(20, loss=float(loss.detach()), gradient_norm=float(norm))
    write_samples(work, steps, build_pipeline(vae, average, mean, std))
    return average


def build_pipeline(vae: nn.Module, average: Average, mean: Tensor, std: Tensor) -> Any:
    """WanPipeline (float32) of the averaged weights; ``mean`` and ``std``: ``statistics`` of the latents."""
    from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

    tokenizer = build_tokenizer()
    parts = {
        "transformer": build_transformer(),
        "text_encoder": build_text_encoder(len(tokenizer)),
        "vae": build_vae(mean.flatten().tolist(), std.flatten().tolist()),
    }
    for name, part in parts.items():
        part.load_state_dict(vae.state_dict() if name == "vae" else average.weights(name))
        part.eval()
    return WanPipeline(tokenizer=tokenizer, scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT), **parts)


def write_samples(work: Path, step: int, pipeline: Any) -> None:
    """``work/samples/STEP.png``: what a pipeline makes of ``train_sprites_report.CAPTIONS``."""
    from PIL import Image

    folder = work / "samples"
    folder.mkdir(exist_ok=True)
    Image.fromarray(report.strip(report.sample(pipeline, FRAMES, SIDE))).save(folder / f"{step:05d}.png")


def statistics(latents: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, (C, 1, 1, 1) float32."""
    sample = latents[:1000].float()
    dims = (0, 2, 3, 4)
    return sample.mean(dims).view(-1, 1, 1, 1), sample.std(dims).view(-1, 1, 1, 1)


def reconstruction(vae: nn.Module, clips: int = 32) -> dict[str, float]:
    """PSNR (dB) and SSIM of the VAE's reconstruction of held-out clips (torchmetrics), mean over clips."""
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    psnr, ssim = [], []
    for i in range(clips):
        video = to_model_range(sprites.render(sprites.HELD_OUT + 5000 + i)[0])[None]
        with torch.no_grad():
            decoded = vae.decode(vae.encode(video).latent_dist.mode()).sample.clamp(-1, 1)
        a, b = (x[0].transpose(0, 1) / 2 + 0.5 for x in (decoded, video))
        psnr.append(float(peak_signal_noise_ratio(a, b, data_range=1.0)))
        ssim.append(float(structural_similarity_index_measure(a, b, data_range=1.0)))
    return {"psnr_db": float(np.mean(psnr)), "ssim": float(np.mean(ssim)), "clips": clips}


def export(work: Path, vae: nn.Module, average: Average, out: Path, settings: Settings) -> None:
    """Write the pipeline folder (bf16 safetensors) and its training report."""
    latents, _ = encode_latents(work, vae, settings.pools()["clips"])
    pipeline = build_pipeline(vae, average, *statistics(latents))
    parts = {name: getattr(pipeline, name) for name in ("transformer", "text_encoder", "vae")}
    for part in parts.values():
        part.to(torch.bfloat16)
    pipeline.save_pretrained(out, safe_serialization=True)
    facts = {
        "command": settings.command(),
        "torch": torch.__version__,
        "reconstruction": reconstruction(pipeline.vae.float()),
        "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
        "bytes": sum(p.stat().st_size for p in out.rglob("*") if p.is_file()),
        "losses": {
            stage: [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
            for stage in ("vae", "dit")
            for file in [(work / f"{stage}_losses.csv").open()]
        },
    }
    (out / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
    report.contact_sheet(work, work / "samples.png")
    report.plot_losses(
        work,
        work / "losses.png",
        vae=lambda step: f"{vae_batch(step, settings.vae_steps)[1]} frames",
        dit=lambda step: "images" if course_of(step, settings).is_image_step(step) else "clips",
    )
    print({k: v for k, v in facts.items() if k != "losses"})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=["vae", "latents", "dit", "export", "all"])
    parser.add_argument("--work", type=Path, default=Path("training"), help="checkpoints and logs")
    parser.add_argument("--out", type=Path, default=CHECKPOINT, help="the pipeline folder to write")
    for name, default in Settings._field_defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--no-compile", action="store_true")
    arguments = parser.parse_args()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    settings = Settings(**{name: getattr(arguments, name) for name in Settings._fields})
    reached = ["vae", "latents", "dit", "export", "all"].index(arguments.stage)
    vae = train_vae(work, settings.vae_steps, settings.seed)
    if reached >= 1:
        for pool in settings.pools().values():
            encode_latents(work, vae, pool)
    if reached >= 2:
        average = train_dit(work, vae, settings, not arguments.no_compile)
    if reached >= 3:
        export(work, vae, average, arguments.out, settings)


if __name__ == "__main__":
    main()
