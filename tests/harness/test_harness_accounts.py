"""Whose time, calls and memory is whose, added up by hand: a clock that moves only when it is told to."""

from __future__ import annotations

from collections import Counter
from itertools import chain, repeat

import pytest
from fake_backbone import FakeBackbone
from harness_fakes import Drift, Squares

from harness.cells import measure
from harness.records.record import Memory, Timing

CLIP = Squares().load("clip0").frames


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def takes(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(measure.time, "perf_counter", made)
    return made


class Timed(FakeBackbone):
    """Encoding takes 3 s, a prompt 1, decoding 5, a prediction 10."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def encode(self, frames):
        self.clock.takes(3)
        return super().encode(frames)

    def embed(self, prompts):
        self.clock.takes(len(prompts))
        return super().embed(prompts)

    def decode(self, latent):
        self.clock.takes(5)
        return super().decode(latent)

    def predict(self, *args):
        self.clock.takes(10)
        return super().predict(*args)


class Reads(Drift):
    """Reads the reference before its two steps, and again in each of them; and thinks between stages."""

    clock: Clock
    extra = 0.0

    def transfer(self, backbone, reference, prompt, noise, observer):
        with observer.stage("text"):
            words = backbone.embed([prompt])
        self.clock.takes(0.25)
        with observer.stage("extract"):
            self.clock.takes(2)
            for name, seconds, calls in (("reference", 7, 1), ("tables", 4, 2)):
                observer.shared(name, lambda s=seconds, n=calls: self.read(backbone, s, n))
        schedule = backbone.schedule(2)
        for index in range(2):
            observer.step(index, 2)
            with observer.stage("extract"):
                self.clock.takes(1)
                observer.shared(f"reference {index}", lambda: self.read(backbone, 6, 1))
            with observer.stage("guide"):
                self.clock.takes(20)
                backbone.calls["gradient"] += 1
            with observer.stage("denoise"):
                velocity = backbone.predict(noise, schedule.timesteps[index], words, words, 2.0)
        if self.extra:
            with observer.stage("train"):
                observer.shared("more", lambda: self.read(backbone, self.extra, 0))
        return noise + 0.1 * velocity

    def read(self, backbone, seconds, calls):
        self.clock.takes(seconds)
        backbone.calls["partial"] += calls


def measured(clock, prompt="a red square", **options):
    method = Reads()
    method.clock = clock
    method.extra = options.pop("extra", 0.0)
    return measure.measure(Timed(clock), method, CLIP, "clip0", prompt, 0, **options)


# 2 + 7 + 4 before the steps, 1 + 6 in each of two.
ALONE = {"encode": 3.0, "text": 1.0, "extract": 27.0, "guide": 40.0, "denoise": 20.0, "decode": 5.0}
# What the clip's cells share: its latent, and 7 + 4 + 6 + 6 of what is read of it.
SHARED = {"encode": 3.0, "extract": 23.0}
OWN = {**ALONE, "encode": 0.0, "extract": 4.0}


def test_a_cell_s_stages_add_up_to_its_total_less_what_lies_between_them(clock):
    timing = measured(clock).timing
    assert timing.stages == ALONE
    assert timing.total == sum(ALONE.values()) + 0.25
    assert (timing.amortised, timing.first_video, timing.further_video) == ({}, timing.total, timing.total)


def test_what_a_clip_s_cells_share_is_in_no_stage_and_no_total_but_in_the_first_video(clock):
    shared = measure.Shared()
    for prompt in ("a red square", "a blue square"):
        timing = measured(clock, prompt, shared=shared).timing
        assert timing.stages == OWN
        assert timing.total == sum(OWN.values()) + 0.25
        assert timing.amortised == SHARED
        assert timing.first_video == timing.total + 26
        assert timing.further_video == timing.total


def test_a_record_s_account_is_that_of_its_own_time(clock):
    shared = measure.Shared()
    first = measured(clock, shared=shared)
    later = measured(clock, shared=shared, extra=50.0)
    assert first.timing.amortised == SHARED
    assert later.timing.amortised == {**SHARED, "train": 50.0}
    assert later.timing.stages["train"] == 0


def test_calls_are_the_cell_s_own_and_those_shared_are_nobody_s(clock):
    own = {"gradient": 2, "forward": 4}
    assert measured(clock).calls == {**own, "partial": 5}
    shared = measure.Shared()
    for _ in range(2):
        assert +Counter(measured(clock, shared=shared).calls) == own
        assert shared.calls == {"partial": 5}


def test_repeats_share_too_and_every_one_of_them_is_kept(clock):
    timing = measured(clock, shared=measure.Shared(), repeats=3).timing
    assert timing.values == [{**OWN, "total": sum(OWN.values()) + 0.25}] * 3
    assert timing.amortised == SHARED


def test_training_is_in_the_first_video_and_not_in_a_further_one():
    timing = Timing(stages={"train": 60.0, "denoise": 10.0}, total=75.0)
    assert (timing.first_video, timing.further_video, timing.once) == (75.0, 15.0, True)
    shared = Timing(stages={"denoise": 10.0}, total=15.0, amortised={"train": 60.0, "encode": 2.0})
    assert (shared.first_video, shared.further_video, shared.once) == (77.0, 15.0, True)
    assert Timing().first_video is None and Timing().further_video is None and not Timing().once


def test_a_stage_s_peak_is_that_of_its_highest_entry_and_of_the_highest_repeat(clock, monkeypatch):
    # Entries in order: encode, text, extract, then extract, guide and denoise twice, decode.
    entries = [11, 12, 90, 20, 80, 31, 19, 40, 30, 13]
    again = [10, 14, 70, 21, 85, 30, 18, 41, 29, 12]
    peaks = chain(entries, again)
    monkeypatch.setattr(measure, "reset_process_peak", lambda: True)
    monkeypatch.setattr(measure, "process_peak", lambda: next(peaks))
    found = measured(clock, repeats=2).memory
    wanted = {"encode": 11, "text": 14, "extract": 90, "guide": 85, "denoise": 31, "decode": 13}
    assert found == {stage: Memory(process=peak) for stage, peak in wanted.items()}


def test_energy_is_the_difference_over_the_run_and_unknown_where_part_of_it_is_shared(clock, monkeypatch):
    meter = chain([100.0, 130.0, 200.0, 250.0, 300.0, 340.0], repeat(999.0))
    monkeypatch.setattr(measure, "gpu_energy", lambda device: next(meter))
    assert measured(clock, repeats=3).energy == 40.0, "the median of 30, 50 and 40"
    assert measured(clock, shared=measure.Shared()).energy is None
    monkeypatch.setattr(measure, "gpu_energy", lambda device: None)
    assert measured(clock).energy is None


def test_a_warm_up_is_timed_by_nobody(clock):
    method = Reads()
    method.clock = clock
    backbone = Timed(clock)
    measure.warm_up(backbone, method, CLIP, "clip0", "a red square", 0, device="cpu", steps=1)
    # Encoding, one prompt, what is read before and in the first step, that step, decoding.
    assert clock.now == 100 + 3 + 1 + 0.25 + (2 + 7 + 4) + (1 + 6) + 20 + 10 + 5
