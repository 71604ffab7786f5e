"""Runs one attack: a victim and an attacker, each a process, an honest peer here; then holds the victim to the bars."""

import contextlib
import logging
import math
import multiprocessing
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, cast

import trio

from p2p.libp2p_net import Libp2pNet, NetOptions, open_libp2p_net
from p2p.net import Delivered, NetEvent
from tests.p2p.attacks import scene, stranger, victim
from tests.p2p.attacks.scene import Aim
from tests.p2p.attacks.victim import Report

logger = logging.getLogger(__name__)

TURN_MS_MAX = 100.0  # CPU time between two turns of the loop
GROWTH_MB_MAX = 64.0
REFUSED_S_MAX = 10.0
WARM = 12  # honest messages each way before anything is measured
LASTS_S_MIN = 0.6  # an attack goes on so long, punished or not
PATIENCE_S = 50.0  # for anything that has no bar of its own

# Fork from a process that has imported everything: a test should not wait for imports, nor inherit pytest's memory.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["tests.p2p.attacks.stranger", "tests.p2p.attacks.victim"])


@dataclass
class Honest:
    """The honest peer's side: what it said, and which numbers it heard, in order."""

    net: Libp2pNet
    heard: list[int]
    said: int = 0
    said_signed: int = 0
    is_silent: bool = False

    async def speak(self) -> None:
        """At a steady rate, until cancelled."""
        next_s = trio.current_time()
        while True:
            next_s += 1 / scene.RATE_PER_S
            await trio.sleep_until(next_s)
            if self.is_silent:
                continue
            if self.said_signed < self.said // 5:  # one in five on the signed topic as well
                data = scene.write_honest(scene.HONEST_SEED, self.said_signed)
                self.net.publish(scene.SIGNED_TOPIC, data, "")
                self.said_signed += 1
            self.net.publish(scene.TOPIC, scene.write_honest(scene.HONEST_SEED, self.said), "")
            self.said += 1


@dataclass
class Scene:
    """An attack under way, for what a test wants to see besides the bars."""

    aim: Aim
    honest: Honest
    to_victim: Connection
    to_attacker: Connection | None = None

    async def ask_victim(self) -> Report:
        self.to_victim.send("report")
        return cast(Report, await _hear(self.to_victim))

    async def until(self, is_so: Callable[[Report], bool]) -> None:
        """Until the victim's report says so; TooSlowError after PATIENCE_S."""
        with trio.fail_after(PATIENCE_S):
            while not is_so(await self.ask_victim()):
                await trio.sleep(0.02)

    async def hear_attacker(self) -> str:
        assert self.to_attacker is not None
        return str(await _hear(self.to_attacker))


@dataclass(frozen=True)
class Outcome:
    """What the bars are about. `refused_s`: from the attack's beginning until each attacker, by IP, was refused."""

    report: Report
    refused_s: dict[str, float]
    lost: int
    repeated: int


@dataclass(frozen=True)
class Plan:
    """An attack and what is asked of the victim.

    `attackers` are the numbers of those who must be graylisted, banned or shut out, none for those who are only slow;
    `shut` of those whose address must get no handshake. With `is_race` the honest peer says nothing until `meanwhile`
    lets it.
    """

    attack: Callable[..., Any]
    attackers: tuple[int, ...] = (1,)
    shut: tuple[int, ...] = ()
    meanwhile: Callable[[Scene], Awaitable[None]] | None = None
    is_race: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)
    patience: Mapping[str, float] = field(default_factory=dict)


def withstand(attack: Callable[..., Any], **plan: Any) -> Outcome:
    """Have an attack carried out and assert every bar; the rest as in `Plan`."""
    outcome = trio.run(_run, Plan(attack, **plan))
    report = outcome.report
    refused = ", ".join(f"{name} {after_s:.1f} s" for name, after_s in outcome.refused_s.items()) or "never"
    logger.info(
        "%s: longest turn %.0f ms, memory %+.1f MB, refused after %s, at the door %s",
        attack.__name__,
        report.longest_turn_ms,
        report.growth_mb,
        refused,
        report.refused,
    )
    assert (outcome.lost, outcome.repeated) == (0, 0), outcome
    assert report.longest_turn_ms <= TURN_MS_MAX, outcome
    assert report.growth_mb <= GROWTH_MB_MAX, outcome
    late = {name: after_s for name, after_s in outcome.refused_s.items() if after_s > REFUSED_S_MAX}
    assert not late, outcome
    return outcome


async def _run(plan: Plan) -> Outcome:
    with trio.fail_after(3 * PATIENCE_S):
        async with _process(victim.main, plan.patience) as (process, to_victim), _meet(to_victim) as scene_:
            honest = scene_.honest
            async with trio.open_nursery() as nursery:
                nursery.start_soon(honest.speak)
                to_victim.send("speak")
                await scene_.until(lambda report: min(len(honest.heard), _count(report)) >= WARM)
                to_victim.send("mark")
                await _hear(to_victim)
                honest.is_silent = plan.is_race
                details = {**plan.details, "first": honest.said, "first_signed": honest.said_signed}
                aim = replace(scene_.aim, details=details)
                async with _process(stranger.main, plan.attack, aim) as (attacker, scene_.to_attacker):
                    began_s = float(await scene_.hear_attacker())
                    if plan.meanwhile is not None:
                        await plan.meanwhile(scene_)
                    await _attend(scene_, plan, began_s)
                    assert attacker.exitcode is None, "the attacker fell over"
                nursery.cancel_scope.cancel()
            to_victim.send("hush")
            outcome = await _conclude(scene_, plan, began_s)
            assert process.exitcode is None, "the victim is dead"
            return outcome


async def _attend(scene_: Scene, plan: Plan, began_s: float) -> None:
    """Until every attacker is refused, or should have been a moment ago, or has had its time."""
    while True:
        age_s = time.monotonic() - began_s
        missing = plan.attackers or plan.shut
        if missing:
            refused_s = _get_refused_s(plan, await scene_.ask_victim(), began_s)
            missing = tuple(after_s for after_s in refused_s.values() if after_s == math.inf)
        if age_s >= LASTS_S_MIN and (not missing or age_s > REFUSED_S_MAX + 0.5):
            return
        await trio.sleep(0.02)


async def _conclude(scene_: Scene, plan: Plan, began_s: float) -> Outcome:
    """What is on its way may arrive; then count."""
    honest = scene_.honest
    said = {scene.TOPIC: honest.said, scene.SIGNED_TOPIC: honest.said_signed}

    def is_complete(report: Report) -> bool:
        all_there = all(len(report.delivered.get(topic, ())) >= count for topic, count in said.items())
        return all_there and len(honest.heard) >= report.published

    with contextlib.suppress(trio.TooSlowError):
        await scene_.until(is_complete)
    report = await scene_.ask_victim()
    lost = repeated = 0
    for count, numbers in (
        *((count, report.delivered.get(topic, [])) for topic, count in said.items()),
        (report.published, honest.heard),
    ):
        lost += len(set(range(count)) - set(numbers))
        repeated += len(numbers) - len(set(numbers))
    return Outcome(report, _get_refused_s(plan, report, began_s), lost, repeated)


def _get_refused_s(plan: Plan, report: Report, began_s: float) -> dict[str, float]:
    found: dict[str, float] = {}
    for number in {*plan.attackers, *plan.shut}:
        address = f"{scene.ATTACKER_NET}.{number}"
        moments = [report.shut_at.get(address, math.inf)]
        if number not in plan.shut:
            moments.append(report.refused_at.get(address, math.inf))
        found[address] = min(moments) - began_s
    return found


def _count(report: Report) -> int:
    return len(report.delivered.get(scene.TOPIC, ()))


@asynccontextmanager
async def _meet(to_victim: Connection) -> AsyncIterator[Scene]:
    """The honest peer, joined with the victim."""
    heard: list[int] = []

    def take(event: NetEvent) -> None:
        if isinstance(event, Delivered) and (number := scene.read_honest(scene.VICTIM_SEED, event.data)) is not None:
            heard.append(number)

    node, addresses = await _hear(to_victim)
    options = NetOptions(limits=scene.LIMITS, topics=scene.TOPICS)
    async with open_libp2p_net(scene.HONEST_SEED, scene.HONEST_IP, 0, take, options) as net:
        for topic in (scene.TOPIC, scene.SIGNED_TOPIC):
            net.subscribe(topic, scene.judge_envelope)
        net.learn(node, addresses)
        scene_ = Scene(Aim(node, addresses, net._gossip.router._publisher.author.seqno), Honest(net, heard), to_victim)
        with trio.fail_after(PATIENCE_S):
            while not all(net.subscribers(topic) for topic in (scene.TOPIC, scene.SIGNED_TOPIC)):
                await trio.sleep(0.005)
            await scene_.until(lambda report: report.neighbours == 2)
        yield scene_


@asynccontextmanager
async def _process(main: Callable[..., None], *arguments: Any) -> AsyncIterator[tuple[BaseProcess, Connection]]:
    """A process with a pipe to it as its first argument; ended whatever happens, politely if it listens."""
    ours, theirs = _PROCESSES.Pipe()
    process = _PROCESSES.Process(target=main, args=(theirs, *arguments))
    process.start()
    theirs.close()
    try:
        yield process, ours
        if main is victim.main:
            ours.send("stop")
            await trio.to_thread.run_sync(process.join, PATIENCE_S)
            assert process.exitcode == 0, f"the victim ended with {process.exitcode}"
    finally:
        if process.exitcode is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(process.join, PATIENCE_S)
            assert process.exitcode == -signal.SIGKILL
        ours.close()
        process.close()


@contextmanager
def attacking(attack: Callable[..., Any], aim: Aim) -> Iterator[None]:
    """An attack on a node that somebody else looks after."""
    ours, theirs = _PROCESSES.Pipe()
    process = _PROCESSES.Process(target=stranger.main, args=(theirs, attack, aim))
    process.start()
    theirs.close()
    try:
        yield
        assert process.exitcode is None, "the attacker fell over"
    finally:
        process.kill()
        process.join()
        ours.close()


async def _hear(connection: Connection) -> Any:
    with trio.fail_after(PATIENCE_S):
        await trio.lowlevel.wait_readable(connection.fileno())
    return connection.recv()
