"""An action from outside the package: one file, and one YAML of the group ``action``."""

from __future__ import annotations

FILES = {
    "action_from_outside/count.py": '''
from dataclasses import dataclass

from harness.command.interface import Action


@dataclass
class Count(Action):
    """Prints how many cells each job has."""

    name: str
    prefix: str = ""

    def act(self, prepared, start=None):
        for one in prepared:
            print(f"{self.prefix}{one.job.label}: {len(one.cells)} cells of {one.plan.name}")
        return 0
''',
    "configs/action/count.yaml": """
# how many cells there are
_target_: action_from_outside.count.Count
name: count
prefix: ""
""",
}


def test_an_action_from_outside_is_looked_up_by_its_name(outside, capsys):
    assert outside(FILES, "action=count", "name=mine", "limit=3", "action.prefix=here:") == []
    assert capsys.readouterr().out == "here:none: 3 cells of mine\n"


def test_our_own_actions_work_beside_it(outside, capsys):
    assert outside(FILES, "action=plan", "name=mine", "limit=1") == []
    assert "1 cells, 0 done, 1 to run" in capsys.readouterr().out
