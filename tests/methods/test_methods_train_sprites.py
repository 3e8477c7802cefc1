"""The parts of the training script that no checkpoint can vouch for."""

import pytest
import torch

from methods.backbones.train_sprites import Muon, Run, orthogonalised, trapezoid_lr


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
