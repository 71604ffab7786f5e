"""One simulated node: the same core and roles as a real one, carried in virtual time, on a disk that survives a crash.

Effects are carried out one by one in the order the core gives them. Blocks, kept values and blobs are durable once they
are reached, as the real shell syncs before anything later leaves. A crash may strike between any two effects.
"""

import json
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from p2p.net import NetEvent
from protocol.cid import Cid
from protocol.consensus.log import decode_record, get_height
from protocol.content import compute_digest
from protocol.errors import LocalError, MalformedMessage, MissingBlob
from protocol.held import describe_block
from protocol.ledger.genesis import Genesis
from protocol.ledger.restart_pending import apply_pending, select_pending
from protocol.ledger.restart_terms import Restart
from protocol.ledger.state import State, compute_state_root
from protocol.messages import CertifiedBlock
from protocol.proofs.steps import AnyAnswer, AnyQuestion
from protocol.tensor import Tensor
from protocol.types import Unproven, Verdict
from roles import core_effects as ce
from roles import store_effects as se
from roles.block_server import read_blocks
from roles.core import CoreSettings, NodeCore
from roles.engine.errors import EngineError
from roles.engine.stepped import Stepped
from roles.eventlog import format_event
from roles.role import Computed, Context, Inspected, Progressed, Role, VoteHistory
from roles.store.proving import Prover
from testnet.kernel import Kernel
from testnet.sim_links import Fabric
from testnet.sim_net import SimNet

DISK_MS = 1
COMPUTE_MS = 5
STEP_MS = 2  # for as many steps of a generation as are told of at a time
HTTP_MS = 20
_LEAVING = ce.NetPublish | ce.NetRequest | ce.NetTell | ce.NetReply
CUT_WAIT_MS = 200  # how long a crash waits for a list of effects to strike into


class Engine(Protocol):
    """Runs a model in place: `roles.engine.inline.InlineEngine`."""

    def compute(
        self, model: bytes, inputs: tuple[Tensor, ...], say: Callable[[Stepped], None] | None = None
    ) -> tuple[tuple[Tensor, ...], str]: ...

    def inspect(self, model: bytes, question: AnyQuestion) -> AnyAnswer: ...


class NodeHalted(LocalError):
    """A core said that its node cannot go on."""


@dataclass
class Disk:
    """What a node finds again after a crash."""

    boot: int = 0
    state: State | None = None
    blocks: dict[int, CertifiedBlock] = field(default_factory=dict)
    kv: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    blobs: dict[bytes, bytes] = field(default_factory=dict)
    pins: dict[Cid, int] = field(default_factory=dict)  # what is kept whole, and until when
    votes: list[bytes] = field(default_factory=list)
    has_lost_votes: bool = False
    restarts: tuple[Restart, ...] = ()  # loaded by the operator

    def start(self) -> ce.Restored:
        """Count a start and hand over what is kept, as the node's database does."""
        self.boot += 1
        self._prover = Prover(lambda cid: self._read(cid.digest))  # what it remembers is not on the disk
        kept = {bucket: dict(values) for bucket, values in self.kv.items() if bucket != "receipt"}
        history = VoteHistory((), is_lost=True) if self.has_lost_votes else VoteHistory(tuple(self.votes))
        return ce.Restored(self.boot, self.state, kept, self.blocks.get, history, self._list_pending())

    def _list_pending(self) -> tuple[Restart, ...]:
        return self.restarts if self.state is None else select_pending(self.state, self.restarts)

    def restore_standing(self) -> State | None:
        """What the next block is to follow; None before the first one."""
        return None if self.state is None else apply_pending(self.state, self._list_pending())

    def begin_votes(self) -> None:
        """The log of another vote key, which has signed nothing."""
        self.votes.clear()
        self.has_lost_votes = False

    def lose_votes(self) -> None:
        """The vote log is gone: its validator finds none at its next start."""
        self.votes.clear()
        self.has_lost_votes = True

    def keep(self, effect: ce.Commit | ce.LogVote | ce.Put | ce.PutBlob) -> None:
        match effect:
            case ce.Commit(block, certificate, state, restarts):
                self.blocks[state.height] = CertifiedBlock(block, certificate, restarts)
                self.state = state
                self.votes = [vote for vote in self.votes if get_height(decode_record(vote)) > state.height]
            case ce.LogVote(record):
                self.votes.append(record)
                self.has_lost_votes = False
            case ce.Put(bucket, key, None):
                self.kv.get(bucket, {}).pop(key, None)
            case ce.Put(bucket, key, bytes(value)):
                self.kv.setdefault(bucket, {})[key] = value
            case ce.PutBlob(digest, data):
                self.keep_blob(data, digest)

    def use_store(self, effect: se.StoreEffect) -> se.StoreEvent | None:
        """What `roles.store.receiving` does, in memory and without a quota."""
        match effect:
            case se.ReadBlocks(token, digests, bytes_max):
                return read_blocks(token, digests, bytes_max, self._read)
            case se.LookUp(token, cids):
                held = [describe_block(cid, self.blobs[cid.digest]) for cid in cids if cid.digest in self.blobs]
                return se.LookedUp(token, tuple(held), tuple(cid for cid in cids if cid.digest not in self.blobs))
            case se.Keep(token, number, blocks):
                good = [(cid, bytes(data)) for cid, data in blocks if compute_digest(data) == cid.digest]
                try:
                    held = [describe_block(cid, data) for cid, data in good]
                except MalformedMessage as error:
                    return se.Kept(token, number, (), (), str(error))
                self.blobs.update((cid.digest, data) for cid, data in good)
                bad = tuple(cid for cid, data in blocks if compute_digest(data) != cid.digest)
                return se.Kept(token, number, tuple(held), bad)
            case se.PinGathered(token, cid, _, expires_ms):
                self.pins[cid] = expires_ms
                return se.Pinned(token)
            case se.Prove():
                return self._prover.prove(effect)
            case se.Unpin(cid):
                self.pins.pop(cid, None)
            case se.DropGathered():
                pass
        return None

    def _read(self, digest: bytes) -> bytes:
        if digest not in self.blobs:
            raise MissingBlob(digest)
        return self.blobs[digest]

    def keep_blob(self, data: bytes, digest: bytes) -> None:
        if compute_digest(data) != digest:
            raise LocalError(f"a blob to be kept as {digest.hex()} has another sha256")
        self.blobs[digest] = data


@dataclass(frozen=True)
class Hooks:
    """What a simulation wants to be told: lines of event logs, outcomes of commands and nodes that go down, by name."""

    on_log: Callable[[Mapping[str, Any]], None]
    on_deliver: Callable[[str, ce.Deliver], None]
    on_down: Callable[[str], None]


@dataclass(frozen=True)
class Surroundings:
    """What all nodes of a simulation share. `fetch_url` gives a document at a virtual time, or None."""

    kernel: Kernel
    fabric: Fabric
    engine: Engine
    genesis: Genesis
    chain: bytes
    fetch_url: Callable[[str, int], bytes | None]
    hooks: Hooks


class SimNode:
    """A node with its keys, its disk and, while it is up, its core."""

    def __init__(
        self,
        name: str,
        role: type[Role],
        keys: ce.NodeKeys,
        config: Mapping[str, Any],
        around: Surroundings,
    ) -> None:
        self.name = name
        self.role = role.name
        self.keys = keys
        self.next_keys: ce.NodeKeys | None = None  # to follow when the ledger names them
        self.disk = Disk()
        self.engine = around.engine  # another may be put in its place; no part of a replay token
        self.roots: dict[int, bytes] = {}  # height -> the state root this node computed itself
        self.bootstrap: tuple[tuple[bytes, tuple[str, ...]], ...] = ()
        self.starts = 0
        self._class = role
        self._config = config
        self._around = around
        self._kernel = around.kernel
        self._core: NodeCore | None = None
        self._net: SimNet | None = None
        self._wakes: dict[str, int] = {}  # name -> number of the wake-up that counts
        self._wake_count = 0
        self._busy_ms = 0  # until when the engine computes
        self._begins_ms: dict[str, int] = {}  # when the engine begins with each job, by token
        self._withdrawn: set[str] = set()
        self._is_doomed = False
        self._crashes: random.Random = self._kernel.random(f"crash/{name}")

    @property
    def is_up(self) -> bool:
        return self._core is not None

    @property
    def core(self) -> NodeCore:
        """LocalError while the node is down."""
        if self._core is None:
            raise LocalError(f"{self.name} is down")
        return self._core

    @property
    def ledger(self) -> State | None:
        """The newest state this node knows, on disk while it is down; None before the first block then."""
        return self._core.ledger if self._core is not None else self.disk.state

    @property
    def net(self) -> SimNet:
        if self._net is None:
            raise LocalError(f"{self.name} is down")
        return self._net

    def start(self) -> None:
        """Boot from what the disk holds."""
        around = self._around
        self._take_up_keys()
        self.starts += 1
        # A new process has new randomness: nonces and salts of the last one must not come again.
        rng = self._kernel.random(f"node/{self.name}/{self.starts}")
        role = self._class(Context(self._config, self.keys.node, self.keys.account, rng, self.keys.vote))
        settings = CoreSettings(around.chain, self.bootstrap)
        self._core = NodeCore(settings, self.keys, [role], around.genesis, self.disk.start(), rng)
        self._net = around.fabric.attach(self.name, self.keys.node.public, self._on_net)
        self._busy_ms = 0
        self._begins_ms.clear()
        self._withdrawn.clear()
        self.handle(ce.Boot((self._net.address,)))

    def _take_up_keys(self) -> None:
        """As `roles.rotation` does it: what the newest epoch on disk names is what the node runs with."""
        state, following = self.disk.restore_standing(), self.next_keys
        epoch = None if state is None else state.get_epoch(state.epoch)
        if epoch is None or following is None or following.vote is None:
            return
        if any(item.vote == following.vote.public for item in epoch.candidates):
            self.keys, self.next_keys = following, None
            self.disk.begin_votes()

    def crash(self) -> None:
        """Die soon, as by `kill -9`: between two effects of the next list, or idle if there is none."""
        if self._core is None or self._is_doomed:
            return
        self._is_doomed = True
        self._kernel.after(CUT_WAIT_MS, self._die_idle, self.starts)

    def command(self, command: Any) -> None:
        """Hand a command to this node's role, now or when its pause ends. LocalError while it is down."""
        if self._core is None:
            raise LocalError(f"{self.name} is down")
        self._obey(command, self.starts)

    def _obey(self, command: Any, starts: int) -> None:
        if self._core is None or self.starts != starts:
            return
        if self.net.is_standing_still(self._obey, command, starts):
            return
        event = ce.Command(self.role, command)
        self._kernel.record(self.keys.node.public, event)
        self.handle(event)

    def finish_crash(self) -> None:
        """Be dead, if `crash` was called and has not struck yet."""
        if self._is_doomed:
            self._die()

    def stop(self) -> None:
        """Go down in good order."""
        if self._core is not None:
            self.handle(ce.Stop())
        if self._core is not None:
            self._die()

    def handle(self, event: ce.AnyEvent) -> None:
        """Tell the core what happened and carry out what it wants."""
        effects = self.core.handle(event, self._kernel.now_ms)
        if self._is_doomed and effects:
            self._carry_out(self._lose_unsynced(effects[: self._crashes.randrange(len(effects) + 1)]))
            self._die()
            return
        self._carry_out(effects)

    def _lose_unsynced(self, effects: Sequence[ce.CoreEffect]) -> Sequence[ce.CoreEffect]:
        """What of a list reached the disk when its node died: votes since anything last left may have been in no file.

        The node's shell writes them last, in a file of their own: a later block may be kept and an earlier vote not.
        """
        last = max((at for at, effect in enumerate(effects) if isinstance(effect, _LEAVING)), default=-1)
        if self._crashes.random() < 0.5:
            return effects
        return [item for at, item in enumerate(effects) if at < last or not isinstance(item, ce.LogVote)]

    def _die_idle(self, starts: int) -> None:
        if self._is_doomed and self.starts == starts:
            self._die()

    def _die(self) -> None:
        self._around.fabric.detach(self.net)
        self._core = self._net = None
        self._is_doomed = False
        self._wakes.clear()
        self._around.hooks.on_down(self.name)

    def _on_net(self, event: NetEvent) -> None:
        if self._core is not None:
            self.handle(event)

    def _later(self, delay_ms: int, starts: int, make: Callable[[], ce.CoreEvent]) -> None:
        """Make an event after a while and handle it, unless this process of the node is gone by then."""

        def happen() -> None:
            if self._core is not None and self.starts == starts and not self.net.is_standing_still(happen):
                event = make()
                self._kernel.record(self.keys.node.public, event)
                self.handle(event)

        self._kernel.after(delay_ms, happen)

    # Effects

    def _carry_out(self, effects: Sequence[ce.CoreEffect]) -> None:
        for effect in effects:
            self._carry(effect)

    def _carry(self, effect: ce.CoreEffect) -> None:
        net, kernel, around = self.net, self._kernel, self._around
        match effect:
            case ce.NetPublish(topic, data, token):
                net.publish(topic, data, token)
            case ce.NetRequest(peer, protocol, data, token, timeout_ms):
                net.request(peer, protocol, data, token, timeout_ms)
            case ce.NetTell(peer, protocol, data):
                net.tell(peer, protocol, data)
            case ce.NetReply(token, data):
                net.reply(token, data)
            case ce.NetSubscribe(topic):
                net.subscribe(topic, self._check)
            case ce.NetServe(protocol):
                net.serve(protocol)
            case ce.NetLearn(peer, addresses):
                net.learn(peer, addresses)
            case ce.NetPenalise(peer, reason):
                self._log("peer.penalised", {"peer": peer, "reason": reason})
                net.penalise(peer, reason)
            case ce.Commit() | ce.LogVote() | ce.Put() | ce.PutBlob():
                self.disk.keep(effect)
                if isinstance(effect, ce.Commit):
                    self.roots[effect.state.height] = compute_state_root(effect.state)
            case ce.Wake(name, at_ms):
                self._wake(name, at_ms)
            case ce.LoadBlob(digest):
                self._later(DISK_MS, self.starts, lambda: ce.BlobLoaded(digest, self.disk.blobs.get(digest)))
            case se.DropGathered() | se.Unpin():
                self.disk.use_store(effect)
            case se.ReadBlocks() | se.LookUp() | se.Keep() | se.PinGathered() | se.Prove():
                self._later(DISK_MS, self.starts, lambda: self._use_store(effect))
            case ce.FetchUrl(url):
                self._later(HTTP_MS, self.starts, lambda: self._fetch(url))
            case ce.Compute():
                self._queue(effect)
            case ce.Withdraw(token):
                self._withdraw(token)
            case ce.Inspect():
                self._busy_ms = max(self._busy_ms, kernel.now_ms) + COMPUTE_MS
                self._later(self._busy_ms - kernel.now_ms, self.starts, lambda: self._inspect(effect))
            case ce.Log(name, fields):
                self._log(name, fields)
            case ce.Deliver():
                around.hooks.on_deliver(self.name, effect)
            case ce.Halt(reason):
                raise NodeHalted(f"{self.name}: {reason}")
            case ce.Restart():
                kernel.after(DISK_MS, self._start_anew, self.starts)

    def _start_anew(self, starts: int) -> None:
        if self._core is not None and self.starts == starts:
            self.stop()
            self.start()

    def _check(self, topic: str, data: bytes, forwarder: bytes) -> Verdict | Unproven:
        return self.core.check(topic, data, forwarder, self._kernel.now_ms)

    def _wake(self, name: str, at_ms: int) -> None:
        self._wake_count += 1
        number = self._wakes[name] = self._wake_count
        self._kernel.at(at_ms, self._woke, name, number)

    def _woke(self, name: str, number: int) -> None:
        if self._wakes.get(name) == number and not self.net.is_standing_still(self._woke, name, number):
            del self._wakes[name]
            event = ce.Woke(name)
            self._kernel.record(self.keys.node.public, event)
            self.handle(event)

    def _use_store(self, effect: se.StoreEffect) -> se.StoreEvent:
        event = self.disk.use_store(effect)
        assert event is not None  # of these effects each ends in one
        return event

    def _fetch(self, url: str) -> ce.UrlFetched:
        data = self._around.fetch_url(url, self._kernel.now_ms)
        return ce.UrlFetched(url, data, "" if data is not None else f"{url}: nothing answers there")

    def _queue(self, job: ce.Compute) -> None:
        """The engine runs one job at a time. What a streamed one comes to is known at once, and told bit by bit."""
        now_ms = self._kernel.now_ms
        begins_ms = max(self._busy_ms, now_ms)
        parts: deque[Stepped] = deque()
        told = self._run(job, parts.append) if job.streams else None
        self._busy_ms = begins_ms + COMPUTE_MS + STEP_MS * len(parts)
        # Until then it can be taken back: at any time while it is told, or before it begins.
        self._begins_ms[job.token] = self._busy_ms if job.streams else begins_ms
        self._later(begins_ms + COMPUTE_MS - now_ms, self.starts, lambda: self._tell(job, parts, told))

    def _withdraw(self, token: str) -> None:
        if self._begins_ms.get(token, 0) > self._kernel.now_ms:
            self._withdrawn.add(token)

    def _tell(self, job: ce.Compute, parts: deque[Stepped], told: Computed | None) -> Computed | Progressed:
        if parts and job.token not in self._withdrawn:
            part = parts.popleft()
            self._later(STEP_MS, self.starts, lambda: self._tell(job, parts, told))
            return Progressed(job.token, part.tokens, part.steps)
        self._begins_ms.pop(job.token, None)
        if job.token in self._withdrawn:
            self._withdrawn.remove(job.token)
            return Computed(job.token, None, "", "withdrawn: taken back before it began, or between two steps")
        if self._kernel.now_ms > job.deadline_ms:
            return Computed(job.token, None, "", "timed_out: the deadline passed while the job waited")
        return self._run(job) if told is None else told

    def _run(self, job: ce.Compute, say: Callable[[Stepped], None] | None = None) -> Computed:
        try:
            if job.model not in self.disk.blobs:
                raise MissingBlob(job.model)
            said = {} if say is None else {"say": say}
            outputs, profile = self.engine.compute(job.model, job.inputs, **said)
        except EngineError as error:
            return Computed(job.token, None, "", f"{error.code}: {error}")
        except MissingBlob as error:
            return Computed(job.token, None, "", f"no_model: {error}")
        return Computed(job.token, outputs, profile)

    def _inspect(self, job: ce.Inspect) -> Inspected:
        if self._kernel.now_ms > job.deadline_ms:
            return Inspected(job.token, None, "timed_out: the deadline passed while the job waited")
        try:
            if job.model not in self.disk.blobs:
                raise MissingBlob(job.model)
            return Inspected(job.token, self.engine.inspect(job.model, job.question))
        except EngineError as error:
            return Inspected(job.token, None, f"{error.code}: {error}")
        except MissingBlob as error:
            return Inspected(job.token, None, f"no_model: {error}")

    def _log(self, name: str, fields: Mapping[str, Any]) -> None:
        # Through the text a real node writes, so that simulated and real lines cannot differ.
        self._around.hooks.on_log(json.loads(format_event(self._kernel.now_ms, self.name, name, fields)))
