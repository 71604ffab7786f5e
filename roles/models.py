"""The models a node serves: which ones, and whether their bytes are here yet."""

from collections.abc import Iterable

from protocol.content import format_cid
from protocol.ledger.state import State
from roles.role import Effect, Fetch, Record, SetTimer

FETCH_AGAIN_MS = 5_000
_TIMER = "model:"


class ModelShelf:
    """Fetches models by CID until all wanted ones are held. Without a list, every model on the ledger is wanted."""

    def __init__(self, wanted: Iterable[bytes] | None) -> None:
        self._wanted: tuple[bytes, ...] | None = tuple(wanted) if wanted is not None else None
        self._held: set[bytes] = set()

    @property
    def is_complete(self) -> bool:
        return self._wanted is not None and self._held.issuperset(self._wanted)

    @property
    def held(self) -> tuple[bytes, ...]:
        return tuple(sorted(self._held))

    def start(self, state: State) -> list[Effect]:
        if self._wanted is None:
            self._wanted = tuple(sorted(state.models))
        return [Fetch(format_cid(digest)) for digest in self._wanted]

    def on_fetched(self, source: str, data: bytes | None, error: str, now_ms: int) -> list[Effect]:
        digest = next((model for model in self._wanted or () if format_cid(model) == source), None)
        if digest is None:
            return []
        if data is None:
            missing = Record("model.missing", {"cid": source, "reason": error})
            return [missing, SetTimer(_TIMER + source, now_ms + FETCH_AGAIN_MS)]
        self._held.add(digest)
        return [Record("model.held", {"cid": source, "bytes": len(data)})]

    def on_timer(self, name: str) -> list[Effect]:
        return [Fetch(name.removeprefix(_TIMER))] if name.startswith(_TIMER) else []
