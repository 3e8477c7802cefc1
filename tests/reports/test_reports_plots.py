import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from reports_world import HOSTILE, metric, write_plan, write_record

from harness.records.record import Memory
from reports.__main__ import main
from reports.plots.ablation import ablation, sweeps
from reports.plots.figures import NotDrawn, plots
from reports.plots.files import inline_svg, save
from reports.plots.gradient_similarity import gradient_similarity
from reports.plots.paired_differences import paired_differences
from reports.plots.quality_time import pareto, quality_against_time
from reports.plots.stages import REST, memory_over_stages, stage_seconds, time_by_stage
from reports.plots.style import COLOURS, INK, LOOKS, colour_of, look_of, looks
from reports.table.rows import groups
from reports.table.tables import tables


def one_group(results, plan):
    (group,), (table,) = groups(results, [plan]), tables(results, [plan])
    return group, table


def lines_of(axis):
    """Label -> (x, y) of the axis' labelled lines."""
    return {line.get_label(): line.get_xydata() for line in axis.lines if line.get_label()[0] != "_"}


def test_no_point_of_the_front_is_beaten_and_every_other_is():
    rng = np.random.default_rng(0)
    for higher in (True, False):
        times, values = rng.integers(0, 8, (2, 40)).astype(float)
        values[3] = times[5] = math.nan
        front = pareto(list(times), list(values), higher)

        def beats(one, other, times=times, values=values, higher=higher):
            good = values[one] >= values[other] if higher else values[one] <= values[other]
            same = (times[one], values[one]) == (times[other], values[other])
            return times[one] <= times[other] and good and not same

        known = [i for i in range(40) if math.isfinite(times[i]) and math.isfinite(values[i])]
        best = {i for i in known if not any(beats(j, i) for j in known)}
        assert {(times[i], values[i]) for i in front} == {(times[i], values[i]) for i in best}
        assert list(times[front]) == sorted(set(times[front]))


@pytest.mark.parametrize("clips", [1, 2, 3, 6, 7])
def test_stages_add_up_to_the_time_of_the_table_however_skewed_the_times_are(tmp_path, clips):
    rng = np.random.default_rng(clips)
    cells, times = [], {}
    for clip in range(clips):
        for seed in range(int(rng.integers(1, 4))):
            guide, decode, rest = rng.lognormal(0, 1.5, 3)
            rest -= decode * 0.2 if seed == 1 else 0
            total = guide + decode + rest
            stages = {"guide": guide, "decode": decode}
            cells.append(write_record(tmp_path, "a", f"c{clip}", seed=seed, stages=stages, total=total))
            times.setdefault(clip, []).append(total)
    group, table = one_group(tmp_path, write_plan(tmp_path, {"a": cells}))
    expected = np.median([np.median(of_clip) for of_clip in times.values()])
    assert table.numbers["a"]["time"].value == pytest.approx(expected)
    (axis,) = time_by_stage(group).axes
    assert sum(bar.get_width() for bar in axis.patches) == pytest.approx(expected)
    assert [text.get_text() for text in axis.texts] == [f"{expected:.3g} s"]


def test_stages_are_those_of_the_clips_in_the_middle(tmp_path):
    cells = [
        write_record(tmp_path, "a", "x", seed=0, stages={"guide": 1.0, "decode": 1.0, "odd": 0.5}, total=3.0),
        write_record(tmp_path, "a", "x", seed=1, stages={"guide": 3.0, "decode": 1.0, "odd": 0.5}, total=5.0),
        write_record(tmp_path, "a", "y", stages={"guide": 6.0, "decode": 1.0}, total=7.0),
        write_record(tmp_path, "a", "z", status="failed"),
    ]
    group, _ = one_group(tmp_path, write_plan(tmp_path, {"a": cells}))
    found = stage_seconds(group.rows[0])
    assert found == pytest.approx({"guide": (2 + 6) / 2, "decode": 1.0, "odd": 0.25, REST: 0.25})
    assert list(found) == ["guide", "decode", "odd", REST]
    assert sum(found.values()) == pytest.approx((4 + 7) / 2)
    (axis,) = time_by_stage(group).axes
    assert sum(bar.get_width() for bar in axis.patches) == pytest.approx(5.5)
    assert stage_seconds(one_group(tmp_path, write_plan(tmp_path, {"b": []}))[0].rows[0]) == {}


def test_a_devices_memory_is_a_line_a_row_and_that_of_a_process_is_not_drawn(tmp_path):
    gigabyte = 10**9
    one, two = (Memory(allocated=many * gigabyte, process=9 * gigabyte) for many in (2, 3))
    cells = {
        "gpu": [
            write_record(tmp_path, "gpu", "x", memory={"guide": one, "decode": one}),
            write_record(tmp_path, "gpu", "y", memory={"guide": two}),
        ],
        "cpu": [write_record(tmp_path, "cpu", "x", memory={"guide": Memory(process=gigabyte)})],
    }
    (axis,) = memory_over_stages(one_group(tmp_path, write_plan(tmp_path, cells))[0]).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["gpu"]
    drawn = {label: line[:, 0].tolist() for label, line in lines_of(axis).items()}
    assert drawn == {"guide": [3], "decode": [2]} and [text.get_text() for text in axis.texts] == ["3 GB"]
    plan = write_plan(tmp_path, {"cpu": cells["cpu"]}, name="cpu")
    assert "device" in memory_over_stages(one_group(tmp_path, plan)[0])


def test_likeness_of_gradients_is_mapped_by_step_and_iteration(tmp_path):
    def trace(offset, apart):
        rows = []
        for step in (2, 3):
            for i in range(5):
                rows.append({"step": step, "iteration": i, "true_gradient": i % apart == 0})
                if i and i % apart == 0:
                    rows[-1]["similarity"] = offset + 0.1 * i + 0.01 * step
        return rows

    cells = [
        write_record(tmp_path, "a", "x", trace=trace(0, 1)),
        write_record(tmp_path, "a", "y", trace=trace(0.1, 1)),
        write_record(tmp_path, "a", "z", trace="[{"),
        write_record(tmp_path, "a", "failed", status="failed", trace=trace(9, 1)),
    ]
    every_2nd = [write_record(tmp_path, "b", clip, trace=trace(0, 2)) for clip in "xy"]
    one_video = [write_record(tmp_path, "none", "x", trace=trace(0, 1))]
    plan = write_plan(tmp_path, {"a": cells, "b": every_2nd, "none": one_video})
    group, table = one_group(tmp_path, plan)
    successive, further, _ = gradient_similarity(tmp_path, group).axes
    expected = np.add.outer([0.02, 0.03], [0.15, 0.25, 0.35, 0.45])
    np.testing.assert_allclose(successive.images[0].get_array(), expected)
    assert successive.get_title() == "a: 1 apart" and further.get_title() == "b: 2 apart"
    assert [label.get_text() for label in further.get_xticklabels()] == ["2", "4"]
    means = [float(text.get_text()) for text in successive.texts]
    np.testing.assert_allclose(means, [*expected.mean(axis=1), *expected.mean(axis=0)], atol=0.0051)
    (said,) = [plot for plot in plots(tmp_path, group, table) if plot.name.endswith("gradient_similarity")]
    assert "1 trace.json could not be read" in said.caption


def test_a_sweep_is_three_rows_that_differ_in_one_number(tmp_path):
    configs = {
        "full": {"reuse": {"interval": 3}, "tile": [2, 2], "start": {"strength": None}},
        "one": {"reuse": {"interval": 1}, "tile": [2, 2], "start": {"strength": None}},
        "five": {"reuse": {"interval": 5}, "tile": [2, 2], "start": {"strength": None}},
        "other": {"reuse": {"interval": 2}, "tile": [4, 4], "start": {"strength": None}},
        "small": {"reuse": {"interval": 3}, "tile": [1, 3], "start": {"strength": None}},
        "large": {"reuse": {"interval": 3}, "tile": [3, 4], "start": {"strength": None}},
        "sdedit": {"reuse": {"interval": 3}, "tile": [2, 2], "start": {"strength": 0.6}},
    }
    values = {label: 0.1 * index for index, label in enumerate(configs)}
    cells = {
        label: [
            write_record(
                tmp_path,
                label,
                clip,
                method=config,
                dataset={"clips": 8 if label == "full" else 16},
                metrics={"clip_t": metric(values[label])},
            )
            for clip in "xy"
        ]
        for label, config in configs.items()
    }
    group, table = one_group(tmp_path, write_plan(tmp_path, cells))
    found = sweeps(group)
    assert set(found) == {"reuse.interval", "tile"}
    assert [label for _, _, label in found["reuse.interval"][0].points] == ["one", "full", "five"]
    assert [text for _, text, _ in found["tile"][0].points] == ["1x3", "2x2", "3x4"]
    axis = ablation("reuse.interval", found["reuse.interval"], group, table).axes[0]
    drawn = lines_of(axis)["guided"]
    assert [text.get_text() for text in axis.texts] == ["guided"], "named beside its line"
    np.testing.assert_allclose(drawn, [[1, values["one"]], [3, values["full"]], [5, values["five"]]])


def test_differences_are_paired_within_clips(tmp_path):
    rng = np.random.default_rng(1)
    scores = {
        (label, clip, seed): float(rng.uniform())
        for label in ("none", "a")
        for clip in "xyz"
        for seed in (0, 1)
    }
    cells = {
        label: [
            write_record(tmp_path, label, clip, seed=seed, metrics={"motion_fidelity": metric(score)})
            for (who, clip, seed), score in scores.items()
            if who == label
        ]
        for label in ("none", "a")
    }
    group, table = one_group(tmp_path, write_plan(tmp_path, cells))
    (axis,) = paired_differences(group, table).axes
    dots = next(line for line in axis.lines if line.get_marker() == ".")
    expected = [
        np.mean([scores["a", clip, seed] - scores["none", clip, seed] for seed in (0, 1)]) for clip in "xyz"
    ]
    np.testing.assert_allclose(np.sort(dots.get_xdata()), np.sort(expected))
    mark = look_of("a")[1]
    means = [line.get_xdata()[0] for line in axis.lines if line.get_marker() == mark]
    assert means == [pytest.approx(np.mean(expected))]
    alone, its_table = one_group(tmp_path, write_plan(tmp_path, {"a": cells["a"]}, name="alone"))
    assert "baseline" in paired_differences(alone, its_table)


def crowd(results, rows=18):
    """Rows in a crowd, of three methods each in six variants."""
    rng = np.random.default_rng(3)
    cells = {}
    for index in range(rows):
        label = f"a_method variant {index}"
        seconds, level = float(rng.uniform(4, 50)), float(rng.uniform(0.6, 0.7))
        cells[label] = [
            write_record(results, label, clip, total=seconds, metrics={"clip_t": metric(level + jitter)})
            for clip, jitter in (("x", -0.001), ("y", 0.001))
        ]
    return cells


def test_quality_stands_at_the_tables_own_numbers_and_no_name_hides_another(tmp_path):
    cells = crowd(tmp_path)
    group, table = one_group(tmp_path, write_plan(tmp_path, cells))
    figure = quality_against_time(group, table)
    (axis,) = figure.axes
    points = lines_of(axis)
    for label in cells:
        assert points[label][0].tolist() == [table.values.at[label, "time"], table.values.at[label, "clip_t"]]
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in axis.texts]  # without its line
    assert [text.get_text() for text in axis.texts] == list(cells)
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if Bbox.intersection(a, b)]
    marks = axis.transData.transform([points[label][0] for label in cells])
    assert not any(box.contains(*mark) for box in boxes for mark in marks)
    again = quality_against_time(group, table).axes[0].texts
    assert [text.get_position() for text in axis.texts] == [text.get_position() for text in again]


def test_a_colour_belongs_to_a_method_whatever_row_it_stands_in(tmp_path):
    known = {path.stem for path in (Path(__file__).parents[2] / "conf" / "method").glob("*.yaml")}
    assert known == set(LOOKS) and len(set(LOOKS.values())) == len(LOOKS)
    assert {colour for colour, _ in LOOKS.values()} == set(COLOURS)
    alone, among = looks({"mine": "mine"}), looks({"none": "none", "x": "fastvmt", "mine": "mine"})
    assert alone["mine"] == among["mine"] and look_of("mine") not in LOOKS.values()
    assert among["x"]["color"] == colour_of("fastvmt")
    twins = looks({f"x{index}": "fastvmt" for index in range(10)})
    assert {look["color"] for look in twins.values()} == {colour_of("fastvmt")}
    assert len({look["marker"] for look in twins.values()}) == 10


def test_one_row_or_one_clip_makes_no_figure_and_is_said(tmp_path, capsys):
    one_row = {"a": [write_record(tmp_path, "a", clip, metrics={"clip_t": metric(0.5)}) for clip in "xy"]}
    group, table = one_group(tmp_path, write_plan(tmp_path, one_row))
    assert "two rows" in quality_against_time(group, table)
    one_clip = {
        label: [write_record(tmp_path, label, "x", metrics={"clip_t": metric(0.5)}, method={"n": n}, total=n)]
        for n, label in enumerate(("none", "b", "c"), start=1)
    }
    write_plan(tmp_path, one_clip, name="one_clip")
    assert main([str(tmp_path), "--plan", "one_clip", "--plots", str(tmp_path / "plots")]) == 0
    said = capsys.readouterr().out.splitlines()
    missing = [line.split(": ")[1].rpartition("-")[2] for line in said if line.startswith("not drawn")]
    assert missing == [
        "quality_time", "memory_stages", "paired_differences", "gradient_similarity", "ablation_n"
    ]  # fmt: skip


def test_a_table_without_its_time_has_no_such_figure(tmp_path):
    plan = write_plan(tmp_path, crowd(tmp_path, 2))
    (group,), (table,) = groups(tmp_path, [plan]), tables(tmp_path, [plan], only=["clip_t"])
    assert "with a time" in quality_against_time(group, table)


def test_a_logarithmic_time_axis_has_plain_numbers(tmp_path):
    cells = {
        f"row {seconds}": [
            write_record(tmp_path, f"row {seconds}", clip, total=seconds, metrics={"clip_t": metric(0.5)})
            for clip in "xy"
        ]
        for seconds in (4.0, 11.0, 50.0)
    }
    figure = quality_against_time(*one_group(tmp_path, write_plan(tmp_path, cells)))
    figure.draw_without_rendering()
    low, high = figure.axes[0].get_xlim()
    ticks = zip(figure.axes[0].get_xticks(), figure.axes[0].get_xticklabels(), strict=True)
    labels = [label.get_text() for place, label in ticks if low <= place <= high]
    assert labels == ["5", "10", "20", "50"]
    assert {label.get_text() for label in figure.axes[0].get_xticklabels(minor=True)} <= {""}


def test_figures_are_written_for_print_and_hostile_labels_are_only_text(tmp_path, capsys):
    results, out = tmp_path / "results", tmp_path / "plots"
    cells = {
        label: [
            write_record(results, label, clip, metrics={"clip_t": metric(0.1 * place)}, stages={"guide": 1.0})
            for place, clip in enumerate("xy")
        ]
        for label in ("none", HOSTILE)
    }
    plan = write_plan(results, cells)
    assert main([str(results), "--plots", str(out)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert {path.suffix for path in out.iterdir()} == {".pdf", ".svg", ".png"}
    assert {path.name for path in out.iterdir()} == {
        line.rsplit("/", 1)[1] for line in said if not line.startswith("not drawn")
    }
    assert any("gradient_similarity: no row has two videos whose trace.json" in line for line in said)
    group, table = one_group(results, plan)
    drawn = next(plot for plot in plots(results, group, table) if not isinstance(plot, NotDrawn))
    before = (out / f"{drawn.name}.svg").read_bytes(), (out / f"{drawn.name}.pdf").read_bytes()
    save(drawn, out)
    assert before == ((out / f"{drawn.name}.svg").read_bytes(), (out / f"{drawn.name}.pdf").read_bytes())
    text = inline_svg(drawn)
    root = ElementTree.fromstring(text)
    assert not any(element.tag.endswith(("script", "img", "metadata")) for element in root.iter())
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert ids and all(id_.startswith(drawn.name) for id_ in ids)
    links = [value for element in root.iter() for key, value in element.items() if key.endswith("href")]
    assert links and {link[1:] for link in links} <= set(ids)
    assert INK not in text and "currentColor" in text


def test_a_folder_that_cannot_be_written_is_bad_input(tmp_path, capsys):
    write_plan(tmp_path, {"a": [write_record(tmp_path, "a", "x", stages={"guide": 1.0})]})
    (tmp_path / "file").write_text("")
    assert main([str(tmp_path), "--plots", str(tmp_path / "file" / "plots")]) == 2
    assert "cannot be written" in capsys.readouterr().err
