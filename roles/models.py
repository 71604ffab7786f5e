"""Models by what people call them, and those a node serves: which ones, and whether their bytes are here yet."""

from collections.abc import Iterable, Mapping

from protocol.content import format_cid
from protocol.ledger.model_records import ModelRecord
from protocol.ledger.state import State
from roles.engine.errors import ModelRefused
from roles.engine.exactness import find_inexact
from roles.engine.traceable import explain_rows
from roles.role import Effect, Fetch, Record, SetTimer

FETCH_AGAIN_MS = 5_000
MODELS_MAX = 64  # as many as a node record names
_TIMER = "model:"


def find_model(state: State, wanted: str) -> ModelRecord | None:
    """By name (the newest version that is served, or else the newest), name@version, CID or sha256; None if none."""
    name, at, version = wanted.rpartition("@")
    models = sorted(state.models.values(), key=lambda model: (not model.retired_ms, model.version))
    for model in reversed(models):
        if wanted in (model.name, model.digest.hex(), format_cid(model.digest)):
            return model
        if at and model.name == name and version == str(model.version):
            return model
    return None


class ModelShelf:
    """Fetches models by CID and holds them. Without a list every model on the ledger is wanted, also of later blocks.

    One that is registered as exact and is not by its graph is never held: whoever served it would answer for bits that
    may differ. Nor is one with more rows than its worker could defend in a dispute.
    """

    def __init__(self, listed: Iterable[bytes] | None) -> None:
        self._listed: tuple[bytes, ...] | None = tuple(listed) if listed is not None else None
        self._wanted: dict[str, bytes] = {}  # by CID
        self._first: frozenset[bytes] | None = None  # those without which the node does not begin
        self._held: set[bytes] = set()
        self._refused: set[bytes] = set()
        self._records: Mapping[bytes, ModelRecord] = {}
        # Asked for with every event and request, so worked out when they change.
        self.is_complete = False
        self.held: tuple[bytes, ...] = ()  # those that are here and that the ledger knows

    def start(self, state: State) -> list[Effect]:
        self._records = state.models
        first = self._listed if self._listed is not None else self._list_new()
        self._first = frozenset(first)
        self._update()
        return self._want(first)

    def advance(self, state: State) -> list[Effect]:
        """Fetch what was registered since."""
        if state.models is self._records:
            return []
        self._records = state.models
        self._update()
        return self._want(self._list_new()) if self._listed is None else []

    def on_fetched(self, source: str, data: bytes | None, error: str, now_ms: int) -> list[Effect]:
        digest = self._wanted.get(source)
        if digest is None:
            return []
        if data is None:
            missing = Record("model.missing", {"cid": source, "reason": error})
            return [missing, SetTimer(_TIMER + source, now_ms + FETCH_AGAIN_MS)]
        record = self._records.get(digest)
        reason = _explain(data, record) if record is not None and record.exact else ""
        if reason:
            self._refused.add(digest)
            self._update()
            return [Record("model.refused", {"cid": source, "reason": f"registered as exact: {reason}"})]
        self._held.add(digest)
        self._update()
        return [Record("model.held", {"cid": source, "bytes": len(data)})]

    def on_timer(self, name: str) -> list[Effect]:
        return [Fetch(name.removeprefix(_TIMER))] if name.startswith(_TIMER) else []

    def _update(self) -> None:
        self.is_complete = self._first is not None and self._first <= self._held | self._refused
        self.held = tuple(sorted(self._held & self._records.keys()))

    def _list_new(self) -> tuple[bytes, ...]:
        known = self._wanted.values()
        new = sorted(
            digest for digest, record in self._records.items() if not record.retired_ms and digest not in known
        )
        return tuple(new[: MODELS_MAX - len(known)])

    def _want(self, models: Iterable[bytes]) -> list[Effect]:
        names = {format_cid(digest): digest for digest in models}
        self._wanted |= names
        return [Fetch(cid) for cid in names]


def _explain(data: bytes, record: ModelRecord) -> str:
    """What speaks against answering for a model with stake; empty when nothing does."""
    try:
        return find_inexact(data) or explain_rows(data, record.rows_max)
    except ModelRefused as refusal:
        return str(refusal)
