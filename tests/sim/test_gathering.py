"""Files move between nodes of a whole network: shared out, around liars, and on after a crash."""

import random

import pytest

from protocol.messages import Blob, GetBlob, WantBlocks, WantedBlocks
from roles import core_effects as ce
from roles.role import Reply, Requested
from roles.storage import Storage
from roles.store_effects import FOR_EVER
from testnet.sim import simulate
from tests.roles.gathering_world import make_folder

ROLES = {"validator": 1, "storage": 4, "client": 1}
RNG = random.Random(1)
ROOT, BLOCKS = make_folder([[RNG.randbytes(20_000) for _ in range(120)] for _ in range(2)])
LIMIT_MS = 120_000


class LyingStorage(Storage):
    """Answers want-lists with other bytes of the right length."""

    protocols = ("blob",)

    def handle(self, event, now_ms):
        match event:
            case Requested(message=WantBlocks(digests), token=token):
                return [Reply(token, WantedBlocks((20_000,), bytes(20_000), ()))] if digests else []
            case Requested(message=GetBlob(), token=token):
                return [Reply(token, Blob(b""))]
        return []


def put(network, *names):
    for name in names:
        network.nodes[name].disk.blobs.update(BLOCKS)


def gather(network, name, sources):
    peers = tuple((network.nodes[source].keys.node.public, ()) for source in sources)
    network.nodes[name].handle(ce.GatherWanted(ROOT, peers, "", FOR_EVER))


def has_all(network, name):
    disk = network.nodes[name].disk
    return ROOT in disk.pins and set(BLOCKS) <= set(disk.blobs)


def test_a_node_gathers_a_folder_from_those_that_have_it_each_a_part():
    network = simulate(seed=3, roles=ROLES)
    network.run_until(5_000)
    put(network, "storage-0", "storage-1")

    gather(network, "storage-3", ["storage-0", "storage-1", "storage-2"])

    assert network.run_until(lambda: has_all(network, "storage-3"), LIMIT_MS)
    (gathered,) = network.get_events("store.gathered")
    shares = sorted(gathered["from"].values())
    assert len(shares) == 2
    assert min(shares) > sum(shares) / 4
    assert gathered["error"] == ""


def test_a_liar_is_penalised_and_the_rest_comes_from_others():
    options = {"storage-0": {"class": f"{__name__}:LyingStorage"}}
    network = simulate(seed=4, roles=ROLES, options=options)
    network.run_until(5_000)
    put(network, "storage-1")

    gather(network, "storage-3", ["storage-0", "storage-1"])

    assert network.run_until(lambda: has_all(network, "storage-3"), LIMIT_MS)
    liar = network.nodes["storage-0"].keys.node.public
    blamed = [event for event in network.get_events("peer.penalised") if "sent other bytes" in event["reason"]]
    assert [event["peer"] for event in blamed] == [liar.hex()]


@pytest.mark.parametrize("victim", ["storage-0", "storage-3"])
def test_a_crash_of_either_side_costs_only_what_had_not_come(victim):
    network = simulate(seed=5, roles=ROLES)
    network.run_until(5_000)
    put(network, "storage-0", "storage-1")
    target = network.nodes["storage-3"]
    gather(network, "storage-3", ["storage-0", "storage-1"])
    assert network.run_until(lambda: len(target.disk.blobs) > 20, LIMIT_MS)

    network.crash(victim)
    network.run_for(1_000)
    served = len(network.get_events("blob.served"))
    here = len(set(target.disk.blobs) & set(BLOCKS))
    network.start(victim)
    if victim == "storage-3":
        assert not has_all(network, victim)
        network.run_for(1_000)
        gather(network, "storage-3", ["storage-0", "storage-1"])

    assert network.run_until(lambda: has_all(network, "storage-3"), LIMIT_MS)
    later = sum(event["blocks"] for event in network.get_events("blob.served")[served:])
    assert later <= len(BLOCKS) - here + 60  # a want-list or two may be answered twice


def test_without_peers_named_the_storage_nodes_of_the_ledger_are_asked():
    network = simulate(seed=6, roles=ROLES)
    network.run_until(10_000)
    put(network, "storage-2")

    gather(network, "client-0", [])

    assert network.run_until(lambda: has_all(network, "client-0"), LIMIT_MS)


def test_what_nobody_has_is_given_up():
    network = simulate(seed=7, roles=ROLES)
    network.run_until(5_000)

    gather(network, "client-0", ["storage-0"])

    assert network.run_until(lambda: bool(network.get_events("store.gathered")), LIMIT_MS)
    (gathered,) = network.get_events("store.gathered")
    assert "nobody has it" in gathered["error"]
