"""A column from outside: a function of a record, named in a YAML file.

    _target_: mine.columns.energy_per_frame    # takes a harness.records.record.Record; a number or None
    key: energy_per_frame                      # its name in --columns and CSV
    label: Energy a frame
    unit: J                                    # these three may be left out
    higher_is_better: false
    digits: 2

The row's number is the mean over clips with its interval, compared with the baseline as a metric's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from datasets.errors import InputError
from harness.command.plugins import OURS, resolve
from reports.table.columns import Column

if TYPE_CHECKING:
    from harness.records.record import Record


class Declared(BaseModel):
    """The keys of the file."""

    model_config = ConfigDict(extra="forbid")

    target: Annotated[str, Field(alias="_target_", pattern=r"^\w+(\.\w+)+$")]
    key: Annotated[str, Field(pattern=r"^\w+$")]
    label: Annotated[str, Field(min_length=1)]
    unit: str = ""
    higher_is_better: bool | None = True
    digits: Annotated[int, Field(ge=0, le=9)] = 4


def load_column(path: Path, trust: Sequence[str] = ()) -> Column:
    """The column that a YAML file names; ``trust`` are the packages its function may come from.

    InputError, one line, for a file that cannot be read, a wrong key, or a function of another package.
    """
    where = f"--column {path}"
    keys = _keys(path, where)
    try:
        declared = Declared.model_validate(keys)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"{where}: {'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}; its keys are "
            "_target_, key, label, unit, higher_is_better and digits"
        ) from error
    package = declared.target.partition(".")[0]
    if package not in (*OURS, *trust):
        raise InputError(
            f"{where}: {declared.target} is outside our packages; if you trust its code, "
            f"add --trust {package}"
        )
    function = resolve(declared.target, where, [package])

    def read(record: Record) -> float | None:
        try:
            value = function(record)
            return None if value is None else float(value)
        except Exception as error:
            raise InputError(
                f"{where}: {declared.target} failed on {record.id} ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}); it takes a Record and gives a number or None"
            ) from error

    return Column(
        key=declared.key,
        label=declared.label,
        unit=declared.unit,
        higher_is_better=declared.higher_is_better,
        digits=declared.digits,
        read=read,
        paired=True,
    )


def _keys(path: Path, where: str) -> Any:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        return OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise InputError(f"{where}: cannot be read ({' '.join(str(error).split())[:200]})") from error
