"""A node's core alone: what it says at birth, whom it answers, and what it makes of junk."""

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from p2p.net import Answered, Asked, Delivered, PeerConnected, Unanswered
from protocol.bare import wrap
from protocol.codec import encode
from protocol.content import compute_digest, format_cid
from protocol.envelope import decode_body, decode_envelope, seal_message
from protocol.held import Held
from protocol.keys import PrivateKey
from protocol.ledger.genesis import compute_chain_id
from protocol.ledger.transactions import Transfer
from protocol.messages import (
    Advert,
    Blob,
    Blocks,
    CertifiedBlock,
    GetBlocks,
    GetStatus,
    Head,
    Refused,
    Status,
    Transactions,
    WantBlocks,
    WantedBlocks,
)
from protocol.registry import register_protocol, temporary_registrations
from protocol.topics import protocol_name, topic_name
from protocol.types import NodeState, Verdict
from protocol.unixfs import make_leaf
from roles import core_effects as ce
from roles.core import CoreSettings, NodeCore
from roles.gathering import STRIKES_MAX
from roles.presence import list_topics
from roles.registry import load_role
from roles.role import (
    Context,
    Fetched,
    Gather,
    Gathered,
    LedgerAdvanced,
    Publish,
    Published,
    Reply,
    Request,
    Requested,
    Role,
    Started,
)
from roles.store_effects import BlocksRead, Kept, LookedUp, LookUp, PinGathered, Pinned, ReadBlocks
from tests.support.core_parts import GENESIS_MS, make_parts
from tests.support.jobs import get_keys, sign_transaction
from tests.support.verdicts import settle

PARTS = make_parts()
CHAIN = compute_chain_id(PARTS.foundation.genesis)
PEER = PrivateKey(b"p" * 32)
NOW_MS = GENESIS_MS + 1_000


class Recorder(Role):
    """Notes every event; answers with what it is told to."""

    name = "recorder"
    topics = ("heads-up",)
    protocols = ("record",)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.events: list[Any] = []
        self.answers: list[Any] = []

    def handle(self, event: Any, now_ms: int) -> list[Any]:
        self.events.append(event)
        answers, self.answers = self.answers, []
        return answers


def make_core(
    name: str = "storage-0",
    roles: Iterable[Role] | None = None,
    bootstrap: tuple[tuple[bytes, tuple[str, ...]], ...] = (),
) -> NodeCore:
    node, account = get_keys(PARTS.foundation, name)
    vote_seed = PARTS.foundation.nodes[name].vote
    keys = ce.NodeKeys(node, account, PrivateKey.from_seed(vote_seed) if vote_seed else None)
    context = Context({}, node, account, random.Random(1), keys.vote)
    chosen = list(roles) if roles is not None else [load_role(name.rpartition("-")[0])(context)]
    restored = ce.Restored(1, None, {}, lambda height: None)
    return NodeCore(CoreSettings(CHAIN, bootstrap), keys, chosen, PARTS.foundation.genesis, restored, random.Random(1))


def make_recorder(name: str = "storage-0") -> Recorder:
    node, account = get_keys(PARTS.foundation, name)
    return Recorder(Context({}, node, account, random.Random(1)))


def ask(message: Any, protocol: str, sender: PrivateKey = PEER, peer: PrivateKey = PEER) -> Asked:
    data = seal_message(sender, CHAIN, message, 1, 1, NOW_MS)
    return Asked(protocol_name(CHAIN, protocol), peer.public, data, "s1")


def get_reply(effects: Iterable[Any]) -> Any:
    reply = next(effect for effect in effects if isinstance(effect, ce.NetReply))
    return decode_body(decode_envelope(reply.data, CHAIN, 4_000_000))


def test_at_birth_it_listens_serves_learns_and_starts_its_roles():
    role = make_recorder()
    core = make_core(roles=[role])

    effects = core.handle(ce.Boot(("/ip4/127.0.0.1/tcp/1",)), NOW_MS)

    topics = [effect.topic for effect in effects if isinstance(effect, ce.NetSubscribe)]
    assert topics == [topic_name(CHAIN, short) for short in ("heads", "heads-up", "node")]
    served = [effect.protocol for effect in effects if isinstance(effect, ce.NetServe)]
    assert served == [protocol_name(CHAIN, short) for short in ("blob", "record", "status", "sync")]
    assert isinstance(role.events[0], Started)


def test_at_birth_it_learns_where_the_network_file_says_peers_are_but_not_itself():
    known = ((PEER.public, ("/ip4/127.0.0.8/tcp/1",)), (get_keys(PARTS.foundation, "storage-0")[0].public, ("x",)))
    core = make_core(bootstrap=known)

    effects = core.handle(ce.Boot(()), NOW_MS)

    assert [effect for effect in effects if isinstance(effect, ce.NetLearn)] == [ce.NetLearn(*known[0])]


def test_a_validator_that_decides_alone_serves_without_waiting_for_peers():
    core = make_core("validator-0")

    core.handle(ce.Boot(()), NOW_MS)

    assert core.state is NodeState.SERVING


def test_others_sync_first_and_serve_when_a_peer_has_nothing_newer():
    core = make_core("storage-0")
    core.handle(ce.Boot(()), NOW_MS)
    core.handle(PeerConnected(PEER.public), NOW_MS)
    assert core.state is NodeState.SYNCING

    asked = next(item for item in core.handle(ce.Woke("sync"), NOW_MS) if isinstance(item, ce.NetRequest))
    answer = seal_message(PEER, CHAIN, Blocks(0, ()), 1, 1, NOW_MS)
    core.handle(Answered(asked.token, answer), NOW_MS)

    assert core.state is NodeState.SERVING


def test_an_answer_signed_by_somebody_else_costs_the_peer_and_is_not_believed():
    core = make_core("storage-0")
    core.handle(ce.Boot(()), NOW_MS)
    core.handle(PeerConnected(PEER.public), NOW_MS)
    asked = next(item for item in core.handle(ce.Woke("sync"), NOW_MS) if isinstance(item, ce.NetRequest))

    forged = seal_message(PrivateKey(b"x" * 32), CHAIN, Blocks(0, ()), 1, 1, NOW_MS)
    effects = core.handle(Answered(asked.token, forged), NOW_MS)

    assert [effect.peer for effect in effects if isinstance(effect, ce.NetPenalise)] == [PEER.public]
    assert core.state is NodeState.SYNCING


def test_status_is_answered_by_the_core_itself():
    core = make_core()
    core.handle(ce.Boot(()), NOW_MS)

    status = get_reply(core.handle(ask(GetStatus(), "status"), NOW_MS))

    assert isinstance(status, Status)
    assert (status.roles, status.height) == (("storage",), 0)


@pytest.mark.parametrize(
    ("message", "protocol", "sender"),
    [
        (GetStatus(), "status", PrivateKey(b"x" * 32)),  # not the peer's own
        (GetBlocks(1), "status", PEER),  # not carried there
    ],
)
def test_a_wrong_question_is_refused_and_costs_its_sender(message: Any, protocol: str, sender: PrivateKey):
    core = make_core()
    core.handle(ce.Boot(()), NOW_MS)

    effects = core.handle(ask(message, protocol, sender), NOW_MS)

    assert isinstance(get_reply(effects), Refused)
    assert [effect.peer for effect in effects if isinstance(effect, ce.NetPenalise)] == [PEER.public]


@pytest.mark.parametrize("junk", [b"", b"\xc1", b"\x90", bytes(70_000)])
def test_junk_on_a_topic_is_rejected_and_junk_on_a_stream_refused(junk: bytes):
    core = make_core()
    core.handle(ce.Boot(()), NOW_MS)

    assert settle(core.check(topic_name(CHAIN, "node"), junk, PEER.public, NOW_MS)) is Verdict.REJECT
    effects = core.handle(Asked(protocol_name(CHAIN, "sync"), PEER.public, junk, "s1"), NOW_MS)
    assert isinstance(get_reply(effects), Refused)


def make_advert(boot: int = 1, seq: int = 1, time_ms: int = NOW_MS) -> bytes:
    advert = Advert(PEER.public, ("storage",), "serving", (), ("/ip4/127.0.0.9/tcp/4001",), 0, 0, 0)
    return seal_message(PEER, CHAIN, advert, boot, seq, time_ms)


def test_an_advert_teaches_an_address_once():
    core = make_core()
    core.handle(ce.Boot(()), NOW_MS)
    topic, data = topic_name(CHAIN, "node"), make_advert()

    assert settle(core.check(topic, data, PEER.public, NOW_MS)) is Verdict.ACCEPT
    effects = core.handle(Delivered(topic, data, PEER.public), NOW_MS)

    assert ce.NetLearn(PEER.public, ("/ip4/127.0.0.9/tcp/4001",)) in effects
    assert settle(core.check(topic, data, PEER.public, NOW_MS)) is Verdict.IGNORE
    assert core.handle(Delivered(topic, data, PEER.public), NOW_MS) == []


def test_an_advert_teaches_what_a_peer_listens_to():
    core = make_core()
    core.handle(ce.Boot(()), NOW_MS)
    addresses = ("/ip4/127.0.0.9/tcp/4001",)
    advert = Advert(PEER.public, ("validator",), "serving", (), addresses, 0, 0, 0)
    topic, data = topic_name(CHAIN, "node"), seal_message(PEER, CHAIN, advert, 1, 1, NOW_MS)

    assert settle(core.check(topic, data, PEER.public, NOW_MS)) is Verdict.ACCEPT
    effects = core.handle(Delivered(topic, data, PEER.public), NOW_MS)

    topics = tuple(topic_name(CHAIN, short) for short in list_topics(PEER.public, advert))
    assert topics
    assert ce.NetLearn(PEER.public, addresses, topics) in effects


def test_what_was_sent_long_ago_is_ignored_and_a_forged_copy_silences_nobody():
    core = make_core()
    core.handle(ce.Boot(()), NOW_MS)
    topic, honest = topic_name(CHAIN, "node"), make_advert()
    forged = honest[:-1] + bytes([honest[-1] ^ 1])

    assert settle(core.check(topic, make_advert(seq=7, time_ms=NOW_MS - 60_000), PEER.public, NOW_MS)) is Verdict.IGNORE
    assert settle(core.check(topic, forged, PEER.public, NOW_MS)) is Verdict.REJECT
    assert settle(core.check(topic, honest, PEER.public, NOW_MS)) is Verdict.ACCEPT


def test_a_head_makes_it_fetch_the_block_and_commit_before_its_roles_hear_of_it():
    validator, role = make_core("validator-0"), make_recorder()
    core = make_core("storage-0", [role])
    for node in (validator, core):
        node.handle(ce.Boot(()), NOW_MS)
    validator_key, _ = get_keys(PARTS.foundation, "validator-0")
    core.handle(PeerConnected(validator_key.public), NOW_MS)
    decided = decide_a_block(validator)

    topic = topic_name(CHAIN, "heads")
    head = seal_message(validator_key, CHAIN, Head(decided.block.header, decided.certificate), 1, 9, NOW_MS)
    assert settle(core.check(topic, head, validator_key.public, NOW_MS)) is Verdict.ACCEPT
    asked = next(
        item
        for item in core.handle(Delivered(topic, head, validator_key.public), NOW_MS)
        if isinstance(item, ce.NetRequest)
    )
    answer = seal_message(validator_key, CHAIN, Blocks(1, (decided,)), 1, 10, NOW_MS)
    role.answers = [Publish("heads-up", GetStatus())]
    effects = core.handle(Answered(asked.token, answer), NOW_MS)

    assert core.ledger.height == 1
    assert isinstance(role.events[-1], LedgerAdvanced)
    kinds = [type(effect) for effect in effects if isinstance(effect, ce.Commit | ce.NetPublish)]
    assert kinds[:2] == [ce.Commit, ce.NetPublish]


def decide_a_block(validator: NodeCore) -> CertifiedBlock:
    """Have the validator order one transfer."""
    _, account = get_keys(PARTS.foundation, "client-0")
    transfer = sign_transaction(validator.ledger, account, Transfer(bytes(31) + b"\1", 5))
    validator.handle(ask(Transactions((encode(transfer),)), "txs"), NOW_MS)
    effects = validator.handle(ce.Woke("0:wake"), NOW_MS + 1_000)
    commit = next(effect for effect in effects if isinstance(effect, ce.Commit))
    return CertifiedBlock(commit.block, commit.certificate)


def test_roles_of_one_node_talk_without_the_network():
    recorder, other = make_recorder(), make_recorder()
    other.protocols = ("infer",)
    recorder.answers = [Request(recorder.context.signer.public, "infer", GetStatus(), "mine")]
    other.answers = []
    core = make_core(roles=[recorder, other])

    effects = core.handle(ce.Boot(()), NOW_MS)

    assert not [effect for effect in effects if isinstance(effect, ce.NetRequest)]
    asked = next(event for event in other.events if isinstance(event, Requested))
    other.answers = [Reply(asked.token, Refused("not today"))]
    core.handle(PeerConnected(PEER.public), NOW_MS)
    answer = recorder.events[-1]
    assert (answer.token, answer.message) == ("mine", Refused("not today"))


def test_a_question_for_a_role_is_answered_by_that_role():
    role = make_recorder()
    core = make_core(roles=[role])
    core.handle(ce.Boot(()), NOW_MS)
    role.answers = [Reply("s1", Refused("not today"))]

    with temporary_registrations():
        register_protocol("record", frozenset({0x0241}), ("recorder",), "for this test")
        reply = get_reply(core.handle(ask(GetStatus(), "record"), NOW_MS))

    assert reply == Refused("not today")
    assert isinstance(role.events[-1], Requested)


def test_an_unanswered_request_comes_back_to_the_role_that_asked():
    role = make_recorder()
    core = make_core(roles=[role])
    role.answers = [Request(PEER.public, "blob", GetStatus(), "mine|with|bars")]
    asked = next(item for item in core.handle(ce.Boot(()), NOW_MS) if isinstance(item, ce.NetRequest))

    core.handle(Unanswered(asked.token, "no route"), NOW_MS)

    failed = role.events[-1]
    assert (failed.peer, failed.token, failed.reason) == (PEER.public, "mine|with|bars", "no route")


def test_a_role_hears_nothing_of_blobs_it_did_not_ask_for():
    role = make_recorder()
    core = make_core(roles=[role])
    core.handle(ce.Boot(()), NOW_MS)

    core.handle(ce.BlobLoaded(bytes(32), b"data"), NOW_MS)

    assert not any(isinstance(event, Fetched) for event in role.events)


def test_a_message_too_large_for_gossip_costs_its_role_the_message_only():
    role = make_recorder()
    core = make_core(roles=[role])
    role.answers = [Publish("heads-up", Blob(bytes(70_000)), "big")]

    effects = core.handle(ce.Boot(()), NOW_MS)

    assert not [effect for effect in effects if isinstance(effect, ce.NetPublish)]
    assert "message.too_large" in [effect.name for effect in effects if isinstance(effect, ce.Log)]
    assert role.events[-1] == Published("heads-up", "big", 0)


def test_an_advert_says_whom_to_dial_for_which_topic() -> None:
    advert = Advert(
        account=bytes(32),
        roles=("inference",),
        state="serving",
        models=(bytes(32),),
        addresses=(),
        price=0,
        load=0,
        height=0,
    )
    node = bytes([0b0011_1111]) * 32
    assert list_topics(node, advert) == ("infer/0", "proofs/3")
    assert list_topics(node, replace(advert, roles=("validator", "client"))) == ("consensus", "txs")
    assert list_topics(node, replace(advert, roles=("client",))) == ()


def test_a_blob_the_operator_wants_is_looked_up_and_what_became_of_it_is_known():
    core = make_core()
    data = b"model"
    cid = format_cid(compute_digest(data))
    core.wants.open(cid)

    assert ce.LoadBlob(compute_digest(data)) in core.handle(ce.Want(compute_digest(data)), NOW_MS)
    core.handle(ce.BlobLoaded(compute_digest(data), data), NOW_MS)

    assert core.wants.describe(cid)["state"] == "held"


def test_any_node_is_asked_for_blocks_and_answers_when_they_are_read():
    core = make_core("client-0")
    core.handle(ce.Boot(()), NOW_MS)
    digest = compute_digest(b"data")

    asked = Asked(protocol_name(CHAIN, "blob"), PEER.public, wrap(CHAIN, WantBlocks((digest,))), "s1")
    (read,) = core.handle(asked, NOW_MS)
    reply, _ = core.handle(BlocksRead(read.token, (b"data",), ()), NOW_MS)

    assert isinstance(read, ReadBlocks)
    assert reply == ce.NetReply("s1", wrap(CHAIN, WantedBlocks((4,), b"data", ())))


def test_a_role_has_a_file_gathered_from_peers_it_names_and_hears_how_it_ended():
    role = make_recorder()
    core = make_core(roles=[role])
    leaf = make_leaf(b"data")
    role.answers = [Gather(str(leaf.cid), (PEER.public,), "mine", 99)]

    looks = [effect for effect in core.handle(ce.Boot(()), NOW_MS) if isinstance(effect, LookUp)]
    (token,) = {look.token for look in looks}
    (asked,) = core.handle(LookedUp(token, (), (leaf.cid,)), NOW_MS)
    assert (asked.peer, asked.protocol) == (PEER.public, protocol_name(CHAIN, "blob"))
    (keep,) = core.handle(Answered(asked.token, wrap(CHAIN, WantedBlocks((4,), b"data", ()))), NOW_MS)
    assert [(cid, bytes(data)) for cid, data in keep.blocks] == [(leaf.cid, b"data")]
    (pin,) = core.handle(Kept(token, keep.number, (Held(leaf.cid, 4),)), NOW_MS)
    assert pin == PinGathered(token, leaf.cid, "mine", 99)
    core.handle(Pinned(token), NOW_MS)

    assert role.events[-1] == Gathered(str(leaf.cid), 1, 4)


def test_what_the_operator_wants_gathered_is_asked_of_the_storage_nodes_and_its_state_is_known():
    core = make_core("client-0")
    core.handle(ce.Boot(()), NOW_MS)
    leaf = make_leaf(b"data")
    core.gathers.open(str(leaf.cid))

    _, look = core.handle(ce.GatherWanted(leaf.cid, (), "", 99), NOW_MS)
    assert core.get_progress(leaf.cid) == (0, 0, 0)
    (asked,) = core.handle(LookedUp(look.token, (), (leaf.cid,)), NOW_MS)
    assert asked.peer == get_keys(PARTS.foundation, "storage-0")[0].public
    for number in range(STRIKES_MAX):
        effects = core.handle(Unanswered(asked.token, "no route"), NOW_MS + number * 10_000)
        effects += core.handle(ce.Woke(f"gather:{look.token}"), NOW_MS + (number + 1) * 10_000)
        asked = next((effect for effect in effects if isinstance(effect, ce.NetRequest)), asked)

    assert core.gathers.describe(str(leaf.cid)) == {
        "cid": str(leaf.cid),
        "state": "missing",
        "reason": "nobody left to ask: 1 asked; no route",
    }
    assert core.get_progress(leaf.cid) is None
