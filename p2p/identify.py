"""Asks a connected peer for its signed record, by libp2p's identify. Our own answer is py-libp2p's."""

import trio
from libp2p.io.exceptions import IOException

from p2p.host import Host
from p2p.host_streams import StreamRefused
from p2p.peer_records import read_record
from p2p.protobuf import read_fields, read_varint
from protocol.errors import RemoteError

PROTOCOL = "/ipfs/id/1.0.0"
ANSWER_S = 5.0
ANSWER_BYTES_MAX = 16 * 1024
_FIELDS_MAX = 256
_SIGNED_RECORD = 8


async def fetch_record(host: Host, node: bytes) -> bytes:
    """A peer's record, verified to be its own and to name an address; empty when it gives none."""
    try:
        stream = await host.open_stream(node, PROTOCOL)
    except StreamRefused:
        return b""
    data = b""
    with trio.move_on_after(ANSWER_S):
        try:
            while len(data) <= ANSWER_BYTES_MAX and (more := await stream.read(ANSWER_BYTES_MAX)):
                data += more
        except IOException:
            pass  # it ended, one way or another: what came is whole, or is no record
    with trio.CancelScope(shield=True):
        await stream.reset()
    return find_record(data, node)


def find_record(answer: bytes, node: bytes) -> bytes:
    """The signed record in an answer to identify, if it is this node's and names an address."""
    try:
        length, at = read_varint(answer, 0)
        fields = read_fields(answer[at : at + length], _FIELDS_MAX)
        found = next((value for number, _, value in fields if number == _SIGNED_RECORD), b"")
        signer, addresses = read_record(found)
    except (IndexError, RemoteError):
        return b""
    return found if signer == node and addresses else b""
