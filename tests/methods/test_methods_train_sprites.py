"""The parts of the training script that no checkpoint can vouch for."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from datasets.sprites import world as sprites
from methods.backbones.training import report
from methods.backbones.training.data import Pool, encode_latents, image_frame, object_masks
from methods.backbones.training.dit import Course, course_of
from methods.backbones.training.networks import (
    build_pipeline,
    build_text_encoder,
    build_tokenizer,
    build_transformer,
    build_vae,
    embed,
    look_at_neighbours,
)
from methods.backbones.training.optimiser import Average, Muon, orthogonalised, trapezoid_lr
from methods.backbones.training.run import Run
from methods.backbones.training.settings import Settings


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
    pool = Pool("some", 6, 500, images)
    masks = object_masks(pool).numpy()
    assert masks.shape == (6, 1, 1 if images else 5, 16, 16)
    for number, truth in enumerate(pool.truths()):
        frame = image_frame(number) if images else 0
        pixels = np.stack(np.meshgrid(np.arange(64), np.arange(64)), -1).reshape(-1, 2)
        within = np.zeros(64 * 64, bool)
        for thing in range(len(truth.things)):
            within |= sprites.inside_polygon(pixels.astype(float), truth.polygon(thing, frame))
        share = within.reshape(16, 4, 16, 4).mean((1, 3))
        mask = masks[number, 0, 0].astype(bool)
        assert mask[share > 0.5].all()
        assert not mask[ndimage.maximum_filter(share, 3) == 0].any()


def test_steps_on_images_come_first_and_then_every_fourth():
    course = Course(100, 20, 8)
    kinds = [course.is_image_step(step) for step in range(100, 120)]
    assert kinds == [True] * 8 + [False, False, False, True] * 3
    assert not course.is_image_step(120)  # every 20th step's loss is logged: of clips too


def test_the_second_course_has_a_learning_rate_of_its_own():
    settings = Settings(dit_steps=300, image_steps=100, pair_steps=600)
    first, second = course_of(299, settings), course_of(300, settings)
    assert (first.two, second.two) == (False, True)
    assert first.learning_rate(299) < 2e-5
    assert second.learning_rate(450) == 2e-3
    assert second.learning_rate(899) < 1e-5


def test_pools_have_no_clip_in_common_nor_with_evaluation():
    seeds = {}
    for name, pool in Settings(clips=300, images=300, pair_clips=50, pair_images=50).pools().items():
        drawn = pool.truths()
        assert len(drawn) == pool.size
        assert not pool.two or {len(truth.things) for truth in drawn} == {2}
        seeds[name] = {tuple(truth.things[0].path.ravel()) for truth in drawn}
    assert len(set.union(*seeds.values())) == sum(map(len, seeds.values()))


def test_latents_are_encoded_once_and_in_the_order_of_the_pool(tmp_path, monkeypatch):
    class Mode:
        def __init__(self, video):
            self.latent_dist = self
            self.mode = lambda: video.mean((3, 4))[..., None, None]

    vae = nn.Linear(1, 1)
    vae.encode = Mode
    pool = Pool("some", 12, 900, images=True, two=True)
    latents, captions = encode_latents(tmp_path, vae, pool)
    assert captions == [sprites.caption(truth.attributes) for truth in pool.truths()]
    for number, truth in enumerate(pool.truths()):
        frame = sprites.paint(truth, [image_frame(number)])[0]
        wanted = frame.mean((0, 1)) / 127.5 - 1
        np.testing.assert_allclose(latents[number, :, 0, 0, 0], wanted, atol=2e-3)
    monkeypatch.setattr(sprites, "paint", None)
    again, _ = encode_latents(tmp_path, vae, pool)
    assert torch.equal(again, latents)


def test_after_a_new_start_of_its_attention_the_text_encoder_knows_which_word_stands_beside_which():
    """Whatever its scores had grown to."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    encoder = build_text_encoder(len(tokenizer)).eval()
    captions = ["a red square and a blue star on a grey background"]
    captions.append("a blue square and a red star on a grey background")
    square = 2

    def swapped() -> float:
        with torch.no_grad():
            one, other = embed(encoder, tokenizer, captions)[:, square]
        return float((one - other).norm() / one.norm())

    with torch.no_grad():
        for block in encoder.encoder.block:
            block.layer[0].SelfAttention.q.weight.mul_(1000)
    assert swapped() < 0.01
    look_at_neighbours(encoder)
    assert swapped() > 0.1
    encoder.set_attn_implementation("eager")
    seen = encoder(**tokenizer(captions[:1], return_tensors="pt"), output_attentions=True).attentions[0][0]
    assert (seen[0].diagonal(-1) > 0.8).all()
    assert (seen[1].diagonal(1) > 0.8).all()


def test_samples_are_drawn_with_the_averaged_weights(monkeypatch):
    monkeypatch.setattr(report, "STEPS", 2)
    tokenizer = build_tokenizer()
    modules = {"transformer": build_transformer(), "text_encoder": build_text_encoder(len(tokenizer))}
    average = Average(modules)
    kept = modules["transformer"].proj_out.weight.detach().clone()
    with torch.no_grad():
        modules["transformer"].proj_out.weight.add_(1)
    mean, std = torch.full((8, 1, 1, 1), 0.5), torch.full((8, 1, 1, 1), 2.0)
    pipeline = build_pipeline(build_vae(), average, mean, std)
    assert torch.equal(pipeline.transformer.proj_out.weight, kept)
    assert pipeline.vae.config.latents_mean == [0.5] * 8
    videos = report.sample(pipeline, 5, 32)
    assert videos.shape == (len(report.CAPTIONS), 5, 32, 32, 3)
    assert videos.dtype == np.uint8
    assert videos.std() > 1
    assert report.strip(videos).shape == (32, 3 * 32 * len(report.CAPTIONS), 3)
