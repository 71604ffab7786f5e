"""Files and folders that this node is getting from others, whoever wanted them: each once, a few at a time."""

import random
from dataclasses import dataclass
from typing import Any, NamedTuple

from protocol.cid import Cid
from protocol.ledger.state import State
from protocol.messages import Refused, WantBlocks, WantedBlocks
from roles import store_effects as se
from roles.core_effects import Log, NetPenalise
from roles.courier import Courier, Out, ToRoles
from roles.gathering import PROVIDERS_MAX, TICK_MS, Ask, Blame, Finish, Gathering, GiveUp, Keep, LookUp, Step
from roles.role import Gathered

ASK_TIMEOUT_MS = 60_000  # for a want-list; a peer of 35 kB/s needs 30 s for a block
GATHERINGS_MAX = 8  # at once
WISHES_MAX = 256  # with those that wait for their turn
ROUTE = "gather:"


@dataclass
class _Wish:
    """Who wants a file or folder, and how it is to be kept."""

    cid: Cid
    token: str
    roles: list[int]
    peers: list[bytes]
    name: str
    expires_ms: int
    gathering: Gathering | None = None  # none until its turn has come


class Progress(NamedTuple):
    """Of what is on its way: what is here, and how many bytes it has in all, 0 while that is not known."""

    blocks: int
    block_bytes: int
    total_bytes: int


def list_providers(cid: Cid, state: State, rng: random.Random) -> tuple[bytes, ...]:
    """Nodes that may have it: who keeps it under a lease or pays for one, then other storage nodes, in any order."""
    leases = [lease for lease in state.leases.values() if lease.cid == cid.pack()]
    accounts = [replica.account for lease in leases for replica in lease.replicas if replica.height]
    accounts += [lease.payer for lease in leases]
    holders = [state.nodes[account].node for account in accounts if account in state.nodes]
    storers = [node.node for node in state.get_nodes("storage")]
    rng.shuffle(storers)  # there may be more of them than are asked
    return tuple(dict.fromkeys((*holders, *storers)))[:PROVIDERS_MAX]


class FileGatherer:
    """By CID. What comes of each is a `Gathered` for every role that wanted it."""

    def __init__(self, node: bytes, courier: Courier, rng: random.Random) -> None:
        self._node = node
        self._courier = courier
        self._rng = rng
        self._wishes: dict[str, _Wish] = {}
        self._serial = 0

    def gather(
        self, cid: Cid, peers: tuple[bytes, ...], role: int, name: str, expires_ms: int, state: State, now_ms: int
    ) -> list[Out]:
        """Begin, or have a role wait for what has begun."""
        known = peers or list_providers(cid, state, self._rng)
        others = [peer for peer in known if peer != self._node]
        wish = self._wishes.get(str(cid))
        if wish is None:
            if len(self._wishes) >= WISHES_MAX:
                return [ToRoles(Gathered(str(cid), 0, 0, f"{WISHES_MAX} files are on their way already"), role)]
            self._serial += 1
            self._wishes[str(cid)] = _Wish(cid, f"{cid}/{self._serial}", [role], others, name, expires_ms)
            return self._begin_next(now_ms)
        wish.roles.append(role)
        wish.peers += [peer for peer in others if peer not in wish.peers]
        wish.name, wish.expires_ms = name, expires_ms
        if wish.gathering is not None:
            wish.gathering.add_providers(others)
        return []

    def describe(self, cid: Cid) -> Progress | None:
        """How far it has come; None for what is not on its way."""
        wish = self._wishes.get(str(cid))
        if wish is None:
            return None
        found = wish.gathering
        return Progress(0, 0, 0) if found is None else Progress(found.blocks, found.block_bytes, found.total_bytes)

    def on_stored(self, event: se.LookedUp | se.Kept | se.Pinned, now_ms: int) -> list[Out]:
        wish, gathering = self._find(event.token)
        if wish is None or gathering is None:
            return []
        match event:
            case se.LookedUp(_, held, missing, error):
                return self._carry_out(wish, gathering.on_looked_up(held, missing, error, now_ms), now_ms)
            case se.Kept(_, number, held, bad, error):
                return self._carry_out(wish, gathering.on_kept(number, held, bad, error, now_ms), now_ms)
            case se.Pinned(_, error):
                dropped = [se.DropGathered(wish.token, is_hopeless=False)] if error else []
                return [*dropped, *self._end(wish, gathering, error, now_ms)]

    def on_answer(self, route: str, message: Any, now_ms: int) -> list[Out]:
        if not isinstance(message, WantedBlocks):
            reason = message.reason if isinstance(message, Refused) else f"answered with {type(message).__name__}"
            return self.on_unanswered(route, reason, now_ms)
        wish, gathering, number = self._find_asked(route)
        if wish is None or gathering is None:
            return []
        return self._carry_out(wish, gathering.on_answer(number, message, now_ms), now_ms)

    def on_unanswered(self, route: str, reason: str, now_ms: int) -> list[Out]:
        wish, gathering, number = self._find_asked(route)
        if wish is None or gathering is None:
            return []
        return self._carry_out(wish, gathering.on_failure(number, reason, now_ms), now_ms)

    def on_timer(self, name: str, now_ms: int) -> list[Out]:
        wish, gathering = self._find(name.removeprefix(ROUTE))
        if wish is None or gathering is None:
            return []
        return [self._courier.wake(name, now_ms + TICK_MS), *self._carry_out(wish, gathering.on_tick(now_ms), now_ms)]

    def _find(self, token: str) -> tuple[_Wish | None, Gathering | None]:
        """What it is about, unless that has ended; the same file may be on its way anew."""
        wish = self._wishes.get(token.partition("/")[0])
        return (wish, wish.gathering) if wish is not None and wish.token == token else (None, None)

    def _find_asked(self, route: str) -> tuple[_Wish | None, Gathering | None, int]:
        token, _, number = route.removeprefix(ROUTE).rpartition("/")
        return *self._find(token), int(number)

    def _begin_next(self, now_ms: int) -> list[Out]:
        running = sum(wish.gathering is not None for wish in self._wishes.values())
        wish = next((wish for wish in self._wishes.values() if wish.gathering is None), None)
        if wish is None or running >= GATHERINGS_MAX:
            return []
        self._rng.shuffle(wish.peers)  # not all who want it should begin with the same one
        wish.gathering = Gathering(wish.cid)
        wake = self._courier.wake(ROUTE + wish.token, now_ms + TICK_MS)
        return [wake, *self._carry_out(wish, wish.gathering.begin(wish.peers), now_ms)]

    def _carry_out(self, wish: _Wish, steps: list[Step], now_ms: int) -> list[Out]:
        return [out for step in steps for out in self._carry(wish, step, now_ms)]

    def _carry(self, wish: _Wish, step: Step, now_ms: int) -> list[Out]:
        match step:
            case LookUp(cids):
                return [se.LookUp(wish.token, cids)]
            case Ask(number, peer, digests):
                route = f"{ROUTE}{wish.token}/{number}"
                return [self._courier.request(peer, "blob", WantBlocks(digests), route, ASK_TIMEOUT_MS, now_ms)]
            case Keep(number, blocks):
                return [se.Keep(wish.token, number, blocks)]
            case Blame(peer, reason):
                return [NetPenalise(peer, reason)]
            case Finish():
                return [se.PinGathered(wish.token, wish.cid, wish.name, wish.expires_ms)]
            case GiveUp(reason, is_hopeless):
                drop = se.DropGathered(wish.token, is_hopeless)
                return [drop, *self._end(wish, wish.gathering or Gathering(wish.cid), reason, now_ms)]

    def _end(self, wish: _Wish, gathering: Gathering, error: str, now_ms: int) -> list[Out]:
        cid = str(wish.cid)
        del self._wishes[cid]
        brought = {peer.hex(): each.bytes for peer, each in gathering.providers.items() if each.bytes}
        blocks, size = gathering.blocks, gathering.total_bytes
        fields = {"cid": cid, "blocks": blocks, "bytes": size, "from": brought, "error": error}
        told = [ToRoles(Gathered(cid, blocks, size, error), role) for role in wish.roles]
        return [Log("store.gathered", fields), *told, *self._begin_next(now_ms)]
