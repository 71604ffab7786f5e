"""The shell's loop: events to the core, effects to the world, in order, and nothing said that could be forgotten."""

import sqlite3
import threading
from contextlib import asynccontextmanager, nullcontext
from types import SimpleNamespace

import pytest
import trio
from trio.testing import MockClock

from p2p.net import Delivered
from protocol.errors import MissingBlob
from protocol.types import NodeState, Verdict
from roles import core_effects as ce
from roles.blobs import StoreFull
from roles.carrier import (
    BLOB_READS_MAX,
    BLOB_READS_WAITING_MAX,
    Carrier,
    Halted,
)
from roles.durable import DurableWriter, StoreFailed
from roles.engine.errors import Busy
from roles.engine.frames import Ran
from roles.eventlog import EventLog, read_events
from roles.journal import VALUE_BYTES_MAX, Taken
from roles.node_parts import Equipment
from roles.role import Computed
from roles.timers import WallClock


class FakeCore:
    """Answers each event with what the test's `react` says, and remembers what it was told."""

    def __init__(self, react):
        self.react = react
        self.told = []
        self.state = NodeState.STARTING
        self.ledger = SimpleNamespace(height=0, state_root=bytes(32))

    def handle(self, event, now_ms):
        self.told.append(event)
        return self.react(event) or []

    def check(self, topic, data, forwarder, now_ms):
        if data == b"boom":
            raise RuntimeError("a rule with a bug")
        return Verdict.ACCEPT


NOTE = ce.Put("journal", b"settled", b"1")


class World:
    """Net, ledger, blobs and engine in one list of what reached them, in order."""

    def __init__(self):
        self.seen = []
        self.threads = {}  # of each way to write, whether it was the loop's
        self.left = ()
        self.broken = None
        self.broken_disk = None
        self.blobs = {}
        self.is_computing = trio.Event()

    def request(self, peer, protocol, data, token, timeout_ms):
        self.seen.append(("request", data))

    def gathering(self):
        return nullcontext()

    def log_votes(self, records):
        self.seen.append(("votes", list(records)))

    def publish(self, topic, data, token):
        self.seen.append(("publish", data))

    def subscribe(self, topic, check):
        self.seen.append(("subscribe", topic))

    def penalise(self, peer, reason):
        self.seen.append(("penalise", reason))

    def write(self, effects, is_synced=True):
        if self.broken:
            raise self.broken
        kept = [effect.key for effect in effects if effect != NOTE]
        if self.broken_disk and not kept:
            raise self.broken_disk
        done = ("write" if is_synced else "write unsynced") if kept else "sync"
        self.seen.append((done, kept or None))
        self.threads[done] = threading.current_thread() is threading.main_thread()

    def append(self, puts):
        self.seen.append(("jot", [put.key for put in puts]))

    def take(self):
        return Taken((), NOTE)

    def clear(self):
        pass

    def sync(self):
        if self.broken_disk:
            raise self.broken_disk
        self.seen.append(("sync journal", None))
        self.threads["sync journal"] = threading.current_thread() is threading.main_thread()

    def put_blob(self, data, digest):
        self.seen.append(("blob", digest))

    async def load_blob(self, digest):
        await trio.lowlevel.checkpoint()
        if digest not in self.blobs:
            raise MissingBlob(digest)
        return self.blobs[digest]

    def withdraw(self, name):
        self.seen.append(("withdraw", name))

    def submit(self, model, inputs, timeout_s, name, on_end):
        self.is_computing.set()
        on_end(Busy(64, 64) if model == b"busy" else Ran((), f"profile, {timeout_s:.0f} s"))


def publish(data):
    return ce.NetPublish("topic", data, "")


@asynccontextmanager
async def running(tmp_path, react, world=None):
    """A carrier at work on a fake core; gives (carrier, core, world, inbox)."""
    world = world or World()
    core = FakeCore(react)
    events = EventLog(tmp_path, "node")
    equipment = Equipment(
        store=lambda effect: None,
        core=core,
        net=world,
        engine=world,
        writer=DurableWriter(world, world, world.put_blob, world.log_votes),
        load_blob=world.load_blob,
        find_receipt=lambda key: None,
        events=events,
        clock=WallClock(trio.current_time),
    )
    async with trio.open_nursery() as nursery:
        carrier = Carrier(equipment, nursery)
        nursery.start_soon(carrier.run)
        yield SimpleNamespace(carrier=carrier, core=core, world=world, inbox=equipment.inbox)
        carrier.stop()
    events.close()


async def until(condition):
    """Turn the loop until a condition holds; the test's timeout ends it when it never does."""
    while not condition():
        await trio.sleep(0.001)


def on_boot(*effects):
    return lambda event: list(effects) if isinstance(event, ce.Boot) else []


def run_booted(tmp_path, *effects, world=None):
    """Run a node whose core answers Boot with these effects, until it is stopped at once."""

    async def main():
        async with running(tmp_path, on_boot(*effects), world) as node:
            await until(lambda: node.core.told)
        return node

    return trio.run(main)


def test_boot_comes_first_and_stop_last_whatever_waits(tmp_path):
    async def main():
        world = World()
        async with running(tmp_path, lambda event: [], world) as node:
            node.inbox.put_from_net(Delivered("t", b"", bytes(32)))
            await until(lambda: len(node.core.told) == 2)
        return node.core.told

    assert [type(event) for event in trio.run(main)] == [ce.Boot, Delivered, ce.Stop]


def test_durable_effects_reach_the_disk_before_what_follows_them_leaves(tmp_path):
    node = run_booted(
        tmp_path,
        publish(b"before"),
        ce.Put("b", b"one", b"1"),
        publish(b"between"),
        ce.PutBlob(b"digest", b"data"),
        ce.Put("b", b"two", None),
        publish(b"after"),
    )

    assert node.world.seen == [
        ("publish", b"before"),
        ("blob", b"digest"),
        ("write", [b"one", b"two"]),
        ("publish", b"between"),
        ("publish", b"after"),
    ]


def test_durable_effects_of_waiting_events_share_one_write_and_one_sync(tmp_path):
    def react(event):
        return [ce.Put("b", event.data, b""), publish(event.data)] if isinstance(event, Delivered) else []

    async def main():
        async with running(tmp_path, react) as node:
            for number in range(5):
                node.inbox.put_from_net(Delivered("t", bytes([number]), bytes(32)))
            await until(lambda: len(node.world.seen) == 7)
        return node.world.seen

    keys = [bytes([number]) for number in range(5)]
    assert trio.run(main)[:7] == [("jot", keys), ("sync journal", None), *(("publish", key) for key in keys)]


def jot(key):
    return ce.Put("b", key, b"")


def test_what_can_wait_for_the_disk_is_written_before_a_stream_carries_on_and_synced_before_publishing(
    tmp_path,
):
    node = run_booted(tmp_path, jot(b"job"), publish(b"claim"), request(b"result"))

    assert node.world.seen == [
        ("jot", [b"job"]),
        ("request", b"result"),
        ("sync journal", None),
        ("publish", b"claim"),
        ("sync", None),
    ]


def test_what_is_published_later_waits_no_longer_than_for_the_disk(tmp_path):
    def react(event):
        if isinstance(event, ce.Boot):
            return [jot(b"job")]
        return [publish(event.data)] if isinstance(event, Delivered) else []

    async def main():
        async with running(tmp_path, react) as node:
            await until(lambda: ("sync journal", None) in node.world.seen)
            node.inbox.put_from_net(Delivered("t", b"claim", bytes(32)))
            await until(lambda: ("publish", b"claim") in node.world.seen)
        return node.world.seen

    assert trio.run(main)[:3] == [("jot", [b"job"]), ("sync journal", None), ("publish", b"claim")]


def test_what_need_not_be_synced_is_when_it_comes_with_what_must_and_is_written_beside_the_loop_when_large(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    both = run_booted(tmp_path / "a", jot(b"job"), ce.PutBlob(b"blob", b""), publish(b"head"))
    large = ce.Put("b", b"large", bytes(VALUE_BYTES_MAX + 1))
    alone = run_booted(tmp_path / "b", jot(b"job"), large, publish(b"claim"))

    assert both.world.seen == [("blob", b"blob"), ("write", [b"job"]), ("publish", b"head")]
    assert alone.world.seen[:3] == [("write unsynced", [b"job", b"large"]), ("sync", None), ("publish", b"claim")]
    assert both.world.threads == {"write": False}
    assert alone.world.threads["write unsynced"] is False


def test_a_disk_that_fails_later_stops_the_node_before_it_publishes(tmp_path):
    world = World()
    world.broken_disk = OSError(5, "Input/output error")

    with pytest.raises(BaseExceptionGroup) as caught:
        run_booted(tmp_path, jot(b"job"), publish(b"claim"), world=world)

    assert isinstance(caught.value.exceptions[0], StoreFailed)
    assert ("publish", b"claim") not in world.seen


def request(data):
    return ce.NetRequest(bytes(32), "consensus", data, data.hex(), 1_000)


def test_a_vote_leaves_once_it_is_in_its_log_and_waits_for_no_block(tmp_path):
    votes = (ce.LogVote(b"one"), ce.LogVote(b"two"), request(b"vote"))

    node = run_booted(tmp_path, *votes, jot(b"key"), ce.PutBlob(b"blob", b""), publish(b"head"))

    assert node.world.seen == [
        ("votes", [b"one", b"two"]),
        ("request", b"vote"),
        ("blob", b"blob"),
        ("write", [b"key"]),
        ("publish", b"head"),
    ]


def test_votes_that_nobody_waits_for_share_the_turns_write_and_come_after_the_block(tmp_path):
    node = run_booted(tmp_path, ce.LogVote(b"one"), jot(b"key"), ce.LogVote(b"two"), request(b"vote"))

    assert node.world.seen == [("write", [b"key"]), ("votes", [b"one", b"two"]), ("request", b"vote")]


@pytest.mark.parametrize("error", [sqlite3.OperationalError("database or disk is full"), OSError(28, "No space left")])
def test_when_the_disk_fails_the_node_stops_and_says_nothing_it_could_forget(tmp_path, error):
    world = World()
    world.broken = error

    with pytest.raises(BaseExceptionGroup) as caught:
        run_booted(tmp_path, publish(b"early"), ce.PutBlob(b"blob", b""), publish(b"late"), world=world)

    (failure,) = caught.value.exceptions
    assert isinstance(failure, StoreFailed)
    assert "space" in failure.hint
    assert world.seen == [("publish", b"early"), ("blob", b"blob")]


def test_a_blob_beyond_the_quota_is_counted_and_the_node_goes_on(tmp_path):
    world = World()

    def refuse(data, digest):
        raise StoreFull(1, 2, 2)

    world.put_blob = refuse
    node = run_booted(tmp_path, ce.PutBlob(b"digest", b"data"), ce.Put("b", b"key", b""), publish(b"on"), world=world)

    assert world.seen == [("write", [b"key"]), ("publish", b"on")]
    assert node.carrier.get_shed() == {"blobs": 1}


def test_the_last_effects_are_carried_out(tmp_path):
    def react(event):
        return [ce.Put("b", b"last", b""), publish(b"bye")] if isinstance(event, ce.Stop) else []

    async def main():
        async with running(tmp_path, react) as node:
            await until(lambda: node.core.told)
        return node.world.seen

    assert trio.run(main)[:3] == [("jot", [b"last"]), ("sync journal", None), ("publish", b"bye")]


def test_a_timer_wakes_the_core_at_its_time_and_moves_when_set_again(tmp_path):
    async def main():
        woken = []

        def react(event):
            if isinstance(event, ce.Boot):
                now_ms = int(trio.current_time() * 1_000)
                return [ce.Wake("a", now_ms + 5_000), ce.Wake("b", now_ms + 60_000), ce.Wake("a", now_ms + 90_000)]
            if isinstance(event, ce.Woke):
                woken.append((event.name, round(trio.current_time() - started_s)))
            return []

        started_s = trio.current_time()
        async with running(tmp_path, react):
            await trio.sleep(100)
        return woken

    assert trio.run(main, clock=MockClock(autojump_threshold=0)) == [("b", 60), ("a", 90)]


def test_an_event_wakes_a_node_that_waits_for_a_timer(tmp_path):
    async def main():
        async with running(tmp_path, on_boot(ce.Wake("far", 10**15))) as node:
            await trio.testing.wait_all_tasks_blocked(0.01)
            node.inbox.put_from_net(Delivered("t", b"", bytes(32)))
            await until(lambda: len(node.core.told) == 2)

    trio.run(main)


def test_a_bug_in_a_check_costs_the_message_and_not_the_node(tmp_path):
    async def main():
        async with running(tmp_path, lambda event: []) as node:
            assert node.carrier.check("t", b"boom", bytes(32)) is Verdict.IGNORE
            assert node.carrier.check("t", b"fine", bytes(32)) is Verdict.ACCEPT
            assert node.carrier.counts["check_failed"] == 1

    trio.run(main)


def test_a_bug_in_a_role_ends_the_node_and_is_not_swallowed(tmp_path):
    def react(event):
        raise ZeroDivisionError

    async def main():
        async with running(tmp_path, react):
            await trio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as caught:
        trio.run(main)
    assert isinstance(caught.value.exceptions[0], ZeroDivisionError)


def test_a_core_that_cannot_go_on_says_why(tmp_path):
    with pytest.raises(BaseExceptionGroup) as caught:
        run_booted(tmp_path, ce.Halt("the ledger forked"))

    assert isinstance(caught.value.exceptions[0], Halted)
    assert "the ledger forked" in str(caught.value.exceptions[0])


def test_every_compute_ends_in_one_answer(tmp_path):
    async def main():
        now_ms = int(trio.current_time() * 1_000)
        jobs = [ce.Compute("good", b"model", (), now_ms + 9_400), ce.Compute("bad", b"busy", (), now_ms + 9_400)]
        async with running(tmp_path, on_boot(*jobs)) as node:
            await until(lambda: len(node.core.told) == 3)
            assert node.carrier.get_queues()["computing"] == 0
        return node.core.told[1:3]

    answers = {answer.token: answer for answer in trio.run(main)}
    assert answers["good"] == Computed("good", (), "profile, 9 s")
    assert answers["bad"] == Computed("bad", None, "", "busy: 64 jobs are waiting, at most 64 may")


def test_a_job_taken_back_is_named_to_the_engine_as_it_was_when_it_began(tmp_path):
    async def main():
        async with running(tmp_path, on_boot(ce.Withdraw("queued")), world := World()):
            await until(lambda: ("withdraw", "queued") in world.seen)

    trio.run(main)


def test_every_read_of_a_blob_ends_in_one_answer_and_too_many_are_refused(tmp_path):
    digests = [number.to_bytes(2) for number in range(BLOB_READS_MAX + BLOB_READS_WAITING_MAX + 10)]

    async def main():
        world = World()
        world.blobs = dict.fromkeys(digests, b"data")
        async with running(tmp_path, on_boot(*map(ce.LoadBlob, digests), ce.LoadBlob(b"none")), world) as node:
            await until(lambda: len(node.core.told) == len(digests) + 2)
            shed = node.carrier.get_shed()
        return node.core.told[1:-1], shed

    answers, shed = trio.run(main)
    assert sorted(answer.digest for answer in answers) == sorted([*digests, b"none"])
    assert shed == {"blob_reads": 11}
    assert sum(answer.data is None for answer in answers) == 11


def test_a_url_that_cannot_be_fetched_is_answered_with_the_reason(tmp_path):
    async def main():
        async with running(tmp_path, on_boot(ce.FetchUrl("ftp://127.0.0.1/x", 1_000))) as node:
            await until(lambda: len(node.core.told) == 2)
        return node.core.told[1]

    answer = trio.run(main)
    assert answer.data is None
    assert answer.error


def test_files_and_programs_of_sources_are_answered_with_what_they_hold(tmp_path):
    series = tmp_path / "series.csv"
    series.write_bytes(b"day,mm\n1,2.5\n")
    addresses = [f"file:{series}", 'exec:["/bin/echo", "7"]', 'exec:["/bin/false"]']

    async def main():
        async with running(tmp_path, on_boot(*(ce.FetchUrl(address, 5_000) for address in addresses))) as node:
            await until(lambda: len(node.core.told) == 4)
        return {answer.url: answer.data for answer in node.core.told[1:4]}

    assert trio.run(main) == dict(zip(addresses, (b"day,mm\n1,2.5\n", b"7\n", None), strict=True))


def test_outcomes_go_to_whoever_drives_the_node_and_are_counted_without_one(tmp_path):
    def react(event):
        if isinstance(event, ce.Boot):
            return [ce.Deliver("client", 0)]
        return [ce.Deliver("client", event.data)] if isinstance(event, Delivered) else []

    async def main():
        outcomes = []
        async with running(tmp_path, react) as node:
            await until(lambda: node.core.told)
            await trio.testing.wait_all_tasks_blocked()
            assert node.carrier.get_shed() == {"outcomes": 1}
            node.carrier.on_outcome = outcomes.append
            node.inbox.put_from_net(Delivered("t", b"now", bytes(32)))
            await until(lambda: outcomes)
            assert node.carrier.get_shed() == {"outcomes": 1}
        return outcomes

    assert trio.run(main) == [ce.Deliver("client", b"now")]


def test_what_the_core_logs_stands_in_the_event_log_after_the_turn(tmp_path):
    async def main():
        async with running(tmp_path, on_boot(ce.Log("claim.made", {"claim": b"\x01"}))) as node:
            await until(lambda: node.core.told)
            await trio.testing.wait_all_tasks_blocked()
            return [(event["name"], event["claim"]) for event in read_events(tmp_path)]

    assert trio.run(main) == [("claim.made", "01")]


def test_a_change_of_state_is_announced_to_the_status(tmp_path):
    async def main():
        def react(event):
            if isinstance(event, ce.Boot):
                node_core[0].state = NodeState.SERVING
            return []

        node_core = []
        async with running(tmp_path, react) as node:
            node_core.append(node.core)
            await node.carrier.state_changed.wait()

    trio.run(main)


def test_a_turn_that_waits_for_the_disk_shows_for_as_long_as_it_does(tmp_path):
    released = threading.Event()

    class Slow(World):
        def write(self, effects, is_synced=True):
            assert released.wait(10)
            super().write(effects, is_synced)

    def react(event):
        return [ce.PutBlob(b"k", b"v")] if isinstance(event, ce.Woke) else []

    async def main():
        async with running(tmp_path, react, Slow()) as node:
            assert node.carrier.get_turn_s() == 0.0
            node.inbox.put(ce.Woke("now"))
            await until(lambda: node.carrier.get_turn_s() > 0.01)
            released.set()
            await until(lambda: node.carrier.get_turn_s() == 0.0)
            assert ("sync", None) in node.world.seen

    trio.run(main)
