"""What stands around a running node: its pages over HTTP, the control socket, the file of what it knows of peers."""

import importlib.metadata
from collections.abc import Mapping
from functools import partial
from typing import Any

import trio

from p2p.bans import name_subject
from p2p.libp2p_net import Libp2pNet
from protocol.content import parse_cid
from protocol.errors import MalformedMessage
from protocol.keys import format_node, parse_node
from roles import core_effects as ce
from roles.carrier import Carrier
from roles.config import ConfigError, parse_http
from roles.control import BadRequest, serve_control
from roles.durable import StoreFailed
from roles.equipment import Plan, must_be_reachable
from roles.gather_orders import GatherOrders
from roles.health import Page, Vital, choose_page
from roles.http_server import HttpServer, open_http
from roles.link_orders import LinkOrders
from roles.node_parts import Equipment
from roles.order_desk import OrderDesk
from roles.peers_file import write_peers
from roles.recovery import describe_pending
from roles.status import get_rss_bytes

PEERS_S = 30.0  # between two looks at whether there is anything new to remember
BAN_S_MAX = 366 * 24 * 3_600


class Watch:
    """Looks at a node from outside, and hands on what its operator wants."""

    def __init__(self, plan: Plan, equipment: Equipment, net: Libp2pNet, carrier: Carrier) -> None:
        self.net = net
        self.http_url = ""
        self._plan = plan
        self._core = equipment.core
        self._carrier = carrier
        self._engine = equipment.engine
        self._events = equipment.events
        self._clock = equipment.clock
        self._put = equipment.inbox.put
        self._gathers = GatherOrders(equipment.core, self._put)
        self._orders = OrderDesk(equipment.core, plan.keys.account.public, self._put)
        self._link_orders = LinkOrders(net.link_faults.put, self._tell)
        self._version = importlib.metadata.version("rolemesh")

    def get_reach(self) -> str:
        """`trusted`, or what peers who dialled us back found."""
        return str(self.net.reach.state) if must_be_reachable(self._plan.config) else "trusted"

    def get_advice(self) -> str:
        return self.net.reach.advice if must_be_reachable(self._plan.config) else ""

    def count_bans(self) -> int:
        """Bans that hold now."""
        guard = self.net.guard
        return len(guard.bans.list_sentences(guard.now_ms()))

    def get_page(self, target: str) -> Page:
        """The page for an HTTP request."""
        return choose_page(target, self.take_vital())

    def take_vital(self) -> Vital:
        """This moment of the node."""
        links = self.net.links()
        inbound = sum(link.is_inbound for link in links)
        return Vital(
            version=self._version,
            chain=self._plan.chain.hex(),
            state=self._core.state,
            roles=self._plan.config.roles,
            turn_s=self._carrier.get_turn_s(),
            has_peers_to_find=bool(self._plan.config.bootstrap),
            inbound=inbound,
            outbound=len(links) - inbound,
            banned=self.count_bans(),
            height=self._core.ledger.height,
            reach=self.get_reach(),
            advice=self.get_advice(),
            keys=self._core.rotation,
            sandbox={each.name: not each.missing for each in self._engine.measures},
            backends={each.config.model: each.describe() for each in self._engine.backends},
            restart=describe_pending(*self._core.pending_restarts),
            rss_bytes=get_rss_bytes(),
            topics=self.net.counters(),
            queues=self._carrier.get_queues(),
            shed=self._carrier.get_shed(),
            refused=self.net.refusals(),
            penalties=self._carrier.counts["penalties"],
        )

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What the control socket says. Raises BadRequest."""
        command = request.get("command")
        if command == "peers.ls":
            return self._list_peers()
        if command in ("faults.put", "faults.ls"):
            return self._spoil_links(command, request)
        if command in ("ledger.submit", "ledger.order"):
            return self._orders.answer(command, request)
        if command == "store.gather":
            return self._gathers.answer(request)
        if command == "blob.fetch":
            return self._fetch_blob(str(request.get("cid")), request.get("begin") is True)
        subject = _parse_subject(request.get("subject"))
        guard = self.net.guard
        match command:
            case "peers.ban":
                guard.ban(subject, _parse_ban_s(request.get("for_s")) * 1_000, str(request.get("reason", "by hand")))
            case "peers.allow":
                guard.allow(subject)
            case "peers.forget":
                guard.forget(subject)
            case _:
                raise BadRequest(f"there is no command {command!r}")
        return {"subject": _format_subject(name_subject(subject)), "connected": len(self.net.links())}

    def _spoil_links(self, command: str, request: Mapping[str, Any]) -> dict[str, Any]:
        if not self._plan.config.faults:
            raise BadRequest('this node takes no faults: only nodes of a test network do ("faults" in node.json)')
        return self._link_orders.get() if command == "faults.ls" else self._link_orders.put(request)

    def _fetch_blob(self, cid: str, begins: bool) -> dict[str, str]:
        """Have a blob be fetched into the node's store, or only say how that stands."""
        try:
            digest = parse_cid(cid)
        except MalformedMessage as error:
            raise BadRequest(f"not a CID: {cid[:100]!r}") from error
        if begins and self._core.wants.open(cid):
            self._put(ce.Want(digest))
        return self._core.wants.describe(cid)

    def _tell(self, name: str, fields: Mapping[str, Any]) -> None:
        self._events.write(self._clock.now_ms(), name, fields)
        try:
            self._events.flush()
        except OSError as error:
            raise StoreFailed(error) from error

    def _list_peers(self) -> dict[str, Any]:
        guard, now_ms, now_s = self.net.guard, self.net.guard.now_ms(), trio.current_time()
        return {
            "node": format_node(self.net.node),
            "peers": [
                {
                    "node": format_node(link.node),
                    "address": link.address,
                    "direction": "inbound" if link.is_inbound else "outbound",
                    "connected_s": round(now_s - link.since_s, 1),
                    "faults": round(guard.bans.get_faults(link.node, now_ms), 1),
                    "is_known": guard.is_known(link.node),
                    "is_allowed": guard.bans.is_allowed(link.node, link.address),
                }
                for link in sorted(self.net.links(), key=lambda link: link.node)
            ],
            "bans": [
                {
                    "subject": _format_subject(subject),
                    "left_s": (found.until_ms - now_ms) // 1_000,
                    "strikes": found.strikes,
                    "reason": found.reason,
                }
                for subject, found in guard.bans.list_sentences(now_ms)
            ],
            "allowed": [_format_subject(subject) for subject in guard.bans.list_allowed()],
            "refused": dict(self.net.refusals()),
        }


async def watch_over(
    plan: Plan,
    equipment: Equipment,
    net: Libp2pNet,
    carrier: Carrier,
    task_status: Any = trio.TASK_STATUS_IGNORED,
) -> None:
    """Watch until cancelled; started, with the `Watch`, once everything listens. Raises ConfigError or StoreFailed."""
    watch = Watch(plan, equipment, net, carrier)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_control, plan.directory, watch.answer))
            if plan.config.http:
                server = await _open_http(plan, watch)
                watch.http_url = server.url
                nursery.start_soon(server.run)
            nursery.start_soon(_keep_peers, plan, net)
            task_status.started(watch)
    finally:
        # The last word: who was reached and who was banned since.
        with trio.CancelScope(shield=True):
            await _save_peers(plan, net.remember())


async def _keep_peers(plan: Plan, net: Libp2pNet) -> None:
    saved: dict[str, Any] | None = None
    while True:
        net.guard.changed = trio.Event()
        memory = net.remember()
        if memory != saved:
            await _save_peers(plan, memory)
            saved = memory
        with trio.move_on_after(PEERS_S):
            await net.guard.changed.wait()


async def _save_peers(plan: Plan, memory: Mapping[str, Any]) -> None:
    try:
        await trio.to_thread.run_sync(write_peers, plan.directory, memory)
    except OSError as error:
        raise StoreFailed(error) from error


async def _open_http(plan: Plan, watch: Watch) -> HttpServer:
    host, port = parse_http(plan.config.http)
    try:
        return await open_http(host, port, watch.get_page)
    except OSError as error:
        hint = "set http in node.json to a free port of 127.0.0.1, to port 0, or to nothing"
        raise ConfigError(f"cannot serve HTTP on {plan.config.http}: {error}", hint) from error


def _parse_subject(value: object) -> bytes | str:
    """A node key, address or network as people write it. Raises BadRequest."""
    if not isinstance(value, str):
        raise BadRequest("say who: a node (12D3Koo…), an IP address or a network")
    try:
        return parse_node(value) if value.startswith("12D3") else name_subject(value)
    except (ValueError, MalformedMessage) as error:
        raise BadRequest(f"neither a node (12D3Koo…) nor an IP address nor a network: {value[:100]!r}") from error


def _parse_ban_s(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= BAN_S_MAX:
        raise BadRequest(f"a ban lasts from 1 to {BAN_S_MAX} seconds")
    return value


def _format_subject(subject: bytes | str) -> str:
    return subject if isinstance(subject, str) else format_node(subject)
