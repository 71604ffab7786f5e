"""Want-lists of peers are answered in turn, so that none can keep the others waiting."""

from types import SimpleNamespace

from protocol.content import BLOB_BYTES_MAX
from protocol.messages import Blob, GetBlob, GetStatus, Refused, WantBlocks, WantedBlocks
from roles.block_server import PER_PEER_MAX, READS_MAX, WAITING_MAX, BlockServer
from roles.store_effects import BlocksRead, ReadBlocks

A, B = b"a" * 32, b"b" * 32
WANTED = WantBlocks((bytes(32),))


class Server:
    """Replies come as (token, message)."""

    def __init__(self):
        courier = SimpleNamespace(reply_bare=lambda token, message: (token, message))
        self.server = BlockServer(courier)

    def ask(self, peer, token, question=WANTED):
        return self.server.on_asked(peer, token, question)

    def read(self, token, blocks=(b"data",), missing=()):
        reply, _, *reads = self.server.on_read(BlocksRead(token, blocks, missing))
        return reply, reads


def test_a_want_list_is_read_for_and_answered():
    server = Server()

    assert server.ask(A, "t") == [ReadBlocks("t", (bytes(32),), BLOB_BYTES_MAX)]
    reply, _ = server.read("t", (b"one", b""), (bytes(32),))

    assert reply == ("t", WantedBlocks((3, 0), b"one", (bytes(32),)))


def test_a_single_block_is_answered_as_such():
    server = Server()
    server.ask(A, "here", GetBlob(bytes(32)))
    server.ask(A, "gone", GetBlob(bytes(32)))

    assert server.read("here")[0] == ("here", Blob(b"data"))
    token, refused = server.read("gone", (), (bytes(32),))[0]
    assert (token, type(refused)) == ("gone", Refused)


def test_what_is_no_question_for_blocks_is_refused():
    ((token, refused),) = Server().ask(A, "t", GetStatus())

    assert (token, type(refused)) == ("t", Refused)


def test_a_peer_that_asks_for_much_waits_while_others_have_their_turn():
    server = Server()
    for number in range(PER_PEER_MAX):
        server.ask(A, f"a{number}")
    server.ask(B, "b0")

    served = []
    for number in range(3):
        _, reads = server.read(f"a{number}")
        served += [read.token for read in reads]

    assert len(served) == 3
    assert "b0" in served[:2]


def test_a_peer_has_only_so_many_want_lists_here_and_more_once_they_are_answered():
    server = Server()
    for number in range(PER_PEER_MAX):
        server.ask(A, f"a{number}")

    ((_, refused),) = server.ask(A, "more")
    assert refused.reason.startswith("busy")
    assert server.ask(B, "other") == []
    server.read("a0")
    assert server.ask(A, "more") == []


def test_only_so_many_wait_and_only_so_many_are_read_for_at_once():
    server = Server()
    outcomes = [server.ask(number.to_bytes(32), str(number)) for number in range(WAITING_MAX + READS_MAX + 1)]

    assert sum(bool(out) and isinstance(out[0], ReadBlocks) for out in outcomes) == READS_MAX
    assert isinstance(outcomes[-1][0][1], Refused)
