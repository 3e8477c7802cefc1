"""The folder that raters see: one page and its videos, without a name of a method."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from datasets.errors import InputError
from datasets.files import sweep, write_whole
from harness.records.printable import printable
from harness.records.store import write_json
from reports.output import writing
from reports.site import TEMPLATES, environment, script_hash
from reports.study import videos
from reports.study.plan import StudyPlan, read_plan
from reports.study.videos import Shown

PLAN, SITE, MEDIA = "plan.json", "site", "media"
"""In a study's folder: the key, what is published, and the videos in it."""


def write_study(plan: StudyPlan, files: Mapping[str, Shown], out: Path) -> Path:
    """Write a study's folder; the path of its page. One that was cut short resumes.

    InputError when ``out`` holds another study or anything else, or cannot be written.
    """
    _check_ours(plan, out)
    media = out / SITE / MEDIA
    with writing(out):
        # The key first: it makes the folder known as ours.
        write_json(out / PLAN, plan.model_dump(mode="json"))
        sweep(media)
        for name, shown in files.items():
            if not (media / name).is_file():
                videos.write(shown, media / name)
        index = out / SITE / "index.html"
        write_whole(index, page(plan).encode(errors="backslashreplace"))
    return index


def page(plan: StudyPlan) -> str:
    """The page. It holds of each trial what its rater may know: id, prompt, files."""
    style, clock, script = ((TEMPLATES / name).read_text() for name in ("study.css", "clock.js", "study.js"))
    script = clock + script
    data = {
        "plan": plan.hash,
        "questions": [{"key": key, "text": text} for key, text in plan.questions.items()],
        "slots": [
            [
                {"id": one.id, "prompt": printable(one.prompt), "videos": one.videos, "seconds": one.seconds}
                for one in slot
            ]
            for slot in plan.slots
        ],
    }
    return (
        environment()
        .get_template("study.html")
        .render(
            style=style,
            script=script,
            script_hash=script_hash(script),
            # Inside a script element only this would end it.
            data=json.dumps(data, ensure_ascii=False).replace("<", "\\u003c"),
            media=MEDIA,
            questions=plan.questions,
            minutes=_minutes(plan),
            trials=max(len(slot) for slot in plan.slots),
        )
    )


def _minutes(plan: StudyPlan) -> int:
    """About how long a rater needs: two loops and three seconds a question."""
    slot = max(plan.slots, key=len)
    seconds = sum(len(plan.questions) * 3 + 2 * trial.seconds for trial in slot)
    return max(1, round(seconds / 60))


def _check_ours(plan: StudyPlan, out: Path) -> None:
    """InputError unless ``out`` is free, empty, or this very study: votes of another would be lost."""
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"--out {out}: is a file; name a folder for the study")
    if not any(out.iterdir()):
        return
    try:
        known = read_plan(out / PLAN)
    except InputError as error:
        raise InputError(f"--out {out}: holds other files; name an empty or new folder") from error
    if known.hash != plan.hash:
        raise InputError(
            f"--out {out}: holds another study ({known.hash}), whose votes this one could not read; "
            "name a new folder"
        )
