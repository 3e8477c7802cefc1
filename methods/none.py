"""No motion transfer: what the backbone makes of the prompt and the noise alone."""

from __future__ import annotations

from typing import ClassVar

import pydantic

from methods.guidance.loop import SampledMethod


@pydantic.dataclasses.dataclass(config={"extra": "forbid"})
class Plain(SampledMethod, kind="none"):
    """Sampling with classifier-free guidance, from the noise that every method starts from.

    The reference matters only to an SDEdit start.
    """

    version: ClassVar[str] = "1"


__all__ = ["Plain"]
