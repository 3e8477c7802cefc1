"""DAVIS: which sequences run, which are left out, what is decoded."""

import csv
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from pydantic import ValidationError

import datasets.davis as module
from datasets.davis import Davis
from datasets.errors import InputError
from datasets.hashing import files_sha256
from datasets.interface import LeftOut

SIZE = (48, 64)


def picture(seed):
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.stack([x * 3, y * 4, 0 * x + seed * 9 % 256], axis=-1).astype(np.uint8)


def add(root, name, frames=10, masks=False):
    folder = root / "JPEGImages/480p" / name
    folder.mkdir(parents=True)
    for index in range(frames):
        Image.fromarray(picture(index)).save(folder / f"{index:05d}.jpg", quality=95)
    if masks:
        ids = np.zeros(SIZE, np.uint8)
        ids[10:30, 20:40], ids[30:40, 20:40] = 1, 2
        annotation = Image.fromarray(ids)
        annotation.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
        folder = root / "Annotations/480p" / name
        folder.mkdir(parents=True)
        for index in range(frames):
            annotation.save(folder / f"{index:05d}.png")


@pytest.fixture
def root(tmp_path):
    add(tmp_path, "lucia")
    add(tmp_path, "bmx-trees", frames=6)
    add(tmp_path, "snowboard", masks=True)
    lists = tmp_path / "ImageSets/2017"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("lucia\nsnowboard\n")
    (lists / "val.txt").write_text("bmx-trees\n")
    return tmp_path


def davis(where, **keys):
    return Davis(**{"root": str(where), "frames": 5, "height": 24, "width": 32} | keys)


def names(listing):
    return [clip.name for clip in listing.clips]


def test_the_table_agrees_with_the_published_totals():
    rows = module.sequences()
    by_split = {split: [row for row in rows.values() if row["split"] == split] for split in ("train", "val")}
    assert [len(by_split[split]) for split in ("train", "val")] == [60, 30]
    assert [sum(int(row["frames"]) for row in by_split[split]) for split in ("train", "val")] == [4209, 1999]
    assert sum(row["year"] == "2016" for row in rows.values()) == 50
    small = [row for row in rows.values() if row["ci10"] == "yes"]
    assert len(small) == 10
    assert all(row["year"] == "2016" and int(row["frames"]) >= 49 for row in small)


def test_every_sequence_has_three_prompts_of_its_own():
    prompts = module.our_prompts()
    assert list(prompts) == list(module.sequences())
    texts = [row[kind] for row in prompts.values() for kind in module.PROMPT_SETS]
    assert len(set(texts)) == 270
    # At most two CLIP tokens a word here, so that 30 words stay below CLIP's 77 tokens.
    assert all(len(text.split()) <= 30 and text.endswith(".") for text in texts)


def common(one: str, other: str) -> int:
    """How many words two texts begin with alike."""
    pairs = zip(one.rstrip(".").split(), other.rstrip(".").split(), strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), len(one.split()))


def backwards(text: str) -> str:
    return " ".join(text.rstrip(".").split()[::-1])


def test_a_subject_prompt_changes_who_moves_and_a_scene_prompt_where():
    """English begins with who moves and ends with where; a few prompts say both at once."""
    rows = module.our_prompts().values()
    who = [common(row["scene"], row["caption"]) > common(row["subject"], row["caption"]) for row in rows]
    where = [
        common(backwards(row["subject"]), backwards(row["caption"]))
        > common(backwards(row["scene"]), backwards(row["caption"]))
        for row in rows
    ]
    assert sum(who) >= 0.95 * 90 and sum(where) >= 0.95 * 90


def test_the_yaml_holds_exactly_the_fields_and_their_defaults():
    path = Path(module.__file__).parents[1] / "conf/dataset/davis.yaml"
    node = OmegaConf.load(path)
    values = OmegaConf.to_container(
        OmegaConf.create({"dataset": node, "frames": 49, "backbone": {"height": 480, "width": 832}}),
        resolve=True,
    )["dataset"]
    assert values.pop("_target_") == "datasets.davis.Davis"
    assert set(values) == {field.name for field in fields(Davis)}
    assert Davis(**values) == Davis()


def test_unknown_keys_and_wrong_types_are_named():
    with pytest.raises(ValidationError, match="prompt_sets"):
        Davis(height=24, width=32, prompt_sets="all")
    with pytest.raises(ValidationError, match="subset"):
        Davis(height=24, width=32, subset="ci11")


def test_short_and_absent_sequences_are_left_out_by_name(root):
    listing = davis(root, frames=7).listing()
    assert names(listing) == ["lucia"]
    assert listing.left_out[0] == LeftOut("bmx-trees", "has 6 frames, 7 needed (frames=7, start=0, stride=1)")
    absent = [out.clip for out in listing.left_out[1:]]
    assert len(absent) == 48 and "bear" in absent
    assert "snowboard" not in absent


def test_start_and_stride_count_towards_the_length(root):
    assert names(davis(root, frames=5, stride=2, start=1).listing()) == ["lucia"]
    with pytest.raises(InputError, match="11 needed"):
        davis(root, frames=5, stride=2, start=2).listing()


def test_subsets_and_splits_choose_sequences(root):
    assert names(davis(root).listing()) == ["bmx-trees", "lucia"]
    assert names(davis(root, split="val").listing()) == ["bmx-trees"]
    assert names(davis(root, subset=None).listing()) == ["bmx-trees", "lucia", "snowboard"]
    ten = davis(root, subset="ci10").listing()
    assert len(ten.clips) + len(ten.left_out) == 10


def test_without_lists_the_known_sequences_are_meant(root):
    for path in (root / "ImageSets/2017").iterdir():
        path.unlink()
    listing = davis(root, subset=None).listing()
    assert names(listing) == ["bmx-trees", "lucia", "snowboard"]
    assert len(listing.left_out) == 87


def test_sequences_asked_for_by_name_must_be_usable(root):
    assert names(davis(root, names="snowboard").listing()) == ["snowboard"]
    with pytest.raises(InputError, match=r"dataset\.names: bmx-trees has 6 frames"):
        davis(root, frames=7, names=["lucia", "bmx-trees"]).listing()
    with pytest.raises(InputError, match="did you mean snowboard"):
        davis(root, names=["snowbord"]).listing()
    (root / "JPEGImages/480p/lucia/00003.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"lucia/00003\.jpg"):
        davis(root, names=["snowboard", "lucia"]).listing()


def test_one_unreadable_sequence_among_many_fails_alone_and_an_only_one_at_once(root):
    (root / "JPEGImages/480p/lucia/00003.jpg").write_bytes(b"no picture")
    dataset = davis(root)
    assert names(dataset.listing()) == ["bmx-trees", "lucia"]
    with pytest.raises(InputError, match=r"00003\.jpg"):
        dataset.load("lucia")
    assert dataset.load("bmx-trees").frames.shape == (5, 24, 32, 3)
    with pytest.raises(InputError, match=r"00003\.jpg"):
        davis(root, frames=7).listing()


def test_nothing_left_is_an_error_that_says_why(root):
    with pytest.raises(InputError, match=r"(?s)no clip remains.*bmx-trees has 6.*smaller frames") as error:
        davis(root, frames=49).listing()
    assert "\n" not in str(error.value)


def test_a_missing_folder_names_the_three_ways_to_give_one(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"dataset\.root.*DAVIS_ROOT.*dataset\.download=true"):
        davis(tmp_path / "none").listing()
    monkeypatch.setenv("DAVIS_ROOT", str(tmp_path / "elsewhere"))
    with pytest.raises(InputError, match="elsewhere"):
        davis(tmp_path, root=None).listing()
    monkeypatch.delenv("DAVIS_ROOT")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="data/DAVIS"):
        davis(tmp_path, root=None).listing()


def test_the_environment_names_the_folder(root, monkeypatch):
    monkeypatch.setenv("DAVIS_ROOT", str(root))
    assert names(davis(root, root=None).listing()) == ["bmx-trees", "lucia"]


@pytest.mark.parametrize("kind", ["caption", "subject", "scene"])
def test_a_prompt_set_gives_one_prompt_and_the_caption(root, kind):
    (clip,) = davis(root, names="lucia", prompt_set=kind).listing().clips
    row = module.our_prompts()["lucia"]
    assert [(prompt.text, prompt.kind) for prompt in clip.prompts] == [(row[kind], kind)]
    assert clip.caption == row["caption"]


def test_all_prompt_sets_give_three_prompts(root):
    (clip,) = davis(root, names="lucia", prompt_set="all").listing().clips
    assert [prompt.kind for prompt in clip.prompts] == ["caption", "subject", "scene"]


def test_other_sequences_need_prompts_and_take_them_from_a_file(root, tmp_path):
    add(root, "my-own")
    (root / "ImageSets/2017/test-dev.txt").write_text("my-own\n")
    keys = {"split": "test-dev", "subset": None}
    with pytest.raises(InputError, match=r"my-own has no prompts.*dataset\.prompts"):
        davis(root, **keys).listing()
    path = tmp_path / "mine.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["sequence", *module.PROMPT_SETS], ["my-own", "a", "b", "c"]])
    (clip,) = davis(root, prompts=str(path), **keys).listing().clips
    assert clip.prompts[0].text == "b"
    # Rows for sequences of ours come before ours.
    with path.open("a", newline="") as file:
        csv.writer(file).writerow(["lucia", "d", "e", "f"])
    (clip,) = davis(root, prompts=str(path), names="lucia").listing().clips
    assert (clip.prompts[0].text, clip.caption) == ("e", "d")
    path.write_text("sequence,caption\nmy-own,a\n")
    with pytest.raises(InputError, match=r"mine\.csv: its first line.*names no subject, scene"):
        davis(root, prompts=str(path), **keys).listing()


def test_frames_are_those_asked_for(root):
    clip = davis(root, names="lucia", height=48, width=64, frames=3, start=1, stride=4).load("lucia")
    assert clip.frames.dtype == np.uint8
    for frame, index in zip(clip.frames, (1, 5, 9), strict=True):
        assert np.abs(frame.astype(int) - picture(index)).mean() < 3
    assert clip.masks is None and clip.info.masks == ""
    assert clip.info.fps == 24 / 4
    assert np.allclose(clip.times, [0, 4 / 24, 8 / 24])


def test_masks_cover_every_object_and_are_cropped_with_the_frames(root):
    masks = davis(root, height=48, width=64).load("snowboard").masks
    assert masks.shape == (5, 48, 64) and masks.dtype == bool
    assert (masks.sum((1, 2)) == 30 * 20).all() and masks[:, 10:40, 20:40].all()
    cropped = davis(root, height=24, width=24).load("snowboard").masks[4]
    assert np.array_equal(np.argwhere(cropped).min(axis=0), [5, 6])
    assert np.array_equal(np.argwhere(cropped).max(axis=0), [19, 15])


def test_each_frame_has_its_own_mask_and_one_without_annotation_an_empty_one(root):
    folder = root / "Annotations/480p/snowboard"
    for index in range(10):
        mask = np.zeros(SIZE, np.uint8)
        mask[:, index * 4 : index * 4 + 4] = 3
        Image.fromarray(mask).save(folder / f"{index:05d}.png")
    (folder / "00004.png").unlink()
    masks = davis(root, height=48, width=64, frames=3, start=1, stride=3).load("snowboard").masks
    columns = [np.flatnonzero(mask.any(0)).tolist() for mask in masks]
    assert columns == [[4, 5, 6, 7], [], [28, 29, 30, 31]]


def test_the_objects_of_the_first_frame_are_a_stratum_where_a_palette_tells_them_apart(root):
    strata = {clip.name: clip.strata for clip in davis(root, start=2, frames=4, subset=None).listing().clips}
    assert strata.pop("snowboard") == {"objects": "2"}
    assert not any(strata.values())
    path = root / "Annotations/480p/snowboard/00000.png"
    Image.fromarray(np.array(Image.open(path)) * 127).save(path)
    assert all(clip.strata == {} for clip in davis(root, subset=None).listing().clips)


def test_masks_that_the_crop_loses_count_as_none(root):
    for path in (root / "Annotations/480p/snowboard").iterdir():
        Image.fromarray(np.zeros(SIZE, np.uint8)).save(path)
    assert davis(root).load("snowboard").masks is None


def test_a_changed_annotation_is_told_by_the_masks_and_leaves_the_content(root):
    def info():
        return davis(root, names="snowboard").listing().clips[0]

    before, folder = info(), root / "Annotations/480p/snowboard"
    Image.fromarray(np.ones(SIZE, np.uint8)).save(folder / "00009.png")
    assert info() == before, "no frame used is annotated there"
    Image.fromarray(np.ones(SIZE, np.uint8)).save(folder / "00003.png")
    changed = info()
    (folder / "00003.png").unlink()
    (folder / "00004.png").unlink()
    fewer = info()
    assert len({before.masks, changed.masks, fewer.masks}) == 3
    assert before.content == changed.content == fewer.content
    for path in folder.iterdir():
        path.unlink()
    assert info().masks == ""


def test_content_follows_the_bytes_of_the_frames_used_only(root):
    def content():
        return davis(root, names="snowboard").listing().clips[0].content

    before = content()
    Image.fromarray(picture(77)).save(root / "JPEGImages/480p/snowboard/00009.jpg")
    assert content() == before
    Image.fromarray(picture(77)).save(root / "JPEGImages/480p/snowboard/00004.jpg")
    assert content() != before
    assert davis(root, names="lucia").load("lucia").info.content == files_sha256(
        sorted((root / "JPEGImages/480p/lucia").iterdir())[:5]
    )


def test_what_stays_outside_the_id_does_not_change_frames():
    inside = {field.name for field in fields(Davis)} - set(Davis.outside_id)
    assert inside == {"name", "frames", "start", "stride", "height", "width"}
