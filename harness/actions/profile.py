"""``action=profile``: which operators the first denoising step of a method spends its time in.

Each stage runs under PyTorch's profiler, after one step that warms up: on a GPU its rows are the kernels, and
``busy`` says how long the device worked at all, so that what is missing from ``seconds`` is time in which it
waited for the processor. Of each plan's variants the first cell is taken; nothing is scored or recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from datasets.errors import InputError
from harness.cells import measure
from harness.cells.environment import device_model
from harness.cells.job import Needs
from harness.cells.measure import Meter
from harness.command.interface import Action, Prepared, plans_of
from harness.command.terminal import say, say_left_out, tell
from harness.records import store
from methods.interface import LatentMethod

if TYPE_CHECKING:
    from harness.cells.job import Job
    from harness.cells.plan import Cell
    from harness.records.record import Plan

SHOWN = 12


@dataclass
class Operator:
    """A kernel on a GPU, an operator of PyTorch on a processor: how often it ran, and its own seconds."""

    calls: int = 0
    seconds: float = 0.0


@dataclass
class Stage:
    """``seconds`` passed (the profiler's own time in them), ``busy`` seconds in operators."""

    seconds: float = 0.0
    operators: dict[str, Operator] = field(default_factory=dict)

    @property
    def busy(self) -> float:
        return sum(operator.seconds for operator in self.operators.values())


@dataclass
class Profile:
    """The first step of one variant by stage."""

    label: str
    backbone: str
    frames: int
    device: str
    stages: dict[str, Stage]


class _Profiler(Meter):
    """Profiles every stage of a method's first step."""

    def __init__(self, device: str) -> None:
        super().__init__(device, stop_after=1)
        self.profiles: dict[str, Stage] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        import torch

        kinds = [torch.profiler.ProfilerActivity.CPU]
        if self._cuda:
            kinds.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=kinds) as profiler, super().stage(name):
            yield
        stage = self.profiles.setdefault(name, Stage())
        stage.seconds = self.stages[name]
        for event in profiler.key_averages():
            seconds = own_seconds(event, self._cuda)
            if seconds is not None:
                operator = stage.operators.setdefault(event.key, Operator())
                operator.calls += event.count
                operator.seconds += seconds


def own_seconds(event: Any, cuda: bool) -> float | None:
    """What an operator took without those it called; None for rows that are not of the device."""
    on_processor = event.device_type.name == "CPU"
    if cuda:
        return None if on_processor or event.is_user_annotation else event.self_device_time_total / 1e6
    return event.self_cpu_time_total / 1e6 if on_processor else None


def profile(job: Job, method: LatentMethod, cell: Cell) -> Profile:
    """Profile the first step of the job's method on one cell."""
    frames = job.dataset.load(cell.clip.name).frames
    backbone = job.backbone.load(job.device)
    words = (cell.clip.name, cell.prompt.text, cell.seed)
    measure.warm_up(backbone, method, frames, *words, device=job.device, steps=1)
    meter = _Profiler(job.device)
    with measure.seeded(measure.cell_seed(*words)):
        measure.generate(backbone, method, frames, *words, meter)
    return Profile(job.label, job.backbone.name, job.frames, device_model(job.device), meter.profiles)


def lines(profile: Profile) -> list[str]:
    """The table of one variant."""
    text = [
        f"{profile.label} on {profile.backbone}, {profile.frames} frames, {profile.device}: the first step"
    ]
    for name, stage in profile.stages.items():
        share = f" ({stage.busy / stage.seconds:.0%})" if stage.seconds else ""
        text.append(f"  {name}: {stage.seconds:.4g} s, {stage.busy:.4g} s{share} in operators")
        longest = sorted(stage.operators.items(), key=lambda item: -item[1].seconds)[:SHOWN]
        for key, operator in longest:
            part = operator.seconds / stage.busy if stage.busy else 0.0
            text.append(f"    {operator.seconds:>10.4g} s {part:>6.1%} {operator.calls:>7}  {key[:80]}")
    return text


def print_profiles(plan: Plan, parts: Sequence[tuple[Job, Sequence[Cell]]]) -> None:
    """Print the table of each variant; as JSON, with all operators, it goes to ``profile/PLAN.json``.

    Raises InputError where the weights are unusable.
    """
    profiles = []
    for job, cells in parts:
        if not isinstance(job.method, LatentMethod):
            tell(f"{job.method.name}: its videos are made elsewhere; there is nothing to profile")
        elif cells:
            profiles.append(profile(job, job.method, cells[0]))
            tell("\n".join(lines(profiles[-1])))
    if profiles:
        path = parts[0][0].results / "profile" / f"{plan.name}.json"
        store.write_json(path, [asdict(one) for one in profiles])
        tell(f"as JSON: {path}")


@dataclass
class PrintProfile(Action):
    """Prints where the first step of each variant's first cell spends its time; records nothing."""

    name: str
    needs = Needs(device=True)

    def act(self, prepared: Sequence[Prepared], arguments: Sequence[str] = ()) -> int:
        code = 0
        for plan, parts in plans_of(prepared):
            say_left_out(plan)
            try:
                print_profiles(plan, parts)
            except InputError as error:
                say(str(error))
                code = 2
        return code


__all__ = [
    "PrintProfile",
    "Operator",
    "Profile",
    "Stage",
    "lines",
    "own_seconds",
    "print_profiles",
    "profile",
]
