"""The picture of reference over generations shows what the cells hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from datasets.errors import InputError
from datasets.media.video import write_ffv1, write_h264
from harness.records.record import Plan, PlannedCell, Variant
from reports.pictures import WIDTH, save, scenes, strips

RED, BLUE = (250, 10, 10), (10, 10, 250)


def plan_of(results: Path, label: str, colours: dict[str, tuple[int, int, int]]) -> Plan:
    cells = []
    for clip, colour in colours.items():
        path = f"cells/{label}/{clip}"
        (results / path).mkdir(parents=True)
        frames = np.full((5, 32, 48, 3), colour, np.uint8)
        # Something moves, in the topmost line.
        frames[range(5), 0, range(0, 40, 8)] = 255
        write_ffv1(results / path / "frames.mkv", frames, 8.0)
        write_h264(results / path / "video.mp4", frames, 8.0)
        write_h264(results / path / "reference.mp4", np.full((5, 32, 48, 3), 128, np.uint8), 8.0)
        cells.append(PlannedCell(id=label + clip, path=path, clip=clip, prompt="a dog", seed=0))
    variant = Variant(label=label, method=label, backbone="b", dataset="d", config_id=label, cells=cells)
    return Plan(name=label, variants=[variant])


def two_methods(results: Path) -> list[Plan]:
    return [
        plan_of(results, "none", {"x": RED, "y": RED, "z": RED}),
        plan_of(results, "fastvmt", {"y": BLUE, "x": BLUE}),
    ]


def test_every_clip_shows_its_reference_above_each_row(tmp_path: Path) -> None:
    shown = scenes(tmp_path, two_methods(tmp_path), clips=5)
    assert [(one.clip, one.prompt) for one in shown] == [("x", "a dog"), ("y", "a dog")]
    for one in shown:
        (first, reference), none, fastvmt = one.videos
        assert first == "reference" and np.abs(reference.astype(int) - 128).max() < 6
        assert none[0] == "none" and (none[1][:, 1:] == RED).all()
        assert fastvmt[0] == "fastvmt" and (fastvmt[1][:, 1:] == BLUE).all()
    picture = strips(shown, count=3, side=16)
    assert picture.shape[1] == 3 * 24
    colours = [tuple(int(part) for part in picture[row, -1]) for row in range(len(picture))]
    assert [colour for colour in colours if colour in (RED, BLUE)] == [*[RED] * 16, *[BLUE] * 16] * 2


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_a_moving_picture_holds_the_videos_side_by_side_for_three_seconds(
    tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"picture{suffix}"
    save(scenes(tmp_path, two_methods(tmp_path), clips=2), out, side=64)
    picture = Image.open(out)
    assert picture.n_frames > 1 and picture.width <= WIDTH
    lengths, frames = [], []
    for frame in ImageSequence.Iterator(picture):
        frames.append(np.asarray(frame.convert("RGB"), int))
        frame.load()
        lengths.append(frame.info["duration"])
    assert abs(sum(lengths) - 3000) < 50
    middle = frames[0][50]
    for left, colour in ((0, (128,) * 3), (102, RED), (204, BLUE)):
        assert np.abs(middle[left + 10 : left + 80] - colour).max() < 40


def test_a_row_without_a_video_is_left_out(tmp_path: Path) -> None:
    plans = two_methods(tmp_path)
    for path in tmp_path.glob("cells/none/*/video.mp4"):
        path.unlink()
    assert [label for label, _ in scenes(tmp_path, plans, clips=1)[0].videos] == ["reference", "fastvmt"]


def test_no_shared_clip_is_bad_input(tmp_path: Path) -> None:
    plans = [plan_of(tmp_path, "none", {"x": RED}), plan_of(tmp_path, "fastvmt", {"y": BLUE})]
    with pytest.raises(InputError, match="no clip"):
        scenes(tmp_path, plans, clips=5)


def test_a_suffix_of_no_picture_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"name a \.png, \.webp or \.gif"):
        save(scenes(tmp_path, two_methods(tmp_path), clips=1), tmp_path / "picture.mp4")
