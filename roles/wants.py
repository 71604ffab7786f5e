"""What whoever runs the node wants to have here, and what became of it: asked for over the control socket."""

from collections import OrderedDict
from typing import Any

from roles.role import Fetched, Gathered

WANTS_MAX = 256


class Wants:
    """By CID. Bounded: what was asked for longest ago is forgotten first."""

    def __init__(self) -> None:
        self._states: OrderedDict[str, str] = OrderedDict()
        self._errors: dict[str, str] = {}

    def open(self, cid: str) -> bool:
        """Whether it must be fetched: nobody is at it already. What failed before is tried again."""
        if self._states.get(cid) == "fetching":
            return False
        self._states[cid] = "fetching"
        self._states.move_to_end(cid)
        if len(self._states) > WANTS_MAX:
            forgotten, _ = self._states.popitem(last=False)
            self._errors.pop(forgotten, None)
        return True

    def note(self, event: Any) -> None:
        """A fetch has ended."""
        if isinstance(event, Fetched) and event.source in self._states:
            self._states[event.source] = "missing" if event.data is None else "held"
            self._errors[event.source] = event.error
        if isinstance(event, Gathered) and event.cid in self._states:
            self._states[event.cid] = "missing" if event.error else "held"
            self._errors[event.cid] = event.error

    def describe(self, cid: str) -> dict[str, str]:
        """For the control socket: `unknown`, `fetching`, `held`, or `missing` with the reason."""
        return {"cid": cid, "state": self._states.get(cid, "unknown"), "reason": self._errors.get(cid, "")}
