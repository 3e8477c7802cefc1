"""Experiments: one command that runs named variants, each a list of overrides after the command line's.

``conf/experiment/NAME.yaml`` names them; they are composed inside the Hydra job, so groups of
``--config-dir`` and values of a sweep reach every variant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from datasets.errors import InputError, nearest
from harness.cells.job import ExperimentVariant
from harness.command.plugins import one_line
from harness.command.secrets import secrets, without_secrets
from harness.records.hidden import Key

if TYPE_CHECKING:
    from omegaconf import DictConfig

FIXED = ("action", "experiment", "name", "page", "results", "trust", "wandb")
"""Keys of the whole command, which a variant cannot have for itself."""


def _named(value: Any) -> Any:
    # YAML reads `1:` and `null:` as they look.
    return {str(name): given for name, given in value.items()} if isinstance(value, dict) else value


class Experiment(BaseModel):
    """The keys of ``conf/experiment/NAME.yaml``.

    ``variants``: label to overrides, in the table's order. ``every``: a config group each of whose
    options becomes a variant ``GROUP=OPTION`` of that label after them, unless listed or in
    ``without``. ``optional``: labels of variants that are left out, and said to be, where a key of
    theirs does not exist. ``baseline``: the label others are compared with.
    """

    model_config = ConfigDict(extra="forbid")

    variants: Annotated[dict[str, list[str]], BeforeValidator(_named)] = {}
    every: str | None = None
    without: list[str] = []
    optional: list[str] = []
    baseline: str | None = None


@dataclass(frozen=True)
class Composed:
    """A composed configuration as plain data, its overrides, and the variant it is, if any.

    ``problem``: why an optional variant could not be composed. ``secrets``: where the configuration holds
    one, and which.
    """

    resolved: dict[str, Any]
    overrides: list[str]
    variant: ExperimentVariant | None = None
    problem: str | None = None
    secrets: dict[Key, str] = field(default_factory=dict, repr=False)


def _keys(overrides: Sequence[str]) -> list[str]:
    """What each override sets: a key, or a group with its package; without ``+`` or ``~``."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return [one.key_or_group + (f"@{one.package}" if one.package else "") for one in parsed]


def _read(name: str, node: Any) -> Experiment:
    """Validate an experiment's node and write out ``every``. InputError that names the key."""
    from hydra.core.global_hydra import GlobalHydra

    where = f"experiment={name}"
    try:
        found = Experiment.model_validate(node)
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "extra_forbidden":
            key = str(first["loc"][-1])
            raise InputError(
                f"{where}: {key}: no such key; {nearest(key, Experiment.model_fields)}"
            ) from error
        raise InputError(f"{where}: {one_line(error)}") from error
    if found.every:
        options = GlobalHydra.instance().config_loader().get_group_options(found.every)
        if not options:
            raise InputError(f"{where}: every: there is no group {found.every!r}")
        for option in options:
            if option not in found.without and not option.startswith("_"):
                found.variants.setdefault(option, [f"{found.every}={option}"])
    if not found.variants:
        raise InputError(f"{where}: variants: it names none")
    for label in [*found.optional, *([found.baseline] if found.baseline else [])]:
        if label not in found.variants:
            raise InputError(f"{where}: there is no variant {label!r}; {nearest(label, found.variants)}")
    return found


def _clashes(name: str, command: Sequence[str], own: dict[str, list[str]]) -> Iterator[str]:
    """A line for each override of the command that some variants set themselves.

    Raises InputError when all of them do: it would change nothing.
    """
    for override, key in zip(command, _keys(command), strict=True):
        labels = [label for label, keys in own.items() if key in keys]
        if len(labels) == len(own):
            raise InputError(
                f"{without_secrets(override)}: every variant of experiment={name} sets {key} itself; "
                "drop one of the two"
            )
        if labels:
            reached = f"these variants of experiment={name}: {', '.join(labels)}"
            yield f"{without_secrets(override)} does not reach {reached}"


def _chosen_backbone(overrides: Sequence[str]) -> str:
    """The option of the group ``backbone`` that the last of these overrides, or else the job, chooses."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(overrides))
    chosen = [one.value() for one in parsed if one.key_or_group == "backbone"]
    return str(chosen[-1] if chosen else HydraConfig.get().runtime.choices["backbone"])


def _plain(config: DictConfig, command: Sequence[str]) -> tuple[dict[str, Any], dict[Key, str]]:
    """A configuration as plain data, interpolations resolved, and its secrets.

    Without the experiment, and without what the backbone's YAML tunes: methods have interpolated it.
    Raises InputError where a file, not the ``command``, trusts code.
    """
    from omegaconf import OmegaConf

    # Its overrides may hold interpolations that only their own variant can resolve.
    rest = OmegaConf.masked_copy(config, [str(key) for key in config if key != "experiment"])
    # What others interpolate comes first, so that an error names the key that is wrong.
    first = sorted(rest, key=lambda key: (OmegaConf.is_config(rest._get_node(key)), key != "backbone"))
    values: dict[str, Any] = {}
    for key in first:
        value = rest[key]
        plain = OmegaConf.is_config(value)
        values[str(key)] = (
            OmegaConf.to_container(value, resolve=True, throw_on_missing=True) if plain else value
        )
    if values["trust"] and "trust" not in _keys(command):
        raise InputError(
            f"trust: a configuration file sets it to {values['trust']}, but it counts from the command line "
            "alone: take it out of the file; if you trust that code, add trust=[PACKAGE] to the command"
        )
    values["backbone"].pop("tuned", None)
    return values, secrets(rest)


def expand(config: DictConfig, command: Sequence[str], name: str | None) -> list[Composed]:
    """The configurations of one Hydra job: its variants' when it has an experiment, else its own.

    ``config`` is the job's, ``command`` its overrides, ``name`` the chosen experiment. To be called
    inside the job. A variant's overrides come after the command's and win. Raises InputError for a
    variant that cannot be composed, one line that names it; Hydra's and OmegaConf's errors otherwise.
    """
    from hydra import compose
    from omegaconf import OmegaConf

    from harness.command.explain import CONFIG_ERRORS, explain

    if config.get("experiment") is None:
        try:
            plain, secret = _plain(config, command)
            return [Composed(plain, list(command), secrets=secret)]
        except CONFIG_ERRORS as error:
            raise InputError(explain(error, _chosen_backbone(command))) from error
    name = str(name)
    # The variants alone need to be complete: they may well choose what the command leaves open.
    experiment = _read(name, OmegaConf.to_container(config.experiment))
    own = {label: _keys(overrides) for label, overrides in experiment.variants.items()}
    for label, keys in own.items():
        if fixed := [key for key in keys if key.partition(".")[0] in FIXED]:
            raise InputError(f"experiment={name}, {label}: {fixed[0]} holds for all variants; drop it there")
    notes = tuple(_clashes(name, command, own))
    given = list(zip(command, _keys(command), strict=True))
    found: list[Composed] = []
    for label, overrides in experiment.variants.items():
        optional = label in experiment.optional
        variant = ExperimentVariant(name, label, experiment.baseline, tuple(command), optional, notes)
        kept = [override for override, key in given if key not in own[label]]
        words = [*(override for override in kept if not override.startswith("experiment=")), *overrides]
        try:
            plain, secret = _plain(compose("config", [*kept, *overrides]), command)
            found.append(Composed(plain, words, variant, secrets=secret))
        except CONFIG_ERRORS as error:
            problem = explain(error, _chosen_backbone([*kept, *overrides]))
            if not optional:
                raise InputError(f"experiment={name}, {label}: {problem}") from error
            found.append(Composed({}, words, variant, problem))
    return found
