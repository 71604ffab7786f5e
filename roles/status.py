"""What a node says about itself in `status.json`, written every second, and what that is worth to a reader.

The file alone cannot say whether its writer still lives; the lock of the data directory can.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from roles.files import write_atomically
from roles.lock import is_locked

FILE_NAME = "status.json"
STATUS_BYTES_MAX = 4 * 1024 * 1024
STOPPED = "stopped"


class Liveness(StrEnum):
    """Whether a data directory's node runs. *stale* is what a killed one leaves: a status nobody keeps up to date."""

    RUNNING = "running"
    STALE = "stale"
    STOPPED = "stopped"


@dataclass(frozen=True)
class NodeStatus:
    """What is known of a node from its data directory. `fields` is its last `status.json`, empty when there is none."""

    liveness: Liveness
    fields: Mapping[str, Any]


def write_status(directory: Path, fields: Mapping[str, Any]) -> None:
    """Replace `status.json` as a whole. Raises OSError."""
    write_atomically(directory / FILE_NAME, json.dumps(fields, indent=1) + "\n", is_durable=False)


def read_status(directory: Path) -> NodeStatus:
    """The last status of a data directory's node, and whether it still runs. Never waits."""
    # The lock is asked first: a node that starts in between shows as not running yet, never a dead one as running.
    is_running = is_locked(directory)
    fields = _read_fields(directory / FILE_NAME)
    if is_running:
        return NodeStatus(Liveness.RUNNING, fields)
    has_left = not fields or fields.get("state") == STOPPED
    return NodeStatus(Liveness.STOPPED if has_left else Liveness.STALE, fields)


def get_rss_bytes() -> int:
    """Memory of this process in RAM; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _read_fields(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            fields = json.loads(file.read(STATUS_BYTES_MAX))
    except (OSError, ValueError):
        return {}
    return fields if isinstance(fields, dict) else {}
