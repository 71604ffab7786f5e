"""Which part of the program a frame is at work in, for samplers of processor time."""

from collections.abc import Mapping
from types import FrameType


class Parts:
    """`names`: parts by module name, the longest that fits decides; what fits none belongs to whoever called it."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self._known: dict[str, str | None] = {}

    def find(self, frame: FrameType | None) -> str:
        """The part of the innermost frame that belongs to one; else `rest`."""
        while frame is not None:
            part = self._find(frame.f_globals.get("__name__", ""))
            if part is not None:
                return part
            frame = frame.f_back
        return "rest"

    def _find(self, module: str) -> str | None:
        if module not in self._known:
            name = module
            while name and name not in self._names:
                name = name.rpartition(".")[0]
            self._known[module] = self._names.get(name)
        return self._known[module]
