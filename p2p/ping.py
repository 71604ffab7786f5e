"""Answering pings, at a bounded rate. Source: libp2p ping 1.0.0: 32 bytes come, the same 32 go back."""

import trio
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.network.stream.net_stream import NetStream

from protocol.errors import RemoteError

PROTOCOL = "/ipfs/ping/1.0.0"
PING_BYTES = 32
BURST = 32.0  # pings of one stream at once; how many streams there are is the host's business
PER_S = 4.0  # and in the long run
WHOLE_S = 10.0  # for the rest of a ping whose beginning is here
IDLE_S = 60.0  # without a ping: the stream may go


class TooManyPings(RemoteError):
    """A peer does not ping to learn something."""


async def answer_pings(stream: NetStream) -> None:
    """Serve one stream until it ends. Raises TooManyPings."""
    left, since_s = BURST, trio.current_time()
    while True:
        data = b""
        with trio.move_on_after(IDLE_S):
            data = await _read_some(stream, PING_BYTES)
        with trio.move_on_after(WHOLE_S):
            while data and len(data) < PING_BYTES:
                more = await _read_some(stream, PING_BYTES - len(data))
                data = data + more if more else b""
        if len(data) < PING_BYTES:
            await stream.reset()
            return
        now_s = trio.current_time()
        left, since_s = min(BURST, left + (now_s - since_s) * PER_S) - 1.0, now_s
        if left < 0:
            raise TooManyPings(f"more than {PER_S:.0f} pings a second")
        await stream.write(data)


async def _read_some(stream: NetStream, size: int) -> bytes:
    try:
        return await stream.read(size)
    except StreamEOF:
        return b""
