"""What a plan promises: balance, connectedness, fair sides, checks, one outcome for one seed."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest
from study_world import METHODS, plan_of, source

from datasets.errors import InputError
from reports.study.connected import parts
from reports.study.plan import StudyPlan, make_plan, read_plan

FOUR = ("a", "b", "c", "d")


def pair(trial):
    return frozenset((trial.left, trial.right))


def of_kind(plan, kind):
    return [trial for trial in plan.trials if trial.kind == kind]


@pytest.mark.parametrize(
    ("methods", "clips", "raters", "trials"),
    [(METHODS, 8, 12, 20), (METHODS, 3, 7, 40), (FOUR, 5, 5, 20), (("a", "b"), 11, 3, 10)],
)
def test_every_pair_stands_on_every_take_equally_often(methods, clips, raters, trials):
    plan = plan_of(methods, clips, raters=raters, trials=trials)
    votes = of_kind(plan, "vote")
    pairs = [frozenset(two) for two in combinations(methods, 2)]
    shown = Counter((pair(trial), trial.clip) for trial in votes)
    counts = [shown[two, f"clip-{clip}"] for two in pairs for clip in range(clips)]
    assert max(counts) - min(counts) <= 1 and sum(counts) == len(votes)
    assert plan.votes_a_pair == min(Counter(map(pair, votes)).values())
    for slot in plan.slots:
        own = [trial for trial in slot if trial.kind == "vote"]
        of_pair = Counter(map(pair, own))
        assert max(of_pair.values()) - min(of_pair[two] for two in pairs) <= 1
        assert len({(pair(trial), trial.clip) for trial in own}) == len(own), "nothing is asked twice"
    assert len(parts(methods, [(trial.left, trial.right) for trial in votes])) == 1


def test_a_tenth_are_catches_and_a_tenth_repeats_with_sides_swapped():
    plan = plan_of(raters=20, trials=20)
    for slot in plan.slots:
        assert Counter(trial.kind for trial in slot) == {"vote": 16, "catch": 2, "repeat": 2}
        assert {trial.question for trial in slot if trial.kind == "catch"} == {"motion", "prompt"}
        place = {trial.id: index for index, trial in enumerate(slot)}
        for trial in slot:
            if trial.kind == "repeat":
                first = slot[place[trial.of]]
                assert first.kind == "vote" and place[first.id] < place[trial.id]
                assert (first.left, first.right) == (trial.right, trial.left)
                assert first.videos == (trial.videos[0], trial.videos[2], trial.videos[1])
    assert len({trial.id for trial in plan.trials}) == len(plan.trials)


def test_sides_are_fair():
    plan = plan_of(raters=60, trials=40)
    votes, catches = of_kind(plan, "vote"), of_kind(plan, "catch")
    first = sum(trial.left < trial.right for trial in votes)
    # Four standard deviations of a fair coin.
    assert abs(first - len(votes) / 2) < 2 * len(votes) ** 0.5
    left = sum(trial.answer == "left" for trial in catches)
    assert abs(left - len(catches) / 2) < 2 * len(catches) ** 0.5
    for trial in catches:
        right = trial.left if trial.answer == "left" else trial.right
        assert right == {"motion": "reference", "prompt": "right prompt"}[trial.question]


def test_the_seed_decides_everything():
    assert plan_of(seed=3) == plan_of(seed=3) and plan_of(seed=3).hash == plan_of(seed=3).hash
    assert plan_of(seed=3).hash != plan_of(seed=4).hash
    files, again = (set(make_plan(source(), seed=3)[1]) for _ in range(2))
    assert files == again
    assert not files & set(make_plan(source(), seed=4)[1]), "names of files do not carry over"


def test_a_wrong_prompt_shares_the_fewest_words():
    prompts = ["a red cat", "a red dog", "some blue fish swim"]
    made = source(clips=3, prompt=lambda index: prompts[index])
    plan, files = make_plan(made, raters=6, trials=20)
    for trial in (one for one in of_kind(plan, "catch") if one.question == "prompt"):
        wrong = files[trial.videos[1 if trial.answer == "right" else 2]]
        right = files[trial.videos[2 if trial.answer == "right" else 1]]
        assert right.source.parent == wrong.source.parent, "one method made both"
        if trial.prompt != prompts[2]:
            assert wrong.source.stem == "2"


def test_catches_are_only_such_as_can_be_seen():
    still, _ = make_plan(source(broken=()), trials=20)
    assert {trial.question for trial in of_kind(still, "catch")} == {"prompt"}
    frozen, _ = make_plan(source(broken=("frozen",)), trials=20, raters=20)
    shown = {side for trial in of_kind(frozen, "catch") for side in (trial.left, trial.right)}
    assert "frozen" in shown and "reversed" not in shown
    same, _ = make_plan(source(prompt=lambda _: "a thing"), trials=20)
    assert {trial.question for trial in of_kind(same, "catch")} == {"motion"}
    with pytest.raises(InputError, match="no catch trial"):
        make_plan(source(broken=(), prompt=lambda _: "a thing"))


@pytest.mark.parametrize("options", [{"raters": 0}, {"trials": 4}, {"raters": -2}])
def test_numbers_that_make_no_study_are_refused(options):
    with pytest.raises(InputError, match=next(iter(options))):
        plan_of(**options)


def test_methods_that_would_never_meet_are_refused():
    with pytest.raises(InputError, match="not every pair"):
        plan_of(tuple("abcdefgh"), raters=1, trials=10)


def test_parts_are_what_pairs_join():
    assert parts("abcde", [("a", "b"), ("d", "e"), ("b", "c")]) == [["a", "b", "c"], ["d", "e"]]
    assert parts("ab", []) == [["a"], ["b"]]


def test_a_plan_comes_back_as_it_was_written_and_nothing_else_is_read(tmp_path):
    plan, path = plan_of(), tmp_path / "plan.json"
    path.write_text(plan.model_dump_json())
    assert read_plan(path) == plan and read_plan(path).hash == plan.hash
    changed = plan.model_dump()
    changed["trials"][0]["left"], changed["trials"][0]["right"] = "x", "y"
    assert StudyPlan.model_validate(changed).hash != plan.hash
    for text in ("{", "[]", "{}", plan.model_dump_json().replace('"version":1', '"version":2')):
        path.write_text(text)
        with pytest.raises(InputError, match=r"plan\.json"):
            read_plan(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_plan(tmp_path / "none.json")
