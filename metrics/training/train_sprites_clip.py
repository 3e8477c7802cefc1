"""Train the tiny CLIP of the embedded world, in minutes on two cores.

    python -m metrics.training.train_sprites_clip --work training

Single frames of training clips against their captions, with a symmetric contrastive loss; captions that are
equal count as the same class. Frames are blurred, dimmed and noised at random so that the model also reads
generated frames. A run that was cut off resumes from ``--work``; the three files of the tiny CLIP and
``training.json`` are written to ``--out``.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from datasets.sprites.world import HELD_OUT, caption, draw, paint, vocabulary
from metrics.clip_model import (
    SPRITES_FOLDER,
    WordTokenizer,
    build_tiny_clip,
    save_tiny_clip,
    tiny_config,
    tiny_preprocess,
    vocabulary_of,
)

if TYPE_CHECKING:
    from open_clip.model import CLIP

FRAMES, SIDE = 17, 64
FIRST_SEED = 200_000
WARMUP, PEAK_RATE = 50, 1e-3


@dataclass(frozen=True)
class Settings:
    """``steps`` of ``batch`` frames each, from ``clips`` training clips; ``seed`` draws and initialises."""

    steps: int = 800
    batch: int = 64
    clips: int = 12_000
    seed: int = 0


def frames_and_captions(seeds: range) -> tuple[NDArray[np.uint8], list[str]]:
    """One frame a clip, at a place that follows from the seed: (n, 64, 64, 3) uint8, and captions."""
    truths = [draw(seed, FRAMES, SIDE, SIDE) for seed in seeds]
    frames = [paint(truth, [seed % FRAMES]) for truth, seed in zip(truths, seeds, strict=True)]
    return np.concatenate(frames), [caption(truth.attributes) for truth in truths]


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


def retrieval(model: CLIP, tokenizer: WordTokenizer, config: dict[str, Any], captions: int = 64) -> float:
    """Share of held-out frames whose own caption wins among ``captions`` distinct ones."""
    first = HELD_OUT + 20_000
    frames, texts = frames_and_captions(range(first, first + 6 * captions))
    index = list({text: i for i, text in enumerate(texts)}.values())[:captions]
    with torch.no_grad():
        images = model.encode_image(tiny_preprocess(frames[index], config), normalize=True)
        wanted = model.encode_text(tokenizer([texts[i] for i in index]), normalize=True)
    return float(((images @ wanted.T).argmax(1) == torch.arange(len(index))).float().mean())


def train(
    settings: Settings, config: dict[str, Any], tokenizer: WordTokenizer, state: Path
) -> tuple[CLIP, list[list[float]]]:
    """The trained CLIP and its losses, [step, loss] each; resumes from the file ``state``, which it keeps."""
    torch.manual_seed(settings.seed)
    model = build_tiny_clip(config).train()
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.05)
    first, started = 0, time.monotonic()
    losses: list[list[float]] = []
    if state.exists():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        first, losses = saved["step"], saved["losses"]
    if first < settings.steps:
        frames, captions = frames_and_captions(range(FIRST_SEED, FIRST_SEED + settings.clips))
    for step in range(first, settings.steps):
        index = np.random.default_rng([settings.seed, step]).integers(len(captions), size=settings.batch)
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
        cosine = 0.5 * (1 + np.cos(np.pi * step / settings.steps))
        optimiser.param_groups[0]["lr"] = PEAK_RATE * min((step + 1) / WARMUP, cosine)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 20 == 0:
            losses.append([step, round(float(loss.detach()), 5)])
            print(losses[-1], round(time.monotonic() - started), flush=True)
        if (step + 1) % 100 == 0 or step + 1 == settings.steps:
            data = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
            torch.save({**data, "step": step + 1, "losses": losses}, state.with_suffix(".tmp"))
            state.with_suffix(".tmp").replace(state)
    return model.eval(), losses


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("training"))
    parser.add_argument("--out", type=Path, default=SPRITES_FOLDER)
    for name, default in asdict(Settings()).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    settings = Settings(options.steps, options.batch, options.clips, options.seed)

    words = vocabulary_of(vocabulary())
    config, tokenizer = tiny_config(len(words)), WordTokenizer(words)
    model, losses = train(settings, config, tokenizer, options.work / "clip.pt")
    save_tiny_clip(options.out, model, config, words)
    report = {
        "command": "python -m metrics.training.train_sprites_clip",
        "settings": asdict(settings),
        "retrieval_among_64": retrieval(model, tokenizer, config),
        "losses": losses,
    }
    (options.out / "training.json").write_text(json.dumps(report, indent=1) + "\n")
    print({key: value for key, value in report.items() if key != "losses"})


if __name__ == "__main__":
    main()
