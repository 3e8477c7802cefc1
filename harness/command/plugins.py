"""Building a plug-in from its configuration node."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from datasets.errors import InputError, nearest
from datasets.plugin import Plugin

Contract = TypeVar("Contract")
OURS = ("methods", "metrics", "datasets", "harness", "reports")


def _fields(hint: Any, path: Sequence[str | int]) -> list[str]:
    """Field names of the dataclass that ``path`` leads to inside the type ``hint``."""
    if not dataclasses.is_dataclass(hint):
        found = (_fields(part, path) for part in typing.get_args(hint))
        return next((names for names in found if names), [])
    if not path:
        return [field.name for field in dataclasses.fields(hint) if field.init]
    try:
        hints = typing.get_type_hints(hint)
    except NameError:
        # A plug-in may import its types for the type checker only.
        return []
    return _fields(hints.get(str(path[0])), path[1:])


_OF_UNION = re.compile(r"(constrained-)?(int|float|str|bool)|literal\[.*\]")
"""What pydantic adds to a place for each of the types that a value may have."""


def one_line(error: ValidationError, key: str = "", known: Any = None) -> str:
    """The first problem of a pydantic error, in one line.

    ``key`` is where the validated node stands; ``known`` the plug-in class, whose field
    names are offered for a misspelt one.
    """
    details: ErrorDetails = error.errors(include_url=False)[0]
    path = [part for part in details["loc"] if isinstance(part, str) and not _OF_UNION.fullmatch(part)]
    where = ".".join([*([key] if key else []), *path])
    others = {tuple(one["loc"][: len(path)]) for one in error.errors(include_url=False)} - {tuple(path)}
    more = f" (and {len(others)} more)" if others else ""
    kind = details["type"]
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        names = _fields(known, path[:-1]) if known is not None else []
        prefix = where.removesuffix(path[-1])
        return f"{where}: no such key; {nearest(path[-1], names, prefix)}{more}"
    if kind in ("model_type", "dataclass_type", "dict_type"):
        return (
            f"{where}: got {_short(details['input'])}; it has keys of its own, set one: {where}.KEY=...{more}"
        )
    if kind in ("missing", "missing_argument"):
        return f"{where}: no value; set {where}=...{more}"
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return f"{cause}{more}"
    wrong = details["msg"].removeprefix("Value error, ")
    return f"{where}: got {_short(details['input'])}; {wrong[:1].lower()}{wrong[1:]}{more}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def resolve(target: Any, key: str, trust: Sequence[str] = ()) -> Any:
    """What ``_target_`` names.

    Raises InputError when it stands outside our packages and ``trust``, or cannot be found.
    """
    where = f"{key}._target_"
    if not isinstance(target, str) or "." not in target:
        raise InputError(f"{where}: got {_short(target)}; give package.module.Class")
    package = target.partition(".")[0]
    if package not in (*OURS, *trust):
        raise InputError(
            f"{where}: {target} is outside our packages; if you trust its code, add trust=[{package}]"
        )
    module, _, attribute = target.rpartition(".")
    try:
        loaded = importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"{where}: cannot import {module} ({error}); correct the path or install it"
        ) from error
    found = getattr(loaded, attribute, None)
    if found is None:
        public = [name for name, _ in inspect.getmembers(loaded, inspect.isclass)]
        raise InputError(f"{where}: {module} has no {attribute}; {nearest(attribute, public)}")
    if not callable(found):
        raise InputError(f"{where}: {target} cannot be called; name a plug-in class")
    return found


def build(node: Mapping[str, Any], key: str, contract: type[Contract], trust: Sequence[str] = ()) -> Contract:
    """Call the node's ``_target_`` with the node's other keys, nodes of plug-ins among them built first.

    ``key`` is where the node stands in the configuration (``method``); ``contract`` the class that the
    plug-in must derive from; ``trust`` names packages besides ours that ``_target_`` may come from. Raises
    InputError, one line that names the key, for an unknown key, a wrong type, a target that cannot be used,
    or a plug-in that lacks a member of its contract.
    """
    plugin = _called(node, key, trust, contract)
    # What a class lacks is known before it is called; a function only shows by what it returns.
    _require(type(plugin), key, contract, set(dir(plugin)))
    if "name" not in dir(plugin):
        raise InputError(_incomplete(type(plugin), key, "lacks name", contract))
    return cast("Contract", plugin)


def _require(plugin: type, key: str, contract: type, there: set[str]) -> None:
    """InputError for a class that is not all its contract asks for; ``there``: the members it has."""
    if not issubclass(plugin, contract):
        lacking = [name for name in dir(contract) if not name.startswith("_") and name not in there]
        has = f"lacks {', '.join(lacking)}" if lacking else f"is no {contract.__name__}"
        raise InputError(_incomplete(plugin, key, has, contract))
    if inspect.isabstract(plugin):
        lacking = sorted(cast("Any", plugin).__abstractmethods__)
        raise InputError(_incomplete(plugin, key, f"lacks {', '.join(lacking)}", plugin.__mro__[1]))


def _incomplete(plugin: type, key: str, what: str, contract: type) -> str:
    return (
        f"{key}._target_: {plugin.__module__}.{plugin.__qualname__} {what}; "
        f"derive it from {contract.__module__}.{contract.__qualname__}, which says what each member is"
    )


def _called(node: Mapping[str, Any], key: str, trust: Sequence[str], contract: type = object) -> Any:
    if "_target_" not in node:
        raise InputError(f"{key}._target_: no value; name the plug-in's class, as package.module.Class")
    factory = resolve(node["_target_"], key, trust)
    if inspect.isclass(factory):
        _require(factory, key, contract, set(dir(factory)))
    values = {
        name: _called(value, f"{key}.{name}", trust)
        if isinstance(value, Mapping) and "_target_" in value
        else value
        for name, value in node.items()
        if name != "_target_"
    }
    try:
        return factory(**values)
    except ValidationError as error:
        raise InputError(one_line(error, key, factory)) from error
    except TypeError as error:
        # A bad key, unless the signature would have taken these values.
        try:
            inspect.signature(factory).bind(**values)
        except TypeError as mismatch:
            raise InputError(f"{key}: {mismatch}; its keys are those of {node['_target_']}") from error
        raise


def check_trust(plugin: Plugin, key: str, trust: Sequence[str]) -> None:
    """InputError where the plug-in, or one that it holds, ``runs`` a package outside ``trust``."""
    for package in plugin.runs:
        if package not in trust:
            raise InputError(
                f"{key}={plugin.name} runs code of {package}, which is not ours; if you trust it, "
                f"add trust=[{package}]"
            )
    for name, value in vars(plugin).items():
        if isinstance(value, Plugin):
            check_trust(value, f"{key}.{name}", trust)


__all__ = ["build", "check_trust", "one_line", "resolve"]
