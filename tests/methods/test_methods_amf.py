"""AMF and the window loss against plain loops in float64, and against their invariants."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from harness.actions.amf_loop import extract_motion_by_loop
from methods.motion_flow import flow as amf
from methods.motion_flow.flow import amf_loss, extract_motion, reduce_heads
from methods.motion_flow.pairs import frame_pairs
from methods.motion_flow.window_loss import window_loss

DATA = Path(__file__).parents[1] / "data"
SHAPES = [
    # frames, height, width, heads, head_dim, span, window, tile
    (4, 6, 8, 2, 5, 2, 3, (3, 4)),
    (3, 7, 9, 3, 4, 4, 4, (3, 4)),  # ragged tiles, an even window, a span beyond the clip
    (5, 5, 5, 1, 8, 3, 5, (2, 2)),  # a window as large as the frame
    (2, 4, 6, 2, 4, 1, 2, (4, 6)),  # one pair, one tile
    (3, 8, 5, 2, 4, 2, 3, (2, 2)),  # higher than wide
]


def random_qk(frames, height, width, heads, head_dim, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shape = (2, frames, height * width, heads, head_dim)
    return 2 * torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def loop_motion(q, k, height, width, extractor, reduction, tau, span, window, tile, window_keys):
    """The definition, one frame pair, tile and query at a time."""
    frames, _, heads, d = q.shape

    def logits(query, keys):
        if reduction == "head_mean":
            return tau * keys.mean(1) @ query.mean(0) / math.sqrt(d)
        return tau * torch.stack([keys[:, h] @ query[h] / math.sqrt(d) for h in range(heads)]).mean(0)

    def reduced(keys):
        return keys.mean(1) if reduction == "head_mean" else keys.reshape(len(keys), -1)

    def soft_position(query, keys, cells):
        return torch.softmax(logits(query, keys), 0) @ torch.tensor(cells, dtype=q.dtype)

    everywhere = [(r, c) for r in range(height) for c in range(width)]
    displacements, means, weights = [], [], []
    for i in range(frames):
        for j in range(i + 1, min(frames, i + span + 1)):
            weights.append(1 - 0.2 * (j - i - 1) / (span - 1) if span > 1 else 1.0)
            moved = [None] * (height * width)
            pair_means = []
            for top in range(0, height, tile[0]):
                for left in range(0, width, tile[1]):
                    bottom, right = min(top + tile[0], height) - 1, min(left + tile[1], width) - 1
                    centre = (top + bottom) // 2 * width + (left + right) // 2
                    place = soft_position(q[i, centre], k[j], everywhere).detach()
                    r0 = min(max(round(float(place[0])) - window // 2, 0), height - window)
                    c0 = min(max(round(float(place[1])) - window // 2, 0), width - window)
                    cells = [(r, c) for r in range(r0, r0 + window) for c in range(c0, c0 + window)]
                    inside = k[j][[r * width + c for r, c in cells]]
                    pair_means.append(reduced(inside).mean(0))
                    for r in range(top, bottom + 1):
                        for c in range(left, right + 1):
                            seen = (inside, cells) if extractor == "window" else (k[j], everywhere)
                            own = torch.tensor([r, c], dtype=q.dtype)
                            moved[r * width + c] = soft_position(q[i, r * width + c], *seen) - own
            displacements.append(torch.stack(moved))
            means.append(torch.stack(pair_means))
    return torch.stack(displacements), torch.stack(means), weights


def loop_amf_loss(generated, reference, weights):
    total = sum(
        w * sum((a - b).square().sum() for a, b in zip(g, r, strict=True)) / len(g)
        for w, g, r in zip(weights, generated, reference, strict=True)
    )
    return total / sum(weights)


def loop_window_loss(means, frames, span):
    pairs = [(i, j) for i in range(frames) for j in range(i + 1, min(frames, i + span + 1))]
    changes = [
        (means[pairs.index((i, j + 1))] - means[p]).square().sum(-1).mean()
        for p, (i, j) in enumerate(pairs)
        if (i, j + 1) in pairs
    ]
    return sum(changes) / len(changes) if changes else torch.zeros(())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("reduction", ["head_mean", "concat"])
@pytest.mark.parametrize("extractor", ["window", "dense"])
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_gradient_agree_with_plain_loops(shape, extractor, reduction, dtype):
    frames, height, width, heads, head_dim, span, window, tile = shape
    reference = random_qk(frames, height, width, heads, head_dim, seed=1)
    plain = random_qk(frames, height, width, heads, head_dim, seed=2).requires_grad_()
    options = {"extractor": extractor, "reduction": reduction, "span": span, "window": window, "tile": tile}

    expected, means, weights = loop_motion(
        *plain, height, width, extractor, reduction, 1.7, span, window, tile, True
    )
    target = loop_motion(*reference, height, width, extractor, reduction, 1.7, span, window, tile, True)[0]
    plain_amf, plain_window = loop_amf_loss(expected, target, weights), loop_window_loss(means, frames, span)
    (plain_gradient,) = torch.autograd.grad(5 * plain_amf + plain_window, plain)

    ours = plain.detach().to(dtype).requires_grad_()
    against = extract_motion(
        *reference.to(dtype), height, width, temperature=1.7, with_window_keys=False, **options
    ).displacement
    motion = extract_motion(*ours, height, width, temperature=1.7, with_window_keys=True, **options)
    assert motion.displacement.dtype == dtype
    torch.testing.assert_close(motion.displacement.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(motion.window_keys.double(), means, rtol=1e-4, atol=1e-5)
    our_amf = amf_loss(motion.displacement, against, motion.pairs.weight)
    our_window = window_loss(motion.window_keys, motion.pairs)
    torch.testing.assert_close(our_amf.double(), plain_amf, rtol=1e-4, atol=0)
    torch.testing.assert_close(our_window.double(), plain_window.double(), rtol=1e-4, atol=1e-12)
    (our_gradient,) = torch.autograd.grad(5 * our_amf + our_window, ours)
    scale = plain_gradient.abs().max()
    torch.testing.assert_close(our_gradient.double() / scale, plain_gradient / scale, rtol=0, atol=1e-4)


@pytest.mark.parametrize("extractor", ["window", "dense"])
def test_tokens_without_a_reference_do_not_count(extractor):
    """Not in the mean and not in the gradient."""
    qk = random_qk(3, 6, 8, 2, 4).requires_grad_()
    options = {"extractor": extractor, "reduction": "head_mean", "temperature": 1.5, "span": 2, "window": 3}
    motion = extract_motion(*qk, 6, 8, tile=(3, 4), with_window_keys=False, **options)
    towards = torch.randn(motion.displacement.shape, generator=torch.Generator().manual_seed(3)).double()
    away = (motion.displacement - towards).square().sum(-1)
    gone = torch.zeros(48, dtype=torch.bool)
    gone[5:30] = True
    weight = motion.pairs.weight.double()
    expected = (weight * away[:, ~gone].mean(1)).sum() / weight.sum()
    towards[:, gone] = float("nan")
    ours = amf_loss(motion.displacement, towards, motion.pairs.weight)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(3 * one, qk, retain_graph=True)[0] for one in (ours, expected))
    )


@pytest.mark.parametrize("extractor", ["window", "dense"])
def test_scores_whose_exponentials_overflow_are_no_problem(extractor):
    q, k = random_qk(3, 6, 8, 1, 4)
    options = {"reduction": "head_mean", "span": 2, "window": 3, "tile": (3, 4)}
    sharp, sharper = (
        extract_motion(
            q, k, 6, 8, extractor=extractor, temperature=temperature, with_window_keys=False, **options
        )
        for temperature in (1e5, 1e6)
    )
    # Each query looks at one token.
    torch.testing.assert_close(sharp.displacement, sharp.displacement.round(), rtol=0, atol=1e-3)
    torch.testing.assert_close(sharper.displacement, sharp.displacement, rtol=0, atol=1e-3)


@pytest.mark.parametrize("extractor", ["window", "dense"])
def test_one_frame_has_no_motion(extractor):
    options = {"extractor": extractor, "reduction": "head_mean", "temperature": 1.5, "span": 2, "window": 3}
    motion = extract_motion(*random_qk(1, 6, 8, 2, 4), 6, 8, tile=(3, 4), with_window_keys=True, **options)
    assert motion.displacement.shape == (0, 48, 2)
    assert motion.window_keys.shape == (0, 4, 4)


class Operators(TorchDispatchMode):
    """How many operators were run."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("extractor", ["window", "dense"])
def test_more_frames_take_no_more_operators(extractor):
    """Nothing is done pair by pair."""

    def count(frames):
        qk = random_qk(frames, 6, 8, 1, 4).requires_grad_()
        options = {"extractor": extractor, "reduction": "head_mean", "temperature": 1.5, "span": 2}
        options |= {"window": 3, "tile": (3, 4), "with_window_keys": True}
        with Operators() as operators:
            motion = extract_motion(*qk, 6, 8, **options)
            loss = amf_loss(motion.displacement, motion.displacement.detach() + 1, motion.pairs.weight)
            torch.autograd.grad(loss + window_loss(motion.window_keys, motion.pairs), qk)
        return operators.count

    assert count(4) == count(9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("extractor", ["window", "dense"])
def test_no_map_of_scores_is_kept_for_the_backward_pass(extractor, dtype):
    height, width, kept = 24, 32, []
    qk = random_qk(4, height, width, 1, 8, dtype=dtype).requires_grad_()
    options = {"extractor": extractor, "reduction": "head_mean", "temperature": 1.5, "span": 2}
    options |= {"window": 3, "tile": (3, 4), "with_window_keys": False}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor
    ):
        motion = extract_motion(*qk, height, width, **options)
    motion.displacement.sum().backward()
    assert max(kept) < len(motion.pairs.source) * (height * width) ** 2 / 10


def test_the_loop_that_gathers_windows_gives_the_same_motion():
    """What ``action=amf`` measures against is held to the same result, gradient included."""
    qk = random_qk(4, 6, 8, 1, 5).requires_grad_()
    options = {"temperature": 1.7, "span": 2, "window": 3, "tile": (3, 4)}
    loop = extract_motion_by_loop(*qk[:, :, :, 0], 6, 8, **options)
    ours = extract_motion(
        *qk, 6, 8, extractor="window", reduction="head_mean", with_window_keys=True, **options
    )
    for part in ("displacement", "window_keys"):
        both = getattr(loop, part), getattr(ours, part)
        torch.testing.assert_close(*both)
        torch.testing.assert_close(
            *(torch.autograd.grad(one.square().sum(), qk, retain_graph=True)[0] for one in both)
        )
    with pytest.raises(ValueError, match="do not divide"):
        extract_motion_by_loop(*qk[:, :, :, 0], 8, 6, **options)


def test_a_window_as_large_as_the_frame_is_dense_attention():
    q, k = random_qk(4, 6, 6, 2, 4)
    options = {"reduction": "head_mean", "temperature": 2.0, "span": 3, "window": 6, "tile": (3, 4)}
    windowed, dense = (
        extract_motion(q, k, 6, 6, extractor=extractor, with_window_keys=False, **options)
        for extractor in ("window", "dense")
    )
    torch.testing.assert_close(windowed.displacement, dense.displacement)


def test_a_shifted_pattern_moves_by_its_shift():
    """Frames that are one pattern, shifted by (1, 2) tokens a frame: that is the flow."""
    height, width, shift = 9, 12, (1, 2)
    pattern = torch.nn.functional.normalize(random_qk(1, height, width, 1, 16)[0, 0, :, 0], dim=-1)
    frames = [pattern.reshape(height, width, 16).roll((n * shift[0], n * shift[1]), (0, 1)) for n in range(3)]
    qk = torch.stack(frames).reshape(3, height * width, 1, 16)
    motion = extract_motion(
        qk,
        qk,
        height,
        width,
        extractor="window",
        reduction="head_mean",
        temperature=400.0,
        span=2,
        window=5,
        tile=(3, 4),
        with_window_keys=False,
    )
    flow = motion.displacement.reshape(-1, height, width, 2)
    for pair, (source, target) in enumerate(zip(motion.pairs.source, motion.pairs.target, strict=True)):
        # The last row and column of tiles may leave the frame.
        inside = flow[pair, : height - 3, : width - 4]
        expected = (int(target - source) * torch.tensor(shift, dtype=inside.dtype)).expand_as(inside)
        torch.testing.assert_close(inside, expected, rtol=0, atol=1e-3)


def test_pairs_go_forward_up_to_span_and_weigh_less_with_distance():
    pairs = frame_pairs(6, 4)
    distance = pairs.target - pairs.source
    assert set(zip(pairs.source.tolist(), pairs.target.tolist(), strict=True)) == {
        (i, j) for i in range(6) for j in range(6) if 1 <= j - i <= 4
    }
    for d, weight in zip([1, 2, 3, 4], [1.0, 14 / 15, 13 / 15, 0.8], strict=True):
        torch.testing.assert_close(
            pairs.weight[distance == d], torch.full((int((distance == d).sum()),), weight)
        )
    assert frame_pairs(4, 1).weight.tolist() == [1.0, 1.0, 1.0]
    assert len(frame_pairs(2, 4).source) == 1
    with pytest.raises(ValueError, match="span"):
        frame_pairs(4, 0)


def test_windows_are_clamped_by_their_centre_and_stay_whole():
    centres = torch.tensor([[[0.0, 0.0], [29.0, 51.0], [14.6, 20.4], [3.0, 49.0]]])
    corners = amf.window_corners(centres, 21, 30, 52)
    assert corners.tolist() == [[[0, 0], [9, 31], [5, 10], [0, 31]]]


def test_head_mean_agrees_with_what_the_release_intended():
    """Values made by running the release's function on random input, and what it meant to compute."""
    golden = np.load(DATA / "released_head_mean.npz")
    frames, height, width = golden["grid"]
    heads = int(golden["heads"])
    q = torch.from_numpy(golden["q"]).reshape(frames, height * width, heads, -1)
    mean, _, scale = reduce_heads(q, q, "head_mean", temperature=1.0)
    torch.testing.assert_close(mean.reshape(frames, height, width, -1), torch.from_numpy(golden["intended"]))
    assert not np.allclose(mean.reshape(frames, height, width, -1), golden["released"])
    assert scale == pytest.approx(q.shape[-1] ** -0.5)


def test_concat_logits_are_the_mean_of_the_heads_logits():
    q, k = random_qk(2, 3, 4, 3, 5)
    reduced_q, reduced_k, scale = reduce_heads(q, k, "concat", temperature=2.0)
    per_head = torch.einsum("shd,thd->hst", q[0], k[1]) / math.sqrt(5)
    torch.testing.assert_close(scale * reduced_q[0] @ reduced_k[1].T, 2.0 * per_head.mean(0))


def test_half_precision_queries_are_reduced_in_float32():
    q, k = random_qk(2, 4, 4, 2, 4, dtype=torch.bfloat16)
    assert reduce_heads(q, k, "head_mean", 1.0)[0].dtype == torch.float32


def test_amf_loss_is_zero_on_equal_motion_and_in_tokens_squared():
    weight = frame_pairs(3, 2).weight
    still = torch.zeros(3, 7, 2)
    assert amf_loss(still, still, weight) == 0
    moved = still + torch.tensor([3.0, 4.0])
    assert amf_loss(moved, still, weight) == pytest.approx(25.0)


def test_window_loss_is_zero_without_a_second_target():
    keys = torch.randn(1, 6, 4, requires_grad=True)
    loss = window_loss(keys, frame_pairs(2, 4))
    assert loss == 0
    assert torch.autograd.grad(loss, keys)[0].abs().sum() == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("extractor", ["window", "dense"])
def test_a_gpu_finds_the_processor_s_motion_and_gradient(extractor, dtype):
    options = {"extractor": extractor, "reduction": "head_mean", "temperature": 1.0, "span": 3}
    options |= {"window": 5, "tile": (2, 3), "with_window_keys": True}
    reference, ours = (random_qk(5, 6, 9, 2, 8, seed=seed) for seed in (1, 2))
    towards = extract_motion(*reference, 6, 9, **options).displacement

    def motion_and_gradient(device, dtype):
        there = ours.to(device, dtype).requires_grad_()
        motion = extract_motion(*there, 6, 9, **options)
        error = 5 * amf_loss(motion.displacement, towards.to(device, dtype), motion.pairs.weight)
        error = error + window_loss(motion.window_keys, motion.pairs)
        return motion.displacement, *torch.autograd.grad(error, there)

    for found, expected in zip(
        motion_and_gradient("cuda", dtype), motion_and_gradient("cpu", torch.float64), strict=True
    ):
        torch.testing.assert_close(found.double().cpu(), expected, rtol=1e-4, atol=1e-4)
