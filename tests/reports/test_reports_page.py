import base64
import hashlib
import json
import math
import re
import shutil
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from reports_world import (
    FPS,
    HOSTILE,
    LENGTH,
    add_videos,
    bar,
    gallery,
    metric,
    tracked,
    write_plan,
    write_record,
)

from datasets.errors import InputError
from datasets.media.video import count_frames, read_video, write_h264
from harness.records import store
from reports.__main__ import main
from reports.page import Options, write_page
from reports.page.about import About, load_about
from reports.site import MEDIA
from reports.table.tables import tables


class Seen(HTMLParser):
    """Tags with their attributes, all text, the scripts' sources, and the data that the script reads."""

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

    @property
    def cases(self):
        return json.loads(self.scripts[0])["cases"]

    @property
    def takes(self):
        return [(case, take) for case in self.cases for take in case["takes"]]


def page_of(results, plan, out, **options):
    return write_page(results, [plan], tables(results, [plan]), out, options=Options(**options))


def details_of(index, case):
    """What the file of a case's details hands to the page's script: take's id -> its details."""
    text = (index.parent / case["details"]).read_text()
    name, about = json.loads(f"[{text.strip().removeprefix('details(').removesuffix(');')}]")
    assert name == case["id"]
    return about


def files_of(seen):
    """Every file that the page names, in a tag or in its data."""
    named = {
        value
        for _, attributes in seen.tags
        for key, value in attributes.items()
        if key in ("src", "href", "xlink:href", "srcset", "poster")
    }
    files = {name for name in named if name and not name.startswith(("#", "data:,", "http"))}
    for case in seen.cases:
        files |= {case["reference"], case["details"]}
        files |= {take.get(key) for take in case["takes"] for key in ("video", "record")}
    return files - {None}


@pytest.fixture
def hostile(tmp_path):
    results = tmp_path / "results"
    plan = gallery(results, ["none", HOSTILE], 3, lambda index: f"{HOSTILE} {index}", failing=HOSTILE)
    return results, plan, tmp_path / "page"


def test_names_and_prompts_are_never_markup(hostile):
    results, plan, out = hostile
    index = page_of(results, plan, out)
    seen = Seen(index.read_text())
    assert not seen.every("img") and len(seen.scripts) == len(seen.every("script")) == 2
    assert not [key for _, attributes in seen.tags for key in attributes if key.startswith("on")]
    assert {case["prompt"] for case in seen.cases} == {f"{HOSTILE} {index}" for index in range(3)}
    assert any(HOSTILE in line for line in seen.texts)
    policy = next(meta["content"] for meta in seen.every("meta") if "http-equiv" in meta)
    digest = base64.b64encode(hashlib.sha256(seen.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}' 'strict-dynamic';" in policy and "default-src 'none'" in policy


def test_everything_it_names_lies_in_its_folder(hostile, tmp_path):
    results, plan, out = hostile
    index = page_of(results, plan, out)
    shutil.rmtree(results)
    moved = shutil.move(out, tmp_path / "elsewhere")
    files = files_of(Seen((moved / index.name).read_text()))
    assert len(files) > 10 and all(re.fullmatch(rf"{MEDIA}/[\w.~-]+", name) for name in files)
    assert {f"{MEDIA}/{path.name}" for path in (moved / MEDIA).iterdir()} == files
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
    index = page_of(tmp_path, plan, tmp_path / "page")
    seen = Seen(index.read_text())
    found = {label: [take["status"] for _, take in seen.takes if take["row"] == label] for label in cells}
    assert found == {
        "ok": ["ok"] * 3,
        "bad": ["oom", "lost", "unreadable"],
        "new": ["ok", "planned", "absent"],
    }
    ended = json.loads(seen.scripts[0])["ended"]
    assert {status for of_row in found.values() for status in of_row} - {"ok"} <= ended.keys()
    assert seen.cases[0]["takes"][0]["values"] == {"clip_t": [0.3, ".300"], "time": [2.0, "2.00 s"]}
    failed = seen.cases[0]["takes"][1]
    assert failed["message"] == f"Boom: no {HOSTILE}"
    assert details_of(index, seen.cases[0])[failed["id"]]["traceback"] == "..."


def test_blocks_of_text_stand_below_the_tables_as_text(tmp_path):
    plan = write_plan(tmp_path, {"none": [write_record(tmp_path, "none", "a")]})
    block = SimpleNamespace(title="Published", headings=["", "A"], rows=[[HOSTILE, "1"]], notes=["elsewhere"])
    index = write_page(tmp_path, [plan], tables(tmp_path, [plan]), tmp_path / "page", [block])
    seen = Seen(index.read_text())
    texts = [text.strip() for text in seen.texts]
    assert texts.index("none") < texts.index("Published") < texts.index(HOSTILE) < texts.index("elsewhere")
    assert not seen.every("img")


def test_every_heading_says_what_its_column_is_and_every_number_can_be_sorted_by(hostile):
    results, plan, out = hostile
    seen = Seen(page_of(results, plan, out).read_text())
    (table,) = tables(results, [plan])
    asked = [one["data-key"] for one in seen.every("th") if "data-key" in one]
    assert asked[: len(table.main())] == [column.key for column in table.main()]
    told = [button["data-tip"] for button in seen.every("button") if "data-tip" in button]
    said = [column.sentence for column in table.main() if column.sentence]
    assert said and told[: len(said)] == said
    numbers = [cell["data-number"] for cell in seen.every("td") if "data-number" in cell]
    first = [table.numbers["none"][column.key].value for column in table.main()]
    assert [float(text or "nan") for text in numbers[: len(first)]] == pytest.approx(first, nan_ok=True)


def test_the_tracks_of_both_videos_stand_in_a_takes_details(tmp_path):
    plan = gallery(tmp_path, ["none"], 1, str, failing=None)
    tracked(tmp_path, plan.variants[0].cells[0], moved=6.4)
    index = page_of(tmp_path, plan, tmp_path / "page")
    case = Seen(index.read_text()).cases[0]
    shown = details_of(index, case)[case["takes"][0]["id"]]["tracks"]
    # Thousandths of 64 x 32 pixels, whose first centre is half a pixel in; steps after the first place.
    assert shown["reference"] == [{"xy": [250, 500, 0, 0, 0, 0], "seen": seen} for seen in ("101", "111")]
    assert shown["own"][0]["xy"] == [250, 500, 100, 200, 100, 200]


def test_a_take_shows_its_settings_stages_and_curves(tmp_path):
    trace = [
        {"step": step, "iteration": turn, "true_gradient": True, "loss": 0.5 - 0.1 * step, "norm": math.nan}
        for step in range(3)
        for turn in range(2)
    ]
    cell = write_record(
        tmp_path, "a", "a", trace=trace, stages={"guide": 1.25}, method={"window": {"size": 7}}
    )
    plan = write_plan(tmp_path, {"a": [cell]})
    index = page_of(tmp_path, plan, tmp_path / "page")
    case = Seen(index.read_text()).cases[0]
    shown = details_of(index, case)[cell.id]
    assert ["frames", str(LENGTH)] in shown["settings"] and ["window, size", "7"] in shown["settings"]
    assert shown["stages"] == [["guide", 1.25, "1.25 s"]]
    (curve,) = shown["curves"]
    assert (curve["name"], curve["x"], curve["y"]) == (
        "loss",
        [0, 1, 2, 3, 4, 5],
        [0.5, 0.5, 0.4, 0.4, 0.3, 0.3],
    )
    assert (curve["first"], curve["last"], curve["span"]) == (".5", ".3", "6 iterations, 3 guided steps")


ABOUT = """
title: A title
authors: [Ada Lovelace, Emmy Noether]
abstract: What we did.
links: {Paper: https://example.org/paper}
bibtex: "@article{lovelace}"
"""


def test_a_page_says_whose_it_is_unless_it_is_anonymous(tmp_path, capsys):
    results, about = tmp_path / "results", tmp_path / "about.yaml"
    about.write_text(ABOUT)
    home = "/home/ada/projects/motion"
    cell = write_record(results, "none", "a", status="failed", method={"weights": f"{home}/weights.bin"})
    record = store.load_record(results / cell.path)
    record.environment |= {"git": "0123abc", "system": "ada-laptop"}
    record.error.traceback = f'File "{home}/methods/x.py", line 3'
    store.save_record(results / cell.path, record)
    plan = write_plan(results, {"none": [cell]})
    plan.command = ["python", "-m", "harness", f"results={home}"]
    store.save_plan(results, plan)
    out = tmp_path / "page"

    def written(*options):
        given = [str(results), "--format", "html", "--out", str(out), "--about", str(about)]
        assert main([*given, *options]) == 0
        return "\n".join(path.read_text() for path in sorted(out.rglob("*.[hjm]*[lsnd]")))

    named = written()
    telling = ("Lovelace", "example.org", home, "0123abc", "ada-laptop", "lovelace")
    assert all(word in named for word in telling)
    hidden = written("--anonymous")
    assert not [word for word in telling if word in hidden]
    assert "A title" in hidden and "What we did." in hidden and "Anonymous authors" in hidden
    assert "x.py" in hidden and "weights.bin" in hidden
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == str(out / "index.html") and said[-2].endswith("of the 1 GB that GitHub Pages serves")


def test_an_anonymous_page_names_nobody_s_folders_in_labels_settings_and_file_names(tmp_path):
    results, out = tmp_path / "results", tmp_path / "page"
    labels = ["none", *(f"none, weights /home/ada/{one}/final.pt" for one in "ab")]
    roots = {
        "root": "/home/ada",
        "other": r"C:\Users\ada\x",
        "third": "~ada/x",
        "fourth": "file:///home/ada/x",
    }
    cells = {
        label: [
            write_record(results, label, f"clip-{place}", metrics={"clip_t": metric(0.3)}, method=roots)
            for place in range(2)
        ]
        for label in labels
    }
    add_videos(results, write_plan(results, cells, baseline=labels[1]))
    assert main([str(results), "--format", "html", "--out", str(out), "--anonymous"]) == 0
    paths = [path for path in out.rglob("*") if path.is_file()]
    # The ids of real settings are digests; those of this plan are made of the labels.
    texts = [path.read_bytes() for path in paths if path.name != "tables.csv"]
    assert not [path for path in paths if "ada" in str(path.relative_to(out))]
    assert not [text for text in texts if re.search(rb"\bada\b", text)]
    page = (out / "index.html").read_text()
    for label in ("none", "none, weights final.pt", "none, weights final.pt (2)"):
        assert f"<option>{label}</option>" in page


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("titel: a", "titel: no such key; did you mean title"),
        ("authors: Ada", "authors: is no list of names"),
        (
            "links: {Paper: 'javascript:alert(1)'}",
            "links.Paper: javascript:alert(1) does not begin",
        ),
        ("[1]", "holds no keys"),
        ("a: [", "cannot be read"),
    ],
)
def test_an_about_file_that_is_none_names_the_key(tmp_path, text, line):
    (tmp_path / "about.yaml").write_text(text)
    with pytest.raises(InputError, match=re.escape(line)):
        load_about(tmp_path / "about.yaml")


def test_small_videos_have_fewer_bytes_the_same_frames_and_leave_the_results_alone(tmp_path):
    results = tmp_path / "results"
    plan = write_plan(results, {"none": [write_record(results, "none", "a")]})
    folder = results / plan.variants[0].cells[0].path
    noise = np.random.default_rng(0).integers(0, 256, (5, 300, 600, 3), np.uint8)
    for name in (store.VIDEO, store.REFERENCE):
        write_h264(folder / name, noise, FPS)
    before = (folder / store.VIDEO).read_bytes()
    index = page_of(results, plan, tmp_path / "page", small=True, about=About(title=HOSTILE))
    (case,) = Seen(index.read_text()).cases
    small = index.parent / case["takes"][0]["video"]
    frames, fps = read_video(small)
    assert frames.shape == (5, 240, 480, 3) and fps == FPS
    assert small.stat().st_size < len(before) / 2
    assert (folder / store.VIDEO).read_bytes() == before


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
    assert capsys.readouterr().out.splitlines()[-1] == str(results / "page" / "index.html")


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
    found = {}
    for case, take in Seen(index.read_text()).takes:
        key = case["clip"], case["prompt"], case["seed"]
        assert count_frames(index.parent / case["reference"]) == 30 + ord(case["clip"]) - ord("a")
        record = json.loads((index.parent / take["record"]).read_text())
        assert (record["clip"], record["prompt"], record["seed"]) == key
        numbers = (take["values"][name][0] for name in ("clip_t", "position_error"))
        found[*key, take["row"]] = count_frames(index.parent / take["video"]), *numbers, record["id"]
        assert take["id"] == record["id"]
    assert found == wanted
