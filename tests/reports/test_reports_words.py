"""What people read: numbers, settings in words, a sentence for each column."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

from harness.command.terminal import HOME
from reports.table.columns import COSTS, COUNT, MEMORY, Column, Number
from reports.table.numbers import text_of
from reports.table.words import apart, device_words

METRICS = sorted((HOME / "conf" / "metric").glob("*.yaml"))


def column(digits: int = 4, unit: str = "") -> Column:
    return Column(key="mine", label="Mine", digits=digits, unit=unit, read=lambda _: None)


@pytest.mark.parametrize(
    ("number", "of", "text"),
    [
        (Number(0.7114, 0.682, 0.740), column(), ".711 ±.029"),
        (Number(0.7114), column(), ".711"),
        (Number(-0.0001, -0.25, 0.25), column(2), ".00 ±.25"),
        (Number(16.0714, 13.849, 18.963), column(2), "16.07 ±2.56"),
        (Number(1234.5, 1000.0, 1500.0), column(2), "1234 ±250"),
        (Number(1.35e9), MEMORY, "1.35"),
        (Number(), column(), "-"),
    ],
)
def test_a_number_is_its_value_and_half_its_interval_s_width(number: Number, of: Column, text: str) -> None:
    assert text_of(number, of) == text
    assert text_of(number, of, interval=False) == text.split(" ±")[0]
    # Three digits, or those declared, say the value to within half of the last.
    if math.isfinite(number.value) and of is not MEMORY:
        assert float(text.split(" ±")[0]) == pytest.approx(
            number.value, abs=0.5 if number.value > 999 else 5e-3
        )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            [{"method": {"config": {"steps": 25}}}, {"method": {"config": {"steps": 10}}}],
            ["25 steps", "10 steps"],
        ),
        ([{"backbone.steps": "25", "frames": "17"}, {"frames": "17"}], ["25 steps", ""]),
        ([{"frames": 1}, {"frames": 17}], ["1 frame", "17 frames"]),
        ([{"method": {"blocks": []}}, {"method": {"blocks": [3]}}], ["no blocks", "blocks 3"]),
        (
            [{"method": {"weights": f"/data/{'deep/' * 20}{name}"}} for name in "ab"],
            [f"weights …{('/data/' + 'deep/' * 20 + name)[-39:]}" for name in "ab"],
        ),
        (
            [
                {"method": {"config": {"reuse": {"interval": 3}}}},
                {"method": {"config": {"reuse": {"interval": 5}}}},
            ],
            ["reuse interval 3", "reuse interval 5"],
        ),
        (
            [{"backbone": {"height": 64, "width": 64}}, {"backbone": {"height": 96, "width": 128}}],
            ["64x64", "128x96"],
        ),
        (
            [{"method": {"tile": [2, 2], "depth": None}}, {"method": {"tile": [3, 4], "depth": 20}}],
            ["tile 2x2, no depth", "tile 3x4, depth 20"],
        ),
        (
            [
                {"dataset": {"config": {"frames": 17}}, "frames": 17},
                {"dataset": {"config": {"frames": 9}}, "frames": 9},
            ],
            ["17 frames", "9 frames"],
        ),
        ([{"method": {"window": 7}}, {"method": {"window": 7}}], ["", ""]),
    ],
)
def test_rows_are_named_by_the_settings_that_differ(
    settings: list[dict[str, object]], words: list[str]
) -> None:
    assert apart(settings) == words


def test_a_device_is_named_with_its_article() -> None:
    assert device_words("AMD EPYC", "2") == "2 threads of an AMD EPYC"
    assert device_words("NVIDIA H200", "") == "on an NVIDIA H200"
    assert device_words("Some CPU", "1") == "1 thread of a Some CPU"


@pytest.mark.parametrize("path", METRICS, ids=lambda path: path.stem)
def test_every_metric_says_in_a_sentence_what_it_measures(path: Path) -> None:
    (node,) = yaml.safe_load(path.read_text()).values()
    sentence = Column(key=path.stem, label="", target=node["_target_"], read=lambda _: None).sentence
    assert sentence.endswith(".") and 4 <= len(sentence.split()) <= 30 and "``" not in sentence, sentence
    assert Column(key="theirs", label="", target="os.path.join", read=lambda _: None).sentence == ""


def test_every_cost_says_in_a_sentence_what_it_is() -> None:
    for cost in (*COSTS, COUNT):
        assert cost.sentence.endswith(".") and 4 <= len(cost.sentence.split()) <= 30
