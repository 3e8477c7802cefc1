"""Votes files as they come, and the tables made of them."""

from __future__ import annotations

import csv
import io
import sys

import pytest
from study_world import METHODS, coin, honest, leftist, plan_of, simulate, write_votes

from datasets.errors import InputError
from harness.records.store import write_json
from reports.__main__ import main
from reports.study.votes import read_votes


@pytest.fixture(scope="module")
def plan():
    made = plan_of(clips=12, raters=12, trials=20)
    return made.model_copy(update={"questions": {"motion": "Which moves more like the reference?"}})


@pytest.fixture(scope="module")
def votes(plan):
    return simulate(plan, [honest(ties=0.1) for _ in range(12)])


@pytest.fixture
def folder(tmp_path, plan):
    write_json(tmp_path / "study" / "plan.json", plan.model_dump(mode="json"))
    return tmp_path / "study"


def run(folder, *words):
    return main(["votes", str(folder), *map(str, words)])


def test_what_the_page_writes_is_read_as_it_was_given(plan, votes, tmp_path):
    path = write_votes(tmp_path / "v.csv", plan, votes)
    assert read_votes(plan, [path]) == (votes, [])
    # A spreadsheet's byte order mark and line ends.
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_votes(plan, [path]).votes == votes


def test_the_same_votes_count_once_and_of_two_answers_the_later(plan, votes, tmp_path):
    own = [vote for vote in votes if vote.rater == "r0"]
    first, second = (write_votes(tmp_path / f"{name}.csv", plan, own) for name in "ab")
    found = read_votes(plan, [first, second])
    assert found.votes == own
    assert found.notes == ["b.csv: 20 of 20 votes were read before; they count once"]
    half = write_votes(tmp_path / "half.csv", plan, own[:11])
    assert read_votes(plan, [half, second]).votes == own
    later = own[0]._replace(answer="tie", time=own[-1].time)
    changed = write_votes(tmp_path / "changed.csv", plan, [later])
    for paths in ([first, changed], [changed, first]):
        found = read_votes(plan, paths)
        assert {vote.key: vote.answer for vote in found.votes}[later.key] == "tie"
        assert any("given twice; the later one counts" in note for note in found.notes)


def edited(column, value, line=3):
    def edit(text):
        rows = list(csv.DictReader(io.StringIO(text)))
        rows[line - 2][column] = value
        out = io.StringIO()
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue()

    return edit


BAD = {
    "another plan": (edited("plan", "0123456789abcdef"), "line 3: votes of another study"),
    "unknown trial": (edited("trial", "nowhere"), "line 3: the study has no trial nowhere"),
    "no answer": (edited("answer", "both"), "line 3: answer 'both' is none of left, right, tie"),
    "empty answer": (edited("answer", ""), "is none of left, right, tie"),
    "no question": (edited("question", "beauty"), "question 'beauty'"),
    "negative seconds": (edited("seconds", "-1"), "seconds '-1' is no number from 0 on"),
    "nan seconds": (edited("seconds", "nan"), "seconds 'nan'"),
    "endless seconds": (edited("seconds", "inf"), "seconds 'inf'"),
    "loops": (edited("loops", "many"), "loops 'many'"),
    "time": (edited("ts", "noon"), "ts 'noon' is no ISO time"),
    "no rater": (edited("rater", " "), "names no rater"),
    "no column": (lambda text: text.replace("seconds", "minutes", 1), "has no column seconds"),
    "semicolons": (lambda text: text.replace(",", ";"), "has no column plan"),
    "empty": (lambda text: "", "has no column plan"),
    "only a head": (lambda text: text.splitlines()[0] + "\n", "holds no vote"),
    "a line too short": (lambda text: text + "a,b\n", "has not the 9 fields"),
    "a line too long": (lambda text: text.rstrip("\n") + ",more\n", "has not the 9 fields"),
    "an open quote": (lambda text: text + '"', "is no CSV file"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line_that_names_it(name, plan, votes, folder, tmp_path, capsys):
    edit, line = BAD[name]
    path = write_votes(tmp_path / "votes-r0.csv", plan, votes[:20])
    path.write_text(edit(path.read_text()))
    assert run(folder, path) == 2
    said = capsys.readouterr()
    assert line in said.err and "votes-r0.csv" in said.err and said.err.count("\n") == 1 and not said.out


def test_what_is_no_text_or_no_study_is_one_line_too(plan, votes, folder, tmp_path, capsys):
    noise = tmp_path / "noise.csv"
    noise.write_bytes(b"\xff\xfe\x00\x01" * 50)
    good = write_votes(tmp_path / "good.csv", plan, votes)
    catches = write_votes(tmp_path / "c.csv", plan, [v for v in votes if v.trial.kind == "catch"])
    for words, line in {
        (folder, noise): "noise.csv",
        (folder, tmp_path): "cannot be read",
        (folder, tmp_path / "none.csv"): "cannot be read",
        (tmp_path, good): "plan.json",
        (folder, good, "--baseline", "alfa"): "did you mean alpha",
        (folder, catches): "no vote on two methods",
    }.items():
        assert run(*words) == 2
        said = capsys.readouterr().err
        assert line in said and said.count("\n") == 1


def test_votes_that_do_not_join_the_methods_are_refused(plan, votes, folder, tmp_path, capsys):
    some = [vote for vote in votes if "gamma" not in (vote.trial.left, vote.trial.right)]
    assert run(folder, write_votes(tmp_path / "v.csv", plan, some)) == 2
    assert "gamma: never compared with alpha, beta" in capsys.readouterr().err


def test_below_the_floor_a_row_says_too_few_and_no_number(plan, votes, folder, tmp_path, capsys):
    path = write_votes(tmp_path / "v.csv", plan, [vote for vote in votes if vote.rater in ("r0", "r1", "r2")])
    assert run(folder, path) == 0
    lines = [line.split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    rows = [line for line in lines if line[1].strip() == "alpha"]
    assert len(rows) == 2, "one of the table, one of its details"
    for row in rows:
        rank, strength, won, beats, *_ = (cell.strip() for cell in row[2:])
        assert {rank, strength, won, beats} == {"too few"}


def test_every_format_tells_the_same(plan, votes, folder, tmp_path, capsys):
    path = write_votes(tmp_path / "v.csv", plan, [*votes, *simulate(plan, [leftist] * 13)[-20:]])
    assert run(folder, path, "--format", "csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    shown = {
        row["variant"]: row
        for row in rows
        if (row["question"], row["of"], row["everyone"]) == ("motion", "methods", "False")
    }
    assert list(shown) == ["alpha", "beta", "gamma"]
    assert float(shown["alpha"]["strength_low"]) > float(shown["gamma"]["strength_high"])
    assert {row["everyone"] for row in rows} == {"False", "True"}
    for kind in ("easy", "target"):
        own = [
            (vote.chosen == "alpha") + 0.5 * (vote.answer == "tie")
            for vote in votes
            if vote.trial.kind == "vote"
            and "alpha" in (vote.trial.left, vote.trial.right)
            and vote.trial.prompt_kind == kind
        ]
        assert float(shown["alpha"][f"won_{kind}"]) == pytest.approx(sum(own) / len(own))
    sides = [[vote.answer for vote in votes if vote.rater == f"r{number}"] for number in range(12)]
    left = sum(one.count("left") / (len(one) - one.count("tie")) for one in sides) / len(sides)
    strength = f"{float(shown['alpha']['strength']):.2f}".replace("0.", ".")
    for form in ("md", "latex"):
        out = tmp_path / f"t.{form}"
        assert run(folder, path, "--format", form, "--out", out) == 0
        text = out.read_text()
        assert strength in text and "Krippendorff" in text and "Left out by the rules, 1 of 13 raters" in text
        assert f"mean over raters: {left:.2f} [".replace("0.", ".") in text
    assert run(folder, path, "--format", "html", "--plots", tmp_path / "plots") == 0
    said = capsys.readouterr().out.split()
    assert {name.rsplit(".", 1)[1] for name in said} == {"pdf", "svg", "png", "html"}
    page = folder / "page" / "index.html"
    text = page.read_text()
    assert strength in text and "<svg" in text and "<script" not in text
    assert {file.name for file in (page.parent / "media").iterdir()} == {
        *(f"people.{suffix}" for suffix in ("pdf", "svg", "png")),
        *(f"votes.{suffix}" for suffix in ("md", "tex", "csv")),
    }


def test_without_evalica_the_extra_is_named(plan, votes, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "evalica", None)
    assert run(folder, write_votes(tmp_path / "v.csv", plan, votes)) == 2
    assert "pip install 'vmtbench[study]'" in capsys.readouterr().err


def test_all_raters_left_out_leave_no_strengths_but_the_table_without_exclusions(
    plan, folder, tmp_path, capsys
):
    path = write_votes(tmp_path / "v.csv", plan, simulate(plan, [coin] * 12, seconds=0.5))
    assert run(folder, path) == 0
    text = capsys.readouterr().out
    assert "The votes that are left do not join all methods" in text
    assert "12 of 12 raters" in text and "nobody left out" in text


def test_the_plan_of_a_study_is_named_in_the_refusal(plan, tmp_path):
    other = plan_of(clips=12, raters=12, trials=20, seed=9)
    path = write_votes(tmp_path / "v.csv", other, simulate(other, [coin]))
    with pytest.raises(InputError, match=f"{other.hash}, not {plan.hash}"):
        read_votes(plan, [path])
    assert set(plan.methods) == set(METHODS)
