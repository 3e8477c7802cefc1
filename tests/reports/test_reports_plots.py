import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
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
from reports.plots.style import COLOURS, INK
from reports.rows import groups
from reports.tables import tables


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


def test_peaks_of_different_kinds_never_share_a_panel(tmp_path):
    gigabyte = 10**9
    device = Memory(allocated=2 * gigabyte, process=9 * gigabyte)
    cells = {
        "gpu": [write_record(tmp_path, "gpu", "x", memory={"guide": device})],
        "cpu": [
            write_record(tmp_path, "cpu", "x", memory={"guide": Memory(process=gigabyte)}),
            write_record(
                tmp_path,
                "cpu",
                "y",
                memory={"guide": Memory(process=3 * gigabyte), "decode": Memory(process=gigabyte)},
            ),
        ],
    }
    group, _ = one_group(tmp_path, write_plan(tmp_path, cells))
    first, second = memory_over_stages(group).axes
    assert lines_of(first)["gpu"][0, 1] == 2
    assert lines_of(second)["cpu"].tolist() == [[0, 3], [1, 1]]
    assert "device" in first.get_ylabel() and "process" in second.get_ylabel()


def test_similarity_is_averaged_over_videos_by_iteration_and_by_step(tmp_path):
    def trace(offset):
        rows = [{"step": 0, "iteration": 0, "true_gradient": True, "gradient_norm": 1.0}]
        for step in (0, 1):
            rows += [
                {"step": step, "iteration": i, "similarity": 0.5 + offset + 0.1 * i + 0.01 * step}
                for i in (1, 2)
            ]
        return rows

    cells = [
        write_record(tmp_path, "a", "x", trace=trace(0)),
        write_record(tmp_path, "a", "y", trace=trace(0.1)),
        write_record(tmp_path, "a", "z", trace="[{"),
        write_record(tmp_path, "a", "failed", status="failed", trace=trace(9)),
    ]
    plan = write_plan(tmp_path, {"a": cells, "none": [write_record(tmp_path, "none", "x", trace=[])]})
    group, table = one_group(tmp_path, plan)
    inner, guided = gradient_similarity(tmp_path, group).axes
    assert set(lines_of(inner)) == {"a"}
    np.testing.assert_allclose(lines_of(inner)["a"], [[1, 0.655], [2, 0.755]])
    np.testing.assert_allclose(lines_of(guided)["a"], [[0, 0.7], [1, 0.71]])
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
    axis = ablation("reuse.interval", found["reuse.interval"], table).axes[0]
    drawn = lines_of(axis)["guided"]
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
    means = [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "s"]
    assert means == [pytest.approx(np.mean(expected))]
    alone, its_table = one_group(tmp_path, write_plan(tmp_path, {"a": cells["a"]}, name="alone"))
    assert "baseline" in paired_differences(alone, its_table)


def test_quality_stands_at_the_tables_own_numbers(tmp_path):
    cells = {
        f"row {index}": [
            write_record(
                tmp_path, f"row {index}", clip, total=index + 1.0, metrics={"clip_t": metric(index * 0.1)}
            )
            for clip in "xy"
        ]
        for index in range(9)
    }
    _, table = one_group(tmp_path, write_plan(tmp_path, cells))
    figure = quality_against_time(table)
    points = lines_of(figure.axes[0])
    for label in cells:
        assert points[label][0].tolist() == [table.values.at[label, "time"], table.values.at[label, "clip_t"]]
    looks = {
        (line.get_color(), line.get_marker()) for line in figure.axes[0].lines if line.get_label() in cells
    }
    assert len(looks) == 9 > len(COLOURS)


def test_a_table_without_its_time_has_no_such_figure(tmp_path):
    cells = {"a": [write_record(tmp_path, "a", clip, metrics={"clip_t": metric(0.5)}) for clip in "xy"]}
    (table,) = tables(tmp_path, [write_plan(tmp_path, cells)], only=["clip_t"])
    assert "no row has both" in quality_against_time(table)


def test_a_logarithmic_time_axis_has_plain_numbers(tmp_path):
    cells = {
        f"row {seconds}": [
            write_record(tmp_path, f"row {seconds}", "x", total=seconds, metrics={"clip_t": metric(0.5)})
        ]
        for seconds in (4.0, 11.0, 50.0)
    }
    figure = quality_against_time(one_group(tmp_path, write_plan(tmp_path, cells))[1])
    figure.draw_without_rendering()
    low, high = figure.axes[0].get_xlim()
    ticks = zip(figure.axes[0].get_xticks(), figure.axes[0].get_xticklabels(), strict=True)
    labels = [label.get_text() for place, label in ticks if low <= place <= high]
    assert labels == ["5", "10", "20", "50"]
    assert {label.get_text() for label in figure.axes[0].get_xticklabels(minor=True)} <= {""}


def test_panels_keep_their_height_above_a_legend_of_many_rows(tmp_path):
    def height(rows):
        cells = {
            f"a row of a long name {index}": [
                write_record(
                    tmp_path, f"a row of a long name {index}", "x", memory={"guide": Memory(process=10**9)}
                )
            ]
            for index in range(rows)
        }
        figure = memory_over_stages(one_group(tmp_path, write_plan(tmp_path, cells))[0])
        figure.draw_without_rendering()
        return figure.axes[0].get_window_extent().height

    assert height(18) > 0.9 * height(2)


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
    assert any("gradient_similarity: no trace.json" in line for line in said)
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
