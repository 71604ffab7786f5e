"""How a load is steered and what it tells: the pace, set by whoever measures; a line for each request, by clients.

Apart from `client`, which asks: whoever measures has no use for libp2p.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from roles.files import write_atomically

PACE_NAME = "pace.json"  # in the network's directory
PLAN_NAME = "bench.json"  # in a client's, and beside it:
ASKED_NAME = "asked.jsonl"


@dataclass(frozen=True)
class ClientPlan:
    """What one of `clients` clients asks for: rows of `samples` of the model with this digest (hex), in this mode."""

    pace: str
    samples: str
    model: str
    mode: str
    timeout_ms: int
    clients: int


@dataclass(frozen=True)
class Asked:
    """One request as its client saw it: begun at `at_ms`, over after `took_ms`. An empty `code` is an answer."""

    at_ms: int
    took_ms: int
    code: str
    request_id: str = ""

    @property
    def is_answered(self) -> bool:
        return not self.code

    @property
    def ended_ms(self) -> int:
        return self.at_ms + self.took_ms


def write_plan(directory: Path, plan: ClientPlan) -> None:
    """Put the plan into a client's data directory."""
    write_atomically(directory / PLAN_NAME, json.dumps(asdict(plan)))


def read_plan(directory: Path) -> ClientPlan:
    """The plan in a client's data directory."""
    return ClientPlan(**json.loads((directory / PLAN_NAME).read_text(encoding="utf-8")))


def write_pace(path: Path, per_s: float) -> None:
    """From now on all clients together begin so many requests a second."""
    write_atomically(path, json.dumps(per_s), is_durable=False)


def read_pace(path: Path) -> float:
    """Requests a second of all clients together; none before somebody has set a pace."""
    try:
        return float(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return 0.0


def format_asked(asked: Asked) -> str:
    """A line, with its end."""
    return json.dumps(asdict(asked), separators=(",", ":")) + "\n"


class AskedFollower:
    """All requests that clients have written down as over. A line that a killed client left torn is passed over."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self.asked: list[Asked] = []
        self._offsets = {directory / ASKED_NAME: 0 for directory in directories}

    def read(self) -> list[Asked]:
        """Take in what is new; all there is."""
        for log, offset in self._offsets.items():
            if not log.is_file():
                continue
            with log.open("rb") as file:
                file.seek(offset)
                whole, newline, _ = file.read().rpartition(b"\n")
            self._offsets[log] = offset + len(whole) + len(newline)
            self.asked += [asked for line in whole.splitlines() if (asked := _read_asked(line)) is not None]
        return self.asked


def _read_asked(line: bytes) -> Asked | None:
    try:
        return Asked(**json.loads(line))
    except (ValueError, TypeError):
        return None
