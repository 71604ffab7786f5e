"""Dataclasses that only the type checker freezes, for what is made once a message or an event.

At run time the constructor of a frozen dataclass sets each field by a call: six take four times as long as those of a
plain one (decision 0094).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as fast_dataclass
else:
    from dataclasses import dataclass

    def fast_dataclass(*, frozen: bool):  # always True: said where it is read
        """Equal and hashed by its fields, like the frozen one that it stands for."""
        return dataclass(unsafe_hash=frozen)


__all__ = ["fast_dataclass"]
