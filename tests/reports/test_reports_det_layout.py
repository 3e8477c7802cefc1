"""Videos in folders as DeT's evaluation looks for them."""

import pytest
from reports_world import add_videos, write_plan, write_record

from datasets.errors import InputError
from reports.det_layout import lay_out

LONG = "A dog runs " * 30


def results_of(tmp_path, takes):
    """Two rows of (clip, prompt) takes."""
    rows = {row: [write_record(tmp_path, row, *take) for take in takes] for row in ("ours", "theirs")}
    add_videos(tmp_path, write_plan(tmp_path, rows))
    return tmp_path


def found_by_det(root, prompt):
    """Where its evaluation looks: spaces off the end, underscores, no last full stop."""
    while prompt.endswith(" "):
        prompt = prompt[:-1]
    prompt = prompt.replace(" ", "_")
    folder = root / (prompt[:-1] if prompt.endswith(".") else prompt)
    return [path for path in folder.iterdir() if path.suffix == ".mp4"]


def test_every_prompt_s_video_is_where_det_looks_for_it(tmp_path):
    takes = [("dance", "A robot is dancing on the stage."), ("dance", "A chef, in white"), ("bus", "A tram.")]
    results = results_of(tmp_path / "r", takes)
    assert lay_out(results, tmp_path / "out") == (6, [])
    for row in ("ours", "theirs"):
        for clip, prompt in takes:
            (video,) = found_by_det(tmp_path / "out" / row, prompt)
            assert video.name == f"{clip}-0.mp4" and video.stat().st_size > 0


@pytest.mark.parametrize(
    "takes, words",
    [
        ([("a", "A tram."), ("b", LONG)], ["255", "shorten it"]),
        ([("a", "ä" * 128)], ["256 bytes", "shorten it"]),
        ([("a", "A tram."), ("b", "A/B")], ["A/B", "/"]),
        ([("a", "...")], ["no folder name"]),
        ([("a", "A tram."), ("b", "A tram")], ["that of a and of b"]),
    ],
)
def test_names_that_det_could_not_find_are_refused_before_anything_is_written(tmp_path, takes, words):
    results = results_of(tmp_path / "r", takes)
    with pytest.raises(InputError) as caught:
        lay_out(results, tmp_path / "out")
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_name_of_255_bytes_is_whole(tmp_path):
    prompt = "ä" * 127 + "b."
    lay_out(results_of(tmp_path / "r", [("a", prompt)]), tmp_path / "out")
    assert found_by_det(tmp_path / "out/ours", prompt)


def test_a_folder_in_use_and_results_without_videos_are_refused(tmp_path):
    results = results_of(tmp_path / "r", [("a", "A tram.")])
    (tmp_path / "out").mkdir()
    (tmp_path / "out/old.mp4").write_text("")
    with pytest.raises(InputError, match=r"--out .* is in use"):
        lay_out(results, tmp_path / "out")
    for video in results.glob("cells/*/video.mp4"):
        video.unlink()
    with pytest.raises(InputError, match="no finished video"):
        lay_out(results, tmp_path / "new")


def test_cells_without_a_video_are_named(tmp_path):
    results = results_of(tmp_path / "r", [("a", "A tram."), ("b", "A bus.")])
    lost = next(results.glob("**/video.mp4"))
    lost.unlink()
    assert lay_out(results, tmp_path / "out") == (3, [str(lost.parent.relative_to(results))])
