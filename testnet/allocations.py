"""Who has what of a network's supply at its start: shares, at once or over years, and a genesis made of them.

`allocations.json` is what ships: 40 % are the ecosystem's, a tenth of that to spend by vote from the start.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

from protocol.ledger.genesis import ENTRIES_MAX, TREASURY_NAME, Allocation, Genesis, GenesisVesting, verify_genesis
from protocol.types import BP, GRAINS_PER_ROLE, INT_MAX

NODES_NAME = "nodes"
SUPPLY_ROLE_MAX = INT_MAX // GRAINS_PER_ROLE
SHARES_MAX = 64
FILE_BYTES_MAX = 64 * 1024
DAY_MS = 24 * 3_600_000
_AT_ONCE = {"to", "share_bp"}
_OVER_TIME = _AT_ONCE | {"cliff_days", "part_days", "parts"}


@dataclass(frozen=True)
class Share:
    """`to` is `treasury`, `nodes` (all accounts of a genesis, in its proportions) or a name an account is given for.

    Without parts it is there from the start; else the first of equal parts comes after the cliff.
    """

    to: str
    share_bp: int
    cliff_days: int = 0
    part_days: int = 0
    parts: int = 0


@dataclass(frozen=True)
class Allocations:
    """The shares add up to the whole supply."""

    supply_role: int
    shares: tuple[Share, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Those that an account has to be given for."""
        return tuple(dict.fromkeys(item.to for item in self.shares if item.to not in (TREASURY_NAME, NODES_NAME)))


def read_shipped() -> Allocations:
    return parse_allocations(resources.files("testnet").joinpath("allocations.json").read_text(encoding="utf-8"))


def parse_allocations(text: str) -> Allocations:
    """ValueError, with what is wrong, for anything that divides no supply."""
    told = json.loads(text)
    if not isinstance(told, dict) or told.keys() != {"supply_role", "shares"} or not isinstance(told["shares"], list):
        raise ValueError("allocations are an object with supply_role and a list of shares")
    if len(told["shares"]) > SHARES_MAX:
        raise ValueError(f"{len(told['shares'])} shares, at most {SHARES_MAX}")
    found = Allocations(_read_whole(told, "supply_role"), tuple(_read_share(item) for item in told["shares"]))
    if not 0 < found.supply_role <= SUPPLY_ROLE_MAX:
        raise ValueError(f"a supply of {found.supply_role} ROLE, 1 to {SUPPLY_ROLE_MAX} are possible")
    total = sum(item.share_bp for item in found.shares)
    if total != BP:
        raise ValueError(f"the shares come to {total} bp, not {BP}")
    return found


def compute_amount(share: Share, supply_role: int) -> int:
    """In grains, exactly.

    >>> compute_amount(Share("treasury", 4_000), 1_000)
    400000000000
    """
    return supply_role * (GRAINS_PER_ROLE // BP) * share.share_bp


def allocate(base: Genesis, allocations: Allocations, accounts: Mapping[str, bytes]) -> Genesis:
    """The base with its supply, vesting and treasury made anew. ValueError for a genesis no ledger could start from.

    Its nodes, models, feeds and parameters stay. What its accounts have is how `nodes` are weighed against each other.
    """
    if set(allocations.names) != set(accounts):
        wanted, given = ", ".join(allocations.names) or "nobody", ", ".join(accounts) or "nobody"
        raise ValueError(f"accounts are wanted for {wanted}, and given for {given}")
    weights = {entry.account: entry.amount for entry in base.allocations}
    if not sum(weights.values()):
        raise ValueError("no account of the base genesis has anything: there is nothing to weigh nodes by")
    free = dict.fromkeys(weights, 0)
    vesting: list[GenesisVesting] = []
    treasury = 0
    for share in allocations.shares:
        amount = compute_amount(share, allocations.supply_role)
        parts = _divide(amount, weights) if share.to == NODES_NAME else {accounts.get(share.to, b""): amount}
        for account, part in parts.items():
            if share.parts and part:
                cliff_ms, part_ms = share.cliff_days * DAY_MS, share.part_days * DAY_MS
                vesting.append(GenesisVesting(account, part, cliff_ms, part_ms, share.parts))
            elif account:
                free[account] = free.get(account, 0) + part
            else:
                treasury += part
    if len(vesting) > ENTRIES_MAX:
        raise ValueError(f"{len(vesting)} entries that vest, at most {ENTRIES_MAX}: give nodes fewer shares over time")
    held = tuple(Allocation(account, amount) for account, amount in sorted(free.items()))
    genesis = replace(base, allocations=held, vesting=tuple(vesting), treasury=treasury)
    verify_genesis(genesis)
    return genesis


def _divide(amount: int, weights: Mapping[bytes, int]) -> dict[bytes, int]:
    """Parts by weight that come to the amount exactly: the first takes what rounding leaves."""
    whole = sum(weights.values())
    parts = {account: amount * weight // whole for account, weight in weights.items()}
    first = next(iter(parts))
    return parts | {first: parts[first] + amount - sum(parts.values())}


def _read_share(item: Any) -> Share:
    if not isinstance(item, dict) or item.keys() not in (_AT_ONCE, _OVER_TIME) or not isinstance(item["to"], str):
        raise ValueError(f"a share has to and share_bp; over time, cliff_days, part_days and parts as well: {item}")
    numbers = {name: _read_whole(item, name) for name in item if name != "to"}
    share = Share(item["to"], **numbers)
    if not share.to or not share.share_bp or (len(item) == len(_OVER_TIME) and not share.parts * share.part_days):
        raise ValueError(f"a share is somebody's and not empty, nor are its parts or the days between them: {item}")
    return share


def _read_whole(fields: Mapping[str, Any], name: str) -> int:
    value = fields[name]
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} is a whole number, not {value!r}")
    return value
