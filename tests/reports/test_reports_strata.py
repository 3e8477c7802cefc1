"""Tables of one kind of clips or prompts each."""

from __future__ import annotations

import re
import sys

import pytest

from harness import __main__ as cli
from harness.records import store
from reports.__main__ import main
from reports.table.strata import by_stratum
from reports.table.tables import tables

SLOW = ("motion_fidelity", "motion_fidelity_legacy", "warp_consistency", "background_flow_error", "ftd")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strata")
    words = [
        "method=none",
        "backbone.steps=1",
        "frames=5",
        f"results={folder}",
        "wandb=disabled",
        "execute=here",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["harness", *words, *(f"~metrics.metrics.{name}" for name in SLOW)])
        assert cli.main() == 0
    return folder


def plans(results):
    return [store.load_plan(path) for path in sorted((results / "plans").glob("*.json"))]


@pytest.mark.parametrize("name", ["motion", "moves", "objects", "prompt"])
def test_each_kind_has_a_table_of_its_own_clips_and_together_they_are_all(results, name, capsys):
    everything = plans(results)
    cells = {cell.id: cell for plan in everything for one in plan.variants for cell in one.cells}
    parts = by_stratum(everything, name)
    found = [
        [cell.id for plan in part for variant in plan.variants for cell in variant.cells]
        for part in parts.values()
    ]
    assert sorted(cell for part in found for cell in part) == sorted(cells)
    for title, ids in zip(parts, found, strict=True):
        kinds = {cells[one].prompt_kind if name == "prompt" else cells[one].strata[name] for one in ids}
        assert title == f"{name} {kinds.pop()}" and not kinds
    assert main([str(results), "--by", name, "--format", "md"]) == 0
    shown = capsys.readouterr().out
    titles = [line for line in shown.splitlines() if line.startswith("###")]
    assert len(titles) == len(parts)
    for line, title, ids in zip(titles, parts, found, strict=True):
        clips = len({cells[one].clip for one in ids})
        assert re.match(rf"### {clips} clips?, .*embedded world, .*, {title}$", line)


def test_the_values_of_a_part_are_those_of_its_clips(results):
    (whole,) = tables(results, plans(results))
    total, count = 0.0, 0
    for part in by_stratum(plans(results), "motion").values():
        (table,) = tables(results, part)
        cells = sum(len(variant.cells) for plan in part for variant in plan.variants)
        total += table.values.loc["none", "clip_t"] * cells
        count += cells
    assert total / count == pytest.approx(whole.values.loc["none", "clip_t"])


def test_an_unknown_kind_is_bad_input(results, capsys):
    assert main([str(results), "--by", "motoin"]) == 2
    assert "--by motoin: no clip has such a stratum; did you mean motion?" in capsys.readouterr().err
    assert main([str(results), "--by", "motion", "--format", "html"]) == 2
    assert "--by: makes tables alone" in capsys.readouterr().err
