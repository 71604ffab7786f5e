"""Keeps blobs and serves them by CID. What it sends it has hashed on reading."""

from protocol.content import format_cid
from protocol.messages import Blob, GetBlob, Refused
from roles.role import Context, Effect, Event, Fetch, Fetched, Record, Reply, Requested, Role

WAITING_MAX = 256


class Storage(Role):
    name = "storage"
    protocols = ("blob",)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._waiting: dict[str, list[str]] = {}  # cid -> tokens of those who asked

    @property
    def load(self) -> int:
        return sum(map(len, self._waiting.values()))

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        match event:
            case Requested(message=GetBlob(digest), token=token):
                return self._look_up(format_cid(digest), token)
            case Requested(token=token):
                return [Reply(token, Refused("a storage node answers blob.get only"))]
            case Fetched(source, data, error):
                return self._answer(source, data, error)
            case _:
                return []

    def _look_up(self, cid: str, token: str) -> list[Effect]:
        if self.load >= WAITING_MAX:
            return [Reply(token, Refused(f"busy: {WAITING_MAX} requests are waiting"))]
        self._waiting.setdefault(cid, []).append(token)
        return [Fetch(cid, local=True)] if len(self._waiting[cid]) == 1 else []

    def _answer(self, cid: str, data: bytes | None, error: str) -> list[Effect]:
        message = Blob(data) if data is not None else Refused(f"{cid}: {error}")
        tokens = self._waiting.pop(cid, [])
        served = Record(
            "blob.served", {"cid": cid, "bytes": len(data) if data is not None else 0, "times": len(tokens)}
        )
        return [*(Reply(token, message) for token in tokens), served]
