"""From the command line to composed configurations, one for each job, by Hydra."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, cast

from datasets.errors import InputError, nearest
from harness.command.terminal import HOME

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from harness.command.experiment import Composed


def _flags_last(arguments: Sequence[str]) -> list[str]:
    """The arguments with all ``key=value`` first: Hydra wants them in one piece.

    Raises InputError for a flag that Hydra does not know.
    """
    from hydra._internal.utils import get_args_parser

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            overrides = get_args_parser().parse_intermixed_args(arguments).overrides
    except SystemExit:
        reason = said.getvalue().strip().rpartition("error: ")[2]
        raise InputError(f"{reason}; --help lists the flags") from None
    flags = list(arguments)
    for override in overrides:
        flags.remove(override)
        _check_group(override)
    return [*overrides, *flags]


def _check_group(override: str) -> None:
    """InputError for a group that is given no option, which Hydra answers with a traceback."""
    group, _, value = override.partition("=")
    folder = HOME / "conf" / group.lstrip("+")
    if value == "null" and folder.is_dir():
        names = [path.stem for path in folder.glob("*.yaml")]
        raise InputError(f"{override}: name one of its options; {nearest('', names)}")


@contextlib.contextmanager
def _command_line(arguments: list[str]) -> Iterator[None]:
    before = sys.argv
    sys.argv = [before[0], *arguments]
    try:
        yield
    finally:
        sys.argv = before


@contextlib.contextmanager
def environment_variable(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def run_hydra(arguments: Sequence[str], task: Callable[[DictConfig], None]) -> None:
    """Run ``task`` on every job of the command line. Raises Hydra's errors, and InputError."""
    import hydra
    from hydra.errors import HydraException

    # Hydra prints errors in several lines and exits with 1, unless it is told not to.
    with environment_variable("HYDRA_FULL_ERROR", "1"), _command_line(_flags_last(arguments)):
        try:
            hydra.main(version_base="1.3", config_path=str(HOME / "conf"), config_name="config")(task)()
        except OSError as error:
            if isinstance(error, HydraException):
                raise
            # Hydra's own folder lies in the results folder.
            where = error.filename or "Hydra's notes there"
            raise InputError(
                f"results: cannot write {where} ({error.strerror}); "
                "free space or choose another with results=DIR"
            ) from error


def compose(arguments: Sequence[str]) -> list[list[Composed]]:
    """The configuration of every job of the command line; an experiment's job has one for each variant.

    Raises Hydra's, OmegaConf's and YAML's errors. The jobs run when all of them are
    composed and planned, so a bad value anywhere in a sweep costs nothing.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from harness.command.experiment import expand
    from harness.command.explain import CONFIG_ERRORS

    jobs: list[list[Composed]] = []
    problems: list[Exception] = []

    def collect(config: DictConfig) -> None:
        chosen = HydraConfig.get()
        choices = chosen.runtime.choices
        try:
            launcher = choices.get("hydra/launcher", "basic")
            if launcher != "basic":
                raise InputError(
                    f"hydra/launcher={launcher}: the workers of execute=... run a grid's jobs; leave it out"
                )
            # Unresolved: an override may hold an interpolation, which is not the list's own.
            words = cast("list[str]", OmegaConf.to_container(chosen.overrides.task, resolve=False))
            jobs.append(expand(config, words, choices.get("experiment")))
        except (InputError, *CONFIG_ERRORS) as error:
            # Raised here, Hydra would print it in its own way.
            problems.append(error)

    run_hydra(arguments, collect)
    for problem in problems:
        raise problem
    return jobs


__all__ = ["compose", "environment_variable", "run_hydra"]
