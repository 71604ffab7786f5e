"""What a node remembers of its peers from one process to the next: `peers.json` in its data directory.

Losing it costs a node its bans and its short cuts into the network, nothing that was promised: it is a file of its own,
not a part of the database, so that an operator can read it, copy it and delete it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roles.config import ConfigError
from roles.files import write_atomically

FILE_NAME = "peers.json"
FORMAT = 1
PEERS_BYTES_MAX = 16 * 1024 * 1024


class PeersDamaged(ConfigError):
    """The file is not what this program has written. Exit code 3."""

    def __init__(self, path: Path, reason: object) -> None:
        super().__init__(
            f"{path} cannot be used: {reason}",
            f"move {path.name} away: bans and remembered peers are gone then, and nothing else",
        )


def read_peers(directory: Path) -> dict[str, Any]:
    """What `Libp2pNet.remember` gave an earlier process; empty when there was none. Raises PeersDamaged."""
    path = directory / FILE_NAME
    try:
        with path.open("rb") as file:
            fields = json.loads(file.read(PEERS_BYTES_MAX))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise PeersDamaged(path, error) from error
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise PeersDamaged(path, f"it is not of format {FORMAT}")
    return fields


def write_peers(directory: Path, memory: Mapping[str, Any]) -> None:
    """Replace the file as a whole. Raises OSError."""
    write_atomically(directory / FILE_NAME, json.dumps({"format": FORMAT, **memory}, indent=1) + "\n")
