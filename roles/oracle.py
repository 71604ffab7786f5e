"""Brings outside data in: reads its feeds, signs observations, and reports their median to the ledger."""

from protocol.errors import ProtocolError
from protocol.ledger.transactions import ReportOracle, SignedObservation, compute_oracle_quorum
from protocol.messages import ObservationMessage
from protocol.signing import sign
from protocol.topics import oracle_topic
from roles.feeds import FeedError, parse_reading
from roles.role import (
    Context,
    Effect,
    Event,
    Fetch,
    Fetched,
    LedgerAdvanced,
    Publish,
    Received,
    Record,
    Role,
    SetTimer,
    Started,
    Submit,
    Submitted,
    TimerFired,
)

READ_MS = 2_000
ROUNDS_KEPT = 4


class Oracle(Role):
    """`config["feeds"]` maps a feed's name to its `url`, `path` in the JSON answer and `decimals`."""

    name = "oracle"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._feeds: dict[str, dict[str, object]] = dict(context.config.get("feeds", {}))
        self._read_ms = int(context.config.get("read_ms", READ_MS))
        self.topics = tuple(oracle_topic(feed) for feed in sorted(self._feeds))
        self._observations: dict[tuple[str, int], dict[bytes, SignedObservation]] = {}
        self._submitted: set[tuple[str, int]] = set()

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        match event:
            case Started(state):
                self._state = state
                return [SetTimer("read", now_ms)]
            case LedgerAdvanced(state):
                self._state = state
                return []
            case TimerFired("read"):
                urls = sorted({str(feed["url"]) for feed in self._feeds.values()})
                return [*(Fetch(url) for url in urls), SetTimer("read", now_ms + self._read_ms)]
            case Fetched(url, data, error):
                return self._observe(url, data, error, now_ms)
            case Received(message=ObservationMessage(observation)):
                return self._gather(observation)
            case Submitted(token, height, error):
                return [Record("oracle.reported", {"report": token, "height": height or 0, "error": error})]
            case _:
                return []

    def _observe(self, url: str, data: bytes | None, error: str, now_ms: int) -> list[Effect]:
        effects: list[Effect] = []
        for name, feed in sorted(self._feeds.items()):
            if feed["url"] != url:
                continue
            try:
                if data is None:
                    raise FeedError(error)
                value = parse_reading(data, str(feed["path"]), int(str(feed["decimals"])))
            except FeedError as problem:
                effects.append(Record("oracle.unread", {"feed": name, "reason": str(problem)}))
                continue
            round_number = now_ms // self._ledger.params.oracle_heartbeat_ms
            own = self.context.signer.public
            unsigned = SignedObservation(name, round_number, value, now_ms, own, bytes(64))
            observation = sign(unsigned, self.context.signer)
            effects.append(Publish(oracle_topic(name), ObservationMessage(observation)))
            effects += self._gather(observation)
        return effects

    def _gather(self, observation: SignedObservation) -> list[Effect]:
        """Keep an observation; with a quorum of them for a round, report it."""
        key = observation.feed, observation.round
        held = self._observations.setdefault(key, {})
        held.setdefault(observation.observer, observation)
        for old in [known for known in self._observations if known[1] + ROUNDS_KEPT < observation.round]:
            del self._observations[old]
            self._submitted.discard(old)
        feed = self._ledger.feeds.get(observation.feed)
        is_reported = feed is not None and feed.round >= observation.round
        # The ledger refuses a report as a whole for one observer that this epoch does not know: a key that was
        # rotated, or one that is registered for the next epoch.
        epoch = self._ledger.get_epoch(self._ledger.epoch)
        oracles = {item.node for item in epoch.get_candidates("oracle")} if epoch is not None else set()
        observations = tuple(held[observer] for observer in sorted(held.keys() & oracles))
        if is_reported or key in self._submitted or len(observations) < compute_oracle_quorum(self._ledger):
            return []
        self._submitted.add(key)
        token = f"{observation.feed}/{observation.round}"
        try:
            report = ReportOracle.of(observations)
        except ProtocolError as error:
            return [Record("oracle.unread", {"feed": observation.feed, "reason": str(error)})]
        return [Submit(report, token)]
