"""MTBench as its three published examples lie on disk: prompts, the first mask, tracks, what is refused."""

import csv
import json
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from datasets.errors import InputError
from datasets.interface import LeftOut
from datasets.media import video
from datasets.mtbench import MTBench, clusters
from harness import __main__ as cli

HEIGHT, WIDTH, FRAMES = 48, 96, 49
PROMPTS = ["A robot is dancing on the stage.", "An astronaut, in white, dances."]
BARE = (
    "wandb=disabled",
    "execute=here",
    "~metrics.metrics.motion_fidelity_legacy",
    "~metrics.metrics.clip_t",
)


def paths_of(points=6, frames=FRAMES, seed=0):
    """(T, N, 2) pixels, slow lines; the last point leaves on the right."""
    rng = np.random.default_rng(seed)
    start = rng.uniform((30, 12), (60, 36), (points, 2))
    step = rng.uniform(-0.2, 0.2, (points, 2))
    start[-1], step[-1] = (70, 20), (1, 0)
    return start + np.arange(frames)[:, None, None] * step


def film(dots, height=HEIGHT, width=WIDTH):
    """A blob of light at each of (T, 2) places."""
    y, x = np.mgrid[:height, :width]
    light = [np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / 8) for at in dots]
    return np.repeat((np.stack(light) * 255).astype(np.uint8)[..., None], 3, axis=-1)


def light_of(frames):
    """Where the blob is in each frame, (T, 2): the centre of its light."""
    light = frames[..., 0].astype(float)
    light[light < 40] = 0
    y, x = np.mgrid[: frames.shape[1], : frames.shape[2]]
    return np.stack([(light * axis).sum((1, 2)) / light.sum((1, 2)) for axis in (x, y)], axis=-1)


def add(root, name, masks=90, frames=FRAMES):
    """A clip's folder; its masks are as many as the source clip had frames."""
    folder = root / name
    for part in ("videos", f"masks/{name}", "trajectories"):
        (folder / part).mkdir(parents=True)
    paths = paths_of(frames=frames)
    video.write_h264(folder / "videos" / f"{name}.mp4", film(paths[:, 0]), 8, min_side=1, crf=4)
    for number in range(masks):
        grey = np.zeros((HEIGHT, WIDTH), np.uint8)
        # The edge is smooth; the object is elsewhere in the masks that follow.
        grey[10:30, 40 + number : 60 + number] = 255
        grey[9, 40:60], grey[30, 40:60] = 127, 128
        Image.fromarray(grey).save(folder / "masks" / name / f"{number:05d}.png")
    seen = np.ones((FRAMES, paths.shape[1], 1))
    seen[3, 1] = 0
    tracks = np.concatenate([paths[:FRAMES] / (WIDTH, HEIGHT), seen], axis=-1)
    torch.save(torch.tensor(tracks, dtype=torch.float32), folder / "trajectories" / f"{name}.pth")
    (folder / "eval_prompts.txt").write_text("  \n".join(PROMPTS))
    (folder / "prompts.txt").write_text("A woman dances. \n")
    for part, kind in (("videos", "mp4"), ("masks", ""), ("trajectories", "pth")):
        (folder / f"{part}.txt").write_text(f"{part}/{name}.{kind}\n".replace(".\n", "\n"))
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "first_frame.jpg")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("mtbench")
    add(root, "dance-twirl")
    add(root, "dog-agility", masks=3)
    (root / ".cache").mkdir()
    (root / "README.md").write_text("text")
    return root


@pytest.fixture
def root(made, tmp_path):
    """A copy to break."""
    import shutil

    return Path(shutil.copytree(made, tmp_path / "sets"))


def bench(where, **keys):
    return MTBench(**{"root": str(where)} | keys)


def test_the_yaml_holds_exactly_the_fields_and_their_defaults():
    path = Path(video.__file__).parents[2] / "conf/dataset/mtbench.yaml"
    node = OmegaConf.create({"dataset": OmegaConf.load(path), "frames": 49})
    values = OmegaConf.to_container(node, resolve=True)["dataset"]
    assert values.pop("_target_") == "datasets.mtbench.MTBench"
    assert set(values) == {field.name for field in fields(MTBench)}
    assert MTBench(**values) == MTBench()


def test_the_clips_lie_in_the_folder_or_in_mtbench_below_it(made, tmp_path):
    (tmp_path / "MTBench").symlink_to(made)
    (tmp_path / "assets").mkdir()
    for where in (made, tmp_path):
        listing = bench(where).listing()
        assert [clip.name for clip in listing.clips] == ["dance-twirl", "dog-agility"]
        assert not listing.left_out


def test_prompts_lose_their_spaces_and_the_caption_is_another_file_s(made):
    clip = bench(made).listing().clips[0]
    assert [prompt.text for prompt in clip.prompts] == PROMPTS
    assert {prompt.kind for prompt in clip.prompts} == {"target"}
    assert clip.caption == "A woman dances." and clip.fps == 8


def test_only_the_first_mask_is_used_from_half_of_white_on(made):
    masks = bench(made).load("dance-twirl").masks
    wanted = np.zeros((HEIGHT, WIDTH), bool)
    wanted[10:31, 40:60] = True
    assert (masks[0] == wanted).all() and not masks[1:].any()
    assert bench(made, start=1, frames=9).load("dance-twirl").masks is None


@pytest.mark.parametrize("size", [(None, None), (24, 40), (64, 64), (96, 300)])
@pytest.mark.parametrize("keys", [{}, {"start": 4, "stride": 3}, {"fps": 4}])
def test_tracks_stay_with_what_they_follow(made, size, keys):
    """The first point is where the light is, whatever was cropped and scaled."""
    clip = bench(made, frames=9, height=size[0], width=size[1], **keys).load("dance-twirl")
    assert clip.tracks.dtype == np.float32 and clip.tracks.shape == (9, 6, 3)
    scale = clip.frames.shape[1] / HEIGHT
    assert np.abs(light_of(clip.frames) - clip.tracks[:, 0, :2]).max() < max(0.4 * scale, 0.25)


def test_points_are_seen_where_the_file_says_so_and_within_the_frame(made):
    whole = bench(made).load("dance-twirl").tracks
    assert not whole[3, 1, 2] and whole[2, 1, 2]
    leaves = whole[:, -1]
    assert leaves[-1, 0] > WIDTH, "a point beyond the frame keeps its place"
    assert np.array_equal(leaves[:, 2] == 1, leaves[:, 0] < WIDTH - 0.5)
    square = bench(made, height=48, width=48).load("dance-twirl").tracks
    assert square[:, -1, 2].sum() < leaves[:, 2].sum()
    again = bench(made).load("dance-twirl").at([5, 2])
    assert np.array_equal(again.tracks, whole[[5, 2]])


def test_no_more_than_49_frames_are_used(tmp_path):
    add(tmp_path, "long", masks=1, frames=60)
    (clip,) = bench(tmp_path, frames="auto").listing().clips
    assert clip.frames == 49
    with pytest.raises(InputError, match="long has 49 frames, 53 needed"):
        bench(tmp_path, frames=53).listing()


def test_clusters_are_counted_from_the_tracks():
    rng = np.random.default_rng(0)
    time = np.linspace(0, 1, FRAMES)[:, None, None]

    def group(at, to, points=25):
        spread = rng.uniform(-5, 5, (points, 2))
        tracks = np.array(at) + spread + time * (np.array(to) - at)
        return np.concatenate([tracks, np.ones((FRAMES, points, 1))], axis=-1)

    ways = [((100, 100), (300, 100)), ((100, 300), (100, 400)), ((500, 100), (400, 300)), ((600, 400),) * 2]
    for count in (2, 3, 4):
        tracks = np.concatenate([group(*way) for way in ways[:count]], axis=1).astype(np.float32)
        assert clusters(tracks) == count
        assert clusters(tracks[:, rng.permutation(tracks.shape[1])]) == count
    assert clusters(group(*ways[0], points=100).astype(np.float32)) == 1, "points of one object"
    still = np.ones((FRAMES, 30, 3), np.float32)
    assert clusters(still) == clusters(still[:, :1]) == 1, "all at one place"
    still[:, 10:] = 9
    assert clusters(still) == 2, "at two places"


def test_clusters_are_a_stratum_of_the_clip(made):
    assert [set(clip.strata) for clip in bench(made).listing().clips] == [{"clusters"}] * 2


def test_a_clip_without_tracks_runs_and_says_so(root):
    (root / "dance-twirl/trajectories/dance-twirl.pth").unlink()
    clip = bench(root).load("dance-twirl")
    assert clip.tracks is None and not clip.info.strata
    assert "its tracks are missing: run without them" in clip.info.remarks


def without(path):
    return lambda root: (root / path).unlink()


def written(path, content):
    return lambda root: (root / path).write_bytes(content)


def saved(tensor):
    return lambda root: torch.save(tensor, root / TRACKS)


def mask_of(size):
    return lambda root: Image.new("L", size, 255).save(root / MASK)


TRACKS = "dance-twirl/trajectories/dance-twirl.pth"
MASK = "dance-twirl/masks/dance-twirl/00000.png"


@pytest.mark.parametrize(
    "broken, reason",
    [
        (without("dance-twirl/eval_prompts.txt"), "has no eval_prompts.txt"),
        (written("dance-twirl/eval_prompts.txt", b" \n\n"), "has nothing in eval_prompts.txt"),
        (without("dance-twirl/videos/dance-twirl.mp4"), "has no videos/dance-twirl.mp4"),
    ],
)
def test_a_clip_that_lacks_a_part_is_left_out_by_name(root, broken, reason):
    broken(root)
    listing = bench(root).listing()
    assert [clip.name for clip in listing.clips] == ["dog-agility"]
    assert listing.left_out == (LeftOut("dance-twirl", reason),)
    with pytest.raises(InputError, match=f"dataset.names: dance-twirl {reason}"):
        bench(root, names=["dance-twirl"]).listing()


@pytest.mark.parametrize(
    "broken, named, remedy",
    [
        (mask_of((WIDTH // 2, HEIGHT // 2)), MASK, "is 48x24, its clip 96x48; replace it, or remove it"),
        (mask_of((HEIGHT, WIDTH)), MASK, "is 48x96, its clip 96x48"),
        (written(MASK, b"none"), MASK, "cannot be read as a picture"),
        (written(TRACKS, b"none"), TRACKS, "cannot be read as tracks"),
        (written(TRACKS, b""), TRACKS, "cannot be read as tracks"),
        (saved({"a": 1}), TRACKS, "cannot be read as tracks"),
        (saved(Path("x")), TRACKS, "cannot be read as tracks"),
        (saved(torch.zeros(49, 100)), TRACKS, "holds no tracks"),
        (saved(torch.full((49, 100, 3), torch.nan)), TRACKS, "holds no tracks"),
        (written("dance-twirl/eval_prompts.txt", b"\xff\xfe\xff"), "eval_prompts.txt", "UTF-8"),
    ],
)
def test_a_file_that_is_none_is_refused_in_one_line(root, broken, named, remedy):
    broken(root)
    with pytest.raises(InputError) as caught:
        bench(root).listing()
    said = str(caught.value)
    assert named in said and remedy in said and "\n" not in said


def test_tracks_shorter_than_the_clip_are_refused(root):
    saved(torch.rand(20, 9, 3))(root)
    assert len(bench(root, frames=17).load("dance-twirl").tracks) == 17
    with pytest.raises(InputError, match="holds 20 frames, 49 needed"):
        bench(root).load("dance-twirl")


@pytest.mark.parametrize(
    "where, words",
    [
        ("", ["dataset.root", "not set"]),
        ("nowhere", ["dataset.root", "no such folder"]),
        ("dance-twirl", ["one clip's folder", "set dataset.root="]),
        ("dance-twirl/videos", ["eval_prompts.txt", "missing"]),
        ("dance-twirl/masks", ["dance-twirl/masks/dance-twirl/eval_prompts.txt", "missing"]),
    ],
)
def test_a_folder_that_is_no_mtbench_is_refused_in_one_line(made, where, words, monkeypatch, capsys):
    root = str(made / where) if where else "null"
    monkeypatch.setattr(
        sys, "argv", ["harness", "dataset=mtbench", f"dataset.root={root}", "action=plan", *BARE]
    )
    assert cli.main() == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1
    assert all(word in err for word in words), err


def test_records_name_whose_the_clips_are_and_the_command_says_it_once(made, tmp_path, monkeypatch, capsys):
    video.write_ffv1(tmp_path / "a.mkv", film(paths_of()[:, 0]), 8)
    with (tmp_path / "m.csv").open("w", newline="") as file:
        rows = [["dance-twirl", prompt, "a.mkv"] for prompt in PROMPTS]
        csv.writer(file).writerows([["clip", "prompt", "file"], *rows])
    words = ["dataset=mtbench", f"dataset.root={made}", f"results={tmp_path / 'r'}", "method=precomputed"]
    words += [f"method.manifest={tmp_path / 'm.csv'}", *BARE, "frames=9"]
    monkeypatch.setattr(sys, "argv", ["harness", *words])
    assert cli.main() == 0
    assert capsys.readouterr().err.count(MTBench.source) == 1
    found = [json.loads(path.read_text()) for path in tmp_path.glob("r/cells/**/record.json")]
    assert [record["dataset_source"] for record in found] == [MTBench.source] * 2
    (plan,) = (json.loads(path.read_text()) for path in tmp_path.glob("r/plans/*.json"))
    assert {tuple(cell["strata"]) for cell in plan["variants"][0]["cells"]} == {("clusters",)}
