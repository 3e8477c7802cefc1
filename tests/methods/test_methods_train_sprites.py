"""The parts of the training script that no checkpoint can vouch for."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from datasets import sprites
from methods.backbones.train_sprites import (
    FIRST_IMAGE,
    Muon,
    Run,
    image_frame,
    is_image_step,
    object_masks,
    orthogonalised,
    trapezoid_lr,
)
from methods.backbones.train_sprites_report import sample


@pytest.mark.parametrize("shape", [(24, 24), (24, 96), (96, 24)])
def test_orthogonalised_keeps_singular_vectors_and_brings_singular_values_near_one(shape):
    torch.manual_seed(0)
    u, _, vt = torch.linalg.svd(torch.randn(3, *shape), full_matrices=False)
    values = torch.linspace(1.0, 0.2, 24).expand(3, -1)
    result = u.mT @ orthogonalised(u * values[:, None] @ vt) @ vt.mT
    diagonal = result.diagonal(dim1=1, dim2=2)
    assert (result - torch.diag_embed(diagonal)).abs().max() < 1e-4
    assert diagonal.min() > 0.6
    assert diagonal.max() < 1.25


def test_muon_agrees_with_pytorchs_up_to_its_bfloat16():
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(32, 64)), torch.nn.Parameter(torch.randn(32, 64))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    muon = Muon(ours)
    for group in muon.param_groups:
        group["lr"] = 0.01
    reference = torch.optim.Muon(
        theirs, lr=0.01, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
    )
    start = [p.detach().clone() for p in ours]
    for _ in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        muon.step()
        reference.step()
    for a, b, s in zip(ours, theirs, start, strict=True):
        assert torch.nn.functional.cosine_similarity((a - s).flatten(), (b - s).flatten(), dim=0) > 0.999
        assert (a - b).norm() < 0.05 * (a - s).norm()


def test_a_shorter_total_leaves_the_constant_part_of_the_learning_rate_as_it_was():
    assert all(trapezoid_lr(s, 4500, 2e-3) == trapezoid_lr(s, 2700, 2e-3) for s in range(1620))
    assert trapezoid_lr(2699, 2700, 2e-3) < 2e-6


def test_an_interrupted_run_goes_on_from_its_last_saved_step(tmp_path):
    def train(total, stop=None):
        torch.manual_seed(0)
        weight = torch.nn.Linear(4, 4)
        run = Run(tmp_path, "tiny", {"weight": weight, "muon": Muon([weight.weight])}, save_every=2)
        for step in run.steps(total):
            if step == stop:
                return weight
            torch.manual_seed(step)
            weight(torch.randn(8, 4)).square().mean().backward()
            muon = run.modules["muon"]
            muon.param_groups[0]["lr"] = 0.1
            muon.step()
            muon.zero_grad()
            run.note(1, loss=0.0)
        return weight

    train(7, stop=5)
    resumed = train(7)
    for file in tmp_path.iterdir():
        file.unlink()
    assert torch.equal(resumed.weight, train(7).weight)


@pytest.mark.parametrize("images", [False, True])
def test_object_masks_cover_the_objects_and_little_else(images):
    masks = object_masks(6, images).numpy()
    assert masks.shape == (6, 1, 1 if images else 5, 16, 16)
    for number in range(6):
        truth = sprites.draw(number + (FIRST_IMAGE if images else 0))
        frame = image_frame(number) if images else 0
        pixels = np.stack(np.meshgrid(np.arange(64), np.arange(64)), -1).reshape(-1, 2)
        inside = np.zeros(64 * 64, bool)
        for thing in range(len(truth.things)):
            inside |= sprites._inside(pixels.astype(float), truth.polygon(thing, frame))
        share = inside.reshape(16, 4, 16, 4).mean((1, 3))
        mask = masks[number, 0, 0].astype(bool)
        assert mask[share > 0.5].all()
        assert not mask[ndimage.maximum_filter(share, 3) == 0].any()


def test_steps_on_images_come_first_and_then_every_fourth():
    kinds = [is_image_step(step, 8) for step in range(20)]
    assert kinds == [True] * 8 + [False, False, False, True] * 3
    assert not is_image_step(20, 8)  # every 20th step's loss is logged: of clips too


def test_a_sampled_video_is_what_the_velocity_leads_to():
    """With the velocity towards a fixed latent, Euler's method ends there, whatever the shift."""

    class Towards(torch.nn.Module):
        def forward(self, hidden_states, timestep, encoder_hidden_states, return_dict):
            sigma = (timestep / 1000).view(-1, 1, 1, 1, 1)
            return ((hidden_states - 0.25) / sigma,)

    class Repeats(torch.nn.Module):
        config = type("Config", (), {"latents_mean": [0.5] * 3, "latents_std": [2.0] * 3})

        def decode(self, latent):
            return type("Decoded", (), {"sample": latent})

    prompts = torch.zeros(2, 4, 8)
    for shift in (1.0, 3.0):
        videos = sample(Towards(), Repeats(), prompts, prompts[:1], (3, 2, 4, 4), shift)
        assert videos.shape == (2, 2, 4, 4, 3)
        assert (videos == 255).all()  # 0.25 * 2 + 0.5
