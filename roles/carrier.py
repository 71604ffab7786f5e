"""The loop of a running node: events to its core, and the core's effects to sockets, disk, engine and web.

A turn takes what has happened, asks the core, and carries the effects out in order. Durable ones of a turn are synced
together before any later effect leaves, so a node never says what it could forget.
"""

import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import structlog
import trio

from protocol.errors import MissingBlob
from protocol.types import Unproven, Verdict
from roles import core_effects as ce
from roles.config import UserError
from roles.durable import Durable, StoreFailed
from roles.engine.errors import EngineError
from roles.engine.frames import Ran
from roles.engine.slots import Answer
from roles.engine.stepped import Stepped
from roles.feeds import fetch_address
from roles.group_sync import GroupSync
from roles.journal import PUTS_MAX, is_light
from roles.node_parts import Equipment
from roles.role import Computed, Inspected, Progressed
from roles.sources import FeedError
from roles.store_effects import (
    BlocksRead,
    DropGathered,
    Keep,
    LookUp,
    PinGathered,
    Prove,
    ReadBlocks,
    StoreEffect,
    Unpin,
)
from roles.timers import Timers

TURN_EVENTS_MAX = 256
TURN_S_MAX = 0.005  # then others get the loop, and what was taken so far is carried out
BLOB_READS_MAX = 8  # at once
BLOB_READS_WAITING_MAX = 512
STORE_THREADS = 6
FETCHES_MAX = 4
FETCHES_WAITING_MAX = 64
CHECK_LOG_S = 1.0  # between two tracebacks of checks that failed
STOP_GRACE_S = 3.0
LAST_SENDS_S = 0.1  # the network sends from tasks of its own: what it gets for the last messages before it is closed

V = TypeVar("V")
log = structlog.get_logger()


class Halted(UserError):
    """The core says that the node cannot go on."""


class _Gate:
    """Bounds tasks of one kind: so many run, so many more wait, the rest is refused and counted."""

    def __init__(self, running_max: int, waiting_max: int) -> None:
        self._limit = trio.CapacityLimiter(running_max)
        self._places = running_max + waiting_max
        self.taken = 0
        self.refused = 0

    def enter(self) -> bool:
        if self.taken >= self._places:
            self.refused += 1
            return False
        self.taken += 1
        return True

    async def run(self, job: Callable[[], Awaitable[None]]) -> None:
        """Run a job that has entered, when its turn comes."""
        try:
            async with self._limit:
                await job()
        finally:
            self.taken -= 1


class Carrier:
    """Runs one node on its equipment until it is told to stop."""

    def __init__(self, equipment: Equipment, nursery: trio.Nursery) -> None:
        self.counts: Counter[str] = Counter()
        self.state_changed = trio.Event()
        self.last_penalty = (b"", "")  # node key and reason
        self._quiet_until_s = -math.inf
        self._equipment = equipment
        self._core = equipment.core
        self._inbox = equipment.inbox
        self._nursery = nursery
        self._timers = Timers()
        self._group = GroupSync(equipment.writer.secure, equipment.writer.sync, self._publish)
        self._reads = _Gate(BLOB_READS_MAX, BLOB_READS_WAITING_MAX)
        self._fetches = _Gate(FETCHES_MAX, FETCHES_WAITING_MAX)
        self._store_threads = trio.CapacityLimiter(STORE_THREADS)  # what waits for one the core bounds
        self._computing = 0
        self.is_restarting = False  # whether the core has asked to be started anew
        self._is_stopping = False
        self._interrupt: trio.CancelScope | None = None
        self._turning_since_s = math.inf
        self.on_outcome: Callable[[ce.Deliver], None] | None = None  # whoever drives the node

    def stop(self) -> None:
        """Have `run` hand the core its last event and return."""
        self._is_stopping = True
        if self._interrupt is not None:
            self._interrupt.cancel()

    async def settle(self) -> None:
        """All that was written so far is in the database when this returns, and on the disk. Raises StoreFailed."""
        await self._group.settle()

    def get_turn_s(self) -> float:
        """How long the turn under way has taken so far, the disk's part included; 0 between two turns."""
        return max(0.0, trio.current_time() - self._turning_since_s)

    def get_queues(self) -> dict[str, int]:
        """What waits inside the shell, by name."""
        return {
            "inbox": len(self._inbox),
            "timers": len(self._timers),
            "blob_reads": self._reads.taken,
            "fetches": self._fetches.taken,
            "computing": self._computing,
        }

    def get_shed(self) -> dict[str, int]:
        """What was dropped or refused for want of room since the start, by name."""
        shed = {f"inbox_{name}": count for name, count in self._inbox.dropped.items()}
        shed.update({"blob_reads": self._reads.refused, "fetches": self._fetches.refused})
        shed["outcomes"] = self.counts["outcomes_dropped"]
        shed["blobs"] = self._equipment.writer.blobs_refused
        return {name: count for name, count in shed.items() if count}

    async def run(self) -> None:
        """Turn until `stop`; then the last turn, within STOP_GRACE_S. Raises StoreFailed, Halted, or a role's bug."""
        self._nursery.start_soon(self._group.run)
        self._nursery.start_soon(self._group.fold_now_and_then)
        if self._equipment.writer.is_behind:
            self._group.note()
        # Peers may have connected already; the core hears of it after it has booted.
        await self._carry_out(self._handle(ce.Boot(self._equipment.addresses)))
        self._flush_events()
        while not self._is_stopping:
            await self._wait()
            self._turning_since_s = trio.current_time()
            await self._turn()
            self._turning_since_s = math.inf
        with trio.move_on_after(STOP_GRACE_S) as grace:
            last = self._handle(ce.Stop())
            await self._carry_out(last)
            await self._group.close()
            self._flush_events()
            if any(isinstance(effect, ce.NetPublish | ce.NetRequest | ce.NetTell | ce.NetReply) for effect in last):
                await trio.sleep(LAST_SENDS_S)
        if grace.cancelled_caught:
            log.warning("node.stop_late", grace_s=STOP_GRACE_S)

    def check(self, topic: str, data: bytes, forwarder: bytes) -> Verdict | Unproven:
        """The verdict for gossip. A bug in a rule costs the message, never the node."""
        now_ms = self._equipment.clock.now_ms()
        found = self._judge(topic, data, partial(self._core.check, topic, data, forwarder, now_ms))
        if not isinstance(found, Unproven):
            return found
        conclude = found.conclude
        return found._replace(conclude=lambda is_good: self._judge(topic, data, partial(conclude, is_good)))

    def _judge(self, topic: str, data: bytes, check: Callable[[], V]) -> V | Verdict:
        try:
            return check()
        except Exception:
            self.counts["check_failed"] += 1
            # Whoever found the bug can send it again and again: one traceback at a time is enough to mend it.
            if trio.current_time() >= self._quiet_until_s:
                self._quiet_until_s = trio.current_time() + CHECK_LOG_S
                log.exception("node.check_failed", topic=topic, size_bytes=len(data))
            return Verdict.IGNORE

    async def _wait(self) -> None:
        """Until an event waits, a timer is due or the node is to stop."""
        await trio.lowlevel.checkpoint()
        while not self._is_stopping:
            for name in self._timers.take_due(trio.current_time()):
                self._inbox.put(ce.Woke(name))
            if len(self._inbox):
                return
            with trio.CancelScope(deadline=self._timers.next_s) as self._interrupt:
                await self._inbox.wait()

    async def _turn(self) -> None:
        effects: list[ce.CoreEffect] = []
        end_s = time.perf_counter() + TURN_S_MAX
        for _ in range(TURN_EVENTS_MAX):
            event = self._inbox.take()
            if event is None:
                break
            effects += self._handle(event)
            if time.perf_counter() > end_s:
                break
        await self._carry_out(effects)
        self._flush_events()

    def _flush_events(self) -> None:
        try:
            self._equipment.events.flush()
        except OSError as error:
            raise StoreFailed(error) from error

    def _handle(self, event: ce.AnyEvent) -> list[ce.CoreEffect]:
        before = self._core.state
        effects = self._core.handle(event, self._equipment.clock.now_ms())
        self.counts["events"] += 1
        if self._core.state is not before:
            self.state_changed.set()
        return effects

    async def _carry_out(self, effects: Sequence[ce.CoreEffect]) -> None:
        for part in _split_off_votes(effects):
            await self._carry_out_part(part)

    async def _carry_out_part(self, effects: Sequence[ce.CoreEffect]) -> None:
        durable: list[Durable] = []
        first = len(effects)
        for index, effect in enumerate(effects):
            if isinstance(effect, Durable):
                durable.append(effect)
                first = min(first, index)
        # What stands before the first durable effect needs not wait for the disk.
        if first:
            self._carry_all(effects[:first])
        if durable:
            await self._keep(durable)
            self._carry_all(effects[first:])

    async def _keep(self, durable: Sequence[Durable]) -> None:
        unsynced = [
            effect
            for effect in durable
            if isinstance(effect, ce.Put) or (isinstance(effect, ce.Commit) and not effect.is_synced)
        ]
        if len(unsynced) < len(durable):
            await trio.to_thread.run_sync(self._equipment.writer.write, durable)
            return
        puts = [effect for effect in unsynced if isinstance(effect, ce.Put) and is_light(effect)]
        if len(puts) == len(unsynced) <= PUTS_MAX:
            self._equipment.writer.jot(puts)
        else:
            await trio.to_thread.run_sync(self._equipment.writer.write_unsynced, unsynced)
        self._group.note()

    def _carry_all(self, effects: Sequence[ce.CoreEffect]) -> None:
        """What they send to one peer leaves in one write."""
        with self._equipment.net.gathering():
            for effect in effects:
                self._carry(effect)

    def _carry(self, effect: ce.CoreEffect) -> None:
        net = self._equipment.net
        match effect:
            # The most frequent first: a case is a question.
            case ce.Commit() | ce.LogVote() | ce.Put() | ce.PutBlob():
                pass  # written already, together with the others of this turn
            case ce.Log(name, fields):
                self._equipment.events.write(self._equipment.clock.now_ms(), name, fields)
            case ce.NetPublish():
                self._group.send(effect)
            case ce.NetRequest(peer, protocol, data, token, timeout_ms):
                net.request(peer, protocol, data, token, timeout_ms)
            case ce.NetTell(peer, protocol, data):
                net.tell(peer, protocol, data)
            case ce.NetReply(token, data):
                net.reply(token, data)
            case ce.NetSubscribe(topic):
                net.subscribe(topic, self.check)
            case ce.NetServe(protocol):
                net.serve(protocol)
            case ce.NetLearn(peer, addresses, topics):
                net.learn(peer, addresses, topics)
            case ce.NetPenalise(peer, reason):
                self.counts["penalties"] += 1
                self.last_penalty = (peer, reason)
                net.penalise(peer, reason)
            case ce.Wake(name, at_ms):
                # The millisecond on top: the clocks must agree that the time has come when the core looks.
                delay_s = max(0, at_ms - self._equipment.clock.now_ms() + 1) / 1_000
                self._timers.set(name, trio.current_time() + delay_s)
            case ce.LoadBlob(digest):
                self._start_read(digest)
            case ReadBlocks() | LookUp() | Keep() | PinGathered() | DropGathered() | Prove() | Unpin():
                self._nursery.start_soon(self._use_store, effect)
            case ce.FetchUrl(url, timeout_ms):
                self._start_fetch(url, timeout_ms)
            case ce.Compute():
                self._computing += 1
                self._start_compute(effect)
            case ce.Inspect():
                self._computing += 1
                self._nursery.start_soon(self._inspect, effect)
            case ce.Withdraw(token):
                self._equipment.engine.withdraw(token)
            case ce.Deliver():
                self._deliver(effect)
            case ce.Halt(reason):
                raise Halted(reason, "see the node's log for what led to this")
            case ce.Restart(reason):
                log.info("node.restarting", reason=reason)
                self.is_restarting = True
                self.stop()

    def _publish(self, effect: ce.NetPublish) -> None:
        self._equipment.net.publish(effect.topic, effect.data, effect.token)

    def _start_read(self, digest: bytes) -> None:
        if not self._reads.enter():
            self._inbox.put(ce.BlobLoaded(digest, None))
            return

        async def read() -> None:
            try:
                data = await self._equipment.load_blob(digest)
            except (MissingBlob, OSError) as error:
                if isinstance(error, OSError):
                    log.error("blob.unreadable", digest=digest.hex(), error=str(error))
                self._inbox.put(ce.BlobLoaded(digest, None))
            else:
                self._inbox.put(ce.BlobLoaded(digest, data))

        self._nursery.start_soon(self._reads.run, read)

    async def _use_store(self, effect: StoreEffect) -> None:
        try:
            event = await trio.to_thread.run_sync(self._equipment.store, effect, limiter=self._store_threads)
        except OSError as error:
            if not isinstance(effect, ReadBlocks):
                raise StoreFailed(error) from error
            log.error("blob.unreadable", digest=effect.digests[0].hex(), error=str(error))
            event = BlocksRead(effect.token, (), effect.digests)
        if event is not None:
            self._inbox.put(event)

    def _start_fetch(self, url: str, timeout_ms: int) -> None:
        if not self._fetches.enter():
            self._inbox.put(ce.UrlFetched(url, None, f"more than {FETCHES_WAITING_MAX} fetches wait"))
            return

        async def fetch() -> None:
            try:
                data = await fetch_address(url, timeout_ms / 1_000)
            except FeedError as error:
                self._inbox.put(ce.UrlFetched(url, None, str(error)))
            else:
                self._inbox.put(ce.UrlFetched(url, data))

        self._nursery.start_soon(self._fetches.run, fetch)

    def _start_compute(self, job: ce.Compute) -> None:
        timeout_s = max(0, job.deadline_ms - self._equipment.clock.now_ms()) / 1_000
        if job.streams:
            self._nursery.start_soon(self._compute_aloud, job, timeout_s)
        else:
            on_end = partial(self._end_compute, job.token)
            self._equipment.engine.submit(job.model, job.inputs, timeout_s, job.token, on_end)

    async def _compute_aloud(self, job: ce.Compute, timeout_s: float) -> None:
        say = partial(self._tell_progress, job.token)
        answer: Answer
        try:
            answer = Ran(*await self._equipment.engine.compute(job.model, job.inputs, timeout_s, job.token, say))
        except (EngineError, MissingBlob, OSError) as error:
            answer = error
        self._end_compute(job.token, answer)

    def _end_compute(self, token: str, answer: Answer) -> None:
        self._computing -= 1
        if isinstance(answer, Ran):
            self._inbox.put(Computed(token, answer.outputs, answer.profile))
        else:
            self._inbox.put(Computed(token, None, "", f"{_name_code(answer)}: {answer}"))

    def _tell_progress(self, token: str, part: Stepped) -> None:
        self._inbox.put(Progressed(token, part.tokens, part.steps))

    async def _inspect(self, job: ce.Inspect) -> None:
        timeout_s = max(0, job.deadline_ms - self._equipment.clock.now_ms()) / 1_000
        try:
            answer = await self._equipment.engine.inspect(job.model, job.question, timeout_s)
        except (EngineError, MissingBlob, OSError) as error:
            self._inbox.put(Inspected(job.token, None, f"{_name_code(error)}: {error}"))
        else:
            self._inbox.put(Inspected(job.token, answer))
        finally:
            self._computing -= 1

    def _deliver(self, outcome: ce.Deliver) -> None:
        if self.on_outcome is None:
            self.counts["outcomes_dropped"] += 1
        else:
            self.on_outcome(outcome)


def _name_code(error: Exception) -> str:
    return error.code if isinstance(error, EngineError) else "no_model"


def _split_off_votes(effects: Sequence[ce.CoreEffect]) -> tuple[Sequence[ce.CoreEffect], ...]:
    """A turn as one part, or as two if it has votes to send before it commits anything.

    Other validators wait for votes: these need their own log on disk, which is quick, and not a block, which is not.
    """
    kept = next((at for at, effect in enumerate(effects) if isinstance(effect, ce.Commit | ce.Put | ce.PutBlob)), None)
    voted = next((at for at, effect in enumerate(effects) if isinstance(effect, ce.LogVote)), None)
    if (
        kept is None
        or voted is None
        or not any(isinstance(item, ce.NetRequest | ce.NetTell) for item in effects[voted:kept])
    ):
        return (effects,)
    return effects[:kept], effects[kept:]
