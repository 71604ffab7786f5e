"""How a stream that a peer opened gets its protocol: multistream-select, the answering side, with bounds.

Stock reads lines of a megabyte, tries any number of names, and blames nobody for junk. Source: multistream-select 1.0;
the bound on a line is js-libp2p's MAX_PROTOCOL_LENGTH.
"""

from collections.abc import Mapping
from typing import TypeVar

import trio
from libp2p.network.stream.net_stream import NetStream

from p2p.protobuf import write_varint
from protocol.errors import RemoteError

LINE_BYTES_MAX = 1_024
NAMES_MAX = 32  # tried on one stream; an honest peer tries the few versions it speaks
NEGOTIATE_S = 5.0
HELLO = "/multistream/1.0.0"
UNKNOWN = "na"

Handler = TypeVar("Handler")


class BadNegotiation(RemoteError):
    """What a peer sends on a new stream is no multistream-select."""


async def negotiate(stream: NetStream, handlers: Mapping[str, Handler]) -> tuple[str, Handler]:
    """The protocol a peer chose and what handles it, within NEGOTIATE_S.

    Raises BadNegotiation, TooSlowError, and IOException when the stream ends.
    """
    with trio.fail_after(NEGOTIATE_S):
        await _write_line(stream, HELLO)
        if (first := await _read_line(stream)) != HELLO:
            raise BadNegotiation(f"a stream that begins with {first[:40]!r}")
        for _ in range(NAMES_MAX):
            name = await _read_line(stream)
            if name in handlers:
                await _write_line(stream, name)
                return name, handlers[name]
            await _write_line(stream, UNKNOWN)
    raise BadNegotiation(f"more than {NAMES_MAX} protocols we do not serve, asked for on one stream")


async def _write_line(stream: NetStream, line: str) -> None:
    data = line.encode() + b"\n"
    await stream.write(write_varint(len(data)) + data)


async def _read_line(stream: NetStream) -> str:
    # Not a byte more than the line: what follows the last one is the protocol's own.
    size = shift = 0
    while True:
        (byte,) = await stream.read(1)
        size |= (byte & 0x7F) << shift
        shift += 7
        if size > LINE_BYTES_MAX or shift > 14:
            raise BadNegotiation(f"a line of {size} bytes or more, at most {LINE_BYTES_MAX}")
        if byte < 0x80:
            break
    data = b""
    while len(data) < size:
        data += await stream.read(size - len(data))
    if not data.endswith(b"\n"):
        raise BadNegotiation("a line without an end")
    return data[:-1].decode("utf-8", "replace")
