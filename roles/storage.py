"""Keeps what others put or lease; its blocks, like those of every node, are served by the node itself."""

from roles.lease_keeper import BUCKET, LeaseKeeper
from roles.role import (
    Context,
    Effect,
    Event,
    Gathered,
    LedgerAdvanced,
    Proven,
    Role,
    Started,
    Submitted,
    TimerFired,
)


class Storage(Role):
    """`lease_bytes` of its options is the room it lets, none unless given, for `lease_price` grains a MiB and hour."""

    name = "storage"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        room_bytes, price = int(context.config.get("lease_bytes", 0)), int(context.config.get("lease_price", 0))
        self._leases = LeaseKeeper(context.account.public, room_bytes, price)

    @property
    def load(self) -> int:
        return self._leases.load

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        match event:
            case Started(state, stored):
                self._state = state
                self._leases.start(stored.get(BUCKET, {}))
                return self._leases.on_ledger(state, now_ms)
            case LedgerAdvanced(state):
                self._state = state
                return self._leases.on_ledger(state, now_ms)
            case Gathered():
                return self._leases.on_gathered(event, self._ledger)
            case Proven():
                return self._leases.on_proven(event, self._ledger)
            case Submitted():
                return self._leases.on_submitted(event)
            case TimerFired(name):
                return self._leases.on_timer(name, self._ledger)
            case _:
                return []
