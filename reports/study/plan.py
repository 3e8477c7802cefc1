"""Who sees what: trials from takes, the same ones from the same seed.

Each method pair is shown on each take equally often, or one time more: a cycle of all (pair, take), dealt
to the raters in equal blocks, is a balanced incomplete block design. In a block each pair stands equally
often, or one time more.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from datasets.errors import InputError
from harness.records.record import Strict
from reports.study import videos
from reports.study.connected import parts
from reports.study.source import Source, Take
from reports.study.videos import Shown

VERSION = 1
QUESTIONS = {
    "motion": "In which video is the motion closer to the reference?",
    "prompt": "Which video fits the text better?",
    "quality": "Which video looks better?",
}
RIGHT_PROMPT, WRONG_PROMPT = "right prompt", "wrong prompt"
REFERENCE = "reference"

Side = Literal["left", "right"]
OTHER: dict[str, Side] = {"left": "right", "right": "left"}


class Trial(Strict):
    """One comparison. ``left`` and ``right`` are methods; in a catch, what makes one of them right.

    ``of``: the trial that a repeat shows again, sides swapped. ``question`` and ``answer``: what a catch asks
    and its right side. ``videos``: files of reference, left and right; ``seconds``: their length.
    """

    id: str
    rater_slot: int
    kind: Literal["vote", "catch", "repeat"]
    clip: str
    prompt: str
    prompt_kind: str
    seed: int
    left: str
    right: str
    of: str | None = None
    question: str | None = None
    answer: Side | None = None
    videos: tuple[str, str, str]
    seconds: float


class StudyPlan(Strict):
    """All trials, a rater slot's in the order they are shown in. It is the key: no rater may see it."""

    version: int = VERSION
    seed: int
    dataset: str
    backbone: str
    baseline: str
    methods: list[str]
    clips: list[str]
    questions: dict[str, str] = Field(default_factory=lambda: dict(QUESTIONS))
    trials: list[Trial]

    @property
    def slots(self) -> list[list[Trial]]:
        """The trials of each rater slot, in order."""
        found: dict[int, list[Trial]] = {}
        for trial in self.trials:
            found.setdefault(trial.rater_slot, []).append(trial)
        return [found[slot] for slot in sorted(found)]

    @property
    def hash(self) -> str:
        """16 hex digits that votes carry: of all that the plan says."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]

    @property
    def votes_a_pair(self) -> int:
        """Votes that the pair of methods with the fewest gets on each question, if all raters finish."""
        counts = Counter(frozenset((one.left, one.right)) for one in self.trials if one.kind == "vote")
        return min(counts[frozenset(pair)] for pair in combinations(self.methods, 2))


def make_plan(
    source: Source, seed: int = 0, raters: int = 12, trials: int = 40
) -> tuple[StudyPlan, dict[str, Shown]]:
    """The plan and the videos that it shows, by file name.

    A tenth of a rater's ``trials`` are catches, a tenth repeats. There are fewer trials where a rater would
    else see the same pair on the same take twice. InputError where the methods would not all be compared.
    """
    if raters < 1:
        raise InputError(f"--raters {raters}: a study needs one rater at least")
    if trials < 5:
        raise InputError(f"--trials {trials}: too few for votes, a catch and a repeat; give 5 or more")
    chance = random.Random(seed)
    pairs = list(combinations(source.methods, 2))
    cycle = _cycle(pairs, source.takes, chance)
    votes = min(trials - 2 * max(1, round(trials / 10)), len(cycle))
    dealer = _Dealer(source, seed, chance)
    for slot in range(1, raters + 1):
        block = [cycle[place % len(cycle)] for place in range((slot - 1) * votes, slot * votes)]
        dealer.deal(slot, block)
    shown = [(one.left, one.right) for one in dealer.trials if one.kind == "vote"]
    if len(parts(source.methods, shown)) > 1 or len({frozenset(pair) for pair in shown}) < len(pairs):
        raise InputError(
            f"--raters {raters}, --trials {trials}: not every pair of {len(source.methods)} methods "
            f"({len(pairs)} pairs) is compared; give more, or fewer methods by --rows"
        )
    made = StudyPlan(
        seed=seed,
        dataset=source.dataset,
        backbone=source.backbone,
        baseline=source.baseline,
        methods=list(source.methods),
        clips=list(dict.fromkeys(take.clip for take in source.takes)),
        trials=dealer.trials,
    )
    return made, dealer.files


def _cycle(
    pairs: Sequence[tuple[str, str]], takes: Sequence[Take], chance: random.Random
) -> list[tuple[tuple[str, str], Take]]:
    """Every (pair, take) once; neighbours are of other pairs and, where there are enough, other takes."""
    pairs, takes = chance.sample(pairs, len(pairs)), chance.sample(takes, len(takes))
    return [
        (pair, takes[(turn + place) % len(takes)])
        for turn in range(len(takes))
        for place, pair in enumerate(pairs)
    ]


class _Dealer:
    """Makes the trials of one rater after the other."""

    def __init__(self, source: Source, seed: int, chance: random.Random) -> None:
        self.source, self.seed, self.chance = source, seed, chance
        self.trials: list[Trial] = []
        self.files: dict[str, Shown] = {}
        self.made = 0

    def deal(self, slot: int, block: Sequence[tuple[tuple[str, str], Take]]) -> None:
        """A rater's block in random order, catches among it, repeats of its first half in the second."""
        votes = [self._vote(slot, pair, take) for pair, take in block]
        checks = max(1, round(len(votes) / 8))
        order = [*votes, *self._catches(slot, checks)]
        self.chance.shuffle(order)
        half = (len(order) + 1) // 2
        early = [trial for trial in order[:half] if trial.kind == "vote"]
        late = order[half:]
        for trial in self.chance.sample(early, min(checks, len(early))):
            late.insert(self.chance.randint(0, len(late)), self._repeat(trial))
        self.trials += [*order[:half], *late]

    def _id(self, *about: object) -> str:
        """Tells a rater nothing: it holds the names of files, and they what nobody outside knows."""
        self.made += 1
        return hashlib.sha256(repr((self.seed, self.made, about)).encode()).hexdigest()[:10]

    def _repeat(self, trial: Trial) -> Trial:
        first, left, right = trial.videos
        changed = {
            "id": self._id(trial.videos),
            "kind": "repeat",
            "of": trial.id,
            "left": trial.right,
            "right": trial.left,
            "videos": (first, right, left),
        }
        return trial.model_copy(update=changed)

    def _file(self, shown: Shown) -> str:
        name = shown.name(self.seed)
        self.files[name] = shown
        return name

    def _trial(
        self, slot: int, take: Take, sides: Sequence[tuple[str, Shown]], question: str | None = None
    ) -> Trial:
        """Sides by a fair coin; of a catch (one with a ``question``) the first is the right one."""
        swapped = self.chance.random() < 0.5
        left, right = reversed(sides) if swapped else sides
        files = [self._file(one) for one in (videos.reference(take), left[1], right[1])]
        return Trial(
            id=self._id(files),
            rater_slot=slot,
            kind="catch" if question else "vote",
            clip=take.clip,
            prompt=take.prompt,
            prompt_kind=take.kind,
            seed=take.seed,
            left=left[0],
            right=right[0],
            question=question,
            answer=("right" if swapped else "left") if question else None,
            videos=(files[0], files[1], files[2]),
            seconds=take.seconds,
        )

    def _vote(self, slot: int, pair: tuple[str, str], take: Take) -> Trial:
        return self._trial(slot, take, [(one, videos.generation(take, one)) for one in pair])

    def _catches(self, slot: int, count: int) -> list[Trial]:
        """Motion and prompt in turn, where the clips allow both."""
        makers = []
        if any(take.broken for take in self.source.takes):
            makers.append(self._motion_catch)
        if len({take.prompt for take in self.source.takes}) > 1:
            makers.append(self._prompt_catch)
        if not makers:
            raise InputError(
                "no catch trial can be made: no reference moves, and all clips have one prompt; "
                "a study needs clips that differ"
            )
        self.chance.shuffle(makers)
        return [makers[number % len(makers)](slot) for number in range(count)]

    def _motion_catch(self, slot: int) -> Trial:
        """The reference, encoded once more, against itself reversed or frozen."""
        take = self.chance.choice([take for take in self.source.takes if take.broken])
        change = self.chance.choice(take.broken)
        again = videos.reference(take, "again")
        return self._trial(
            slot, take, [(REFERENCE, again), (change, videos.reference(take, change))], "motion"
        )

    def _prompt_catch(self, slot: int) -> Trial:
        """A method's video for this prompt against its video for the prompt that shares the fewest words."""
        take = self.chance.choice(self.source.takes)
        words = set(take.prompt.lower().split())
        shared = [
            (len(words & set(one.prompt.lower().split())), one)
            for one in self.source.takes
            if one.prompt != take.prompt
        ]
        fewest = min(count for count, _ in shared)
        wrong = self.chance.choice([one for count, one in shared if count == fewest])
        method = self.chance.choice(self.source.methods)
        return self._trial(
            slot,
            take,
            [
                (RIGHT_PROMPT, videos.generation(take, method)),
                (WRONG_PROMPT, videos.generation(wrong, method, take)),
            ],
            "prompt",
        )


def read_plan(path: Path) -> StudyPlan:
    """A study's plan. InputError where there is none that this version can read."""
    try:
        made = StudyPlan.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); name a folder that `python -m reports study` wrote"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{path}: is no plan of a study ({where + ': ' if where else ''}{first['msg']}); "
            "restore it, or make the study again"
        ) from error
    if made.version != VERSION:
        raise InputError(f"{path}: is of version {made.version}; this program reads version {VERSION}")
    return made
