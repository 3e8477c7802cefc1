"""Clocks, peaks, seeds, warm-up and repeats."""

from __future__ import annotations

import mmap
import random
import statistics
import time
from collections import Counter

import numpy as np
import pytest
import torch
from fake_backbone import FakeBackbone
from harness_fakes import Drift, Squares

from harness.cells import environment, measure
from harness.records.record import Memory

WORDS = ("clip0", "a red square", 0)


@pytest.fixture
def reference():
    return Squares().load("clip0").frames


def test_noise_is_keyed_by_clip_prompt_and_seed():
    shape = (1, 4, 2, 4, 4)
    noise = measure.initial_noise("a", "b", 0, shape)
    assert torch.equal(noise, measure.initial_noise("a", "b", 0, shape))
    assert noise.shape == shape and noise.dtype == torch.float32 and noise.device.type == "cpu"
    for other in (("x", "b", 0), ("a", "x", 0), ("a", "b", 1), ("ab", "", 0)):
        assert not torch.equal(noise, measure.initial_noise(*other, shape))


def test_noise_ignores_the_global_generator_and_never_changes():
    torch.manual_seed(1)
    a = measure.initial_noise("clip", "prompt", 3, (2, 2))
    torch.manual_seed(2)
    assert torch.equal(a, measure.initial_noise("clip", "prompt", 3, (2, 2)))
    # A changed key would silently change every result, so one value is written down here.
    assert measure.cell_seed("clip", "prompt", 3) == 2073514100308746990


def test_noise_is_standard_normal():
    noise = measure.initial_noise("a", "b", 0, (100_000,))
    assert abs(float(noise.mean())) < 0.02 and abs(float(noise.std()) - 1) < 0.02


def test_every_method_starts_from_the_same_noise(reference):
    one, other = Drift(steps=2), Drift(steps=5)
    measure.measure(FakeBackbone(), one, reference, *WORDS)
    measure.measure(FakeBackbone(), other, reference, *WORDS)
    assert one.noises[0] == other.noises[0]


def test_seeding_repeats_and_restores_every_global_generator():
    def start():
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)

    def draw():
        return random.random(), np.random.rand(), float(torch.rand(1))

    start()
    expected = draw()
    start()
    drawn = []
    for _ in range(2):
        with measure.seeded(7):
            drawn.append(draw())
    assert drawn[0] == drawn[1] != expected
    assert draw() == expected


def test_stages_sum_their_entries():
    meter = measure.Meter()
    for _ in range(3):
        with meter.stage("guide"):
            time.sleep(0.01)
    with meter.stage("denoise"):
        pass
    assert 0.03 <= meter.stages["guide"] < 0.5
    assert meter.stages["denoise"] < 0.01


def test_a_stage_that_raises_is_still_timed_and_left():
    meter = measure.Meter()
    with pytest.raises(ValueError, match="inside"), meter.stage("guide"):
        raise ValueError("inside")
    with meter.stage("denoise"):
        pass
    assert set(meter.stages) == {"guide", "denoise"}


def test_nested_stages_are_refused():
    meter = measure.Meter()
    with pytest.raises(RuntimeError, match="nest"), meter.stage("guide"), meter.stage("denoise"):
        pass


def test_a_stage_has_its_own_process_peak():
    if not measure.reset_process_peak():
        pytest.skip("this kernel does not let VmHWM be reset")
    meter = measure.Meter()
    # Fresh pages: what earlier tests have freed would otherwise be used again, and nothing grow.
    with meter.stage("encode"), mmap.mmap(-1, 64 * 2**20) as block:
        np.frombuffer(block, np.uint8)[:] = 1
    with meter.stage("denoise"):
        pass
    big, small = meter.memory["encode"].process, meter.memory["denoise"].process
    assert big is not None and small is not None
    assert big - small > 40 * 2**20
    assert meter.memory["encode"].allocated is None and meter.memory["encode"].reserved is None


def test_a_peak_that_cannot_be_reset_is_unknown(monkeypatch):
    monkeypatch.setattr(measure, "reset_process_peak", lambda: False)
    meter = measure.Meter()
    with meter.stage("encode"):
        pass
    assert meter.memory["encode"] == Memory()


def test_peaks_merge_to_the_larger_and_none_is_unknown():
    merged = measure.merge(Memory(allocated=3, process=5), Memory(allocated=4, reserved=1))
    assert merged == Memory(allocated=4, reserved=1, process=5)


def test_a_measurement_has_every_stage_the_calls_and_the_trace(reference):
    steps = []
    found = measure.measure(
        FakeBackbone(),
        Drift(steps=4),
        reference,
        *WORDS,
        on_step=lambda index, total: steps.append((index, total)),
    )
    assert set(found.timing.stages) == {"encode", "text", "guide", "denoise", "decode"}
    assert found.timing.total is not None
    assert found.timing.total >= sum(found.timing.stages.values())
    assert found.calls == {"gradient": 4, "forward": 8}
    assert steps == [(index, 4) for index in range(4)]
    assert [row["step"] for row in found.trace] == [0, 1, 2, 3]
    assert found.frames.shape == reference.shape and found.frames.dtype == np.uint8
    assert found.energy is None


def test_repeats_give_medians_keep_all_values_and_identical_frames(reference):
    found = measure.measure(FakeBackbone(), Drift(), reference, *WORDS, repeats=3)
    assert found.timing.repeats == len(found.timing.values) == 3
    for stage, value in found.timing.stages.items():
        assert value == statistics.median(run[stage] for run in found.timing.values)
    assert found.timing.total == statistics.median(run["total"] for run in found.timing.values)
    assert found.calls["gradient"] == 3, "the calls of one run"
    assert len(found.trace) == 3
    assert found.notes == []


def test_repeats_that_differ_are_noted(reference):
    class Restless(Drift):
        def transfer(self, backbone, reference, prompt, noise, observer):
            latent = super().transfer(backbone, reference, prompt, noise, observer)
            return latent + len(self.noises)

    found = measure.measure(FakeBackbone(), Restless(), reference, *WORDS, repeats=3)
    assert found.notes == ["2 of 2 repeats gave other frames than the first run"]


def test_warm_up_runs_so_many_denoising_steps_of_the_method(reference):
    for steps in (1, 2, 9):
        backbone = FakeBackbone()
        measure.warm_up(backbone, Drift(steps=3), reference, *WORDS, device="cpu", steps=steps)
        assert backbone.calls["gradient"] == min(steps, 3)


def test_a_warm_up_counts_steps_where_a_method_starts_at_a_later_one(reference):
    class Late(Drift):
        def transfer(self, backbone, reference, prompt, noise, observer):
            for index in range(6, 10):
                observer.step(index, 10)
                backbone.calls["gradient"] += 1
            return noise

    for steps in (1, 3):
        backbone = FakeBackbone()
        measure.warm_up(backbone, Late(), reference, *WORDS, device="cpu", steps=steps)
        assert backbone.calls["gradient"] == steps


def test_warm_up_leaves_the_result_and_the_calls_alone(reference):
    cold = measure.measure(FakeBackbone(), Drift(), reference, *WORDS)
    backbone = FakeBackbone()
    measure.warm_up(backbone, Drift(), reference, *WORDS, device="cpu", steps=2)
    warm = measure.measure(backbone, Drift(), reference, *WORDS)
    assert np.array_equal(cold.frames, warm.frames)
    assert cold.calls == warm.calls


def test_a_method_cannot_swallow_the_end_of_a_warm_up(reference):
    class Stubborn(Drift):
        def transfer(self, backbone, reference, prompt, noise, observer):
            try:
                return super().transfer(backbone, reference, prompt, noise, observer)
            except Exception:
                raise AssertionError("swallowed") from None

    measure.warm_up(FakeBackbone(), Stubborn(), reference, *WORDS, device="cpu", steps=1)


def test_a_latent_that_is_not_finite_is_an_error(reference):
    with pytest.raises(FloatingPointError, match="generated latent"):
        measure.measure(FakeBackbone(), Drift(trouble={"a red square": "nan"}), reference, *WORDS)


def test_frames_of_another_shape_are_an_error(reference):
    class Halved(FakeBackbone):
        def decode(self, latent):
            return super().decode(latent)[:, ::2, ::2]

    with pytest.raises(ValueError, match="decoded frames"):
        measure.measure(Halved(), Drift(), reference, *WORDS)


def test_the_environment_names_the_processor_and_no_host(monkeypatch):
    import getpass
    import platform
    from pathlib import Path

    found = environment.describe("cpu")
    assert found["device"] == environment.device_model("cpu") == environment.cpu_model()
    assert found["packages"]["torch"] == torch.__version__.split("+")[0] or found["packages"]["torch"]
    assert found["threads"] == torch.get_num_threads()
    text = repr(found)
    assert str(Path.home()) not in text or str(Path.home()) == "/"
    if platform.node() and len(platform.node()) > 4:
        assert platform.node() not in text
    assert getpass.getuser() == "root" or getpass.getuser() not in text


def test_the_processor_is_read_from_cpuinfo(tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nmodel name\t: Fast  CPU @ 2.0GHz\nmodel name\t: other\n")
    assert environment.cpu_model(path) == "Fast CPU @ 2.0GHz"
    assert environment.cpu_model(tmp_path / "absent")


def test_a_folder_outside_a_checkout_has_no_revision(tmp_path):
    assert environment.revision(tmp_path) == {"git": None, "dirty": None}


def test_a_checkout_of_ours_has_a_revision_and_a_foreign_one_around_it_has_none(tmp_path):
    import subprocess

    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    clean = environment.revision(tmp_path)
    assert clean["dirty"] is False and len(clean["git"]) == 40
    (tmp_path / "file").write_text("2")
    assert environment.revision(tmp_path) == {"git": clean["git"], "dirty": True}
    (tmp_path / "inner").mkdir()
    assert environment.revision(tmp_path / "inner") == {"git": None, "dirty": None}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_stage_has_allocated_and_reserved_peaks():
    meter = measure.Meter("cuda")
    with meter.stage("encode"):
        torch.zeros(2**24, device="cuda")
    with meter.stage("decode"):
        pass
    assert (meter.memory["encode"].allocated or 0) >= 2**26
    assert (meter.memory["decode"].allocated or 0) < (meter.memory["encode"].allocated or 0)
    assert (meter.memory["encode"].reserved or 0) >= (meter.memory["encode"].allocated or 0)


class Reads(Drift):
    """Reads the reference once, which takes a while."""

    def transfer(self, backbone, reference, prompt, noise, observer):
        def read():
            backbone.calls["partial"] += 1
            time.sleep(0.5)
            return reference.mean()

        with observer.stage("extract"):
            mean = observer.shared("reference", read)
        return super().transfer(backbone, reference, prompt, noise, observer) + mean


def test_what_is_shared_is_computed_once_and_is_no_cell_s_time_or_call(reference):
    shared, alone = measure.Shared(), measure.measure(FakeBackbone(), Reads(), reference, *WORDS)
    first = measure.measure(FakeBackbone(), Reads(), reference, *WORDS, shared=shared, repeats=2)
    other = measure.measure(FakeBackbone(), Reads(), reference, *WORDS, shared=shared)
    assert alone.calls == {"gradient": 3, "forward": 6, "partial": 1}
    assert alone.timing.amortised == {}
    assert alone.timing.stages["extract"] >= 0.5
    for found in (first, other):
        assert np.array_equal(found.frames, alone.frames)
        assert +Counter(found.calls) == Counter({"gradient": 3, "forward": 6})
        assert found.timing.stages["extract"] < 0.5
        assert found.timing.total < alone.timing.total
        assert found.timing.amortised["extract"] >= 0.5
        assert set(found.timing.amortised) == {"encode", "extract"}
    assert shared.calls == {"partial": 1}
    assert set(shared.values) == {"latent", "reference"}
