"""A dataclass whose annotations are text, as a user's module may have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from protocol.types import AtMost, Whole


@dataclass(frozen=True)
class Later:
    number: Whole
    items: Annotated[tuple[Annotated[bytes, AtMost(3)], ...], AtMost(3)]
