"""Nothing is computed that is not used: passes, blocks, embeddings and gradients of a real run, counted."""

from __future__ import annotations

import gc
from collections import Counter

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from test_methods_configs import CONF

from methods.interface import Observer


class Stages(Observer):
    def __init__(self):
        self.current = ""

    def stage(self, name):
        self.current = name
        return super().stage(name)


@pytest.fixture(scope="module")
def world():
    """The shipped pipeline with a block less than all of them read, on a short clip."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["method=fastvmt", "method.block=4", "backbone.steps=4", "frames=9"])
    parts = OmegaConf.create(
        {name: OmegaConf.to_container(config, resolve=False)[name] for name in ("method", "backbone")}
    )
    method, backbone = (instantiate(parts[name], _convert_="object") for name in ("method", "backbone"))
    return method, backbone, backbone.load("cpu")


def test_a_run_computes_only_what_it_uses(world, monkeypatch):
    method, config, wan = world
    stages, seen, prompts = Stages(), Counter(), []
    network = wan.transformer
    watched = {f"block {i}": block for i, block in enumerate(network.blocks)} | {"head": network.proj_out}
    hooks = [
        module.register_forward_hook(lambda *_, name=name: seen.update([(stages.current, name)]))
        for name, module in watched.items()
    ]
    embed = wan.embed
    monkeypatch.setattr(wan, "embed", lambda texts: prompts.extend(texts) or embed(texts))
    cleaned = []
    monkeypatch.setattr(gc, "collect", lambda *_: cleaned.append("gc"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: cleaned.append("cache"))
    generator = torch.Generator().manual_seed(0)
    reference, noise = (torch.randn(config.latent_shape(9), generator=generator) for _ in range(2))
    wan.calls.clear()
    try:
        method.transfer(wan, reference, "a red circle", noise, stages)
    finally:
        for hook in hooks:
            hook.remove()

    guided, true = method.optimiser.guided_steps(method.steps), 4
    assert wan.calls == {"forward": 2 * 4, "partial": 1, "gradient": guided * true}
    read = method.block
    assert read + 1 < wan.num_blocks
    for stage, times in [("extract", 1), ("guide", guided * true)]:
        # The block that is read runs only to its queries and keys, so it never runs as a whole.
        wanted = {f"block {i}": times for i in range(read)}
        assert {name: n for (where, name), n in seen.items() if where == stage} == wanted
    # Classifier-free guidance of a small latent is one batch of two.
    assert {n for (where, _), n in seen.items() if where == "denoise"} == {4}
    assert seen["denoise", "head"] == 4
    assert sorted(prompts) == sorted({"a red circle", method.negative_prompt, ""})
    assert not cleaned
    assert all(not p.requires_grad and p.grad is None for p in network.parameters())
