"""A storage node's part in leases: it lets room, takes what it is drawn for, answers audits, lets go of what has ended.

What the ledger says is gone through after every block, so that nothing is forgotten by a crash: what is offered to this
node is fetched, looked at and accepted, or declined with a reason; what an audit asks for is read and shown. A block
that has been damaged or lost is fetched from the others in time to answer. Leases it has a part in stand in a bucket of
the role's own, for it to know what to let go of.
"""

from collections.abc import Mapping

from protocol.audit import Contents
from protocol.cid import unpack_cid
from protocol.ledger.lease_audits import AnswerAudit, get_drawn
from protocol.ledger.lease_places import STORAGE
from protocol.ledger.lease_records import Lease
from protocol.ledger.leases import KeepBlob, OfferSpace, compute_shortfall, find_replica, is_running_out
from protocol.ledger.state import State
from roles.role import Effect, Gather, Gathered, LetGo, Prove, Proven, Record, SetTimer, Store, Submit, Submitted

BUCKET = "leases"
PIN_NAME = "leased"  # of what is kept for leases alone
OFFER = "offer"
TAKE, DECLINE, ANSWER = "take", "decline", "answer"  # what is read, or said to the ledger, and why
MARGIN_MS = 2_000  # before a deadline, to decline
STALE_MS = 60_000  # an older block is history: what it asks for is over
OFFER_AGAIN_MS = 10_000
PEERS_MAX = 32


class LeaseKeeper:
    """The leases of one account's storage node. `room_bytes` at `price` grains a MiB and hour is what it lets."""

    def __init__(self, account: bytes, room_bytes: int, price: int) -> None:
        self._account = account
        self._room_bytes = room_bytes
        self._price = price
        self._kept: dict[bytes, bytes] = {}  # lease -> packed CID of what is here for it, or on its way
        self._taking: dict[bytes, str] = {}  # lease -> CID: offered to us and not accepted yet
        self._declined: dict[bytes, int] = {}  # lease -> deadline of the offer we said no to
        self._answering: dict[bytes, int] = {}  # lease -> beginning of the audit we are at work on
        self._mending: dict[bytes, int] = {}  # likewise, while what is missing is fetched
        self._short: set[bytes] = set()  # leases whose money runs out, of which that has been told
        self._offered_ms = 0

    @property
    def load(self) -> int:
        return len(self._taking) + len(self._answering)

    def start(self, stored: Mapping[bytes, bytes]) -> None:
        """What was kept when this node went down."""
        self._kept = dict(stored)

    def on_ledger(self, state: State, now_ms: int) -> list[Effect]:
        """Do whatever the newest block makes necessary."""
        effects = self._offer(state, now_ms)
        if state.time_ms < now_ms - STALE_MS:
            return effects  # a node that has lost its ledger would let go of all that it keeps
        for key in [key for key in self._kept if self._find(state, key) is None]:
            effects += self._release(key, "ended")
        for key in [key for key in self._declined if key not in state.leases]:
            del self._declined[key]
        for key, lease in state.leases.items():
            replica = find_replica(lease, self._account)
            if replica is None:
                continue
            is_new = key not in self._taking and self._declined.get(key) != replica.deadline_ms
            if not replica.height and is_new and replica.deadline_ms > now_ms:
                effects += self._take(key, lease, state, replica.deadline_ms)
            if replica.height:
                self._taking.pop(key, None)
                effects += [*self._keep(key, lease, state), *self._watch_money(key, lease, state)]
            if replica.is_asked and self._answering.get(key) != lease.asked_ms:
                self._answering[key] = lease.asked_ms
                effects.append(self._prove(key, lease))
        return effects

    def on_gathered(self, event: Gathered, state: State) -> list[Effect]:
        """A blob has come, or cannot be had."""
        cid, effects = event.cid, []
        if all(str(unpack_cid(packed)) != cid for packed in self._kept.values()):
            return [LetGo(cid, PIN_NAME)]  # nobody waits for it any more
        for key in [key for key, wanted in self._taking.items() if wanted == cid]:
            lease = self._find(state, key)
            if lease is None:
                continue  # the next block releases it
            if event.error:
                effects += self._decline(key, lease, event.error)
            else:
                effects.append(Prove(f"{TAKE}:{key.hex()}", cid, lease.contents.size_bytes))
        for key in [key for key in self._mending if str(unpack_cid(self._kept[key])) == cid]:
            lease = self._find(state, key)
            if lease is not None and lease.asked_ms == self._answering.get(key):
                effects.append(self._prove(key, lease))
        return effects

    def on_proven(self, event: Proven, state: State) -> list[Effect]:
        """A blob has been read: accept its lease, or show what the audit asks for."""
        what, _, name = event.token.partition(":")
        key = bytes.fromhex(name)
        lease = self._find(state, key)
        if lease is None:
            return []
        if what == TAKE:
            return self._accept(key, lease, event.contents, event.error) if key in self._taking else []
        if event.error:
            return self._mend(key, lease, state, event.error)
        self._mending.pop(key, None)
        return [Submit(AnswerAudit(key, event.answer), f"{ANSWER}:{key.hex()}")]

    def on_submitted(self, event: Submitted) -> list[Effect]:
        """What became of what was said to the ledger."""
        what, _, name = event.token.partition(":")
        if what == OFFER:
            return [] if event.height is not None else [Record("lease.not_offered", {"error": event.error})]
        key = bytes.fromhex(name)
        fields = {"lease": key, "height": event.height, "error": event.error}
        if event.height is None:
            # The next block says whether it is still to be done.
            (self._answering if what == ANSWER else self._taking).pop(key, None)
        names = {TAKE: "lease.accepted", DECLINE: "lease.declined", ANSWER: "audit.answered"}
        return [Record(names[what], fields)]

    def on_timer(self, name: str, state: State) -> list[Effect]:
        """A lease could not be taken in time: say so, so that another is drawn."""
        key = bytes.fromhex(name.partition(":")[2])
        lease = self._find(state, key)
        replica = find_replica(lease, self._account) if lease is not None else None
        if lease is None or replica is None or replica.height or key not in self._taking:
            return []
        return self._decline(key, lease, "it did not come in time")

    def _find(self, state: State, key: bytes) -> Lease | None:
        """A lease of which this node has a part."""
        lease = state.leases.get(key)
        return lease if lease is not None and find_replica(lease, self._account) is not None else None

    def _offer(self, state: State, now_ms: int) -> list[Effect]:
        """Let what the operator wants to let, and once more after the ledger has found us silent."""
        if now_ms < self._offered_ms + OFFER_AGAIN_MS:
            return []
        node, known = state.nodes.get(self._account), state.offers.get(self._account)
        if node is None or STORAGE not in node.roles or node.bond < state.params.get_bond_min(STORAGE):
            return []
        if known is None and not self._room_bytes:
            return []
        is_as_wanted = known is not None and (known.room_bytes, known.price) == (self._room_bytes, self._price)
        if is_as_wanted and known is not None and not known.is_silent:
            return []
        self._offered_ms = now_ms
        return [Submit(OfferSpace(self._room_bytes, self._price), OFFER)]

    def _take(self, key: bytes, lease: Lease, state: State, deadline_ms: int) -> list[Effect]:
        cid = str(unpack_cid(lease.cid))
        self._taking[key] = cid
        self._kept[key] = lease.cid
        return [
            Record("lease.offered", {"lease": key, "cid": cid, "bytes": lease.contents.size_bytes}),
            Store(BUCKET, key, lease.cid),
            SetTimer(f"{TAKE}:{key.hex()}", deadline_ms - MARGIN_MS),
            Gather(cid, self._list_peers(state, lease), PIN_NAME),
        ]

    def _keep(self, key: bytes, lease: Lease, state: State) -> list[Effect]:
        """A lease the ledger says is kept here: pin it anew where a lost disk has made this node forget it."""
        if key in self._kept:
            return []
        self._kept[key] = lease.cid
        gather = Gather(str(unpack_cid(lease.cid)), self._list_peers(state, lease), PIN_NAME)
        return [Store(BUCKET, key, lease.cid), gather]

    def _watch_money(self, key: bytes, lease: Lease, state: State) -> list[Effect]:
        """Tell once that a lease will end for want of money, and once more if it was put right in between."""
        if not is_running_out(lease, state.params):
            self._short.discard(key)
            return []
        if key in self._short:
            return []
        self._short.add(key)
        short = compute_shortfall(lease, state.params)
        fields = {"payer": lease.payer, "audits_left": lease.left, "short_grains": short}
        return [Record("lease.runs_out", {"lease": key, "cid": str(unpack_cid(lease.cid)), **fields})]

    def _accept(self, key: bytes, lease: Lease, contents: Contents | None, error: str) -> list[Effect]:
        if contents != lease.contents:
            return self._decline(key, lease, error or "its contents are not what the lease says they are")
        return [Submit(KeepBlob(key, 1), f"{TAKE}:{key.hex()}")]

    def _decline(self, key: bytes, lease: Lease, reason: str) -> list[Effect]:
        replica = find_replica(lease, self._account)
        self._declined[key] = replica.deadline_ms if replica is not None else 0
        return [Submit(KeepBlob(key, 0), f"{DECLINE}:{key.hex()}"), *self._release(key, reason)]

    def _release(self, key: bytes, reason: str) -> list[Effect]:
        """A lease is none of ours any more; neither is what it is about, unless another lease is about it too."""
        packed = self._kept.pop(key)
        for table in (self._answering, self._mending):
            table.pop(key, None)
        self._taking.pop(key, None)
        self._short.discard(key)
        cid = str(unpack_cid(packed))
        effects: list[Effect] = [Record("lease.released", {"lease": key, "cid": cid, "reason": reason})]
        effects.append(Store(BUCKET, key, None))
        return effects if packed in self._kept.values() else [*effects, LetGo(cid, PIN_NAME)]

    def _prove(self, key: bytes, lease: Lease) -> Effect:
        drawn = get_drawn(key, lease, self._account)
        return Prove(f"{ANSWER}:{key.hex()}", str(unpack_cid(lease.cid)), lease.contents.size_bytes, drawn)

    def _mend(self, key: bytes, lease: Lease, state: State, error: str) -> list[Effect]:
        """Fetch what is missing, once for each audit."""
        effects: list[Effect] = [Record("audit.lacking", {"lease": key, "error": error})]
        if self._mending.get(key) == lease.asked_ms:
            return effects
        self._mending[key] = lease.asked_ms
        return [*effects, Gather(str(unpack_cid(lease.cid)), self._list_peers(state, lease), PIN_NAME)]

    def _list_peers(self, state: State, lease: Lease) -> tuple[bytes, ...]:
        """Who may have it: those who keep it already, who pays for it, then all other storage nodes."""
        holders = [replica.account for replica in lease.replicas if replica.height]
        nodes = [state.nodes[account].node for account in (*holders, lease.payer) if account in state.nodes]
        nodes += [node.node for node in state.get_nodes(STORAGE)]
        own = state.nodes.get(self._account)
        return tuple(dict.fromkeys(node for node in nodes if own is None or node != own.node))[:PEERS_MAX]
