"""Where callers come in: asked who they are by the doors and by whoever guards them, then upgraded in good time."""

from collections.abc import Callable
from functools import partial

import trio
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID

from p2p.addresses import normalise_ip
from p2p.doors import Doors, Held, HostLimits
from p2p.hardening import SafeSwarm
from p2p.link_faults import LinkFaults, Passage
from p2p.links import list_links
from p2p.peer_ids import to_node

ACCEPT_PAUSE_S = 0.1


class Refused(SwarmException):
    """The doors do not let a peer stay that has proved its key. `why` is a word."""

    def __init__(self, why: str) -> None:
        super().__init__(f"refused: {why}")
        self.why = why


class Entrance:
    """`doors` decide on numbers, whoever calls `guard` on conduct."""

    def __init__(
        self,
        listener: trio.SocketListener,
        swarm: SafeSwarm,
        doors: Doors,
        faults: LinkFaults,
        limits: HostLimits,
    ) -> None:
        self._listener = listener
        self._swarm = swarm
        self._doors = doors
        self._faults = faults
        self._limits = limits
        self._check_address: Callable[[str], str] = lambda address: ""
        self._check_peer: Callable[[bytes, str], str] = lambda node, address: ""
        self._is_known: Callable[[bytes], bool] = lambda node: False
        self._on_botched: Callable[[str], None] = lambda address: None

    def guard(
        self,
        check_address: Callable[[str], str],
        check_peer: Callable[[bytes, str], str],
        is_known: Callable[[bytes], bool],
        on_botched: Callable[[str], None],
    ) -> None:
        """Have the doors guarded: a reason, one word, refuses an IP address or a peer calling from one.

        For peers that are known, room is kept that strangers do not get. `on_botched` hears from which IP address a
        handshake came to nothing.
        """
        self._check_address, self._check_peer, self._is_known = check_address, check_peer, is_known
        self._on_botched = on_botched

    async def accept_forever(self) -> None:
        """Take connections in until cancelled."""
        # trio.serve_listeners closes a socket when its handler returns; ours lives on in the swarm.
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    stream = await self._listener.accept()
                except OSError:  # out of descriptors: connections already here must not suffer for it
                    await trio.sleep(ACCEPT_PAUSE_S)
                else:
                    nursery.start_soon(self._accept, stream)

    async def _accept(self, stream: trio.SocketStream) -> None:
        remote = _get_peer_ip(stream)
        why = "gone" if remote == "" else self._check_address(remote) or self._doors.check_knock(remote, self._held())
        if why:
            self._doors.refused[why] += 1
            await trio.aclose_forcefully(stream)
            return
        self._doors.begin(remote)
        is_blameless = False
        try:
            with trio.move_on_after(self._limits.handshake_s):
                try:
                    await self._faults.pass_dial(remote)
                except OSError:
                    is_blameless = True
                    await trio.aclose_forcefully(stream)
                    return
                await self._swarm.upgrade(stream, None, Passage(remote), partial(self.admit, remote, True))
                is_blameless = True
        except SwarmException as error:
            # Whom we have no room for has done nothing wrong; who is banned should have stayed away.
            is_blameless = isinstance(error, Refused) and error.why == "strangers"
        finally:
            self._doors.end(remote)
        if not is_blameless:
            self._on_botched(remote)

    def admit(self, remote: str, is_inbound: bool, peer: ID) -> None:
        """The doors' word on a peer that has proved its key, before it counts as connected. Raises SwarmException."""
        node = to_node(peer)
        why = self._check_peer(node, remote)
        if not why and is_inbound and not self._is_known(node) and peer not in self._swarm.connections:
            why = self._doors.check_stranger(self._held())
        if why:
            self._doors.refused[why] += 1
            raise Refused(why)

    def _held(self) -> list[Held]:
        return [Held(link.address, link.is_inbound, self._is_known(link.node)) for link in list_links(self._swarm)]


def _get_peer_ip(stream: trio.SocketStream) -> str:
    try:
        return normalise_ip(stream.socket.getpeername()[0])
    except OSError:  # it has left already
        return ""
