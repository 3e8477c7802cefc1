"""``action=amf``: three ways to attention motion flow, timed and weighed in one run."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_harness_cost import FRAMES, HEAD_DIM, TINY, Toy, Uncounted, composed

from datasets.errors import InputError
from harness import __main__ as cli
from harness.actions import amf
from methods.backbones.interface import BackboneConfig
from methods.interface import Method


def test_the_table_has_the_three_operations_and_the_loop_gives_the_windowed_motion() -> None:
    size = amf.Size(3, 6, 8, 16, span=2, window=3, tile=(3, 4), temperature=1.0)
    measured = amf.measure(size, 2, "cpu")
    loop, dense, window = measured
    assert loop.loss == pytest.approx(window.loss, rel=1e-4)
    assert dense.loss != pytest.approx(window.loss, rel=1e-4)
    assert all(one.forward > 0 and one.backward > 0 for one in measured)
    table = amf.lines(size, measured, 2, "cpu")
    assert "3 frames of 6x8 tokens, 16 channels: span 2, window 3, tiles 3x4" in table[0]
    assert [line.split()[0] for line in table[3:]] == list(amf.OPERATIONS)
    assert "1.0x" in table[3]


@pytest.mark.slow
def test_at_wan_s_frame_size_the_loop_is_slower_and_needs_more_memory() -> None:
    """Half of what docs/fastvmt.md measures at 21 frames on idle cores: these may be busy."""
    size = amf.Size(5, 30, 52, 128, span=2, window=21, tile=(3, 4), temperature=1.0)
    loop, dense, window = amf.measure(size, 1, "cpu")
    seconds = {one.operation: one.forward + one.backward for one in (loop, dense, window)}
    assert 2 * seconds["dense"] < seconds["loop"]
    assert 1.5 * seconds["window"] < seconds["loop"]
    if loop.memory is None or dense.memory is None or window.memory is None:
        pytest.skip("the kernel does not let the peak be reset")
    assert 1.5 * max(dense.memory, window.memory) < loop.memory


def test_memory_is_the_peak_beyond_what_was_there_before() -> None:
    """64 MiB are 64 MiB, although the C library may still hold what was freed before."""
    import torch

    before = torch.ones(2**25)
    del before
    peak = amf.PeakMemory("cpu")
    if peak.extra() is None:
        pytest.skip("the kernel does not let the peak be reset")
    held = torch.ones(2**24)
    assert 0.95 * held.nbytes < peak.extra() < 1.5 * held.nbytes


def job(method: Method, backbone: BackboneConfig) -> Any:
    return SimpleNamespace(method=method, backbone=backbone, frames=FRAMES)


def test_the_size_is_what_method_backbone_and_frames_ask_for() -> None:
    fastvmt, _ = composed("fastvmt", "sprites")
    fastvmt.span, fastvmt.window, fastvmt.tile, fastvmt.temperature, fastvmt.block = 2, 3, (2, 3), 1.5, 1
    assert amf.size_of(job(fastvmt, TINY)) == amf.Size(3, 4, 6, HEAD_DIM, 2, 3, (2, 3), 1.5)
    fastvmt.tile = (3, 2)
    with pytest.raises(InputError, match=r"method\.tile=\[3, 2\].*4x6"):
        amf.size_of(job(fastvmt, TINY))
    with pytest.raises(InputError, match=r"method\.name=toy: it has no attention motion flow"):
        amf.size_of(job(Toy(), TINY))


def test_a_backbone_whose_networks_are_unknown_is_refused() -> None:
    fastvmt, _ = composed("fastvmt", "sprites")
    fastvmt.window, fastvmt.tile, fastvmt.block = 3, (2, 2), 1
    with pytest.raises(InputError, match=r"backbone\.name=uncounted"):
        amf.size_of(job(fastvmt, Uncounted()))


def test_the_action_prints_the_table_at_the_configured_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["action=amf", "frames=9", "device=cpu", "measure.repeats=2"]
    arguments += ["method.span=1", "method.window=5"]
    monkeypatch.setattr(sys, "argv", ["harness", *arguments])
    assert cli.main() == 0
    out = capsys.readouterr().out
    assert "3 frames of 8x8 tokens, 32 channels: span 1, window 5, tiles 2x2" in out
    assert [line.split()[0] for line in out.splitlines()[3:]] == list(amf.OPERATIONS)
