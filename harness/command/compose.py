"""From the command line to composed configurations, one for each job, by Hydra."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from datasets.errors import InputError, nearest
from harness.command.secrets import without_secrets
from harness.command.terminal import HOME

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.override_parser.types import Override

    from harness.command.experiment import Composed

REFUSED = ("shell_completion", "experimental_rerun", "config_path", "config_name")
"""Flags of Hydra that mean nothing here."""

FIRST = "experiment=first"
OF_CELLS = ("run", "plan", "cost", "score")
"""The actions that take ``FIRST`` where neither method nor experiment is named: those of a whole table."""


def _flags(arguments: Sequence[str]) -> Namespace:
    """The command line, read by Hydra's own parser. Raises InputError for a flag that is not to be had."""
    from hydra._internal.utils import get_args_parser

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            given = get_args_parser().parse_intermixed_args(arguments)
    except SystemExit as ended:
        if not ended.code:
            raise
        reason = said.getvalue().strip().rpartition("error: ")[2]
        raise InputError(f"{reason}; --help lists the flags") from None
    for name in REFUSED:
        if vars(given)[name]:
            flag = f"--{name.replace('_', '-')}"
            raise InputError(f"{flag}: not to be had here; --help lists the flags, groups and keys")
    shown = [name for name in ("cfg", "info", "hydra_help") if vars(given)[name]]
    if len(shown) + given.multirun > 1 or (given.resolve and not given.cfg):
        flag = "--resolve" if given.resolve and not given.cfg else f"--{shown[0].replace('_', '-')}"
        raise InputError(f"{flag}: shows one job's configuration; use it without -m, --resolve with --cfg")
    return given


def _answered_by_hydra(given: Namespace, arguments: Sequence[str]) -> None:
    """What Hydra prints for ``--cfg``, ``--info`` and ``--hydra-help``; then the command ends."""
    import hydra

    before = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    flags = list(arguments)
    for override in given.overrides:
        flags.remove(override)
    # Hydra wants overrides in one piece, and prints errors in several lines unless it is told not to.
    words = _with_first(given.overrides) if given.cfg else given.overrides
    sys.argv = [before[0][0], *words, *flags]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        hydra.main(version_base="1.3", config_path=str(HOME / "conf"), config_name="config")(print)()
    finally:
        sys.argv = before[0]
        if before[1] is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before[1]
    raise SystemExit(0)


def _searchpath(words: Sequence[str]) -> list[str]:
    """``hydra.searchpath`` of the command. Hydra itself forgets it where an experiment composes variants."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    values = [
        one.value()
        for one in OverridesParser.create().parse_overrides(list(words))
        if one.key_or_group == "hydra.searchpath"
    ]
    return [str(path) for value in values if isinstance(value, list) for path in value]


@contextlib.contextmanager
def _hydra(config_dir: str | None, searchpath: Sequence[str]) -> Iterator[ConfigLoader]:
    """Hydra, ready to compose. It runs nothing: what files say of its launchers and callbacks is not used."""
    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_search_path import SearchPathQuery
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    search = create_config_search_path(str(HOME / "conf"))
    if config_dir is not None:
        folder = Path(config_dir).absolute()
        if not folder.is_dir():
            raise InputError(f"--config-dir: {folder} is no folder; correct it")
        search.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
    for path in searchpath:
        search.prepend("hydra.searchpath", path, SearchPathQuery(provider="schema"))
    version.setbase("1.3")
    before = HydraConfig.instance().cfg
    hydra = Hydra.create_main_hydra2(task_name="harness", config_search_path=search)
    try:
        for source in hydra.config_loader.get_sources():
            if source.provider == "hydra.searchpath" and not source.available():
                raise InputError(
                    f"hydra.searchpath: {source.scheme()}://{source.path} is no folder, or no package with "
                    "an __init__.py beside its YAML; correct it"
                )
        yield hydra.config_loader
    finally:
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = before


def _parsed(words: Sequence[str], loader: ConfigLoader) -> list[Override]:
    """The overrides, each checked by itself. Raises InputError, and Hydra's for one that cannot be read."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(words))
    seen: dict[str, str] = {}
    for word, one in zip(words, parsed, strict=True):
        shown = without_secrets(word)
        key = one.key_or_group
        if not all(key.split(".")):
            raise InputError(f"{shown}: no key before the =; write KEY=VALUE")
        if key.partition("/")[0].partition(".")[0] == "hydra":
            _check_hydra(one, shown)
        elif options := loader.get_group_options(key):
            _check_group(one, shown, options)
        place = f"{key}@{one.package}" if one.package else key
        if seen.setdefault(place, word) != word:
            raise InputError(f"{without_secrets(seen[place])} {shown}: {key} is given twice; drop one")
    return parsed


def _check_hydra(one: Override, shown: str) -> None:
    if one.key_or_group == "hydra.searchpath" or (one.key_or_group, one.value()) == (
        "hydra/launcher",
        "basic",
    ):
        return
    if "launcher" in one.key_or_group:
        raise InputError(f"{shown}: no such option; the jobs of -m run as group execute says, drop it")
    raise InputError(f"{shown}: Hydra only composes here, of its keys hydra.searchpath alone counts; drop it")


def _check_group(one: Override, shown: str, known: Sequence[str]) -> None:
    """InputError for a group that is given no option, or several of which it has not all (``known``)."""
    options = [path.stem for path in (HOME / "conf" / one.key_or_group).glob("*.yaml")] or known
    if one.is_delete():
        return
    values: list[Any] = list(one.sweep_iterator()) if one.is_sweep_override() else [one.value()]
    if one.is_add() and isinstance(values[0], list) and values[0]:
        # What is added may be several: +metric=[ftd,leak].
        values = values[0]
        for name in values:
            if name not in known:
                raise InputError(f"{shown}: no such option {name!r}; {nearest(str(name), options)}")
    if all(isinstance(value, str) and value for value in values):
        return
    if values == [None] and one.key_or_group == "experiment":
        return
    raise InputError(f"{shown}: name one of its options; {nearest('', options)}")


def _with_first(words: Sequence[str]) -> list[str]:
    """A job's words for Hydra, with ``FIRST`` on the embedded world where they name no method or experiment.

    By the words alone: workers, on other machines too, read them again.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(words))
    given = {one.key_or_group: one.value() for one in parsed}
    named = {key.partition(".")[0] for key in given} & {"method", "experiment"}
    ours = given.get("dataset", "sprites") == "sprites" and given.get("action", "run") in OF_CELLS
    if ours and not named:
        # Whoever names the metrics wants to see them.
        columns = ["metrics.columns=[]"] if "metrics" in given and "metrics.columns" not in given else []
        return [*words, FIRST, *columns]
    # Hydra knows no way to say that an experiment is none.
    return [word for word in words if word != "experiment=null"]


def _jobs(parsed: Sequence[Override], words: Sequence[str]) -> list[tuple[str, ...]]:
    """The overrides of each job of a grid: every combination of what is given several values."""
    choices: list[list[str]] = []
    for one, word in zip(parsed, words, strict=True):
        if not one.is_sweep_override():
            choices.append([word])
        elif one.is_discrete_sweep():
            choices.append([f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()])
        else:
            raise InputError(f"{without_secrets(word)}: no list of values; give them with commas")
    return list(itertools.product(*choices))


def compose(arguments: Sequence[str]) -> list[list[Composed]]:
    """The configuration of every job of the command line; an experiment's job has one for each variant.

    Raises InputError, and Hydra's, OmegaConf's and YAML's errors. The jobs run when all of them are
    composed and planned, so a bad value anywhere in a sweep costs nothing.
    """
    given = _flags(arguments)
    if given.cfg or given.info or given.hydra_help:
        _answered_by_hydra(given, arguments)
    with _hydra(given.config_dir, _searchpath(given.overrides)) as loader:
        parsed = _parsed(given.overrides, loader)
        jobs = _jobs(parsed, given.overrides) if given.multirun else [tuple(given.overrides)]
        return [_job(words) for words in jobs]


def _job(words: Sequence[str]) -> list[Composed]:
    every = _with_first(words)
    try:
        return _composed(every)
    except InputError:
        if FIRST not in words and FIRST in every:
            # What is wrong by itself is said without an experiment that nobody named.
            _composed(words)
        raise


def _composed(words: Sequence[str]) -> list[Composed]:
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import DictConfig, OmegaConf

    from harness.command.experiment import expand

    whole = hydra.compose("config", list(words), return_hydra_config=True)
    HydraConfig.instance().set_config(whole)
    chosen = HydraConfig.get()
    config = OmegaConf.masked_copy(whole, [str(key) for key in whole if key != "hydra"])
    assert isinstance(config, DictConfig)
    # Unresolved: an override may hold an interpolation, which is not the list's own.
    mine = cast("list[str]", OmegaConf.to_container(chosen.overrides.task, resolve=False))
    return expand(config, mine, chosen.runtime.choices.get("experiment"))


__all__ = ["compose"]
