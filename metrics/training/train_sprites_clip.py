"""Train the tiny CLIP of the embedded world, in minutes on two cores.

    python -m metrics.training.train_sprites_clip --work training

Single frames of training clips against their captions, symmetric contrastive loss; captions that
are equal count as the same class. Frames are blurred, dimmed and noised at random so that the
model also reads generated frames. Resumable; writes ``metrics/checkpoints/sprites_clip``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.sprites import world as sprites
from metrics.clip_model import (
    SPRITES_FOLDER,
    WordTokenizer,
    build_tiny_clip,
    save_tiny_clip,
    tiny_config,
    tiny_preprocess,
    vocabulary_of,
)

FRAMES, SIDE = 17, 64


def frames_and_captions(seeds: range) -> tuple[np.ndarray, list[str]]:
    """One frame a clip, at a place that follows from the seed: (n, 64, 64, 3) uint8, and captions."""
    truths = [sprites.draw(seed, FRAMES, SIDE, SIDE) for seed in seeds]
    frames = np.concatenate(
        [sprites.paint(t, [seed % FRAMES]) for t, seed in zip(truths, seeds, strict=True)]
    )
    return frames, [sprites.caption(truth.attributes) for truth in truths]


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Blur half of the images, flip, dim or brighten slightly, and add faint noise."""
    count = len(images)
    blurred = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2, mode="bilinear")
    choose = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    images = torch.where(choose, blurred, images)
    flip = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    images = torch.where(flip, images.flip(-1), images)
    gain = 1 + 0.1 * torch.randn(count, 1, 1, 1, generator=generator)
    return images * gain + 0.1 * torch.randn(images.shape, generator=generator)


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, same: Tensor) -> Tensor:
    """Symmetric cross-entropy whose targets are spread over equal captions (``same``: (n, n) bool)."""
    logits = scale * images @ texts.T
    targets = same.float() / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def retrieval(model: Any, tokenizer: WordTokenizer, config: dict[str, Any], captions: int = 64) -> float:
    """Share of held-out frames whose own caption wins among ``captions`` distinct ones."""
    first = sprites.HELD_OUT + 20_000
    frames, texts = frames_and_captions(range(first, first + 6 * captions))
    index = list({text: i for i, text in enumerate(texts)}.values())[:captions]
    with torch.no_grad():
        images = model.encode_image(tiny_preprocess(frames[index], config), normalize=True)
        wanted = model.encode_text(tokenizer([texts[i] for i in index]), normalize=True)
    return float(((images @ wanted.T).argmax(1) == torch.arange(len(index))).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("training"))
    parser.add_argument("--out", type=Path, default=SPRITES_FOLDER)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--clips", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    state = arguments.work / "clip.pt"

    torch.manual_seed(arguments.seed)
    vocabulary = vocabulary_of(sprites.vocabulary())
    config = tiny_config(len(vocabulary))
    tokenizer = WordTokenizer(vocabulary)
    model = build_tiny_clip(config).train()
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.05)
    first, losses, started = 0, [], time.monotonic()
    if state.exists():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        first, losses = saved["step"], saved["losses"]
    if first < arguments.steps:
        frames, captions = frames_and_captions(range(200_000, 200_000 + arguments.clips))
    for step in range(first, arguments.steps):
        rng = np.random.default_rng([arguments.seed, step])
        index = rng.integers(len(captions), size=arguments.batch)
        texts = [captions[i] for i in index]
        generator = torch.Generator().manual_seed(step)
        images = augment(tiny_preprocess(frames[index], config), generator)
        numbers = torch.tensor([texts.index(text) for text in texts])
        loss = contrastive_loss(
            model.encode_image(images, normalize=True),
            model.encode_text(tokenizer(texts), normalize=True),
            model.logit_scale.exp().clamp(max=50),
            numbers[:, None] == numbers[None],
        )
        warmup, peak = 50, 1e-3
        cosine = 0.5 * (1 + np.cos(np.pi * step / arguments.steps))
        optimiser.param_groups[0]["lr"] = peak * min((step + 1) / warmup, cosine)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 20 == 0:
            losses.append([step, round(float(loss.detach()), 5)])
            print(losses[-1], round(time.monotonic() - started), flush=True)
        if (step + 1) % 100 == 0 or step + 1 == arguments.steps:
            data = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
            torch.save({**data, "step": step + 1, "losses": losses}, state.with_suffix(".tmp"))
            state.with_suffix(".tmp").replace(state)
    model.eval()
    save_tiny_clip(arguments.out, model, config, vocabulary)
    report = {
        "command": "python -m metrics.training.train_sprites_clip",
        "settings": {k: getattr(arguments, k) for k in ("steps", "batch", "clips", "seed")},
        "retrieval_among_64": retrieval(model, tokenizer, config),
        "losses": losses,
    }
    (arguments.out / "training.json").write_text(json.dumps(report, indent=1) + "\n")
    print({k: v for k, v in report.items() if k != "losses"})


if __name__ == "__main__":
    main()
