"""A file or folder comes from several peers at once, whatever some of them do."""

import random

from hypothesis import given
from hypothesis import strategies as st

from protocol.cid import DAG_PB, RAW, Cid, compute_cid
from protocol.dag_pb import Link, Node, encode_node, write_number
from protocol.unixfs import FOLDER, TYPE_FIELD
from roles.file_gatherer import list_providers
from roles.gathering import ASKS_MAX, PROVIDERS_MAX, Finish, Gathering, GiveUp
from tests.roles.gathering_world import HONEST, LYING, MUDDLED, SILENT, Peer, World, make_folder, names
from tests.support.leases import Blob, Leases

LEAVES = [[bytes([file, leaf]) * 30 for leaf in range(40)] for file in range(2)]
ROOT, BLOCKS = make_folder(LEAVES)
DIGESTS = sorted(BLOCKS)

contents = st.lists(st.lists(st.binary(min_size=1, max_size=60), max_size=12), min_size=1, max_size=4)


@st.composite
def crowds(draw: st.DrawFn, blocks: dict[bytes, bytes]) -> dict[bytes, Peer]:
    """Honest peers of any speed that have everything between them, among others that do not help."""
    digests = sorted(blocks)
    honest = draw(st.integers(1, 3))
    owners = [draw(st.integers(0, honest - 1)) for _ in digests]
    # Who takes longest and fails besides is given up sooner than the others.
    paces = st.sampled_from([(1, 3), (20, 3), (300, 3), (5_000, 1)])
    peers = [
        Peer(
            blocks,
            takes_ms=takes_ms,
            lacks=frozenset(digest for digest, owner in zip(digests, owners, strict=True) if owner != place),
            fails=draw(st.integers(0, fails_max)),
        )
        for place, (takes_ms, fails_max) in enumerate(draw(paces) for _ in range(honest))
    ]
    kinds = draw(st.lists(st.sampled_from([LYING, SILENT, MUDDLED]), max_size=3))
    peers += [Peer(blocks, kind, takes_ms=draw(st.integers(1, 100))) for kind in kinds]
    return dict(zip(names(), draw(st.permutations(peers)), strict=False))


@given(data=st.data(), files=contents)
def test_what_honest_peers_have_between_them_comes_whoever_else_is_asked(data: st.DataObject, files) -> None:
    root, blocks = make_folder(files)
    world = World(root, data.draw(crowds(blocks)))

    assert world.run() == Finish()

    assert world.disk == blocks
    assert {world.peers[peer].kind for peer in world.blamed} <= {LYING, MUDDLED}


@given(data=st.data(), files=contents)
def test_what_is_here_already_is_not_asked_for(data: st.DataObject, files) -> None:
    root, blocks = make_folder(files)
    here = data.draw(st.sets(st.sampled_from(sorted(blocks))))
    peer = Peer(blocks)

    assert World(root, {bytes(32): peer}, {digest: blocks[digest] for digest in here}).run() == Finish()

    assert sorted(peer.sent) == sorted(set(blocks) - here)  # the rest once each
    assert set(peer.asked) == set(peer.sent)


@given(data=st.data())
def test_what_nobody_has_is_given_up_in_time_with_the_reason(data: st.DataObject) -> None:
    lost = data.draw(st.sampled_from(DIGESTS))
    kinds = data.draw(st.lists(st.sampled_from([HONEST, SILENT, LYING]), max_size=3))
    peers = dict(zip(names(), (Peer(BLOCKS, kind, lacks=frozenset((lost,))) for kind in kinds), strict=False))
    world = World(ROOT, peers)

    ended = world.run()

    assert isinstance(ended, GiveUp)
    assert not ended.is_hopeless
    assert lost not in world.disk


def test_equally_quick_peers_bring_equal_shares_and_quicker_ones_more() -> None:
    peers = dict(zip(names(), (Peer(BLOCKS, takes_ms=ms) for ms in (20, 20, 200)), strict=False))

    assert World(ROOT, peers).run() == Finish()

    first, second, slow = (len(peer.asked) for peer in peers.values())
    assert abs(first - second) <= 0.4 * max(first, second)
    assert slow < min(first, second) / 2


def test_a_peer_that_hangs_is_left_alone_and_does_not_hold_up_the_rest() -> None:
    peers = dict(zip(names(), (Peer(BLOCKS, SILENT), Peer(BLOCKS)), strict=False))
    world = World(ROOT, peers)

    assert world.run() == Finish()

    assert world.now_ms < 10_000
    assert world.blamed == {}


def test_the_only_peer_may_be_as_slow_as_it_likes() -> None:
    world = World(ROOT, {bytes(32): Peer(BLOCKS, takes_ms=20_000)})

    assert world.run() == Finish()


def test_one_slow_peer_that_has_it_is_enough_among_many_that_have_not() -> None:
    poor = [Peer(BLOCKS, takes_ms=1, lacks=frozenset(BLOCKS)) for _ in range(5)]
    world = World(ROOT, dict(zip(names(), [Peer(BLOCKS, takes_ms=9_000), *poor], strict=False)))

    assert world.run() == Finish()


def test_a_liar_is_blamed_once_and_its_blocks_are_asked_of_others() -> None:
    liar, honest = Peer(BLOCKS, LYING), Peer(BLOCKS)
    world = World(ROOT, {bytes([1]) * 32: liar, bytes([2]) * 32: honest})

    assert world.run() == Finish()

    assert list(world.blamed) == [bytes([1]) * 32]
    assert set(liar.asked) <= set(honest.asked)


def test_no_peer_has_more_want_lists_to_answer_than_its_share() -> None:
    world = World(ROOT, {bytes(32): Peer(BLOCKS, takes_ms=100)})
    gathering = world.gathering
    counts = []
    inner = world._ask
    world._ask = lambda *asked: (counts.append(gathering.providers[bytes(32)].asks), inner(*asked))

    assert world.run() == Finish()

    assert 1 < max(counts) <= ASKS_MAX


def test_a_want_list_takes_many_small_blocks() -> None:
    world = World(*_make_many())
    asks = []
    inner = world._ask
    world._ask = lambda number, peer, digests: (asks.append(len(digests)), inner(number, peer, digests))

    assert world.run() == Finish()

    assert max(asks) == 64


def _make_many() -> tuple[Cid, dict[bytes, Peer]]:
    root, blocks = make_folder([[b"%d" % number for number in range(300)]])
    return root, {bytes(32): Peer(blocks)}


def test_a_node_that_lies_about_what_is_below_it_is_not_followed_and_nobody_blamed() -> None:
    leaf = b"small"
    link = Link(compute_cid(RAW, leaf), "big", 2**40)
    data = encode_node(Node((link,), write_number(TYPE_FIELD, FOLDER)))
    root = compute_cid(DAG_PB, data)
    peer = Peer({root.digest: data, link.cid.digest: leaf})
    world = World(root, {bytes(32): peer})

    ended = world.run()

    assert isinstance(ended, GiveUp)
    assert ended.is_hopeless
    assert world.blamed == {}


def test_a_block_that_is_no_file_ends_it() -> None:
    data = b"\xff not a node"
    root = compute_cid(DAG_PB, data)
    world = World(root, {bytes(32): Peer({root.digest: data})})

    assert isinstance(world.run(), GiveUp)


def test_folders_inside_each_other_without_end_are_not_followed() -> None:
    root, blocks = make_folder([[b"x"]])
    size = sum(map(len, blocks.values())) + len(b"x")
    link = Link(root, "below", Gathering(root).total_bytes)
    world = World(root, {bytes(32): Peer(blocks)})
    assert world.run() == Finish()
    link = link._replace(dag_bytes=world.gathering.total_bytes)
    for _ in range(130):
        data = encode_node(Node((link,), write_number(TYPE_FIELD, FOLDER)))
        cid = compute_cid(DAG_PB, data)
        blocks[cid.digest] = data
        link = Link(cid, "below", len(data) + link.dag_bytes)

    ended = World(link.cid, {bytes(32): Peer(blocks)}).run()

    assert isinstance(ended, GiveUp)
    assert "128" in ended.reason
    assert size > 0


def test_with_nobody_to_ask_it_says_so() -> None:
    assert World(ROOT, {}).run() == GiveUp("nobody left to ask: no peer is known that keeps files")


def test_only_so_many_peers_are_kept() -> None:
    gathering = Gathering(ROOT)
    gathering.add_providers(bytes([number]) * 32 for number in range(PROVIDERS_MAX + 9))

    assert len(gathering.providers) == PROVIDERS_MAX


def test_of_many_storage_nodes_those_with_a_lease_on_it_are_among_the_ones_asked() -> None:
    net, blob = Leases(stores=PROVIDERS_MAX + 8), Blob(b"leased")
    key = net.open(blob, factor=2)
    net.accept(key, *net.list_offered(key))
    holders = {net.ledger.state.nodes[account].node for account in net.list_holding(key)}
    assert len(holders) == 2
    for seed in range(20):
        peers = list_providers(blob.cid, net.ledger.state, random.Random(seed))
        assert set(peers[:2]) == holders
        assert peers[2] == net.ledger.state.nodes[net.payer.public].node
        assert len(set(peers)) == len(peers) == PROVIDERS_MAX
