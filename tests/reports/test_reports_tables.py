import csv
import io
import json
import math
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from reports_world import bootstrap_t, declared
from rich.cells import cell_len
from rich.console import Console

from datasets.errors import InputError
from harness.records import store
from harness.records.record import (
    Failure,
    Flops,
    Memory,
    MetricValue,
    Plan,
    PlannedCell,
    PlannedOut,
    Record,
    Source,
    Timing,
    Variant,
    VariantOut,
    left_out_lines,
)
from reports.__main__ import main
from reports.table.entries import differences, entries
from reports.table.formats import print_tables, render, to_csv, to_latex, to_markdown
from reports.table.published import blocks
from reports.table.rows import with_baseline
from reports.table.tables import tables
from reports.table.text import to_text


def write_cell(results, method, clip, prompt="a red square", seed=0, *, config="c", status="ok", **given):
    """Write a record and return its planned cell. ``given``: metrics, reasons, idle metrics, fields."""
    id_ = f"{method}-{config}-{clip}-{prompt}-{seed}".replace(" ", "_")
    path = f"cells/{method}/sprites/{clip}-{id_}"
    cell = PlannedCell(id=id_, path=path, clip=clip, prompt=prompt, seed=seed)
    if status is None:
        return cell
    metrics = {
        name: MetricValue(
            value=value,
            version="1",
            reason=given.get("reasons", {}).get(name),
            applies=name not in given.get("idle", ()),
        )
        for name, value in given.get("metrics", {}).items()
    }
    start = given.get("start", {"strength": None})
    record = Record(
        id=id_,
        status=status,
        method=Source(
            name=method, version="1", config={"name": method, "start": start, "steps": given.get("steps", 25)}
        ),
        backbone=Source(
            name="sprites",
            version="1",
            config={"weights": given.get("weights", "pretrained"), "width": 64, "height": 64},
        ),
        dataset=Source(name="sprites", version="1", config={"frames": 17}),
        clip=clip,
        prompt=prompt,
        seed=seed,
        metrics={key: declared(key, value) for key, value in metrics.items()} if status == "ok" else {},
        timing=Timing(total=given.get("total", 2.0), repeats=given.get("repeats", 1)),
        calls=given.get("calls", {}),
        flops=Flops(forward_equivalents=given.get("forwards")),
        memory=given.get("memory", {"guide": Memory(process=500_000_000)}),
        environment={"device": given.get("device", "Some CPU")},
        error=None if status == "ok" else Failure(kind="Boom", message="boom", traceback="..."),
    )
    store.save_record(results / path, record)
    return cell


def variant(method, cells, label=None, config="c", **given):
    return Variant(
        label=label or method,
        method=method,
        backbone=given.pop("backbone", "sprites"),
        dataset=given.pop("dataset", "sprites"),
        config_id=config,
        cells=cells,
        **given,
    )


def write_plan(results, name, variants, **given):
    plan = Plan(name=name, variants=variants, **given)
    store.save_plan(results, plan)
    return plan


@pytest.fixture
def world(tmp_path):
    """Three methods over six clips, two prompts, two seeds; known values."""
    rng = np.random.default_rng(0)
    levels = {
        "clip_t": {"chance": 0.2, "true": 0.3, "pairs": 30.0},
        "motion_fidelity": {"chance": 0.41, "pairs": 30.0},
    }
    means = {"none": (0.28, 0.3, 17.0), "fastvmt": (0.27, 0.8, 6.0), "full_attention": (0.26, 0.75, 5.0)}
    truth = {}
    variants = []
    for method, (text, motion, error) in means.items():
        cells = []
        for clip in [f"clip{index}" for index in range(6)]:
            for prompt in ("a red square", "a blue star"):
                for seed in (0, 1):
                    metrics = {
                        "clip_t": text + float(rng.normal(0, 0.002)),
                        "motion_fidelity": motion + float(rng.normal(0, 0.02)),
                        "clip_f": 0.98,
                        "position_error": error + float(rng.normal(0, 0.3)),
                        "direction_cosine": 0.5,
                        "warp_consistency": 0.9,
                    }
                    truth[(method, clip, prompt, seed)] = metrics
                    cells.append(
                        write_cell(
                            tmp_path,
                            method,
                            clip,
                            prompt,
                            seed,
                            metrics=metrics,
                            forwards={"none": 50.0, "fastvmt": 80.0, "full_attention": 120.0}[method],
                            total={"none": 1.0, "fastvmt": 2.0, "full_attention": 3.0}[method],
                        )
                    )
        variants.append(variant(method, cells, levels=levels))
    plan = write_plan(
        tmp_path,
        "grid",
        variants,
        left_out=[PlannedOut(clip="short-clip", reason="9 frames, 17 needed")],
        command=["experiment=ablation"],
    )
    return tmp_path, plan, truth


def by_clip(truth, method, metric):
    """Clip means, averaging prompts and seeds, without any of the code under test."""
    return np.array(
        [
            np.mean(
                [values[metric] for (who, of, _, _), values in truth.items() if (who, of) == (method, clip)]
            )
            for clip in sorted({key[1] for key in truth})
        ]
    )


def marks_of(table, key):
    return {label: of_row[key] for label, of_row in table.marks.items()}


def test_means_and_intervals_are_over_clips(world):
    results, plan, truth = world
    (table,) = tables(results, [plan])
    for method in ("none", "fastvmt", "full_attention"):
        clips = by_clip(truth, method, "motion_fidelity")
        assert table.values.at[method, "motion_fidelity"] == pytest.approx(clips.mean())
        expected = bootstrap_t(clips)
        found = [frame.at[method, "motion_fidelity"] for frame in (table.lows, table.highs)]
        np.testing.assert_allclose(found, expected, atol=0.1 * (expected[1] - expected[0]))
        assert table.values.at[method, "n"] == 6
    assert table.values["time"].to_dict() == {"none": 1.0, "fastvmt": 2.0, "full_attention": 3.0}
    assert table.values.at["fastvmt", "direction_cosine"] == 0.5
    assert table.values.at["none", "memory"] == 5e8


def test_only_the_columns_asked_for_are_shown_in_their_order(world, capsys):
    results, plan, _ = world
    asked = ["forward_equivalents", "warp_consistency", "position_error"]
    (table,) = tables(results, [plan], only=asked)
    assert [column.key for column in table.columns] == [*asked, "n"]
    assert set(table.differences["fastvmt"]) == {"warp_consistency", "position_error"}
    everything = " ".join([*table.notes, *table.brief])
    for other in ("Text sim.", "Motion fid.", "Memory", "Times from one run", "Times are of one run"):
        assert other not in everything
    with pytest.raises(InputError, match=r"motion_fidelty: no such column; near it: motion_fidelity.*help"):
        tables(results, [plan], only=["motion_fidelty"])
    assert main([str(results), "--columns", "time", "clip_t"]) == 0
    printed = capsys.readouterr().out
    assert "Time (s)" in printed and "Position err." not in printed


def test_true_gradients_are_a_mean_over_clips_shown_where_asked_for(tmp_path):
    counts = {"a": {"forward": 50, "gradient": 34}, "b": {"forward": 50, "gradient": 37}}
    guided = [write_cell(tmp_path, "fastvmt", clip, calls=calls) for clip, calls in counts.items()]
    plain = [write_cell(tmp_path, "none", clip, calls={"forward": 50}) for clip in counts]
    elsewhere = [write_cell(tmp_path, "precomputed", clip) for clip in counts]
    cells = {"fastvmt": guided, "none": plain, "precomputed": elsewhere}
    plan = write_plan(tmp_path, "p", [variant(method, those) for method, those in cells.items()])
    (table,) = tables(tmp_path, [plan], only=["gradients"])
    values = table.values["gradients"]
    assert (values["fastvmt"], values["none"]) == (35.5, 0)
    assert math.isnan(values["precomputed"])
    assert "35.5" in to_markdown(table) and "35.50" not in to_markdown(table)
    assert set(marks_of(table, "gradients").values()) == {""}
    (table,) = tables(tmp_path, [plan])
    assert "gradients" not in table.values


def test_the_best_follows_each_columns_direction(world):
    results, plan, _ = world
    (table,) = tables(results, [plan])
    assert marks_of(table, "clip_t") == {"none": "best", "fastvmt": "", "full_attention": ""}
    assert marks_of(table, "motion_fidelity") == {"none": "", "fastvmt": "best", "full_attention": ""}
    assert marks_of(table, "position_error") == {"none": "", "fastvmt": "", "full_attention": "best"}
    assert marks_of(table, "forward_equivalents") == {"none": "best", "fastvmt": "", "full_attention": ""}
    assert set(marks_of(table, "n").values()) == {""}
    assert set(marks_of(table, "clip_f").values()) == {"tied"}, "all equal"


def row_of(results, method, values, key="clip_t", **given):
    cells = [
        write_cell(results, method, clip, metrics={key: value}, **given)
        for clip, value in zip("abcdefgh", values, strict=False)
    ]
    return variant(method, cells)


def test_what_sign_flips_do_not_tell_apart_is_tied(tmp_path):
    # x leads y by far less than the clips differ, yet on every clip; w leads z on the mean only.
    x = np.linspace(0.2, 0.9, 8)
    z = x - 0.3
    w = z + np.array([0.2, -0.19, 0.2, -0.19, 0.2, -0.19, 0.2, -0.19])
    rows = [
        row_of(tmp_path, name, values) for name, values in (("z", z), ("w", w), ("x", x), ("y", x - 0.01))
    ]
    (table,) = tables(tmp_path, [write_plan(tmp_path, "p", rows)])
    assert marks_of(table, "clip_t") == {"z": "", "w": "", "x": "best", "y": ""}
    (table,) = tables(tmp_path, [write_plan(tmp_path, "p", [rows[0], rows[1]])])
    assert marks_of(table, "clip_t") == {"z": "tied", "w": "tied"}
    assert any("○ is tied with the best: no significant difference" in note for note in table.notes)
    assert "○ tied with the best" in table.brief[0]
    assert re.search(r"\| z +\| +○ \.\d{3} ±\.\d{3} \|", to_markdown(table))
    assert re.search(r"^z & \$\\circ\$\\,\.\d{3}\\,{\\scriptsize \$\\pm\$\.\d{3}}", to_latex(table), re.M)


def test_a_difference_is_beyond_chance_where_it_is_by_its_marks(tmp_path):
    rng = np.random.default_rng(4)
    clips = rng.normal(0.5, 0.2, 8)
    leads = {"a": 0.3, "b": 0.0, "c": -0.01, "d": -0.3}
    rows = [
        row_of(tmp_path, name, clips + lead + rng.normal(0, 0.06, 8), "motion_fidelity")
        for name, lead in leads.items()
    ]
    plan = write_plan(tmp_path, "p", rows)

    def p_against(base):
        (table,) = tables(tmp_path, with_baseline(tmp_path, [plan], base))
        assert marks_of(table, "motion_fidelity") == {"a": "best", "b": "", "c": "", "d": ""}
        (column,) = [column for column in table.columns if column.key == "motion_fidelity"]
        shown = {label: of["motion_fidelity"] for label, of in differences(table, [column]).items()}
        found = {label: of["motion_fidelity"].p for label, of in table.differences.items()}
        assert {label for label, entry in shown.items() if entry.mark == "apart"} == {
            label for label, p in found.items() if p <= 0.05
        }
        return found

    assert max(p_against("a").values()) <= 0.05
    second = p_against("b")
    assert second["a"] <= 0.05 and second["d"] <= 0.05 < second["c"]
    assert p_against("c")["b"] == second["c"], "the same p from either side"


def test_below_six_clips_their_values_stand_in_place_of_claims(tmp_path):
    values = {"x": [0.9, 0.8, 0.7, 0.9, 0.8], "y": [0.1, 0.2, 0.1, 0.3, 0.2]}
    rows = [row_of(tmp_path, name, of_row, "motion_fidelity") for name, of_row in values.items()]
    (table,) = tables(tmp_path, [write_plan(tmp_path, "p", rows, baseline="y")])
    assert set(marks_of(table, "motion_fidelity").values()) == {""}
    assert np.isnan(table.lows.at["x", "motion_fidelity"]) and np.isnan(table.lows.at["x", "time"])
    main, details = to_markdown(table).split("<details>")
    for text in (main, to_latex(table)):
        (line,) = re.findall(r"^.*\bx\b.* \.820 .*$", text, re.M)
        assert not re.search(r"±|pm|\(|\[", line)
    assert ".820 (.900 .800 .700 .900 .800)" in details and "[" not in details
    assert "no interval below 6 clips" in table.brief[0]
    line = next(csv.DictReader(io.StringIO(to_csv([table]))))
    assert (line["motion_fidelity_low"], line["motion_fidelity_points"]) == ("", "0.9 0.8 0.7 0.9 0.8")
    assert "+.640 (+.800 +.600 +.600 +.600 +.600) |   5 |" in details
    assert (line["motion_fidelity_diff_n"], line["motion_fidelity_diff_p"]) == ("5", "")
    said = [note for note in table.notes if note.startswith("Not ranked, because rows share fewer")]
    assert len(said) == 1 and "fewer than 6 clips" in said[0] and "Motion fid., Time" in said[0]
    rows = [
        row_of(tmp_path, name, [*of_row, of_row[0]], "motion_fidelity") for name, of_row in values.items()
    ]
    (table,) = tables(tmp_path, [write_plan(tmp_path, "p", rows)])
    assert marks_of(table, "motion_fidelity") == {"x": "best", "y": ""}
    assert not any(note.startswith("No best") or "parentheses" in note for note in table.notes)
    assert table.lows.at["x", "motion_fidelity"] < 0.83 < table.highs.at["x", "motion_fidelity"]


def test_rows_of_too_few_clips_in_common_are_not_told_apart(tmp_path):
    rows = [row_of(tmp_path, "x", np.linspace(0.5, 0.9, 8)), row_of(tmp_path, "y", np.linspace(0.1, 0.2, 8))]
    rows[1].cells[:3] = []
    (table,) = tables(tmp_path, [write_plan(tmp_path, "p", rows)])
    assert set(marks_of(table, "clip_t").values()) == {""}
    assert any(note.startswith("Not ranked, because rows share fewer") for note in table.notes)


def test_a_share_of_clips_has_wilsons_interval(tmp_path):
    rows = [row_of(tmp_path, name, of, "mine") for name, of in (("x", [1.0] * 8), ("y", [1.0, 0.0] * 4))]
    (table,) = tables(tmp_path, [write_plan(tmp_path, "p", rows)])
    z = 1.959964
    for name, share in (("x", 1.0), ("y", 0.5)):
        middle = (share + z**2 / 16) / (1 + z**2 / 8)
        reach = z / (1 + z**2 / 8) * math.sqrt(share * (1 - share) / 8 + z**2 / 256)
        found = [frame.at[name, "mine"] for frame in (table.lows, table.highs)]
        np.testing.assert_allclose(found, [middle - reach, middle + reach], atol=1e-6)


def test_one_clip_that_was_disturbed_does_not_hide_that_a_row_is_faster(tmp_path):
    """Times differ by their ratio: 3 s are five times faster than 16, though one clip took a minute."""
    took = {"fast": [3.0, 3.1, 3.2, 2.9, 3.0, 3.3, 60.0, 3.1], "slow": [16.0, 17, 15, 16, 18, 16, 40.0, 17]}
    rows = [
        variant(
            name,
            [
                write_cell(tmp_path, name, clip, total=one)
                for clip, one in zip("abcdefgh", seconds, strict=True)
            ],
        )
        for name, seconds in took.items()
    ]
    (table,) = tables(tmp_path, [write_plan(tmp_path, "p", rows)])
    assert marks_of(table, "time") == {"fast": "best", "slow": ""}


def test_one_clip_ranks_nothing_but_counts(tmp_path):
    rows = [
        variant(name, [write_cell(tmp_path, name, "a", metrics={"clip_t": value}, forwards=forwards)])
        for name, value, forwards in (("x", 0.3, 50.0), ("y", 0.2, 80.0))
    ]
    (table,) = tables(tmp_path, [write_plan(tmp_path, "p", rows)])
    assert {*marks_of(table, "clip_t").values(), *marks_of(table, "time").values()} == {""}
    assert list(marks_of(table, "forward_equivalents").values()) == ["best", ""]


@pytest.mark.parametrize(
    ("other", "unmarked"),
    [({"device": "Other CPU"}, {"time", "memory"}), ({"weights": "sha256:2"}, {"time", "memory", "clip_t"})],
)
def test_rows_too_unlike_are_not_ranked(tmp_path, other, unmarked):
    rows = [
        row_of(tmp_path, "x", [0.1, 0.2, 0.3, 0.1, 0.2, 0.3], total=1.0),
        row_of(tmp_path, "y", [0.5, 0.6, 0.8, 0.5, 0.6, 0.8], total=2.0, **other),
    ]
    (table,) = tables(tmp_path, [write_plan(tmp_path, "p", rows, baseline="x")])
    keys = ("time", "memory", "clip_t")
    assert {key for key in keys if set(marks_of(table, key).values()) == {""}} == unmarked
    assert any(note.startswith("Not ranked, because the rows' settings differ") for note in table.notes)
    if "device" in other:
        assert np.isnan(table.values.at["y", "speedup"])
        assert any("none across devices, threads or sizes (y)" in note for note in table.notes)


def test_speed_up_is_over_the_named_baseline_clip_by_clip(tmp_path):
    seconds = {"fast": [1.0, 2.0, 4.0] * 2, "slow": [2.0, 6.0, 16.0] * 2}
    rows = [
        variant(
            name,
            [
                write_cell(tmp_path, name, clip, metrics={"clip_t": 0.3}, total=total)
                for clip, total in zip("abcdef", totals, strict=True)
            ],
        )
        for name, totals in seconds.items()
    ]
    plan = write_plan(tmp_path, "p", rows)
    assert "speedup" not in tables(tmp_path, [plan])[0].values
    (table,) = tables(tmp_path, with_baseline(tmp_path, [plan], "slow"))
    assert table.values["speedup"].to_dict() == {"fast": pytest.approx(24 ** (1 / 3)), "slow": 1.0}
    assert 1.5 < table.lows.at["fast", "speedup"] < 24 ** (1 / 3) < table.highs.at["fast", "speedup"] < 4.5
    assert "Speed-up (x) ↑" in to_markdown(table)
    assert any(note.startswith("Speed-up: over slow, ") for note in table.notes)


def test_differences_have_their_p_in_every_form(world):
    results, plan, _ = world
    (table,) = tables(results, with_baseline(results, [plan], "full_attention"))
    wide = to_text([table], 200, details=True)
    texts = (to_markdown(table), to_latex(table), wide)
    below = [text.partition("paired by clip")[2] for text in texts]
    found = [[float(p) for p in re.findall(r"\bp[ ~](\.\d+|1\.000)", text)][:8] for text in below]
    # Six clips have 2^6 sign patterns, so that no p is below 2/64; rows far apart reach it all the same.
    assert all(sorted(of) == sorted(found[0]) and len(of) == 8 for of in found)
    assert min(found[0]) == pytest.approx(2 / 64, abs=5e-4) and max(found[0]) == 1
    for text in texts:
        assert "Differences from full_attention, paired by clip" in re.sub(r"\*\*|\\", "", text)
    line = next(csv.DictReader(io.StringIO(to_csv([table]))))
    ends = [float(line[f"motion_fidelity_diff{end}"]) for end in ("_low", "", "_high")]
    assert ends == sorted(ends) and ends[1] < 0 and float(line["motion_fidelity_diff_p"]) == 2 / 64


def test_markdown_holds_numbers_arrows_and_notes(world):
    results, plan, truth = world
    text = to_markdown(tables(results, [plan])[0])
    header = next(line for line in text.splitlines() if line.startswith("|"))
    for heading in ("Text sim. ↑", "Motion fid. ↑", "Position err. (px) ↓"):
        assert heading in header
    for heading in ("Direction cos. ↑", "Time (s) ↓"):
        assert heading in header
    main, details = text.split("<details>")
    for heading in ("Temp. cons. ↑", "Memory (GB) ↓", "Forward eq. ↓", "n"):
        assert f" {heading} |" not in main and f" {heading} |" in details
    for part in (main.split("**Differences")[0], *main.split("**Differences")[1:]):
        assert len({line.count("|") for line in part.splitlines() if line.startswith("|")}) == 1
    clips = by_clip(truth, "fastvmt", "motion_fidelity")
    (table,) = tables(results, [plan])
    number = table.numbers["fastvmt"]["motion_fidelity"]
    half = (number.high - number.low) / 2
    assert f"● **{clips.mean():.3f}** ±{half:.3f} |".replace("0.", ".") in main
    assert f"● **{clips.mean():.3f}** [{number.low:.3f}, {number.high:.3f}] |".replace("0.", ".") in details
    assert 1 <= len(table.brief) <= 5 and all(f"- {note}\n" in main for note in table.brief)
    assert "- Left out: short-clip: 9 frames, 17 needed." in text
    assert "- Times from one run (measure.repeats=1) are indicative." in text
    assert "- Device: Some CPU." in text
    assert "- Start: pure noise." in text
    assert "Not the same" not in text and "not in its numbers" not in text


def test_levels_and_the_rescaled_value_stand_below(world):
    results, plan, truth = world
    notes = "\n".join(tables(results, [plan])[0].notes)
    rescaled = (by_clip(truth, "none", "clip_t").mean() - 0.2) / (0.3 - 0.2)
    expected = f"(value - chance) / (true - chance): none {rescaled:.3f}, ".replace(" 0.", " .")
    assert f"Text sim.: chance: .200; true clips: .300; {expected}" in notes
    assert "Motion fid.: chance: .410." in notes


def test_paired_differences_from_none(world):
    results, plan, truth = world
    (table,) = tables(results, [plan])
    assert table.base == "none" and set(table.differences) == {"fastvmt", "full_attention"}
    found = table.differences["fastvmt"]["motion_fidelity"]
    ours, theirs = (by_clip(truth, method, "motion_fidelity") for method in ("fastvmt", "none"))
    assert found.mean == pytest.approx((ours - theirs).mean()) and len(found.values) == 6
    low, high = found.interval
    assert 0.3 < low < (ours - theirs).mean() < high
    assert f"+{(ours - theirs).mean():.3f} [+{low:.3f}, +{high:.3f}]".replace("+0.", "+.") in to_markdown(
        table
    )


def test_a_plans_baseline_comes_before_none(world):
    results, plan, _ = world
    (table,) = tables(results, [plan.model_copy(update={"baseline": "full_attention"})])
    assert table.base == "full_attention" and set(table.differences) == {"none", "fastvmt"}


def test_no_differences_without_a_baseline(tmp_path):
    plan = write_plan(
        tmp_path,
        "p",
        [variant(name, [write_cell(tmp_path, name, "a", metrics={"clip_t": 0.3})]) for name in ("x", "y")],
    )
    (table,) = tables(tmp_path, [plan])
    assert not table.differences
    assert not any(
        "Differences" in text for text in (to_markdown(table), to_latex(table), to_text([table], 80))
    )


def test_seeds_of_several_plans_are_pooled(tmp_path):
    values = {0: (0.1, 0.5), 1: (0.3, 0.9), 2: (0.8, 0.1)}
    plans = [
        write_plan(
            tmp_path,
            f"grid-{seed}",
            [
                variant(
                    "fastvmt",
                    [
                        write_cell(tmp_path, "fastvmt", clip, seed=seed, metrics={"clip_t": value})
                        for clip, value in zip("ab", pair, strict=True)
                    ],
                    levels={"clip_t": {"chance": 0.1 * seed, "true": 1.0, "pairs": 1.0 + seed}},
                )
            ],
        )
        for seed, pair in values.items()
    ]
    # A cell that stands in two plans counts once.
    (table,) = tables(tmp_path, [*plans, plans[0]])
    assert list(table.values.index) == ["fastvmt"]
    assert table.values.at["fastvmt", "clip_t"] == pytest.approx((0.4 + 0.5) / 2)
    assert table.values.at["fastvmt", "n"] == 2
    assert any("intervals are over clips" in note for note in table.notes)


def test_one_label_with_two_configurations_stays_two_rows(tmp_path):
    variants = [
        variant(
            "fastvmt",
            [write_cell(tmp_path, "fastvmt", "a", config=config, steps=steps, metrics={"clip_t": 0.3})],
            config=config,
            overrides=["dataset=sprites", "limit=4", f"backbone.steps={steps}", f"results={config}"],
        )
        for config, steps in (("one", 25), ("two", 10))
    ]
    (table,) = tables(tmp_path, [write_plan(tmp_path, "p", variants)])
    assert list(table.values.index) == ["fastvmt, 25 steps", "fastvmt, 10 steps"]
    assert any(note.startswith("Not the same steps: ") for note in table.notes)


def test_rows_that_differ_are_not_compared_silently(tmp_path):
    rows = [
        variant(
            "none",
            [write_cell(tmp_path, "none", clip, metrics={"clip_t": 0.3}) for clip in "abc"],
        ),
        variant(
            "other",
            [
                write_cell(
                    tmp_path,
                    "other",
                    clip,
                    "a green dot",
                    seed,
                    metrics={"clip_t": 0.3},
                    device="Other CPU",
                    steps=10,
                    start={"strength": 0.8},
                )
                for clip in "ab"
                for seed in (0, 1)
            ],
        ),
    ]
    notes = "\n".join(tables(tmp_path, [write_plan(tmp_path, "p", rows)])[0].notes)
    assert "Not the same clips: none 3; other 2 (2 in common)" in notes
    assert "Not the same prompts: " in notes
    assert "Not the same seeds: none 0; other 0, 1." in notes
    assert "Not the same steps: none 25; other 10." in notes
    assert "Not the same device: none Some CPU; other Other CPU." in notes
    assert "Not the same start: none pure noise; other SDEdit, strength 0.8." in notes


def test_other_datasets_and_backbones_get_tables_of_their_own(tmp_path):
    cells = [write_cell(tmp_path, "none", "a", metrics={"clip_t": 0.3})]
    plan = write_plan(
        tmp_path,
        "p",
        [
            variant("none", cells),
            variant("none", cells, dataset="davis"),
            variant("none", cells, dataset="davis", backbone="wan"),
        ],
    )
    made = tables(tmp_path, [plan])
    assert [table.title for table in made] == [
        "1 clip, embedded world, on a Some CPU",
        "1 clip, DAVIS, embedded world, on a Some CPU",
        "1 clip, DAVIS, wan, on a Some CPU",
    ]
    lines = list(csv.DictReader(io.StringIO(to_csv(made))))
    assert [(line["dataset"], line["backbone"]) for line in lines] == [
        ("sprites", "sprites"),
        ("davis", "sprites"),
        ("davis", "wan"),
    ]


def test_failed_missing_and_unreadable_cells_are_counted(tmp_path):
    cells = [
        write_cell(tmp_path, "fastvmt", "a", metrics={"clip_t": 0.3}),
        write_cell(tmp_path, "fastvmt", "b", status="oom"),
        write_cell(tmp_path, "fastvmt", "c", status="oom"),
        write_cell(tmp_path, "fastvmt", "d", status="failed"),
        write_cell(tmp_path, "fastvmt", "e", status=None),
        write_cell(tmp_path, "fastvmt", "f", metrics={"clip_t": 9.0}),
    ]
    (tmp_path / cells[-1].path / "record.json").write_text("{")
    (table,) = tables(tmp_path, [write_plan(tmp_path, "p", [variant("fastvmt", cells)])])
    note = next(note for note in table.notes if "not in its numbers" in note)
    assert note.startswith("fastvmt: of 6 cells OOM 2, error 1, 1 with an unreadable record (")
    assert "(OOM 2, error 1)" in to_markdown(table)
    assert next(csv.DictReader(io.StringIO(to_csv([table]))))["failed"] == "OOM 2, error 1"
    assert "1 not run yet (b, c, d, e, f)" in note
    assert table.values.at["fastvmt", "clip_t"] == 0.3
    assert table.values.at["fastvmt", "n"] == 1


def test_a_row_that_failed_throughout_says_what_of(tmp_path):
    rows = [
        variant("none", [write_cell(tmp_path, "none", "a", metrics={"clip_t": 0.3})]),
        variant("other", [write_cell(tmp_path, "other", "a", status="oom")]),
    ]
    (table,) = tables(tmp_path, [write_plan(tmp_path, "p", rows)])
    assert {key: entry.value for key, entry in entries(table)["other"].items()} == {
        "clip_t": "OOM",
        "time": "OOM",
        "memory": "OOM",
        "forward_equivalents": "OOM",
        "n": "0",
    }
    assert "nan" not in render([table], "md").lower()
    assert "nan" not in render([table], "csv").lower()


def test_null_and_nan_are_left_out_of_every_row_with_their_reason(tmp_path):
    def row(method, values, reason=None):
        return variant(
            method,
            [
                write_cell(
                    tmp_path,
                    method,
                    clip,
                    metrics={"motion_fidelity": value, "clip_t": 0.3},
                    reasons={"motion_fidelity": reason if value is None else None},
                )
                for clip, value in zip("abc", values, strict=True)
            ],
        )

    rows = [
        row("none", [0.2, None, 0.4], "no moving reference track"),
        row("fastvmt", [0.6, 0.9, 0.8]),
        row("other", [float("nan"), 0.5, 0.7]),
    ]
    (table,) = tables(tmp_path, [write_plan(tmp_path, "p", rows)])
    assert table.values["motion_fidelity"].to_dict() == {"none": 0.4, "fastvmt": 0.8, "other": 0.7}
    assert "Motion fid. null in 1 cell (none 1): no moving reference track." in table.notes
    assert "Motion fid. null in 1 cell (other 1): not a finite number." in table.notes
    assert any("2 (clip, prompt, seed) null in some row" in note for note in table.notes)
    assert "Motion fid.: over 1 of 3 clips." in table.notes


def test_a_metric_null_everywhere_shows_a_dash_and_its_reason_once(tmp_path):
    cells = [
        write_cell(
            tmp_path,
            "none",
            clip,
            metrics={"clip_t": None},
            reasons={"clip_t": "weights of CLIP are missing; download them"},
        )
        for clip in "ab"
    ]
    text = to_markdown(tables(tmp_path, [write_plan(tmp_path, "p", [variant("none", cells)])])[0])
    assert text.partition("<details>")[0].count("weights of CLIP are missing") == 1
    assert re.search(r"\| none +\| +- \|", text)


def test_what_is_null_in_all_rows_is_not_said_to_differ(tmp_path):
    rows = [
        variant(
            method,
            [
                write_cell(
                    tmp_path,
                    method,
                    clip,
                    metrics={"position_error": error},
                    reasons={"position_error": None if error else "only the camera moves"},
                    idle=() if error else ("position_error",),
                )
                for clip, error in (("a", 5.0), ("camera", None))
            ],
        )
        for method in ("none", "fastvmt")
    ]
    (table,) = tables(tmp_path, [write_plan(tmp_path, "p", rows)])
    assert list(table.values["position_error"]) == [5.0, 5.0]
    assert "Position err.: over 1 of 2 clips." in table.notes
    assert not any("null" in note for note in table.notes)


def test_one_reason_for_several_metrics_is_one_line(tmp_path):
    missing = "weights of CLIP are missing; connect once"
    rows = [
        variant(
            method,
            [
                write_cell(
                    tmp_path,
                    method,
                    clip,
                    metrics={"clip_t": None, "clip_f": None if clip == "a" else 0.9, "mine": None},
                    reasons=dict.fromkeys(("clip_t", "clip_f", "mine"), missing),
                )
                for clip in "ab"
            ],
        )
        for method in ("none", "fastvmt")
    ]
    (table,) = tables(tmp_path, [write_plan(tmp_path, "p", rows)])
    assert entries(table)["none"]["mine"].value == "-", "null everywhere"
    assert [note for note in table.notes if "weights of CLIP" in note] == [
        f"Text sim., mine null in 4 cells (none 2, fastvmt 2); "
        f"Temp. cons. null in 2 cells (none 1, fastvmt 1): {missing}."
    ]


def test_metrics_that_do_not_apply_or_are_not_shown_are_not_told(tmp_path):
    nothing = ("position_error", "direction_cosine", "background_flow_error")
    cells = [
        write_cell(
            tmp_path,
            "none",
            clip,
            metrics={
                "clip_t": 0.3,
                "motion_fidelity": 0.5,
                "motion_fidelity_legacy": None,
                **dict.fromkeys(nothing),
            },
            reasons={
                "motion_fidelity_legacy": "a track rests",
                **dict.fromkeys(nothing, "only rendered clips know the truth"),
            },
            idle=nothing,
        )
        for clip in "ab"
    ]
    plan = write_plan(tmp_path, "p", [variant("none", cells)])
    (table,) = tables(tmp_path, [plan])
    assert not any(word in note for note in table.notes for word in ("truth", "apply", "rests", "over"))
    (table,) = tables(tmp_path, [plan], everything=True)
    assert "Motion fid. (legacy) null in 2 cells (none 2): a track rests." in table.notes
    assert "Does not apply to these clips: Position err., Direction cos., Bg. flow err." in table.notes


def test_each_column_says_over_how_many_clips_it_is(tmp_path):
    rows = []
    for method in ("none", "fastvmt"):
        cells = []
        for clip in "abcd":
            camera = clip == "d"
            metrics = {
                "clip_t": 0.3,
                "position_error": None if camera else 2.0,
                "direction_cosine": None if camera else 0.5,
                "background_flow_error": 0.1 if camera else None,
            }
            idle = [name for name, value in metrics.items() if value is None]
            cells.append(
                write_cell(
                    tmp_path, method, clip, metrics=metrics, idle=idle, reasons=dict.fromkeys(idle, "x")
                )
            )
        rows.append(variant(method, cells))
    (table,) = tables(tmp_path, [write_plan(tmp_path, "p", rows)])
    assert [note for note in table.notes if ": over " in note] == [
        "Position err., Direction cos.: over 3 of 4 clips.",
        "Bg. flow err.: over 1 of 4 clips.",
    ]


def test_clips_left_out_for_one_reason_share_a_line(tmp_path):
    absent = [PlannedOut(clip=f"clip{index}", reason="is not in DAVIS") for index in range(40)]
    short = [PlannedOut(clip=name, reason="has 9 frames, 17 needed") for name in ("x", "y")]
    cells = [write_cell(tmp_path, "none", "a", metrics={"clip_t": 0.3})]
    plan = write_plan(tmp_path, "p", [variant("none", cells)], left_out=[*short, *absent])
    names = ", ".join(out.clip for out in absent)
    lines = ["x: has 9 frames, 17 needed", "y: has 9 frames, 17 needed", f"{names}: is not in DAVIS"]
    assert left_out_lines(plan.left_out) == lines
    notes = [note for note in tables(tmp_path, [plan, plan])[0].notes if note.startswith("Left out")]
    assert notes == [f"Left out: {line}." for line in lines]


def test_random_weights_show_no_quality(tmp_path):
    rows = [
        variant("none", [write_cell(tmp_path, "none", "a", metrics={"clip_t": 0.3}, weights="random")]),
        variant("fastvmt", [write_cell(tmp_path, "fastvmt", "a", metrics={"clip_t": 0.2}, weights="random")]),
    ]
    (table,) = tables(tmp_path, [write_plan(tmp_path, "p", rows)])
    assert table.values["clip_t"].isna().all()
    assert list(table.values["time"]) == [2.0, 2.0]
    assert any(note.startswith("weights=random (none, fastvmt)") for note in table.notes)
    assert not any("paired" in note for note in table.notes)


def test_warp_consistency_never_stands_without_a_motion_score(world, tmp_path):
    results, plan, _ = world
    assert "warp_consistency" not in tables(results, [plan])[0].values
    assert "warp_consistency" in tables(results, [plan], everything=True)[0].values
    alone = tmp_path / "alone"
    cells = [write_cell(alone, "none", "a", metrics={"warp_consistency": 0.9, "clip_t": 0.3})]
    (table,) = tables(alone, [write_plan(alone, "p", [variant("none", cells)])], everything=True)
    assert "warp_consistency" not in table.values and "clip_t" in table.values
    assert any(note.startswith("Warp cons. is not shown") for note in table.notes)


def test_memory_says_whose_peak_it_is(tmp_path):
    memory = {
        "encode": Memory(allocated=3_000_000_000, process=9_000_000_000),
        "guide": Memory(allocated=7_500_000_000, process=9_500_000_000),
    }
    cells = [write_cell(tmp_path, "none", "a", metrics={"clip_t": 0.3}, memory=memory)]
    (table,) = tables(tmp_path, [write_plan(tmp_path, "p", [variant("none", cells)])])
    assert "Memory (GB) ↓" in to_markdown(table) and " 7.50 " in to_markdown(table)
    assert "Memory: peak allocated on the device." in table.notes


def test_a_metric_of_somebody_elses_gets_a_column(tmp_path):
    cells = [write_cell(tmp_path, "none", "a", metrics={"clip_t": 0.3, "my_metric": 31.5})]
    (table,) = tables(tmp_path, [write_plan(tmp_path, "p", [variant("none", cells)])])
    assert [column.key for column in table.columns][:2] == ["clip_t", "my_metric"]
    assert entries(table)["none"]["my_metric"].value == "31.50"


def test_a_metric_is_shown_where_it_applies_or_where_it_is_asked_for(tmp_path):
    missing, idle = "weights of CLIP are missing", "only rendered clips know the truth"
    cells = [
        write_cell(
            tmp_path,
            "none",
            clip,
            metrics={
                "direction_cosine": None,
                "motion_fidelity_legacy": 0.2,
                "clip_t": None,
                "position_error": 3.0 if clip == "a" else None,
            },
            reasons={"clip_t": missing, "direction_cosine": idle, "position_error": idle},
            idle=("direction_cosine", "position_error") if clip == "b" else ("direction_cosine",),
        )
        for clip in "ab"
    ]
    plan = write_plan(tmp_path, "p", [variant("none", cells)])
    (table,) = tables(tmp_path, [plan])
    shown = [column.key for column in table.columns]
    assert shown == ["clip_t", "position_error", "time", "memory", "forward_equivalents", "n"]
    assert entries(table)["none"]["clip_t"].value == "-"
    assert f"Text sim. null in 2 cells (none 2): {missing}." in table.notes
    (table,) = tables(tmp_path, [plan], everything=True)
    assert [column.key for column in table.columns][:4] == [
        "direction_cosine",
        "motion_fidelity_legacy",
        "clip_t",
        "position_error",
    ]


@pytest.mark.parametrize(
    ("values", "digits", "text"),
    [
        ((0.5, 0.25), 3, ".500"),
        ((12.345, 1.0), 3, "12.35"),
        ((123.45, 1.0), 3, "123.5"),
        ((1234.5, 1.0), 3, "1234"),
        ((123.0, 1.0), 0, "123"),
    ],
)
def test_digits_are_the_declared_ones_save_for_large_values(tmp_path, values, digits, text):
    rows = []
    for method, value in zip(("x", "y"), values, strict=True):
        cell = write_cell(tmp_path, method, "a", metrics={"mine": value})
        record = store.load_record(tmp_path / cell.path)
        record.metrics["mine"].digits = digits
        store.save_record(tmp_path / cell.path, record)
        rows.append(variant(method, [cell]))
    (table,) = tables(tmp_path, [write_plan(tmp_path, "p", rows)])
    assert entries(table)["x"]["mine"].value == text


def test_csv_holds_plain_numbers(world):
    results, plan, truth = world
    lines = list(csv.DictReader(io.StringIO(render(tables(results, [plan]), "csv"))))
    line = next(line for line in lines if line["variant"] == "fastvmt")
    assert float(line["clip_t"]) == pytest.approx(by_clip(truth, "fastvmt", "clip_t").mean())
    assert float(line["clip_t_low"]) < float(line["clip_t"]) < float(line["clip_t_high"])
    assert (line["n"], float(line["memory"]), line["config_id"]) == ("6", 5e8, "c")


def test_latex_uses_booktabs_and_is_balanced(world, tmp_path):
    results, plan, _ = world
    renamed = plan.model_copy(deep=True)
    renamed.variants[1].label = "fast_vmt & 100% {odd} #1"
    (table,) = tables(results, [renamed])
    text = to_latex(table)
    words = (
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
        r"\textbf{",
        r"$\bullet$",
        r"$\uparrow$",
        r"\caption{6 clips",
    )
    for word in (*words, r"\label{tab:ablation-sprites}", r"\label{tab:ablation-sprites-differences}"):
        assert word in text
    # A minus before a number is none of text's hyphens.
    assert "$-$" in text and not re.search(r"[ {\[]-\.?\d", text)
    bare = text.replace(r"\{", "").replace(r"\}", "")
    assert bare.count("{") == bare.count("}")
    begun = re.findall(r"\\begin\{([\w*]+)\}", text)
    assert sorted(begun) == sorted(re.findall(r"\\end\{([\w*]+)\}", text))
    assert begun.count("table*") == 2 and "resizebox" not in text
    for part in text.split(r"\end{table*}"):
        rows = [line for line in part.splitlines() if line.rstrip().endswith(r"\\")]
        assert len({len(re.findall(r"(?<!\\)&", line)) for line in rows}) <= 1
    assert r"fast\_vmt \& 100\% \{odd\} \#1" in text


@pytest.mark.tex
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(world, tmp_path):
    results, plan, _ = world
    renamed = plan.model_copy(deep=True)
    renamed.variants[1].label = "fast_vmt & 100% {odd} #1"
    plans = with_baseline(results, [renamed], "full_attention")
    made = [*tables(results, plans), *tables(results, plans, only=["clip_t", "time"])]
    text = render(made, "latex", blocks())
    assert r"\begin{table}[t]" in text and r"\begin{table*}[t]" in text
    head = r"\documentclass[twocolumn]{article}\usepackage{booktabs}\begin{document}"
    (tmp_path / "page.tex").write_text(f"{head}\n{text}\n" + r"\end{document}")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "page.pdf").stat().st_size > 10_000
    assert "Overfull" not in done.stdout


def test_published_numbers_stand_apart_as_they_were_printed(world):
    results, plan, _ = world
    made = tables(results, [plan])
    plain, text = render(made, "md"), render(made, "md", blocks())
    assert text.startswith(plain) and "Published" not in plain
    below = text[len(plain) :]
    assert re.search(
        r"\| FastVMT +\| +\.2422 \| +\.7471 \| +\.9865 \| +184\.18 \| +\.9809 \| +\.9891 \|", below
    )
    assert "arXiv 2602.05551" in below and "via a secondary note" in below and "Not comparable" in below
    assert "3.43x equals 632.41 / 184.18" in below
    times = sorted(float(row[4]) for row in blocks()[0].rows if row[0] != "FastVMT")
    assert times[len(times) // 2] == 632.41 and round(632.41 / 184.18, 2) == 3.43
    assert [row[0] for row in blocks()[1].rows][-1] == "full"


def test_a_plan_may_name_its_tables_columns(world):
    results, plan, _ = world
    named = plan.model_copy(update={"columns": ["time", "clip_t", "of no record"]})
    (table,) = tables(results, [named])
    assert [column.key for column in table.columns] == ["time", "clip_t", "n"]
    slip = plan.model_copy(update={"columns": ["motion_fidelty"]})
    assert any(
        "motion_fidelty (did you mean motion_fidelity?)" in note for note in tables(results, [slip])[0].brief
    )
    (asked,) = tables(results, [named], only=["clip_f"])
    assert [column.key for column in asked.columns] == ["clip_f", "n"]
    (everything,), (plain,) = tables(results, [named], everything=True), tables(results, [plan])
    assert len(everything.columns) > len(plain.columns) > 3
    other = named.model_copy(update={"name": "other", "columns": []})
    (together,) = tables(results, [named, other])
    assert [column.key for column in together.columns] == [column.key for column in plain.columns]


@pytest.mark.parametrize("word", ["+metric=warp_consistency", "+metric=[warp_consistency,of_no_record]"])
def test_a_metric_that_the_command_adds_is_shown(world, word):
    results, plan, _ = world
    (unasked,) = tables(results, [plan])
    assert "warp_consistency" not in [column.key for column in unasked.columns]
    adding = plan.model_copy(update={"command": ["python", "-m", "harness", word]})
    (table,) = tables(results, [adding])
    assert "warp_consistency" in [column.key for column in table.main()]
    named = adding.model_copy(update={"columns": ["time", "clip_t"]})
    (table,) = tables(results, [named])
    assert [column.key for column in table.columns] == ["time", "clip_t", "warp_consistency", "n"]


def test_the_papers_columns_are_those_of_its_set_of_metrics():
    from omegaconf import OmegaConf

    from harness.command.terminal import HOME
    from reports.table.published import COLUMNS

    paper = OmegaConf.load(HOME / "conf" / "metrics" / "paper.yaml")
    assert tuple(paper.columns) == COLUMNS
    measured = {entry.removeprefix("/metric/") for entry in paper.defaults}
    assert set(COLUMNS) - {"time"} <= measured
    # Text sim., Motion fid., Temp. cons., Time, Subject cons., Motion smooth.
    printed = [heading.split()[0] for heading in blocks()[0].headings[1:]]
    assert printed == ["Text", "Motion", "Temp.", "Time", "Subject", "Motion"]
    assert len(printed) == len(COLUMNS)


def test_variants_that_did_not_fit_are_named(world):
    results, plan, _ = world
    out = [VariantOut(label="window 21", reason="larger than the grid")]
    (table,) = tables(results, [plan.model_copy(update={"variants_out": out})])
    assert "Variant left out: window 21: larger than the grid." in table.notes


def test_the_mirror_is_made_anew_from_records(world, capsys, monkeypatch):
    results, _, _ = world
    given = []

    def publish(*arguments):
        given.append(arguments)
        return None if len(given) == 1 else "W&B mirror failed (no login)"

    monkeypatch.setattr("reports.wandb_mirror.publish", publish)
    assert main([str(results), "--to", "wandb"]) == 0
    where, plans, chosen = given[0]
    assert (where, [plan.name for plan in plans], chosen["mode"]) == (results, ["grid"], "offline")
    assert "3 runs" in capsys.readouterr().out
    assert main([str(results), "--to", "wandb", "--online"]) == 1
    assert given[1][2]["mode"] == "online" and "no login" in capsys.readouterr().err


def test_terminal_table_shows_every_number_and_note(world):
    results, plan, _ = world
    (table,) = tables(results, [plan])
    shown = entries(table, ends=True)
    text = to_text([table], 80, details=True)
    for part in [part for of_row in shown.values() for one in of_row.values() for part in one[:2]]:
        assert part in text
    together = " ".join(text.split())
    assert all(note in together for note in (*table.brief, *table.notes))
    styled = io.StringIO()
    print_tables([table], Console(file=styled, force_terminal=True, width=200, color_system="standard"))
    best = entries(table)["fastvmt"]["motion_fidelity"]
    assert f"\x1b[1m● {best.value} {best.interval}\x1b[0m" in styled.getvalue()


@pytest.mark.parametrize("width", [30, 47, 80, 120])
@pytest.mark.parametrize("details", [False, True])
def test_no_line_is_wider_than_the_terminal_and_what_is_left_out_is_named(world, width, details):
    results, plan, _ = world
    renamed = plan.model_copy(deep=True)
    renamed.variants[1].label = "a_label_of_one_word_that_no_narrow_terminal_holds_in_a_line"
    (table,) = tables(results, [renamed])
    text = to_text([table], width, details, blocks=blocks())
    assert max(map(len, text.splitlines())) <= width
    if not details and width >= 80:
        heads = " ".join(text.partition("Differences")[0].split())
        named = " ".join(text.partition("Not shown:")[2].split()).partition(" All columns")[0]
        for column in table.columns[:-1]:
            # A heading stands over several lines: its first word is as good.
            assert (column.label in named) != (column.label.split()[0] in heads), column.label
        # The main thing, motion against the truth, is the last to go.
        assert "Position" in heads


def test_the_command_chooses_plans_and_writes_files(world, capsys, tmp_path, monkeypatch):
    results, _, _ = world
    cells = [write_cell(results, "none", "z", metrics={"clip_t": 0.3})]
    write_plan(results, "single", [variant("none", cells, label="lonely")], command=["method=none"])
    assert main([str(results), "--plan", "single"]) == 0
    out = capsys.readouterr().out
    assert "lonely" in out and "fastvmt" not in out
    assert main([str(results), "--experiment", "ablation"]) == 0
    out = capsys.readouterr().out
    assert "lonely" not in out and "fastvmt" in out
    target = tmp_path / "out" / "table.tex"
    assert main([str(results), "--format", "latex", "--out", str(target)]) == 0
    assert r"\toprule" in target.read_text() and capsys.readouterr().out == ""
    beside = (tmp_path / "out" / "table.details.md").read_text()
    assert "Left out: short-clip: 9 frames, 17 needed." in target.read_text() and "Memory (GB) ↓" in beside
    monkeypatch.setenv("COLUMNS", "60")
    assert main([str(results), "--columns", "help"]) == 0
    listed = capsys.readouterr().out
    assert max(map(len, listed.splitlines())) <= 60
    assert "memory  Memory (GB) ↓\n    Highest peak of any clip" in listed
    assert main([str(results)]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60


@pytest.mark.parametrize(
    "case", ["missing", "empty", "name", "experiment", "broken", "baseline", "published"]
)
def test_nothing_to_tabulate_is_one_line_and_exit_2(world, capsys, tmp_path, case):
    results, _, _ = world
    (tmp_path / "empty").mkdir()
    arguments = {
        "missing": [str(tmp_path / "nowhere")],
        "empty": [str(tmp_path / "empty")],
        "name": [str(results), "--plan", "gird"],
        "experiment": [str(results), "--experiment", "ablatoin"],
        "broken": [str(results)],
        "baseline": [str(results), "--baseline", "full_atention"],
        "published": [str(results), "--published", "--format", "csv"],
    }[case]
    if case == "broken":
        (results / "plans" / "zz.json").write_text(json.dumps({"name": 3}))
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and len(captured.err.strip().splitlines()) == 1
    expected = {"name": "mean grid?", "experiment": "mean ablation?", "broken": "zz.json"}
    expected |= {"baseline": "mean full_attention?", "published": "--published"}
    assert expected.get(case, "python -m harness") in captured.err


def test_a_table_needs_no_torch_and_little_time(world):
    results, _, _ = world
    code = (
        "import sys\nfrom reports.__main__ import main\n"
        f"assert main([{str(results)!r}]) == 0\n"
        "heavy = {'torch', 'diffusers', 'cv2', 'wandb', 'open_clip'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Processor time: the wall clock also measures what else the machine does.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 5


def test_reading_changes_no_record(world):
    results, plan, _ = world
    path = results / plan.variants[0].cells[0].path / "record.json"
    before = path.read_bytes()
    tables(results, [plan])
    assert path.read_bytes() == before and store.load_record(path.parent).status == "ok"


def test_a_label_that_is_one_long_word_leaves_room_for_columns(tmp_path):
    rows = [row_of(tmp_path, label, np.linspace(0.1, 0.9, 8)) for label in ("長" * 60, "x" * 120, "none")]
    (table,) = tables(tmp_path, [write_plan(tmp_path, "p", rows)])
    lines = to_text([table], 80).splitlines()
    assert max(map(cell_len, lines)) <= 80
    (heads,) = (line for line in lines if "Text" in line and "Time" in line)
    assert heads, "one column alone would fit beside a label of 120 cells"
