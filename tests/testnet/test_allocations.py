"""A supply in shares: what ships, that each share is exactly whole, and what is refused."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.ledger.genesis import Allocation, Genesis, build_state
from protocol.ledger.state import State, compute_supply
from protocol.types import BP, GRAINS_PER_ROLE
from testnet.allocations import DAY_MS, Allocations, Share, allocate, parse_allocations, read_shipped
from testnet.genesis import build_genesis

BASE = build_genesis(7, {"validator": 2, "inference": 1}, (), spare_accounts=1).genesis
GIVEN = {"contributors": b"\x01" * 32, "backers": b"\x02" * 32}
TWO = '{"supply_role": 10, "shares": [{"to": "treasury", "share_bp": 4000}, {"to": "nodes", "share_bp": %s}]}'


def count_by(genesis: Genesis) -> dict[bytes, int]:
    """Grains by account, those that vest with the others; the ecosystem's are nobody's."""
    held = {entry.account: entry.amount for entry in genesis.allocations} | {b"": genesis.treasury}
    for entry in genesis.vesting:
        held[entry.account] = held.get(entry.account, 0) + entry.amount
    return held


def test_what_ships_gives_the_ecosystem_forty_percent_and_most_of_it_by_and_by() -> None:
    genesis = allocate(BASE, read_shipped(), GIVEN)
    supply = build_state(genesis).supply
    assert count_by(genesis)[b""] * 10 == supply * 4
    assert genesis.treasury * 10 == count_by(genesis)[b""]
    [entry] = [entry for entry in genesis.vesting if not entry.account]
    assert (entry.cliff_ms, entry.part_ms, entry.parts) == (180 * DAY_MS, 30 * DAY_MS, 60)
    free = {entry.account: entry.amount for entry in genesis.allocations}
    assert not free.keys() & set(GIVEN.values())  # theirs vests, all of it
    assert Genesis.from_json(genesis.to_json()) == genesis


def test_a_ledger_made_of_it_keeps_its_supply_while_all_of_it_comes_free() -> None:
    state: State = build_state(allocate(BASE, read_shipped(), GIVEN))
    assert compute_supply(state) == state.supply == 10**9 * GRAINS_PER_ROLE
    held = sum(entry.amount for entry in state.vesting.values())
    assert held * BP == state.supply * (3_600 + 2_000 + 2_000 + 1_500)


@settings(max_examples=40, deadline=None)
@given(
    supply=st.integers(5 * 10**5, 9 * 10**9),
    cuts=st.lists(st.integers(1, BP - 1), unique=True, max_size=6),
    to=st.lists(st.sampled_from(("treasury", "nodes", "backers")), min_size=7, max_size=7),
    parts=st.lists(st.sampled_from((0, 1, 36)), min_size=7, max_size=7),
    weights=st.tuples(*[st.integers(1, 10**18)] * 4),
)
def test_no_grain_is_lost_however_a_supply_is_divided(
    supply: int, cuts: list[int], to: list[str], parts: list[int], weights: tuple[int, ...]
) -> None:
    edges = [0, *sorted(cuts), BP]
    shares = tuple(
        Share(name, high - low, 10, 30, count) if count else Share(name, high - low)
        for low, high, name, count in zip(edges, edges[1:], to, parts, strict=False)
    )
    accounts = {"backers": GIVEN["backers"]} if any(share.to == "backers" for share in shares) else {}
    weighed = tuple(Allocation(entry.account, each) for entry, each in zip(BASE.allocations, weights, strict=True))
    base = replace(BASE, allocations=weighed, nodes=())
    held = count_by(allocate(base, Allocations(supply, shares), accounts))
    assert sum(held.values()) == supply * GRAINS_PER_ROLE
    told = {name: sum(share.share_bp for share in shares if share.to == name) for name in ("treasury", "backers")}
    each = supply * GRAINS_PER_ROLE // BP
    assert (held[b""], held.get(GIVEN["backers"], 0)) == (each * told["treasury"], each * told["backers"])


def test_a_share_is_refused_that_nobody_can_have() -> None:
    with pytest.raises(ValueError, match="wanted for contributors, backers, and given for backers"):
        allocate(BASE, read_shipped(), {"backers": GIVEN["backers"]})
    with pytest.raises(ValueError, match="bonds"):
        allocate(BASE, parse_allocations(TWO % 6000), {})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[]", "an object with"),
        ("{", "Expecting"),
        (TWO % 5999, "9999 bp"),
        (TWO % "6000.0", "a whole number"),
        (TWO % -6000, "a whole number"),
        (TWO % '6000, "parts": 2', "over time"),
        (TWO % '6000, "cliff_days": 1, "part_days": 0, "parts": 2', "not empty"),
        (TWO % '6000, "cliff_days": 1, "part_days": 1, "parts": 0', "not empty"),
        ((TWO % 6000).replace("10,", "0,"), "a supply of 0"),
        ((TWO % 6000).replace('"nodes"', '""'), "somebody's"),
        (json.dumps({"supply_role": 10, "shares": [{"to": "a", "share_bp": 100}] * 100}), "100 shares"),
    ],
)
def test_what_divides_no_supply_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_allocations(text)
