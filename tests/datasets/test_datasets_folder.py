"""A folder of your own videos: clips, prompts, masks, and what is wrong with them."""

from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from pydantic import ValidationError

from datasets.errors import InputError
from datasets.folder import Folder
from datasets.media import video


def frames_of(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 48, 3), dtype=np.uint8)


@pytest.fixture
def root(tmp_path):
    video.write_ffv1(tmp_path / "film.mkv", frames_of(9), 12)
    video.write_h264(tmp_path / "short.mp4", frames_of(3), 24, min_side=1)
    (tmp_path / "stills").mkdir()
    for index, frame in enumerate(frames_of(7, seed=1)):
        Image.fromarray(frame).save(tmp_path / "stills" / f"{index:03d}.png")
    (tmp_path / "prompts.csv").write_text(
        "clip,prompt,caption,kind\n"
        'film.mkv,"a dog, running",a cat running,subject\n'
        "film,a cat in snow,,scene\n"
        "stills,a boat,,\n"
        "short,a bird,,\n"
    )
    return tmp_path


def folder(where, **keys):
    return Folder(**{"root": str(where), "frames": 5, "height": 32, "width": 48} | keys)


def names(listing):
    return [clip.name for clip in listing.clips]


def test_the_yaml_holds_exactly_the_fields_and_their_defaults():
    path = Path(video.__file__).parents[2] / "conf/dataset/folder.yaml"
    values = OmegaConf.to_container(
        OmegaConf.create(
            {"dataset": OmegaConf.load(path), "frames": 49, "backbone": {"height": 480, "width": 832}}
        ),
        resolve=True,
    )["dataset"]
    assert values.pop("_target_") == "datasets.folder.Folder"
    assert set(values) == {field.name for field in fields(Folder)}
    assert Folder(**values) == Folder()


def test_videos_and_frame_folders_are_listed_with_their_prompts(root):
    listing = folder(root).listing()
    assert names(listing) == ["film", "stills"]
    film, stills = listing.clips
    assert [(prompt.text, prompt.kind) for prompt in film.prompts] == [
        ("a dog, running", "subject"),
        ("a cat in snow", "scene"),
    ]
    assert film.caption == "a cat running" and stills.caption is None
    assert stills.prompts[0].kind == "target"
    (out,) = listing.left_out
    assert (out.clip, out.reason) == ("short", "has 3 frames, 5 needed (frames=5, start=0, stride=1)")


def test_frames_are_those_asked_for(root):
    dataset = folder(root, frames=3, start=1, stride=2)
    clip = dataset.load("film")
    assert np.array_equal(clip.frames, frames_of(9)[1:6:2])
    assert clip.info.fps == 12 / 2
    assert np.allclose(clip.times, [0, 2 / 12, 4 / 12])
    stills = dataset.load("stills")
    assert np.array_equal(stills.frames, frames_of(7, seed=1)[1:6:2])
    assert stills.times is None, "nothing says when pictures were taken"


def test_a_mask_is_read_and_must_fit_its_clip(root):
    mask = np.zeros((32, 48), np.uint8)
    mask[4:8, 10:20] = 255
    Image.fromarray(mask).save(root / "film_mask.png")
    masks = folder(root).load("film").masks
    assert np.array_equal(masks[0], mask > 0) and not masks[1:].any()
    assert folder(root).load("stills").masks is None
    Image.fromarray(mask[:16]).save(root / "film_mask.png")
    with pytest.raises(InputError, match=r"film_mask\.png: is 48x16, its clip 48x32"):
        folder(root).load("film")


def test_content_of_pictures_is_that_of_every_one_used_and_of_no_other(root):
    def content():
        return folder(root, names="stills", frames=3, start=1, stride=2).listing().clips[0].content

    found = [content()]
    for index in range(7):
        Image.fromarray(frames_of(1, seed=20 + index)[0]).save(root / "stills" / f"{index:03d}.png")
        found.append(content())
    changed = [after != before for before, after in pairwise(found)]
    assert changed == [index in (1, 3, 5) for index in range(7)]


def test_content_follows_the_file_and_masks_are_told_apart_from_it(root):
    def info():
        return folder(root, names="film").listing().clips[0]

    before = info()
    Image.fromarray(np.ones((32, 48), np.uint8)).save(root / "film_mask.png")
    masked = info()
    assert before.masks == "" != masked.masks and masked.content == before.content
    video.write_ffv1(root / "film.mkv", frames_of(9, seed=5), 12)
    assert info().content != before.content and info().masks == masked.masks


def test_a_clip_without_a_prompt_is_left_out_by_name_and_the_others_run(root):
    (root / "prompts.csv").write_text("clip,prompt\nfilm,a dog\nstils,a boat\n")
    listing = folder(root).listing()
    assert names(listing) == ["film"]
    reasons = {out.clip: out.reason for out in listing.left_out}
    assert set(reasons) == {"stills", "stils", "short"}
    assert "has no prompt: add a row to" in reasons["stills"] and "dataset.prompt" in reasons["stills"]
    assert "line 3: stils,a boat is near it" in reasons["stills"], "a row that nearly fits is quoted"
    assert "did you mean stills?" in reasons["stils"]
    with pytest.raises(InputError, match=r"dataset\.names: stills has no prompt"):
        folder(root, names="stills").listing()


def test_no_prompts_at_all_shows_the_header_to_write(root):
    (root / "prompts.csv").unlink()
    with pytest.raises(
        InputError, match=r"prompts\.csv: missing; write the header clip,prompt.*dataset\.prompt"
    ):
        folder(root).listing()


@pytest.mark.parametrize("prompt", ["", "  "])
def test_an_empty_prompt_is_refused(root, prompt):
    with pytest.raises(ValidationError, match=r"dataset\.prompt: is empty"):
        folder(root, prompt=prompt)


def test_one_prompt_for_all_clips_needs_no_file(root):
    texts = {prompt.text for clip in folder(root, prompt="a fox").listing().clips for prompt in clip.prompts}
    assert texts == {"a fox"}
    (root / "prompts.csv").unlink()
    assert names(folder(root, prompt="a fox").listing()) == ["film", "stills"]


@pytest.mark.parametrize(
    "text,message",
    [
        ("film,a dog\n", r"first line, 'film,a dog', names no clip, prompt; begin it with clip,prompt"),
        ("clip,promt\nfilm,a dog\n", r"names no prompt"),
        ("clip,prompt,captoin\nfilm,a dog,red\n", r"column captoin is not known; did you mean caption"),
        ("clip,prompt,prompt\nfilm,a dog,red\n", r"names prompt twice"),
        ("clip,prompt\nfilm,\n", r"line 2: no prompt"),
        ("clip,prompt\nfilm,a dog, running\n", r"line 2: more cells"),
        ("clip,prompt,kind\nfilm,a dog,other\n", r"line 2: kind other"),
        ("clip,prompt,stride\nfilm,a dog,1.5\n", r"line 2: stride '1.5'; write a whole number"),
        ("clip,prompt,fps\nfilm,a dog,fast\n", r"line 2: fps 'fast'; write a rate"),
        ("clip,prompt,fps\nfilm,a dog,8\nfilm.mkv,a cat,9\n", r"line 3: fps differs from line 2's"),
    ],
)
def test_a_wrong_prompts_file_is_explained(root, text, message):
    (root / "prompts.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        folder(root).listing()


def test_a_row_without_a_clip_is_left_out_by_name(root):
    with (root / "prompts.csv").open("a") as file:
        file.write("flim,a dog,,\n")
    assert "flim" in [out.clip for out in folder(root).listing().left_out]


def test_one_unreadable_video_among_many_fails_alone(root):
    (root / "broken.mp4").write_bytes(b"no video")
    dataset = folder(root, prompt="a fox")
    assert names(dataset.listing()) == ["broken", "film", "stills"]
    with pytest.raises(InputError, match=r"broken\.mp4"):
        dataset.load("broken")
    with pytest.raises(InputError, match=r"broken\.mp4"):
        folder(root, prompt="a fox", names=["film", "broken"]).listing()


def test_an_only_video_that_cannot_be_read_is_found_at_once(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match=r"broken\.mp4"):
        folder(tmp_path, prompt="a fox").listing()


def test_clips_asked_for_by_name_must_be_usable(root):
    assert names(folder(root, names="film").listing()) == ["film"]
    with pytest.raises(InputError, match=r"dataset\.names: short has 3 frames"):
        folder(root, names=["film", "short"]).listing()
    with pytest.raises(InputError, match=r"dataset\.names: nothing is not in"):
        folder(root, names=["nothing"]).listing()


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(InputError, match=r"dataset\.root: not set"):
        folder(tmp_path, root=None).listing()
    with pytest.raises(InputError, match=r"dataset\.root=.*none: no such folder"):
        folder(tmp_path / "none").listing()
    with pytest.raises(InputError, match=r"dataset\.root=.*no clip there"):
        folder(tmp_path).listing()


def test_two_clips_of_one_name_are_refused(root):
    video.write_ffv1(root / "film.mp4", frames_of(9), 12)
    with pytest.raises(InputError, match=r"film\.(mkv|mp4): another clip"):
        folder(root).listing()


def test_nothing_long_enough_is_an_error(root):
    with pytest.raises(InputError, match=r"no clip remains.*film has 9 frames.*smaller frames"):
        folder(root, frames=49).listing()
