"""Strengths from votes whose truth is known, and the rules by which raters are left out."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from study_world import METHODS, STRENGTHS, coin, honest, leftist, plan_of, simulate

from datasets.errors import InputError
from reports.study.raters import exclusions
from reports.study.strengths import alpha, circles, fit, holm, strengths
from reports.study.table import vote_tables
from reports.study.votes import Votes, comparisons

PAIRS = [("alpha", "beta"), ("alpha", "gamma"), ("beta", "gamma")]


def own_fit(pairs, won, lost, methods):
    """Zermelo's iteration on wins, with one pseudo-draw a pair; no evalica."""
    strength = dict.fromkeys(methods, 1.0)
    for _ in range(100_000):
        new = {}
        for method in methods:
            wins, per = 0.0, 0.0
            for (a, b), of_a, of_b in zip(pairs, won, lost, strict=True):
                if method in (a, b):
                    wins += (of_a if method == a else of_b) + 0.5
                    per += (of_a + of_b + 1) / (strength[a] + strength[b])
            new[method] = wins / per
        mean = math.exp(sum(map(math.log, new.values())) / len(new))
        new = {method: value / mean for method, value in new.items()}
        if max(abs(math.log(new[method] / strength[method])) for method in methods) < 1e-12:
            break
        strength = new
    return [math.log(strength[method]) for method in methods]


@pytest.mark.parametrize("seed", range(5))
def test_the_fit_is_that_of_an_independent_one(seed):
    chance = np.random.default_rng(seed)
    won, lost = chance.integers(0, 40, 3) / 2, chance.integers(0, 40, 3) / 2
    assert fit(PAIRS, won[None], lost[None], METHODS)[0] == pytest.approx(
        own_fit(PAIRS, won, lost, METHODS), abs=1e-5
    )


def test_strengths_of_simulated_raters_come_back():
    """Studies of about 3000 votes on a question by 50 raters, strengths 4 : 2 : 1."""
    plan = plan_of(clips=25, raters=50, trials=75)
    logs = []
    for seed in range(8):
        votes = comparisons(simulate(plan, [honest() for _ in range(50)], seed))
        votes = votes[votes["question"] == "motion"]
        assert 2900 < len(votes) <= 3000
        won = [votes[(votes["a"] == a) & (votes["b"] == b)]["won"] for a, b in PAIRS]
        of_first, of_second = ([of(one) for one in won] for of in (sum, lost))
        logs.append(fit(PAIRS, np.array([of_first]), np.array([of_second]), METHODS)[0])
    values = np.exp(np.mean(logs, axis=0))
    assert values / values[-1] == pytest.approx(list(STRENGTHS.values()), rel=0.1)
    found = strengths(votes, METHODS, "gamma")
    assert [found.rank(method) for method in METHODS] == [1, 2, 3]
    for method in METHODS:
        mean = np.mean(np.log(list(STRENGTHS.values())))
        assert found.logs[method].low < math.log(STRENGTHS[method]) - mean < found.logs[method].high
    assert found.beats["alpha"].value == pytest.approx(0.8, abs=0.05) and "gamma" not in found.beats
    assert found.rates["alpha", "beta"].value == pytest.approx(2 / 3, abs=0.05)


def lost(won):
    return sum(1 - won)


def test_those_who_always_click_left_are_left_out_and_would_make_all_equal():
    plan = plan_of(clips=20, raters=40, trials=40)
    lazy = simulate(plan, [leftist] * 40)
    assert set(exclusions(lazy)) == {f"r{number}" for number in range(40)}
    votes = comparisons(lazy)
    found = strengths(votes[votes["question"] == "motion"], METHODS, "gamma")
    assert np.exp([found.logs[method].value for method in METHODS]) == pytest.approx(1, rel=0.15)
    assert [found.rank(method) for method in METHODS] == [1, 1, 1]


def test_with_left_clickers_among_them_the_table_is_that_of_the_honest():
    plan = plan_of(clips=12, raters=12, trials=40).model_copy(update={"questions": {"motion": "Which?"}})
    honest_votes = simulate(plan, [honest() for _ in range(10)])
    mixed = simulate(plan, [*(honest() for _ in range(10)), leftist, leftist])
    assert set(exclusions(mixed)) == {"r10", "r11"} and not exclusions(honest_votes)
    (alone,) = (table for table in vote_tables(plan, Votes(honest_votes, [])) if table.of == "methods")
    kept, everyone = (table for table in vote_tables(plan, Votes(mixed, [])) if table.of == "methods")
    assert repr(kept.numbers) == repr(alone.numbers) and everyone.everyone and not kept.everyone
    strong, diluted = (one.numbers["alpha"]["strength"].value for one in (kept, everyone))
    assert diluted < strong, "those who do not look draw strengths together"
    assert any("Left out by the rules, 2 of 12 raters: r10" in note for note in kept.notes)
    assert everyone.numbers["alpha"]["raters"].value == 12


def test_a_method_that_always_wins_has_a_finite_strength_and_the_first_place():
    plan = plan_of(clips=12, raters=12, trials=20)
    votes = comparisons(
        simulate(plan, [honest({"alpha": 1e9, "beta": 1.0, "gamma": 1e-9}) for _ in range(12)])
    )
    found = strengths(votes[votes["question"] == "motion"], METHODS, "beta")
    numbers = [found.logs[method] for method in METHODS]
    assert all(math.isfinite(part) for number in numbers for part in number[:3])
    assert numbers[0].low > numbers[1].high and numbers[1].low > numbers[2].high
    # Of 20 wins and a pseudo-draw (evalica alone says that both are equal).
    logs = fit([("a", "b")], np.array([[20.0]]), np.array([[0.0]]), "ab")[0]
    assert math.exp(logs[0]) == pytest.approx(math.sqrt(20.5 / 0.5), rel=1e-4)


@pytest.mark.parametrize("order", list(permutations(range(3)))[1:4])
def test_other_names_for_methods_change_nothing_else(order):
    plan = plan_of(clips=12, raters=12, trials=20)
    votes = comparisons(simulate(plan, [honest(ties=0.2) for _ in range(12)]))
    votes = votes[votes["question"] == "motion"]
    new = {old: METHODS[place] for old, place in zip(METHODS, order, strict=True)}
    a, b = votes["a"].map(new), votes["b"].map(new)
    swapped = a > b
    renamed = votes.assign(
        a=a.where(~swapped, b), b=b.where(~swapped, a), won=votes["won"].where(~swapped, 1 - votes["won"])
    )
    before, after = strengths(votes, METHODS, "gamma"), strengths(renamed, METHODS, new["gamma"])
    for method in METHODS:
        assert after.logs[new[method]][:3] == pytest.approx(before.logs[method][:3], abs=1e-5)
        assert after.rank(new[method]) == before.rank(method)
        assert after.won[new[method]][:3] == pytest.approx(before.won[method][:3])


def test_methods_never_compared_are_refused():
    with pytest.raises(InputError, match="c, d: never compared with a, b"):
        fit([("a", "b"), ("c", "d")], np.ones((1, 2)), np.ones((1, 2)), "abcd")


def test_raters_who_agree_have_alpha_one_and_coins_about_zero():
    plan = plan_of(clips=12, raters=1, trials=40)
    chosen: dict[tuple[str, str], str] = {}

    def same(trial, question, chance):
        return chosen.setdefault((trial.id, question), chance.choice(["left", "right", "tie"]))

    agreeing = comparisons(simulate(plan, [same] * 8))
    found = alpha(agreeing[agreeing["question"] == "motion"])
    assert found.value == pytest.approx(1) and found.low == pytest.approx(1)
    tossing = comparisons(simulate(plan, [coin] * 30))
    found = alpha(tossing[tossing["question"] == "motion"])
    assert abs(found.value) < 0.05 and found.low < found.value < found.high
    alone = comparisons(simulate(plan, [coin]))
    assert math.isnan(alpha(alone[alone["question"] == "motion"]).value)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda vote: vote._replace(answer="tie") if vote.trial.kind == "catch" else vote, "0 of 8 catches"),
        (lambda vote: vote._replace(answer="left") if vote.trial.kind == "repeat" else vote, "repeated"),
        (lambda vote: vote._replace(seconds=vote.trial.seconds * 0.9), "median time 0.90 of one loop"),
        (lambda vote: vote if vote.trial.kind == "catch" else vote._replace(answer="right"), "repeated"),
        (lambda vote: vote, None),
    ],
)
def test_a_rater_is_left_out_for_one_reason(change, why):
    plan = plan_of(clips=30, raters=1, trials=80)
    found = exclusions([change(vote) for vote in simulate(plan, [honest()])])
    assert found == {} if why is None else why in found["r0"]


def test_one_side_too_often_is_a_reason_even_where_every_check_is_right():
    plan = plan_of(clips=30, raters=1, trials=80)
    votes = simulate(plan, [honest()])
    checked = {vote.trial.of for vote in votes}
    lazy = [
        vote._replace(answer="left") if vote.trial.kind == "vote" and vote.trial.id not in checked else vote
        for vote in votes
    ]
    assert "left in" in exclusions(lazy)["r0"]
    assert exclusions([vote for vote in lazy if vote.question == "motion"][:15]) == {}, "too few to say"


def test_circles_are_counted():
    from reports.table.columns import Number

    around = {("a", "b"): Number(0.6), ("b", "c"): Number(0.7), ("a", "c"): Number(0.4)}
    assert circles(around, "abc") == (1, 1)
    assert circles({**around, ("a", "c"): Number(0.6)}, "abc") == (0, 1)
    assert circles({("a", "b"): Number(0.6)}, "abc") == (0, 0)


def test_holm_by_hand():
    p = {("a", "b"): 0.01, ("a", "c"): 0.04, ("b", "c"): 0.03}
    assert holm(p) == pytest.approx({("a", "b"): 0.03, ("b", "c"): 0.06, ("a", "c"): 0.06})
