"""One test per change to libp2p: ours has the effect, and the stock code still needs it.

A failing `test_stock_…` half means upstream has changed: look whether our change can go.
"""

import importlib.metadata
import inspect
import logging
from typing import Any

import libp2p
import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.secp256k1 import create_new_key_pair as create_other_key_pair
from libp2p.io.trio import TrioTCPStream
from libp2p.network import swarm as stock_swarm
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.stream.exceptions import StreamError
from libp2p.network.stream.net_stream import NetStream
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID
from libp2p.security.noise import patterns
from libp2p.security.noise.io import BaseNoiseMsgReadWriter
from libp2p.security.noise.messages import NoiseHandshakePayload
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux import yamux
from libp2p.transport.tcp import tcp as stock_tcp

from p2p import hardening
from p2p.doors import HostLimits
from p2p.host import open_host
from p2p.listening import PortInUse
from p2p.muxed import Muxed
from p2p.secured import RecordSession
from p2p.stream_limits import OPEN_MAX
from p2p.wire import GREETING, BufferedTCP
from p2p.yamux_words import INITIAL_WINDOW, YamuxLimits
from protocol.errors import LocalError
from tests.p2p.loopback import join, run, running_host, until

ECHO = "/echo/1"


def source(thing: Any) -> str:
    return inspect.getsource(thing)


def test_another_version_of_libp2p_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert importlib.metadata.version("libp2p") == hardening.LIBP2P_VERSION
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.9.0")
    with pytest.raises(LocalError, match=r"0\.9\.0"):
        hardening.harden()


def test_libp2p_is_quiet_about_every_frame() -> None:
    hardening.harden()
    for name in ("libp2p", "multiaddr"):
        assert not logging.getLogger(name).isEnabledFor(logging.INFO)
    assert "logger.debug" in source(yamux.Yamux._write_frame)


def test_an_inbound_connection_gives_its_slot_back() -> None:
    stock = source(stock_swarm.Swarm._do_handle_inbound_connection)
    assert "await self.manager.wait_finished()" in stock, "stock no longer holds a slot for ever"

    async def main() -> None:
        async with running_host(1, HostLimits(connections_max=3)) as (server, _):
            for number in range(2, 10):
                async with running_host(number) as (client, _):
                    await join(client, server)
                await until(lambda: server.peers() == ())

    run(main)


def test_what_a_handler_raises_costs_its_stream_alone() -> None:
    served = source(SwarmConn._handle_muxed_stream).split("common_stream_handler")[1]
    assert "except" not in served, "stock has a firewall around handlers now"

    async def main() -> None:
        async with running_host(1) as (server, log), running_host(2) as (client, _):

            async def explode(stream: Any) -> None:
                raise RuntimeError("no handler may do this")

            server.serve(ECHO, explode)
            await join(client, server)
            for count in (1, 2):
                stream = await client.open_stream(server.node, ECHO)
                with pytest.raises(Exception):  # noqa: B017 (whichever way stock says "reset")
                    await stream.read(1)
                await until(lambda count=count: len(log.faults) == count)  # type: ignore[misc]
            assert log.faults[0] == (client.node, "RuntimeError('no handler may do this')")
            assert server.peers() == (client.node,)

    run(main)


def test_noise_is_the_only_security_offered() -> None:
    offered = libp2p.new_host().get_network().upgrader.security_multistream.transports  # type: ignore[attr-defined]
    assert PLAINTEXT_PROTOCOL_ID in offered, "stock no longer offers plaintext"

    async def main() -> list[str]:
        async with running_host(1) as (host, _):
            return list(host.swarm.upgrader.security_multistream.transports)

    assert run(main) == ["/noise"]


def test_a_dial_and_a_hang_up_wait_for_nothing() -> None:
    assert stock_swarm._HAPPY_EYEBALLS_DELAY == 0.25, "stock no longer waits 250 ms per dial"
    assert "trio.sleep(0.1)" in source(SwarmConn._cleanup), "stock no longer sleeps at a disconnect"
    assert "trio.sleep(0.1)" in source(yamux.Yamux.close)

    async def main() -> list[float]:
        rounds = []
        async with running_host(1) as (server, _), running_host(2) as (client, _):
            for _round in range(5):
                start = trio.current_time()
                await join(client, server)
                await client.hang_up(server.node)
                rounds.append(trio.current_time() - start)
                await until(lambda: server.peers() == ())
        return rounds

    assert min(run(main)) < 0.1


def test_a_peer_that_failed_can_be_dialled_again_at_once() -> None:
    assert "_negative_peer_cache.is_blocked" in source(stock_swarm.Swarm.dial_peer)

    async def main() -> None:
        async with running_host(1) as (client, _):
            async with running_host(2) as (server, _):
                node, addresses = server.node, server.addresses
            assert not await client.dial(node, addresses)
            async with running_host(2) as (server, _):
                await join(client, server)

    run(main)


def test_connections_run_over_our_muxer() -> None:
    assert "yamux_conn = Yamux(" in source(MuxerMultistream.new_conn), "stock takes the muxer class it is given now"

    async def main() -> None:
        async with running_host(1) as (server, _), running_host(2) as (client, _):
            await join(client, server)
            (conns,) = client.swarm.connections.values()
            muxed = conns[0].muxed_conn
            assert type(muxed) is Muxed
            assert type(muxed.secured_conn) is RecordSession
            assert (muxed.negotiated_security_protocol, muxed.negotiated_muxer_protocol) == ("/noise", "/yamux/1.0.0")

    run(main)


def test_stock_still_needs_a_lock_for_each_read_and_a_write_for_each_record() -> None:
    for method in (NetStream.read, NetStream.write):
        assert source(method).count("async with self._state_lock") >= 2, (
            "stock streams read and write without locks now"
        )
    assert "await self.read_writer.write_msg" in source(BaseNoiseMsgReadWriter.write_msg).split("while written")[1]

    async def main() -> None:
        async with running_host(1) as (server, _), running_host(2) as (client, _):
            await join(client, server)
            ((conn,),) = client.swarm.connections.values()
            assert type(await conn.new_stream()) is hardening.LeanStream

    run(main)


def test_a_peer_that_overruns_its_window_is_hung_up_on() -> None:
    assert "peer exceeded" in source(yamux.Yamux.handle_incoming), "stock enforces the window now"

    async def main() -> None:
        async with running_host(1) as (server, _), running_host(2) as (client, _):

            async def hold(stream: Any) -> None:
                await trio.sleep_forever()

            server.serve(ECHO, hold)
            await join(client, server)
            stream = await client.open_stream(server.node, ECHO)
            muxed = stream.muxed_stream
            muxed.muxed_conn._session._streams[muxed.stream_id].send_window = 10 * INITIAL_WINDOW  # type: ignore[attr-defined]
            with pytest.raises(StreamError):
                await stream.write(bytes(4 * INITIAL_WINDOW))
            await until(lambda: server.peers() == ())

    run(main)


def test_a_peer_may_open_only_so_many_streams() -> None:
    async def main() -> None:
        async with running_host(1) as (server, _), running_host(2) as (client, _):

            async def hold(stream: Any) -> None:
                await trio.sleep_forever()

            others = YamuxLimits().streams_inbound_max // OPEN_MAX - 1
            protocols = [ECHO, *(f"/hold/{number}" for number in range(others))]
            for protocol in protocols:
                server.serve(protocol, hold)
            await join(client, server)
            for protocol in protocols * OPEN_MAX:
                await client.open_stream(server.node, protocol)
            with pytest.raises(Exception, match=r"serve|broke"):
                await client.open_stream(server.node, ECHO)
            assert server.peers() == (client.node,)

    run(main)


class Socket:
    """Counts how often the kernel is asked."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.calls = 0

    async def receive_some(self, n: int | None = None) -> bytes:
        self.calls += 1
        data, self.data = self.data[:n], self.data[n or len(self.data) :]
        return data


def test_reads_are_made_ahead() -> None:
    async def main(make: Any) -> tuple[int, bytes]:
        socket = Socket(GREETING + b"\0\2")
        stream = make(socket)
        read = await stream.read(1) + await stream.read(len(GREETING) - 1) + await stream.read(2)
        return socket.calls, read

    assert run(lambda: main(TrioTCPStream))[0] == 3, "stock reads ahead now"
    assert run(lambda: main(BufferedTCP)) == (1, GREETING + b"\0\2")


def test_a_handshake_with_any_key_but_ed25519_ends_before_the_key_is_used() -> None:
    hardening.harden()
    other = NoiseHandshakePayload(create_other_key_pair().public_key, b"signature").serialize()
    ours = NoiseHandshakePayload(create_new_key_pair(bytes(32)).public_key, b"signature").serialize()
    assert NoiseHandshakePayload.deserialize(other).id_pubkey is not None, "stock refuses other keys now"
    assert patterns.NoiseHandshakePayload is hardening.Ed25519Payload  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="Ed25519"):
        hardening.Ed25519Payload.deserialize(other)
    assert hardening.Ed25519Payload.deserialize(ours).id_sig == b"signature"


def test_a_port_in_use_is_an_error_before_anything_starts() -> None:
    assert "_set_reuse_flags(sock)" in source(stock_tcp._open_reuseport_listeners), "stock no longer shares ports"

    async def main() -> None:
        async with running_host(1) as (first, _):
            with pytest.raises(PortInUse) as caught:
                async with open_host(bytes(32), "127.0.8.1", first.port, HostLimits(), print, print, print):
                    pass
            assert (caught.value.host, caught.value.port) == ("127.0.8.1", first.port)
            assert str(first.port) in str(caught.value)

    run(main)


def test_two_peers_that_dial_each_other_at_once_end_up_with_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardening, "RETIRE_S", 0.05)

    async def main() -> None:
        async with running_host(1) as (a, a_log), running_host(2) as (b, b_log):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(a.dial, b.node, b.addresses)
                nursery.start_soon(b.dial, a.node, a.addresses)

            def counts() -> list[int]:
                return [len(conns) for host in (a, b) for conns in host.swarm.connections.values()]

            await until(lambda: counts() == [1, 1])
            assert (a_log.ups, b_log.ups) == ([b.node], [a.node])
            assert (a_log.downs, b_log.downs) == ([], [])

    run(main)


def test_half_open_connections_do_not_keep_an_honest_peer_out() -> None:
    async def main() -> None:
        limits = HostLimits(half_open_max=8, handshake_s=0.3)
        async with running_host(1, limits) as (server, _), running_host(2) as (client, _):
            sockets = [await trio.open_tcp_stream("127.0.8.1", server.port) for _ in range(30)]
            await until(lambda: server.doors.half_open.total() == 8)
            with trio.fail_after(2):
                while not await client.dial(server.node, server.addresses):
                    await trio.lowlevel.checkpoint()
            for socket in sockets:
                await trio.aclose_forcefully(socket)

    run(main)


def test_one_address_holds_only_so_many_connections_unless_it_is_trusted() -> None:
    async def count(trusted: tuple[str, ...]) -> int:
        limits = HostLimits(per_address_max=2, trusted=trusted)
        async with running_host(1, limits) as (server, _), trio.open_nursery() as nursery:
            for number in range(2, 7):
                nursery.start_soon(_dial_and_stay, number, server)
            joined = 5 if trusted else 2
            await until(lambda: len(server.peers()) == joined)
            nursery.cancel_scope.cancel()
            return len(server.peers())

    assert run(lambda: count(())) == 2
    assert run(lambda: count(("127.0.9.0/24",))) == 5


async def _dial_and_stay(number: int, server: Any) -> None:
    async with running_host(number, address="127.0.9.9") as (client, _):
        await client.dial(server.node, server.addresses)
        await trio.sleep_forever()
