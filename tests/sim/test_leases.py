"""Leases in a whole network: kept by drawn nodes, audited, paid, mended when nodes are gone, let go of in the end."""

import random
from typing import Any

import pytest

from protocol.audit import measure_contents
from protocol.errors import MissingBlob
from protocol.ledger.lease_records import Lease
from protocol.ledger.leases import LeaseBlob, compute_lease_id, compute_term_cost
from protocol.unixfs import CHUNK_BYTES
from roles import core_effects as ce
from testnet.sim import simulate
from tests.support.leases import Blob

AUDIT_MS = 300_000
HOUR_MS = 3_600_000
STEP_MS = 5_000
PRICE = 1_000
FACTOR = 3
FORGETFUL = "tests.support.forgetful:Forgetful"


class Kept:
    """A network with storage nodes and blobs that its client has leased."""

    def __init__(
        self,
        seed: int,
        stores: int,
        blobs: list[Blob],
        factor: int = FACTOR,
        periods: int = 20,
        audit_ms: int = AUDIT_MS,
        forgetful: tuple[str, ...] = (),
    ) -> None:
        options: dict[str, dict[str, Any]] = {
            "network": {"models": (), "params": {"audit_ms": audit_ms}},
            "storage": {"lease_bytes": 10**9, "lease_price": PRICE},
            **{name: {"class": FORGETFUL} for name in forgetful},
        }
        self.network = simulate(seed, {"validator": 1, "storage": stores, "client": 1}, options=options)
        self.stores = [name for name in self.network.nodes if name.startswith("storage")]
        self.names = {self.network.nodes[name].keys.account.public: name for name in self.stores}
        self.blobs = {}
        payer = self.network.nodes["client-0"]
        assert self.network.run_until(lambda: payer.ledger is not None and len(payer.ledger.offers) == stores)
        for blob in blobs:
            key = compute_lease_id(payer.keys.account.public, blob.cid.pack())
            payer.disk.blobs.update(blob.blocks)
            cost = compute_term_cost(blob.contents.size_bytes, PRICE, factor, periods, self.network.genesis.params)
            body = LeaseBlob(blob.cid.pack(), blob.contents, PRICE, factor, periods, 0, cost)
            payer.handle(ce.Order(key.hex(), body))
            self.blobs[key] = blob
        self.factor = factor

    @property
    def leases(self) -> dict[bytes, Lease]:
        return dict(self.network.ledger.leases)

    def list_live(self, lease: Lease) -> list[str]:
        """The nodes that run and have accepted."""
        names = [self.names[replica.account] for replica in lease.replicas if replica.height]
        return [name for name in names if self.network.nodes[name].is_up]

    @property
    def is_whole(self) -> bool:
        """Every blob is kept as often as was asked for, by nodes that run."""
        leases = self.leases
        return leases.keys() == self.blobs.keys() and all(
            len(self.list_live(lease)) >= self.factor for lease in leases.values()
        )

    def has(self, name: str, blob: Blob) -> bool:
        held = self.network.nodes[name].disk.blobs

        def read(cid: Any) -> bytes:
            if cid.digest not in held:
                raise MissingBlob(cid.digest)
            return held[cid.digest]

        try:
            return measure_contents(blob.cid, read, blob.contents.size_bytes).finish() == blob.contents
        except MissingBlob:
            return False

    def run_killing(self, kills: dict[int, str], length_ms: int) -> dict[str, int]:
        """Run, killing nodes at their times; how long it took after each until all was whole again."""
        took: dict[str, int] = {}
        waiting: dict[str, int] = {}
        for now_ms in range(STEP_MS, length_ms + 1, STEP_MS):
            self.network.run_until(now_ms)
            if self.is_whole:
                took.update((name, now_ms - since_ms) for name, since_ms in waiting.items())
                waiting.clear()
            for at_ms in [at_ms for at_ms in kills if at_ms <= now_ms]:
                name = kills.pop(at_ms)
                self.network.crash(name)
                waiting[name] = now_ms
        assert not waiting
        return took


def make_blobs(seed: int) -> list[Blob]:
    rng = random.Random(seed)
    return [Blob(rng.randbytes(size), chunk=10_000) for size in (3_000, 45_000)]


def run_kills(seed: int, length_ms: int, audit_ms: int) -> None:
    """Ten storage nodes, three copies, two nodes killed for good at any time."""
    rng = random.Random(seed)
    kept = Kept(seed, 10, make_blobs(seed), audit_ms=audit_ms)
    times = rng.sample(range(60_000, length_ms - 2 * audit_ms, STEP_MS), 2)
    victims = rng.sample(kept.stores, 2)

    took = kept.run_killing(dict(zip(times, victims, strict=True)), length_ms)

    assert took.keys() == set(victims)
    assert max(took.values()) <= 2 * audit_ms, (took, kept.network)
    assert kept.is_whole
    for key, lease in kept.leases.items():
        assert all(kept.has(name, kept.blobs[key]) for name in kept.list_live(lease))
    assert kept.network.find_violations() == []
    earned = [work.earned for work in kept.network.ledger.work.values()]
    assert len(earned) >= FACTOR
    assert sum(earned) == sum(lease_cost(kept, key) - lease.balance for key, lease in kept.leases.items())


def lease_cost(kept: Kept, key: bytes) -> int:
    """What was put into a lease."""
    lease, params = kept.leases[key], kept.network.genesis.params
    return compute_term_cost(lease.contents.size_bytes, PRICE, lease.factor, lease.periods, params)


def test_two_of_ten_nodes_are_killed_and_every_blob_is_mended_within_two_periods() -> None:
    run_kills(seed=1, length_ms=300_000, audit_ms=60_000)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(6))
def test_whichever_two_are_killed_in_an_hour_nothing_is_lost(seed: int) -> None:
    run_kills(seed, HOUR_MS, AUDIT_MS)


def test_a_lease_is_fetched_audited_paid_ended_and_let_go_of() -> None:
    blob = Blob(random.Random(3).randbytes(2 * CHUNK_BYTES + 5))
    kept = Kept(seed=3, stores=3, blobs=[blob], factor=2, periods=2)
    network = kept.network
    ((key, _),) = kept.blobs.items()
    assert network.run_until(lambda: kept.is_whole)
    holders = kept.list_live(kept.leases[key])
    assert all(blob.cid in network.nodes[name].disk.pins for name in holders)

    assert network.run_until(lambda: key not in network.ledger.leases, limit_ms=4 * AUDIT_MS)

    answered = network.get_events("audit.answered")
    assert {event["node"] for event in answered} == set(holders)
    assert all(event["height"] for event in answered)
    network.run_for(2_000)
    assert not any(network.nodes[name].disk.pins for name in holders)
    assert network.find_violations() == []


def test_a_node_that_lost_a_block_fetches_it_in_time_for_its_audit() -> None:
    blob = Blob(random.Random(4).randbytes(50_000), chunk=10_000)
    kept = Kept(seed=4, stores=3, blobs=[blob], factor=2, periods=3)
    network = kept.network
    assert network.run_until(lambda: kept.is_whole)
    (lease,) = kept.leases.values()
    unlucky = kept.list_live(lease)[0]
    del network.nodes[unlucky].disk.blobs[blob.tree.cids[2].digest]

    assert network.run_until(lambda: bool(network.get_events("audit.lacking")), limit_ms=3 * AUDIT_MS)
    network.run_for(10_000)

    assert kept.has(unlucky, blob)
    assert all(not replica.misses and not replica.is_asked for replica in kept.leases[next(iter(kept.blobs))].replicas)


def test_a_lease_on_what_nobody_has_ends_with_a_refund() -> None:
    blob = Blob(b"gone" * 3_000)
    kept = Kept(seed=5, stores=3, blobs=[blob], factor=2)
    network = kept.network
    payer = network.nodes["client-0"]
    payer.disk.blobs.clear()
    before = network.balances["client-0"]

    assert network.run_until(lambda: bool(network.ledger.leases))
    assert network.run_until(lambda: not network.ledger.leases, limit_ms=2 * AUDIT_MS)

    assert before - network.balances["client-0"] == network.genesis.params.base_fee_min
    assert not any(offer.leased_bytes or offer.is_silent for offer in network.ledger.offers.values())


def count_audits_until_caught(seed: int) -> int:
    """Audits until a node that lacks a tenth of what it leased, and does not fetch it again, has missed one."""
    rng = random.Random(seed)
    blob = Blob(rng.randbytes(300_000), chunk=4_096)
    kept = Kept(seed, 3, [blob], factor=2, audit_ms=60_000, forgetful=("storage-0", "storage-1", "storage-2"))
    network = kept.network
    assert network.run_until(lambda: kept.is_whole)
    (lease,) = kept.leases.values()
    careless = kept.list_live(lease)[0]
    account = network.nodes[careless].keys.account.public
    leaves = blob.tree.cids[1:]
    for cid in rng.sample(leaves, -(-len(leaves) // 10)):
        del network.nodes[careless].disk.blobs[cid.digest]

    def is_caught() -> bool:
        work = network.ledger.work.get(account)
        return work is not None and work.void > 0

    assert network.run_until(is_caught, limit_ms=20 * 60_000)
    shown = [event for event in network.get_events("audit.answered") if event["node"] == careless and event["height"]]
    assert network.ledger.nodes[account].bond < network.genesis.params.get_bond_min("storage")
    return len(shown) + 1


def test_who_lacks_a_tenth_and_does_not_mend_it_is_fined_by_the_third_audit() -> None:
    assert count_audits_until_caught(seed=1) <= 3


@pytest.mark.full
def test_of_a_hundred_careless_nodes_ninety_five_are_caught_within_three_audits() -> None:
    counts = [count_audits_until_caught(seed) for seed in range(1_000, 1_100)]
    assert sum(count <= 3 for count in counts) >= 95, counts
