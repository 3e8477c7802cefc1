"""What noise schedules make of methods: ``python -m reports.schedules``, in Markdown.

Two tables. How many training steps ``det``'s tracking loss acts at, on each backbone's schedule. And how far
``none`` is from the published sampler of Wan, UniPC at shift 3 (the scheduler_config.json of
Wan-AI/Wan2.1-T2V-1.3B-Diffusers), in the embedded world: no other trained network is at hand on a CPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from methods.backbones.interface import Backbone, BackboneConfig

PUBLISHED_SHIFT = 3.0
BACKBONES = ("sprites", "wan2.1-1.3b", "cogvideox-2b", "cogvideox-5b")


def composed(*overrides: str) -> dict[str, Any]:
    """The resolved configuration of a run."""
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    with initialize_config_module("conf", version_base="1.3"):
        config = compose("config", list(overrides))
    resolved: Any = OmegaConf.to_container(config, resolve=True)
    return {name: resolved[name] for name in ("method", "backbone")}


def backbone_of(node: dict[str, Any], **changes: object) -> BackboneConfig:
    """The backbone of a configuration's node, with some keys changed."""
    from hydra.utils import get_class

    values = {key: value for key, value in node.items() if key not in ("_target_", "tuned")}
    made: BackboneConfig = get_class(node["_target_"])(**{**values, **changes})
    return made


def tracking_shares() -> list[tuple[str, float]]:
    """Backbone and share of its training levels at which the tracking loss acts."""
    from methods.training.adapter_training import LEVELS

    found = []
    for name in BACKBONES:
        parts = composed("method=det", f"backbone={name}")
        sigmas = backbone_of(parts["backbone"], weights="random").meta().schedule(LEVELS).sigmas[:-1]
        below = sigmas <= parts["method"]["tracking"]["below_sigma"]
        found.append((name, float(below.float().mean())))
    return found


def euler(backbone: Backbone, noise: Tensor, prompt: Tensor, negative: Tensor, sampling: Any) -> Tensor:
    """Sampled as ``none`` does."""
    latent, schedule = noise, backbone.schedule(sampling["steps"])
    for index, timestep in enumerate(schedule.timesteps):
        velocity = backbone.predict(latent, timestep, prompt, negative, sampling["guidance_scale"])
        latent = backbone.step(latent, velocity, schedule, index)
    return latent


def unipc(
    backbone: Backbone, noise: Tensor, prompt: Tensor, negative: Tensor, sampling: Any, shift: float
) -> Tensor:
    """Sampled by diffusers' UniPC on flow sigmas, as published where ``shift`` is ``PUBLISHED_SHIFT``."""
    from diffusers import UniPCMultistepScheduler

    kind: Any = UniPCMultistepScheduler
    options = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
    scheduler = kind(**options, flow_shift=shift)
    scheduler.set_timesteps(sampling["steps"])
    latent = noise
    for timestep in scheduler.timesteps:
        velocity = backbone.predict(latent, timestep.float(), prompt, negative, sampling["guidance_scale"])
        latent = scheduler.step(velocity, timestep, latent, return_dict=False)[0]
    return latent


def sampler_distances(clips: int) -> list[tuple[str, float]]:
    """How the latent was sampled, and its rms distance from the published sampling's over the latter's rms.

    Over all ``clips``, with Wan's steps and guidance scale.
    """
    from harness.cells.measure import initial_noise

    wan, world = composed("method=none", "backbone=wan2.1-1.3b"), composed("method=none")
    sampling, shifts = wan["method"], (wan["backbone"]["shift"], PUBLISHED_SHIFT)
    ours = [backbone_of(world["backbone"], shift=shift) for shift in shifts]
    loaded = [config.load("cpu") for config in ours]
    apart: dict[str, float] = {}
    size = 0.0
    for clip, prompt in prompts(clips):
        noise = initial_noise(clip, prompt, 0, ours[0].latent_shape(17))
        target, negative = loaded[0].embed([prompt, ""]).chunk(2)
        given = noise, target, negative, sampling
        published = unipc(loaded[0], *given, PUBLISHED_SHIFT)
        size += float(published.square().sum())
        others = {f"Euler, shift {s:g}": euler(one, *given) for s, one in zip(shifts, loaded, strict=True)}
        others[f"UniPC, shift {shifts[0]:g}"] = unipc(loaded[0], *given, shifts[0])
        for name, latent in others.items():
            apart[name] = apart.get(name, 0.0) + float((latent - published).square().sum())
    return [(name, (value / size) ** 0.5) for name, value in apart.items()]


def prompts(clips: int) -> list[tuple[str, str]]:
    """Clip and target prompt of the first clips of the embedded world."""
    from datasets.sprites.dataset import Sprites

    world = Sprites("sprites", frames=17, height=64, width=64, default_frames=17, clip_model="", clips=clips)
    return [(clip.name, clip.prompts[0].text) for clip in world.listing().clips]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints both tables."""
    parser = argparse.ArgumentParser(prog="python -m reports.schedules", description=__doc__)
    parser.add_argument("--clips", type=int, default=8, help="clips that the samplers are compared on")
    given = parser.parse_args(arguments)
    print("| backbone | steps with `det`'s tracking loss |\n|---|---:|")
    for name, share in tracking_shares():
        print(f"| `{name}` | {share:.1%} |")
    print(f"\n| sampled by | rms from UniPC, shift {PUBLISHED_SHIFT:g} |\n|---|---:|")
    for name, share in sampler_distances(given.clips):
        print(f"| {name} | {share:.1%} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
