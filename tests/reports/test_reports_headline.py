"""The headline says what a table shows, and no more."""

import re

import pytest
from reports_world import metric, write_plan, write_record

from reports.table.headline import headline
from reports.table.rows import find_plans
from reports.table.tables import tables

OFFSETS = (0.4, -0.3, 0.1, -0.2, 0.5, -0.5, 0.3, -0.3)
"""Of a row's clips about its mean, in other orders for other rows: they add up to nought."""


def said(results, rows, clips=8, key="position_error", failed=(), seconds=None):
    """The headline of rows by label and mean: each has its own scatter over the clips."""
    cells = {}
    for place, (label, mean) in enumerate(rows.items()):
        for clip in range(clips):
            offset = OFFSETS[(clip * (2 * place + 1)) % len(OFFSETS)]
            cell = write_record(
                results,
                label,
                f"clip-{clip}",
                status="oom" if (label, clip) in failed else "ok",
                metrics={key: metric(mean and mean * (1 + 0.1 * offset)), "clip_t": metric(mean and 0.3)},
                total=(seconds or {}).get(label, 2.0) * (1 + 0.01 * offset),
            )
            cells.setdefault(label, []).append(cell)
    return headline(tables(results, [write_plan(results, cells)])[0])


def test_a_clear_lead_is_said_with_both_numbers_and_nothing_about_doubt(tmp_path):
    assert said(tmp_path, {"none": 16.1, "fastvmt": 2.4}) == (
        "With fastvmt the object is on average 2.40 px from where the reference's is; "
        "without guidance (none) it is 16.10 px."
    )


def test_of_motion_fidelity_more_is_better_and_the_scale_is_said(tmp_path):
    text = said(tmp_path, {"none": 0.2, "fastvmt": 0.8}, key="motion_fidelity")
    assert text == (
        "With fastvmt motion fidelity is .800, where 1 is the reference's own motion; "
        "without guidance (none) it is .200."
    )


def test_without_guidance_leading_is_said_as_plainly(tmp_path):
    text = said(tmp_path, {"none": 2.0, "fastvmt": 9.0})
    assert text.startswith("Without guidance (none) the object is on average 2.00 px")
    assert "with fastvmt it is 9.00 px" in text


def test_rows_that_differ_by_chance_are_not_called_different(tmp_path):
    text = said(tmp_path, {"none": 5.0, "fastvmt": 4.99, "ours": 4.98})
    assert text.endswith("No row differs significantly from ours.")


def test_a_row_tied_with_the_best_is_named_and_is_faster_only_where_it_is(tmp_path):
    rows = {"none": 16.1, "full_attention": 4.98, "fastvmt": 4.99}
    alike = said(tmp_path / "alike", rows)
    assert alike.endswith("fastvmt does not differ significantly from full_attention.")
    faster = said(tmp_path / "faster", rows, seconds={"none": 3.0, "full_attention": 17.0, "fastvmt": 9.0})
    assert re.search(r"; it takes 9\.\d+ s a video instead of 1[67]\.\d+ s\.$", faster)


@pytest.mark.parametrize(
    ("clips", "where"), [(1, "On this one clip, "), (2, "On these two clips, "), (5, "On these five clips, ")]
)
def test_fewer_than_six_clips_are_spoken_of_as_what_was_seen(tmp_path, clips, where):
    text = said(tmp_path, {"none": 16.1, "fastvmt": 2.4}, clips=clips)
    assert text.startswith(f"{where}with fastvmt")
    assert text.endswith("It takes 6 clips that rows share to tell them apart.")


def test_a_row_that_failed_is_named(tmp_path):
    failed = {("fastvmt", 0), ("fastvmt", 3)}
    text = said(tmp_path, {"none": 16.1, "fastvmt": 2.4}, failed=failed)
    assert text.endswith("Failed cells are not in these numbers: fastvmt OOM 2.")
    all_failed = {(label, clip) for label in ("none", "fastvmt") for clip in range(8)}
    text = said(tmp_path / "all", {"none": 16.1, "fastvmt": 2.4}, failed=all_failed)
    assert text.startswith("No video is finished yet. ")


def test_one_row_has_its_number_and_what_to_hold_it_against(tmp_path):
    assert said(tmp_path, {"fastvmt": 2.4}) == (
        "With fastvmt the object is on average 2.40 px from where the reference's is. "
        "Add method=none to see what the prompt alone gives."
    )


def test_a_label_of_several_words_stands_in_quotation_marks(tmp_path):
    text = said(tmp_path, {"without window loss": 2.4, "none, 25 steps": 9.0})
    assert text.startswith('In the row "without window loss" the object')
    assert "without guidance (none, 25 steps)" in text


def test_a_row_that_leads_only_because_it_failed_on_the_hard_clips_is_not_ranked(tmp_path):
    cells = {"none": [], "fastvmt": []}
    for clip in range(8):
        hard = clip > 5
        for label, easy in (("none", 4 + clip / 50), ("fastvmt", 5 + clip / 100)):
            status = "oom" if hard and label == "fastvmt" else "ok"
            metrics = {"position_error": metric(20.0 if hard else easy)}
            cells[label].append(write_record(tmp_path, label, f"{clip}", status=status, metrics=metrics))
    (table,) = tables(tmp_path, [write_plan(tmp_path, cells, baseline="none")])
    assert table.differences["fastvmt"]["position_error"].mean > 0.9, "worse wherever both have a video"
    assert {of_row["position_error"] for of_row in table.marks.values()} == {""}
    assert "These rows cannot be ranked." in headline(table)
    assert any("worse on the clips that rows share: Position err" in note for note in table.brief)


def test_a_row_of_few_clips_beside_others_is_named_as_what_cannot_be_ranked(tmp_path):
    failed = {("ours", clip) for clip in range(2, 8)}
    text = said(tmp_path, {"none": 16.1, "fastvmt": 2.4, "ours": 5.0}, failed=failed)
    assert "They are not ranked: ours has too few clips." in text


def test_where_no_metric_is_shown_the_time_is_spoken_of_and_scores_are_not_denied(tmp_path):
    said(tmp_path, {"none": 16.1, "fastvmt": 2.4}, seconds={"none": 1.0, "fastvmt": 9.0})
    plans = find_plans(tmp_path)
    (times,) = tables(tmp_path, plans, only=["time"])
    assert headline(times) == "Without guidance (none) a video takes 1.00 s; with fastvmt it takes 9.00 s."
    (memory,) = tables(tmp_path, plans, only=["memory"])
    assert headline(memory) == ""
    assert said(tmp_path / "null", {"none": None}).startswith("No metric of this table has a number.")
