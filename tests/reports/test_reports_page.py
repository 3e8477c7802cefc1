import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from reports_world import FPS, HOSTILE, add_videos, bar, gallery, metric, write_plan, write_record

from datasets.errors import InputError
from datasets.video import count_frames, write_h264
from reports.__main__ import main
from reports.page import MEDIA, write_page
from reports.tables import tables


class Seen(HTMLParser):
    """Tags with their attributes, all text, and the scripts' sources."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.texts, self.scripts, self._inside = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._inside = tag

    def handle_data(self, data):
        (self.scripts if self._inside == "script" else self.texts).append(data)

    def handle_endtag(self, tag):
        self._inside = ""

    def every(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def page_of(results, plan, out):
    return write_page(results, [plan], tables(results, [plan]), out)


@pytest.fixture
def hostile(tmp_path):
    results = tmp_path / "results"
    plan = gallery(results, ["none", HOSTILE], 3, lambda index: f"{HOSTILE} {index}", failing=HOSTILE)
    return results, plan, tmp_path / "page"


def test_names_and_prompts_are_never_markup(hostile):
    results, plan, out = hostile
    text = page_of(results, plan, out).read_text()
    seen = Seen(text)
    assert not seen.every("img") and len(seen.scripts) == len(seen.every("script")) == 1
    assert not [key for _, attributes in seen.tags for key in attributes if key.startswith("on")]
    assert {take["data-prompt"] for take in seen.every("li") if "data-prompt" in take} == {
        f"{HOSTILE} {index}" for index in range(3)
    }
    assert any(HOSTILE in line for line in seen.texts)
    policy = next(meta["content"] for meta in seen.every("meta") if "http-equiv" in meta)
    digest = base64.b64encode(hashlib.sha256(seen.scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_everything_it_names_lies_in_its_folder(hostile, tmp_path):
    results, plan, out = hostile
    index = page_of(results, plan, out)
    shutil.rmtree(results)
    moved = shutil.move(out, tmp_path / "elsewhere")
    seen = Seen((moved / index.name).read_text())
    named = {
        value
        for _, attributes in seen.tags
        for key, value in attributes.items()
        if key in ("src", "data-src", "href", "xlink:href", "srcset", "poster")
    }
    files = {name for name in named if not name.startswith(("#", "data:,"))}
    assert len(files) > 10 and all(re.fullmatch(rf"{MEDIA}/[\w.-]+", name) for name in files)
    assert all((moved / name).is_file() for name in files)
    assert {name for name in files if name.endswith(".json")} == {
        f"{MEDIA}/{path.name}" for path in (moved / MEDIA).glob("*.json")
    }
    assert len([name for name in files if name.endswith(".mp4")]) == 3 * 3 - 1


def test_what_has_no_video_says_why(tmp_path):
    cells = {
        "ok": [write_record(tmp_path, "ok", clip, metrics={"clip_t": metric(0.3)}) for clip in "abc"],
        "bad": [
            write_record(tmp_path, "bad", "a", status="oom"),
            write_record(tmp_path, "bad", "b"),
            write_record(tmp_path, "bad", "c"),
        ],
        "new": [write_record(tmp_path, "new", "a"), write_record(tmp_path, "new", "b")],
    }
    plan = write_plan(tmp_path, cells)
    add_videos(tmp_path, plan)
    (tmp_path / cells["bad"][1].path / "video.mp4").unlink()
    (tmp_path / cells["bad"][1].path / "video.mp4").write_bytes(b"no video")
    (tmp_path / cells["bad"][2].path / "record.json").write_text("{")
    (tmp_path / cells["new"][1].path / "record.json").unlink()
    text = page_of(tmp_path, plan, tmp_path / "page").read_text()
    shots = [figure for figure in Seen(text).every("figure") if "data-row" in figure]
    found = {label: [one["data-status"] for one in shots if one["data-row"] == label] for label in cells}
    assert found == {
        "ok": ["ok"] * 3,
        "bad": ["oom", "lost", "unreadable"],
        "new": ["ok", "planned", "absent"],
    }
    for line in ("Out of memory", "Video cannot be read", "Record cannot be read", "Not run yet"):
        assert line in text
    assert json.loads(shots[0]["data-values"]) == {"clip_t": 0.3, "time": 2.0}


def test_blocks_of_text_stand_below_the_tables_as_text(tmp_path):
    plan = write_plan(tmp_path, {"none": [write_record(tmp_path, "none", "a")]})
    block = SimpleNamespace(title="Published", headings=["", "A"], rows=[[HOSTILE, "1"]], notes=["elsewhere"])
    index = write_page(tmp_path, [plan], tables(tmp_path, [plan]), tmp_path / "page", [block])
    seen = Seen(index.read_text())
    texts = [text.strip() for text in seen.texts]
    assert texts.index("none") < texts.index("Published") < texts.index(HOSTILE) < texts.index("elsewhere")
    assert not seen.every("img")


def test_writing_it_again_drops_what_is_gone_and_leaves_the_results_alone(tmp_path):
    results, out = tmp_path / "results", tmp_path / "page"
    plan = gallery(results, ["none", "fastvmt"], 2, str, failing=None)
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    page_of(results, plan, out)
    first = {path.name for path in (out / MEDIA).iterdir()}
    plan.variants[1].cells.pop()
    page_of(results, plan, out)
    second = {path.name for path in (out / MEDIA).iterdir()}
    assert second < first and len([name for name in first - second if name.endswith(".mp4")]) == 1
    page_of(results, plan, out)
    assert {path.name for path in (out / MEDIA).iterdir()} == second
    assert before == {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}


def test_a_folder_with_other_files_is_left_alone(tmp_path, capsys):
    results, out = tmp_path / "results", tmp_path / "home"
    plan = gallery(results, ["none"], 1, str, failing=None)
    out.mkdir()
    (out / "index.html").write_text("<h1>mine</h1>")
    with pytest.raises(InputError, match="holds other files"):
        page_of(results, plan, out)
    assert [path.name for path in out.iterdir()] == ["index.html"]
    assert main([str(results), "--format", "html", "--out", str(out / "index.html")]) == 2
    assert "is a file" in capsys.readouterr().err
    assert main([str(results), "--format", "html"]) == 0
    assert capsys.readouterr().out.strip() == str(results / "page" / "index.html")


def test_every_video_number_and_record_stands_under_its_own_clip_row_and_seed(tmp_path):
    results, number, wanted, cells = tmp_path / "results", 0, {}, {}
    for row in ("none", "guided"):
        for clip, prompt, seed in (
            ("a", "a red square", 0),
            ("a", "a red square", 1),
            ("b", "a blue star", 0),
        ):
            number += 1
            text, error = number / 100, float(number)
            cell = write_record(
                results,
                row,
                clip,
                prompt,
                seed,
                metrics={"clip_t": metric(text), "position_error": metric(error)},
            )
            # No two videos have the same length: it tells them apart.
            for name, length in (("video.mp4", 10 + number), ("reference.mp4", 30 + ord(clip) - ord("a"))):
                write_h264(results / cell.path / name, bar(length, (9, 9, 9), 16), FPS, min_side=16)
            cells.setdefault(row, []).append(cell)
            wanted[clip, prompt, seed, row] = (10 + number, text, error, cell.id)
    index = page_of(results, write_plan(results, cells), tmp_path / "page")
    found, take, row = {}, None, None
    for tag, attributes in Seen(index.read_text()).tags:
        if tag == "li" and "data-clip" in attributes:
            take = (attributes["data-clip"], attributes["data-prompt"])
            seed = sum(key[:2] == take for key in found) // 2
        elif tag == "figure" and "shot" in attributes.get("class", ""):
            row = attributes.get("data-row", "reference")
            numbers = json.loads(attributes.get("data-values", "{}"))
        elif tag == "video":
            length = count_frames(index.parent / attributes["data-src"])
            if row == "reference":
                assert length == 30 + ord(take[0]) - ord("a")
            else:
                found[(*take, seed, row)] = (length, numbers["clip_t"], numbers["position_error"])
        elif tag == "a" and row and attributes["href"].endswith(".json"):
            record = json.loads((index.parent / attributes["href"]).read_text())
            found[(*take, seed, row)] += (record["id"],)
            assert (record["clip"], record["prompt"], record["seed"]) == (*take, seed)
    assert found == wanted
