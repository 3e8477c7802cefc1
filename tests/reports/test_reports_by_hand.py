"""Tables against numbers worked out by hand, in every form they are written in: the clip is what counts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from reports_world import metric, write_plan, write_record

from harness.records import store
from harness.records.record import Memory, Timing
from reports.table.formats import headers, to_csv, to_latex, to_markdown
from reports.table.tables import Table, tables
from reports.table.text import to_text

CLIPS = 10
ROWS = {"low": 0.3, "high": 0.9, "middle": 0.6}
ROUGH = {"low": 30.0, "high": 3.0, "middle": 15.0}


def world(results: Path, seeds: dict[str, int] | int = 1, baseline: str | None = None) -> Table:
    """Ten clips, three rows that no clip confuses; every seed of a clip has its clip's numbers."""
    cells = {}
    for number, (row, value) in enumerate(ROWS.items()):
        for clip in range(CLIPS):
            # Clips differ from each other by more than rows do from clip to clip.
            off = 0.005 * clip + 0.002 * ((clip + number) % 3)
            name = f"clip{clip}"
            for seed in range(seeds if isinstance(seeds, int) else seeds.get(name, 1)):
                cell = write_record(
                    results,
                    row,
                    name,
                    seed=seed,
                    metrics={
                        "motion_fidelity": metric(value + off),
                        "position_error": metric(ROUGH[row] + 10 * off),
                    },
                    total=10.0 * (number + 1) + clip,
                    memory={
                        "guide": Memory(process=int((2.5 + number) * 1e9)),
                        "decode": Memory(process=int(1e9)),
                    },
                )
                cells.setdefault(row, []).append(cell)
    plan = write_plan(results, cells, baseline=baseline)
    (table,) = tables(results, [plan])
    return table


KEYS = ("motion_fidelity", "position_error", "time")


def assert_alike(ours: Table, theirs: Table) -> None:
    """Numbers and intervals agree, to what rounding the mean of equal numbers does to a bootstrap."""
    for row in ROWS:
        for key in KEYS:
            value, low, high = theirs.numbers[row][key][:3]
            assert high - low > 0
            assert ours.numbers[row][key][:3] == pytest.approx((value, low, high), abs=0.05 * (high - low)), (
                key
            )


def test_more_seeds_of_the_same_clips_make_no_number_surer(tmp_path: Path) -> None:
    once, often = world(tmp_path / "once"), world(tmp_path / "often", seeds=6)
    assert_alike(often, once)
    for row in ROWS:
        assert often.numbers[row]["n"].value == CLIPS


def test_a_clip_with_many_seeds_weighs_as_much_as_any_other(tmp_path: Path) -> None:
    once, lopsided = world(tmp_path / "once"), world(tmp_path / "lopsided", seeds={"clip9": 30})
    assert_alike(lopsided, once)


def test_a_number_is_the_mean_over_clips_and_its_interval_holds_it(tmp_path: Path) -> None:
    table = world(tmp_path)
    for number, (row, value) in enumerate(ROWS.items()):
        clips = [value + 0.005 * clip + 0.002 * ((clip + number) % 3) for clip in range(CLIPS)]
        found = table.numbers[row]["motion_fidelity"]
        assert found.value == pytest.approx(sum(clips) / CLIPS)
        assert min(clips) < found.low < found.value < found.high < max(clips)
        # The median of 10 n + (0 to 9).
        assert table.numbers[row]["time"].value == pytest.approx(10 * (number + 1) + 4.5)


def written(table: Table) -> dict[str, dict[str, dict[str, str]]]:
    """Form -> row -> column -> the text of the number."""
    keys = [column.key for column in table.main()]
    texts = {
        "md": (to_markdown(table).partition("<details>")[0], r"\s*\|\s*"),
        "latex": (to_latex(table), r"\s*(?:&|\\\\)\s*"),
        "terminal": (to_text([table], 200, bold=True), r"\s{2,}"),
    }
    return {
        form: {
            cells[0]: dict(zip(keys, cells[1:], strict=False))
            for cells in (re.split(apart, line.strip("| ")) for line in text.splitlines())
            if cells[0] in ROWS
        }
        for form, (text, apart) in texts.items()
    }


BEST = {
    "md": r"● \*\*\S+\*\* ±",
    "latex": r"\$\\bullet\$\\,\\textbf\{\S+\}\\,\{\\scriptsize \$\\pm\$",
    "terminal": r"\x1b\[1m● \S+ ±\S+\x1b\[0m",
}


@pytest.mark.parametrize("form", BEST)
def test_the_better_end_is_marked_in_every_form_and_nothing_else(tmp_path: Path, form: str) -> None:
    rows = written(world(tmp_path))[form]
    assert set(rows) == set(ROWS)
    for key in ("motion_fidelity", "position_error"):
        assert re.match(BEST[form], rows["high"][key]), (key, rows)
        for other in ("middle", "low"):
            assert not re.search(r"●|bullet|○|circ", rows[other][key]), (key, rows)


def test_arrows_point_to_the_better_end(tmp_path: Path) -> None:
    table = world(tmp_path)
    heading = dict(zip([column.key for column in table.columns], headers(table), strict=True))
    assert heading["motion_fidelity"].endswith("↑")
    assert heading["position_error"].endswith("(px) ↓")
    assert heading["time"].endswith("(s) ↓")
    assert heading["n"] == "n"


def test_memory_is_the_highest_stage_of_any_cell_in_powers_of_ten(tmp_path: Path) -> None:
    table = world(tmp_path)
    heading = dict(zip([column.key for column in table.columns], headers(table), strict=True))
    if "memory" not in heading:
        (table,) = tables(tmp_path, [store.load_plan(store.plan_path(tmp_path, "grid"))], only=["memory"])
        heading = dict(zip([column.key for column in table.columns], headers(table), strict=True))
    assert "(GB)" in heading["memory"]
    shown = {row: cells["memory"] for row, cells in written(table)["md"].items()}
    assert {row: float(re.search(r"\d+\.\d+", text)[0]) for row, text in shown.items()} == {
        "low": 2.5,
        "high": 3.5,
        "middle": 4.5,
    }


def test_speed_up_is_how_many_times_less_the_row_took(tmp_path: Path) -> None:
    numbers = world(tmp_path, baseline="low").numbers
    product = 1.0
    for clip in range(CLIPS):
        product *= (10 + clip) / (20 + clip)
    # "high" is the second row: it took 20 s and more where "low" took 10.
    assert numbers["high"]["speedup"].value == pytest.approx(product ** (1 / CLIPS))
    assert numbers["low"]["speedup"].value == 1.0


def test_the_time_of_a_video_holds_what_its_clip_s_cells_share(tmp_path: Path) -> None:
    table = world(tmp_path)
    for path in tmp_path.glob("cells/*/record.json"):
        record = store.load_record(path.parent)
        record.timing = Timing(total=10.0, stages={"denoise": 9.0}, amortised={"train": 100.0, "encode": 1.0})
        store.save_record(path.parent, record)
    (table,) = tables(tmp_path, [store.load_plan(store.plan_path(tmp_path, "grid"))])
    assert {table.numbers[row]["time"].value for row in ROWS} == {111.0}
    assert {table.numbers[row]["further"].value for row in ROWS} == {10.0}


def test_csv_has_the_numbers_as_they_are(tmp_path: Path) -> None:
    table = world(tmp_path)
    first, *lines = to_csv([table]).splitlines()
    names = first.split(",")
    for line in lines:
        row = dict(zip(names, line.split(","), strict=True))
        number = table.numbers[row["variant"]]["motion_fidelity"]
        got = [float(row[f"motion_fidelity{end}"]) for end in ("", "_low", "_high")]
        assert got == pytest.approx(list(number[:3]))


def test_latex_escapes_what_would_end_a_line_or_a_table(tmp_path: Path) -> None:
    cells = {
        "a_b & 50 %": [
            write_record(tmp_path, "a", f"c{n}", metrics={"clip_t": metric(0.3)}) for n in range(2)
        ]
    }
    (table,) = tables(tmp_path, [write_plan(tmp_path, cells)])
    text = to_latex(table)
    assert r"a\_b \& 50 \%" in text
    assert not re.search(r"(?<!\\)%.", text)


def test_a_level_of_several_plans_weighs_each_by_its_pairs(tmp_path: Path) -> None:
    world(tmp_path)
    plan = store.load_plan(store.plan_path(tmp_path, "grid"))
    plans = []
    for name, chance, pairs in (("one", 0.2, 2.0), ("other", 0.5, 6.0)):
        for variant in plan.variants:
            variant.levels = {"motion_fidelity": {"chance": chance, "pairs": pairs}}
        plans.append(plan.model_copy(update={"name": name}, deep=True))
    (table,) = tables(tmp_path, plans)
    # (2 x .2 + 6 x .5) / 8
    assert any("chance: .425" in note for note in table.notes), table.notes
