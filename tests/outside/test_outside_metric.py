"""A metric from outside the package: one file, and one YAML that names it."""

from __future__ import annotations

import numpy as np
import pytest

from datasets.media.video import read_video
from reports.__main__ import main as reports

FILES = {
    "metric_from_outside/flicker.py": '''
from typing import ClassVar

import numpy as np
import pydantic

from metrics.interface import Column, Metric, Score


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class Flicker(Metric):
    """Mean absolute change of the mean brightness between successive frames, in grey levels."""

    name: str
    power: float = 1.0

    version: ClassVar[str] = "1"
    column = Column("Flicker", unit="levels", higher_is_better=False, digits=2)

    def score(self, sample):
        jumps = np.abs(np.diff(sample.generated.mean(axis=(1, 2, 3)))) ** self.power
        return Score(float(jumps.mean()), per_frame=tuple(jumps.tolist()))
''',
    "configs/metrics/mine.yaml": """
required: [flicker]
metrics:
  flicker: {_target_: metric_from_outside.flicker.Flicker, name: flicker, power: 2}
""",
}


def test_a_metric_from_outside_is_measured_and_stands_in_the_table(outside, tmp_path, capsys):
    (record,) = outside(FILES, "metrics=mine", "dataset.clips=1")
    flicker = record.metrics["flicker"]
    (path,) = (tmp_path / "results" / "cells").rglob("frames.mkv")
    jumps = np.diff(read_video(path)[0].mean(axis=(1, 2, 3))) ** 2
    assert flicker.value == pytest.approx(jumps.mean()) and len(flicker.per_frame or ()) == 16
    declared = flicker.label, flicker.unit, flicker.higher_is_better, flicker.digits
    assert declared == ("Flicker", "levels", False, 2)
    assert "power=2.0" in flicker.version
    capsys.readouterr()
    assert reports(["results"]) == 0
    table = capsys.readouterr().out
    assert "Flicker" in table and "(levels) ↓" in table and f"{flicker.value:.2f}".lstrip("0") in table
