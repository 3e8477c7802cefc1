"""Hydra's and OmegaConf's errors in one line: the key, the nearest name, the remedy."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping

import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from datasets.errors import nearest

CONFIG_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _no_such_key(error: OmegaConfBaseException) -> str:
    key = str(error.full_key or error.key)
    parent, _, name = key.rpartition(".")
    node = error.parent_node
    known: list[str] = []
    if isinstance(node, Mapping):
        known = [str(each) for each in node if each not in ("_target_", "hydra")]
    return f"{key}: no such key; {nearest(name, known, f'{parent}.' if parent else '')}"


def _missing_config(error: MissingConfigException) -> str:
    text = " ".join(str(error).split())
    wanted = (error.missing_cfg_file or "").removesuffix(".yaml")
    group, _, name = wanted.rpartition("/")
    if group and error.options is not None:
        return f"{group}={name}: no such option; {nearest(name, error.options, f'{group}=')}"
    if "config directory" in text:
        return f"{text.split(' Set ')[0]}; correct --config-dir"
    return text


def _untuned(key: str, wanted: str, backbone: str) -> str:
    """``wanted`` is what a method's YAML asks of ``backbone.tuned``: the method, and the key there."""
    method, _, rest = wanted.partition(".")
    return (
        f"{key}: no value for backbone={backbone}; write {rest} into conf/tuned/{method}/{backbone}.yaml, "
        f"or tuned.{wanted} into the backbone's own YAML"
    )


def _interpolation(error: InterpolationResolutionError, backbone: str | None) -> str:
    reason, key = str(error).splitlines()[0], str(error.full_key)
    if backbone and (found := re.search(r"'backbone\.tuned\.([\w.-]+)' not found", reason)):
        return _untuned(key, found[1], backbone)
    if found := re.search(r"Environment variable '(.*?)' not found", reason):
        return f"{key}: the environment variable {found[1]} is not set; set it, or give {key}=..."
    return f"{key}: {reason}; set {key}=... or correct what it refers to"


def _quoted(override: str) -> str:
    """An override whose value is one text, as a shell takes it."""
    key, _, value = override.partition("=")
    escaped = value.strip().replace('"', '\\"')
    return shlex.quote(f'{key}="{escaped}"')


def explain(error: BaseException, backbone: str | None = None) -> str:
    """One line for an error of composing the configuration; ``backbone`` is the one chosen, if any."""
    causes = list(_chain(error))
    for cause in causes:
        if isinstance(cause, MissingConfigException):
            return _missing_config(cause)
        if isinstance(cause, OverrideParseException):
            reason = str(cause.message).splitlines()[0]
            return f"{cause.override}: cannot be read ({reason}); a text is quoted: {_quoted(cause.override)}"
        if isinstance(cause, yaml.YAMLError):
            return f"a YAML file cannot be read: {' '.join(str(cause).split())}"
        if isinstance(cause, MissingMandatoryValue):
            key = cause.full_key or cause.key
            return f"{key}: no value; set {key}=..."
        if isinstance(cause, InterpolationResolutionError):
            return _interpolation(cause, backbone)
        if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.full_key:
            return _no_such_key(cause)
    text = str(error).strip()
    if found := re.match(r"Ambiguous value for argument '(.*?)'", text):
        key, _, values = found[1].partition("=")
        text = f"; for one text write {_quoted(found[1])}" if " " in values.strip() else ""
        return f"{found[1]}: several values; add -m to run each, or write {key}=[{values}] for a list{text}"
    if found := re.match(r"Could not append to config\. An item is already at '(.*?)'", text):
        return f"+{found[1]}: this key exists; drop the + to change it"
    if found := re.match(r"Could not append '?(.*?)'?\. ?(.*)", text, re.DOTALL):
        return f"{found[1]}: chosen already; drop the + to replace it"
    return " ".join(text.split()) or type(error).__name__
