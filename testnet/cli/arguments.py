"""Read what people type: durations, role counts, places."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from testnet.cli.output import CommandError, ExitCode
from testnet.network_file import NetworkFile, NetworkFileError, find_network, read_network_file

UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
ROLES = ("validator", "inference", "verifier", "oracle", "storage", "client")
DECIMALS, GRAINS, GRAINS_MAX = 9, 1_000_000_000, 2**63 - 1  # of one ROLE; of all a ledger can count
NODES_MIN = 7  # one of each role and a second verifier: fewer cannot attest a claim twice

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object instead of text.")]
Network = Annotated[
    Path | None,
    Parameter(name="--network", help="Network file or its directory; the newest under ./.rolemesh unless given."),
]


def parse_duration(text: str) -> float:
    """A duration in seconds. A bare number counts seconds.

    >>> parse_duration("60s"), parse_duration("1.5m"), parse_duration("250ms")
    (60.0, 90.0, 0.25)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?", text)
    if found is None or float(found[1]) == 0:
        raise CommandError(
            "bad_duration", f"not a duration: {text!r}", "write it like 60s, 5m, 1h or 500ms", ExitCode.USAGE
        )
    return float(found[1]) * UNITS_S[found[2] or "s"]


def parse_amount(text: str) -> int:
    """An amount in ROLE as whole grains, exactly: no float ever holds it.

    >>> parse_amount("1.5"), parse_amount("0.000000001"), parse_amount("12 ROLE")
    (1500000000, 1, 12000000000)
    """
    found = re.fullmatch(r"(\d{1,10})(?:\.(\d{1,9}))?(?: ?ROLE)?", text.strip(), re.ASCII)
    grains = int(found[1]) * GRAINS + int((found[2] or "").ljust(DECIMALS, "0")) if found else 0
    if not 0 < grains <= GRAINS_MAX:
        hint = f"write ROLE with up to {DECIMALS} decimals, like 12 or 0.5; the least is 0.000000001"
        raise CommandError("bad_amount", f"not an amount: {text!r}", hint, ExitCode.USAGE)
    return grains


def parse_roles(text: str) -> dict[str, int]:
    """How many nodes of each role.

    >>> parse_roles("inference=3,verifier=2,my.module:Echo=1")
    {'inference': 3, 'verifier': 2, 'my.module:Echo': 1}
    """
    counts: dict[str, int] = {}
    for part in text.split(","):
        role, equals, count = part.strip().partition("=")
        if role not in ROLES and not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", role):
            known = ", ".join(ROLES)
            raise CommandError(
                "unknown_role",
                f"no role {role!r}",
                f"roles are {known}, or your own as package.module:Role",
                ExitCode.USAGE,
                role=role,
                known=list(ROLES),
            )
        if (equals and not re.fullmatch(r"\d{1,3}", count)) or role in counts:
            raise CommandError(
                "bad_roles", f"cannot read {part!r} in --roles", "write it like inference=3,verifier=2", ExitCode.USAGE
            )
        counts[role] = int(count) if equals else 1
    return counts


def spread_nodes(nodes: int) -> dict[str, int]:
    """The roles of a network of `nodes` processes: two verifiers, and one more for every fourth worker after that.

    >>> spread_nodes(9)
    {'validator': 1, 'inference': 3, 'verifier': 2, 'oracle': 1, 'storage': 1, 'client': 1}
    """
    if nodes < NODES_MIN:
        raise CommandError(
            "too_few_nodes",
            f"{nodes} nodes cannot hold every role",
            f"use --nodes {NODES_MIN} or more, or name the roles with --roles",
            ExitCode.USAGE,
        )
    workers = nodes - 4
    verifiers = max(2, workers // 4)
    return {
        "validator": 1,
        "inference": workers - verifiers,
        "verifier": verifiers,
        "oracle": 1,
        "storage": 1,
        "client": 1,
    }


def open_network(where: Path | None) -> tuple[Path, NetworkFile]:
    """The network file meant by an option and what it holds. Raises CommandError when there is none."""
    try:
        path = find_network(where)
        return path, read_network_file(path)
    except NetworkFileError as error:
        raise CommandError(
            "no_network",
            str(error),
            "start one with `rolemesh testnet up`, or name its file with --network",
            ExitCode.UNREACHABLE,
        ) from error


def one_of(name: str, allowed: Sequence[str]) -> str:
    """`name` if it is allowed. Raises CommandError that lists what is."""
    if name not in allowed:
        raise CommandError("unknown_name", f"no {name!r} here", f"there is: {', '.join(allowed)}", ExitCode.USAGE)
    return name
