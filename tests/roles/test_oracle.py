"""An oracle signs one reading a position, reports in its turn what observers have said, and is put off by nobody."""

import random

from protocol.codec import decode
from protocol.keys import PrivateKey
from protocol.ledger.feeds import AccuseObserver, ObserveFeed
from protocol.ledger.transactions import ReportOracle, SignedObservation
from protocol.messages import ObservationMessage
from protocol.signing import verify_signed
from roles.oracle import SIGNED, Oracle
from roles.role import (
    Context,
    Effect,
    Fetch,
    Fetched,
    LedgerAdvanced,
    Publish,
    Received,
    Record,
    SetTimer,
    Started,
    Store,
    Submit,
    TimerFired,
)
from roles.rotation import plan_rotation
from tests.support.feeds import HEARTBEAT_MS, TERMS, begin_round, found_feed, report, sign_observation
from tests.support.ledgers import Ledger

FEED = TERMS.name
URL = TERMS.address


class Scene:
    """One oracle on a ledger; what it wants is looked at by hand."""

    def __init__(self, ledger: Ledger, name: str = "oracle-0", stored: dict[bytes, bytes] | None = None) -> None:
        self.ledger = ledger
        config = {"feeds": {FEED: {}}}
        self.role = Oracle(Context(config, ledger.node(name), ledger.account(name), random.Random(1)))
        self.kept: dict[bytes, bytes] = dict(stored or {})
        self.do(Started(ledger.state, {SIGNED: self.kept}))

    def do(self, event: object, after_ms: int = 0) -> list[Effect]:
        effects = self.role.handle(event, self.ledger.state.time_ms + after_ms)  # type: ignore[arg-type]
        for effect in effects:
            if isinstance(effect, Store):
                assert effect.value is not None
                self.kept[effect.key] = effect.value
        return effects

    def advance(self) -> None:
        self.do(LedgerAdvanced(self.ledger.state))

    def read(self, value: int, after_ms: int = 0) -> list[Effect]:
        """A look at the source that shows this many hundredths."""
        [fetch] = [effect for effect in self.do(TimerFired(f"read/{FEED}"), after_ms) if isinstance(effect, Fetch)]
        return self.do(Fetched(fetch.source, b'{"value": %d.%02d}' % divmod(value, 100)), after_ms)

    def hear(self, name: str, value: int, sequence: int = 0, **changes: int) -> list[Effect]:
        key = self.ledger.node(name)
        item = sign_observation(self.ledger, key, value, FEED, sequence, **changes)
        return self.do(Received(key.public, ObservationMessage(item), f"oracle/{FEED}"))


def list_signed(effects: list[Effect]) -> list[SignedObservation]:
    return [effect.message.observation for effect in effects if isinstance(effect, Publish)]


def list_timers(effects: list[Effect]) -> dict[str, int]:
    return {effect.name: effect.at_ms for effect in effects if isinstance(effect, SetTimer)}


def find_report(effects: list[Effect]) -> ReportOracle:
    [found] = [effect.item for effect in effects if isinstance(effect, Submit)]
    assert isinstance(found, ReportOracle)
    return found


def test_what_it_signs_is_kept_before_it_is_said() -> None:
    scene = Scene(found_feed())
    effects = scene.read(12_34)
    kept, said = (
        next(at for at, effect in enumerate(effects) if isinstance(effect, kind)) for kind in (Store, Publish)
    )
    assert kept < said
    [item] = list_signed(effects)
    verify_signed(item, scene.ledger.node("oracle-0").public)
    assert (item.value, item.sequence, item.round) == (12_34, 0, scene.ledger.state.time_ms // HEARTBEAT_MS)
    assert decode(SignedObservation, scene.kept[FEED.encode()]) == item


def test_it_signs_one_reading_a_position_and_says_it_again_while_it_waits() -> None:
    scene = Scene(found_feed())
    [first] = list_signed(scene.read(100))
    [again] = list_signed(scene.read(200, after_ms=300))
    assert again == first


def test_a_crash_makes_no_equivocation() -> None:
    scene = Scene(found_feed())
    [first] = list_signed(scene.read(100))
    back = Scene(scene.ledger, stored=scene.kept)
    assert list_signed(back.read(200, after_ms=300)) == [first]
    begin_round(scene.ledger)
    back.advance()
    [next_one] = list_signed(back.read(300))
    assert (next_one.round, next_one.value) == (first.round + 1, 300)


def test_a_value_that_has_moved_is_signed_as_the_next_of_its_round() -> None:
    scene = Scene(found_feed())
    ledger = scene.ledger
    scene.read(10_000)
    ledger.do(ledger.spare(), report(ledger, {f"oracle-{number}": 10_000 for number in range(4)}))
    scene.advance()
    assert list_signed(scene.read(10_100, after_ms=200)) == []
    [item] = list_signed(scene.read(10_101, after_ms=400))
    assert (item.sequence, item.value) == (1, 10_101)
    begin_round(ledger)
    scene.advance()
    [item] = list_signed(scene.read(10_101))
    assert item.sequence == 0


def test_it_looks_when_a_round_begins() -> None:
    scene = Scene(found_feed())
    timers = list_timers(scene.do(TimerFired(f"read/{FEED}"), after_ms=900))
    assert timers[f"read/{FEED}"] == (scene.ledger.state.time_ms // HEARTBEAT_MS + 1) * HEARTBEAT_MS


def test_a_source_that_stalls_is_asked_once_at_a_time() -> None:
    scene = Scene(found_feed())
    asked = [effect for _ in range(5) for effect in scene.do(TimerFired(f"read/{FEED}")) if isinstance(effect, Fetch)]
    assert [effect.source for effect in asked] == [URL]
    told = scene.do(Fetched(URL, None, "no whole answer within 5 s"))
    assert [effect.name for effect in told if isinstance(effect, Record)] == ["oracle.unread"]
    assert [effect.source for effect in scene.do(TimerFired(f"read/{FEED}")) if isinstance(effect, Fetch)] == [URL]


def test_it_reports_in_its_turn_once_a_quorum_has_spoken() -> None:
    ledger = found_feed()
    delays = set()
    for name in (f"oracle-{number}" for number in range(4)):
        scene = Scene(ledger, name)
        others = [f"oracle-{number}" for number in range(4) if f"oracle-{number}" != name]
        effects = scene.read(100)
        assert not any(timer.startswith("report/") for timer in list_timers(effects))
        effects = [effect for other in others for effect in scene.hear(other, 100)]
        [(timer, at_ms)] = [item for item in list_timers(effects).items() if item[0].startswith("report/")]
        delays.add(at_ms - ledger.state.time_ms)
        assert len(find_report(scene.do(TimerFired(timer))).observations) == 4
        assert scene.do(TimerFired(timer)) == []
    assert len(delays) == 4
    assert min(delays) == 0


def test_a_position_that_is_reported_is_not_reported_again() -> None:
    ledger = found_feed()
    scene = Scene(ledger)
    scene.read(100)
    effects = [effect for number in (1, 2) for effect in scene.hear(f"oracle-{number}", 100)]
    [timer] = [name for name in list_timers(effects) if name.startswith("report/")]
    ledger.do(ledger.spare(), report(ledger, {f"oracle-{number}": 100 for number in range(4)}))
    scene.advance()
    assert scene.do(TimerFired(timer)) == []


def test_who_says_two_things_is_accused_once() -> None:
    scene = Scene(found_feed())
    assert scene.hear("oracle-1", 100) == []
    accused = [effect.item for effect in scene.hear("oracle-1", 101) if isinstance(effect, Submit)]
    assert [type(item) for item in accused] == [AccuseObserver]
    scene.ledger.do(scene.ledger.account("oracle-0"), accused[0])
    assert not [effect for effect in scene.hear("oracle-1", 102) if isinstance(effect, Submit)]


def test_it_joins_a_feed_that_its_operator_names_and_not_twice() -> None:
    ledger = Ledger({"validator": 1, "oracle": 1, "client": 1})
    ledger.do(ledger.account("client-0"), TERMS)
    scene = Scene(ledger)
    [joining] = [effect.item for effect in scene.do(TimerFired(f"read/{FEED}")) if isinstance(effect, Submit)]
    assert joining == ObserveFeed(FEED, 1)
    assert not [effect for effect in scene.do(TimerFired(f"read/{FEED}")) if isinstance(effect, Submit)]
    ledger.do(ledger.account("oracle-0"), joining)
    begin_round(ledger)
    scene.advance()
    assert list_signed(scene.read(100))


def test_it_observes_nothing_that_nobody_has_asked_it_to() -> None:
    ledger = found_feed()
    role = Oracle(Context({}, ledger.node("oracle-0"), ledger.account("oracle-0"), random.Random(1)))
    assert role.handle(Started(ledger.state, {}), ledger.state.time_ms) == []
    item = sign_observation(ledger, ledger.node("oracle-1"), 5, FEED)
    assert role.handle(Received(item.observer, ObservationMessage(item), f"oracle/{FEED}"), 0) == []


def test_an_observation_by_a_former_key_keeps_no_report_from_the_ledger() -> None:
    ledger = found_feed()
    former = ledger.node("oracle-3")
    account = ledger.account("oracle-3")
    ledger.do(account, plan_rotation(account.public, PrivateKey.from_seed(b"n" * 32), None, b""))
    ledger.block(after_ms=ledger.state.params.epoch_ms)
    begin_round(ledger)
    scene = Scene(ledger)
    scene.do(Received(former.public, ObservationMessage(sign_observation(ledger, former, 100, FEED)), f"oracle/{FEED}"))
    scene.read(100)
    effects = [effect for number in (1, 2) for effect in scene.hear(f"oracle-{number}", 100 + number)]
    [timer] = [name for name in list_timers(effects) if name.startswith("report/")]
    found = find_report(scene.do(TimerFired(timer)))
    assert former.public not in {item.observer for item in found.observations}
    ledger.do(ledger.account("oracle-0"), found)
    assert ledger.state.feeds[FEED].observers == len(found.observations) == 3
