"""Run one node: its roles on real sockets, disk, engine and clock, from one data directory.

`run_node` is for trio programs and tests, `run` for a process of its own (signals, logs, exit code), and
`python -m roles.node DIR` for a shell.
"""

import argparse
import ctypes
import logging
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import structlog
import trio

from p2p.reach import Reach
from protocol.content import format_cid
from protocol.keys import format_account, format_node, parse_node
from protocol.ledger.state import State, compute_state_root
from protocol.types import NodeState
from roles import core_effects as ce
from roles.carrier import Carrier
from roles.config import (
    EXIT_FAILURE,
    EXIT_OK,
    ConfigError,
    UserError,
)
from roles.core import CoreSettings, NodeCore
from roles.durable import StoreFailed
from roles.engine.sandbox import describe_measures
from roles.equipment import Plan, must_be_reachable, open_equipment, read_plan, sweep
from roles.gather_orders import GatherOrders
from roles.health import Page
from roles.interpreter import set_up_interpreter
from roles.lock import DirectoryLock
from roles.node_parts import Core, Equipment
from roles.passphrase import find_passphrase
from roles.recovery import describe_pending
from roles.registry import load_role
from roles.role import Context, Role
from roles.rotation import take_up_keys
from roles.status import STOPPED, get_rss_bytes, write_status
from roles.vitals import Vitals
from roles.watch import Watch, watch_over

STATUS_S = 1.0
HARD_STOP_S = 4.5  # after the first signal; then the process ends itself, before a launcher would kill it
PR_SET_PDEATHSIG = 1

log = structlog.get_logger()


class TaskStatus(Protocol):
    """What `nursery.start` hands over."""

    def started(self, value: Any) -> None: ...


class RunningNode:
    """A node that runs in this process, for whoever started it."""

    def __init__(self, plan: Plan, equipment: Equipment, carrier: Carrier, watch: Watch) -> None:
        self.plan = plan
        self.core = equipment.core
        self.net = watch.net
        self.addresses = equipment.addresses
        self._equipment = equipment
        self._carrier = carrier
        self._watch = watch
        self._rooted: tuple[State, bytes] | None = None

    @property
    def node(self) -> bytes:
        return self.plan.keys.node.public

    @property
    def is_serving(self) -> bool:
        return self.core.state is NodeState.SERVING

    def stop(self) -> None:
        """Have it hand over what must not be lost, and end."""
        self._carrier.is_restarting = False
        self._carrier.stop()

    def command(self, role: str, command: Any) -> None:
        """Hand a command to a role, as `ce.Command`."""
        self._equipment.inbox.put(ce.Command(role, command))

    async def find_receipt(self, request_id: bytes) -> bytes | None:
        """The receipt file of a request, of those this node has kept so far: they are on disk then, all of them.

        Raises StoreFailed, DatabaseDamaged.
        """
        await self._carrier.settle()
        return await trio.to_thread.run_sync(self._equipment.find_receipt, request_id)

    @property
    def gathers(self) -> GatherOrders:
        """Files and folders to be fetched into its store."""
        return GatherOrders(self.core, self._equipment.inbox.put)

    def order(self, token: str, body: Any) -> None:
        """Have a transaction of its account put on the ledger; `core.orders` says what has become of it."""
        self._equipment.inbox.put(ce.Order(token, body))

    def deliver_to(self, sink: Callable[[ce.Deliver], None]) -> None:
        """Hand what roles deliver to who drives the node, within the loop. Until then it is dropped, and counted."""
        self._carrier.on_outcome = sink

    def describe(self) -> dict[str, Any]:
        """What `status.json` says."""
        ledger, net, carrier = self.core.ledger, self.net, self._carrier
        peers, engine = net.peers(), self._equipment.engine
        return {
            "time_ms": self._equipment.clock.now_ms(),
            "pid": os.getpid(),
            "name": self.plan.config.name,
            "state": str(self.core.state),
            "roles": list(self.plan.config.roles),
            "chain": self.plan.chain.hex(),
            "node": format_node(self.node),
            "account": format_account(self.plan.keys.account.public),
            "addresses": list(self.addresses),
            "height": ledger.height,
            "state_root": self._get_state_root().hex(),
            "peers": [format_node(peer) for peer in peers],
            "reach": {"state": self._watch.get_reach(), "advice": self._watch.get_advice()},
            "keys": dict(self.core.rotation),
            "restart": describe_pending(*self.core.pending_restarts),
            "bans": self._watch.count_bans(),
            "http": self._watch.http_url,
            "models": {format_cid(model): each.format() for model, each in engine.get_admissions().items()},
            "sandbox": describe_measures(engine.measures),
            "backends": {backend.config.model: backend.describe() for backend in engine.backends},
            "topics": net.counters(),
            "queues": carrier.get_queues(),
            "shed": carrier.get_shed(),
            "counts": dict(carrier.counts),
            "rss_bytes": get_rss_bytes(),
        }

    def get_page(self, target: str) -> Page:
        """One of its pages over HTTP, wherever it is asked for."""
        return self._watch.get_page(target)

    def tell(self, name: str, fields: Mapping[str, Any]) -> None:
        """Put something into the event log."""
        self._equipment.events.write(self._equipment.clock.now_ms(), name, fields)

    def _get_state_root(self) -> bytes:
        """Hashed anew only when the ledger has moved: it covers the whole state."""
        state = self.core.ledger
        if self._rooted is None or self._rooted[0] is not state:
            self._rooted = (state, compute_state_root(state))
        return self._rooted[1]


Driver = Callable[[RunningNode], Awaitable[None]]


async def run_node(
    directory: Path,
    *,
    ready: Callable[[RunningNode], None] | None = None,
    driver: Driver | None = None,
    make_core: Callable[[Plan, ce.Restored], Core] | None = None,
    passphrase: str | None = None,
    task_status: TaskStatus = trio.TASK_STATUS_IGNORED,
) -> bool:
    """Run the node of a data directory until it is stopped, its driver returns, or it cannot go on.

    True when it has gone down to be run again, with keys that follow those it ran with.

    `passphrase` opens its sealed keys.
    `ready` is called, and `task_status` started, once it has its addresses and before its first turn. `driver` gets
    the node, to command its roles and read what they deliver; the node stops when it returns.
    Raises UserError, with a hint, for all that a person can put right; anything else is a bug.
    """
    with DirectoryLock(directory):
        sweep(directory)
        for purpose in take_up_keys(directory):
            log.info("keys.taken_up", purpose=purpose)
        plan = read_plan(directory, passphrase)
        last_words = {"name": plan.config.name, "roles": list(plan.config.roles), "pid": os.getpid()}
        error: BaseException | None = None
        try:
            return await _run(plan, ready, driver, make_core or build_core, task_status, last_words)
        except BaseException as problem:
            error = unwrap(problem)
            if error is problem:
                raise
            raise error from error.__cause__
        finally:
            _say_goodbye(directory, last_words, error)


def build_core(plan: Plan, restored: ce.Restored) -> NodeCore:
    """The core of a node, with its roles. Raises ConfigError for a role that cannot be loaded or set up."""
    rng = random.SystemRandom()
    roles = [_build_role(name, plan, rng) for name in plan.config.roles]
    bootstrap = tuple((parse_node(peer.node), peer.addresses) for peer in plan.config.bootstrap)
    settings = CoreSettings(plan.chain, bootstrap, plan.config.enrol, must_be_reachable(plan.config))
    return NodeCore(settings, plan.keys, roles, plan.genesis, restored, rng)


def unwrap(error: BaseException) -> BaseException:
    """The one error inside nested groups of one; the group itself when there are several, a UserError first."""
    while isinstance(error, BaseExceptionGroup):
        expected = [inner for inner in error.exceptions if isinstance(unwrap(inner), UserError)]
        if len(error.exceptions) != 1 and not expected:
            return error
        error = expected[0] if expected else error.exceptions[0]
    return error


async def _run(
    plan: Plan,
    ready: Callable[[RunningNode], None] | None,
    driver: Driver | None,
    make_core: Callable[[Plan, ce.Restored], Core],
    task_status: TaskStatus,
    last_words: dict[str, Any],
) -> bool:
    async with open_equipment(plan, make_core) as (equipment, net), trio.open_nursery() as nursery:
        carrier = Carrier(equipment, nursery)
        watch = await nursery.start(watch_over, plan, equipment, net, carrier)
        node = RunningNode(plan, equipment, carrier, watch)
        log.info("node.started", name=plan.config.name, node=format_node(node.node), addresses=node.addresses)
        if ready is not None:
            ready(node)
        task_status.started(node)
        nursery.start_soon(_keep_status, node, carrier, last_words)
        if driver is not None:
            nursery.start_soon(_drive, driver, node)
        await carrier.run()
        last_words.update(node.describe())
        nursery.cancel_scope.cancel()
    return carrier.is_restarting


async def _keep_status(node: RunningNode, carrier: Carrier, last_words: dict[str, Any]) -> None:
    """Write `status.json` every second and whenever the node's state changes; say what was shed and who was blamed."""
    shed: dict[str, int] = {}
    reach: dict[str, str] = {}
    restart: dict[str, Any] = {}
    keys: dict[str, str] = {}
    sandbox: dict[str, Any] = {}
    backends: dict[str, tuple[str, str]] = {}
    penalties = 0
    vitals = Vitals()
    while True:
        carrier.state_changed = trio.Event()
        fields = node.describe()
        last_words.update(fields)
        try:
            await trio.to_thread.run_sync(write_status, node.plan.directory, fields)
        except OSError as error:
            raise StoreFailed(error) from error
        for name, told in vitals.tell(fields):
            node.tell(name, told)
        if fields["shed"] != shed:
            shed = fields["shed"]
            log.warning("node.shed", **shed)
        if fields["reach"] != reach:
            reach = fields["reach"]
            (log.warning if reach["state"] == Reach.UNREACHABLE else log.info)("node.reach", **reach)
        if fields["restart"].get("state") != restart.get("state"):
            restart = fields["restart"]
            (log.warning if restart else log.info)("node.restart", **restart)
        if fields["keys"] != keys:
            keys = fields["keys"]
            (log.warning if keys.get("state") == "replaced" else log.info)("node.keys", **keys)
        if fields["sandbox"] != sandbox:
            sandbox = fields["sandbox"]
            (log.warning if sandbox["missing"] else log.info)("engine.sandbox", **sandbox)
            node.tell("engine.sandbox", sandbox)
        for model, found in fields["backends"].items():
            if backends.get(model) != (found["state"], found["reason"]):
                backends[model] = (found["state"], found["reason"])
                said = {
                    "model": model,
                    **{name: found[name] for name in ("url", "state", "reason", "server", "tensors")},
                }
                (log.info if found["state"] == "ready" else log.warning)("engine.backend", **said)
                node.tell("engine.backend", said)
        if carrier.counts["penalties"] > penalties:
            penalties = carrier.counts["penalties"]
            peer, reason = carrier.last_penalty
            log.info("peers.penalised", count=penalties, last=format_node(peer), reason=reason)
        with trio.move_on_after(STATUS_S):
            await carrier.state_changed.wait()


async def _drive(driver: Driver, node: RunningNode) -> None:
    """Run a driver beside the node; the node stops when it returns."""
    await driver(node)
    node.stop()


def _build_role(name: str, plan: Plan, rng: random.Random) -> Role:
    kind, options = load_role(name), plan.config.options
    context = Context(
        config={**options.get(kind.name, {}), **options.get(name, {})},
        signer=plan.keys.node,
        account=plan.keys.account,
        random=rng,
        vote=plan.keys.vote,
    )
    try:
        return kind(context)
    except (ValueError, TypeError, KeyError) as error:
        hint = f"see options.{kind.name} in {plan.directory / 'node.json'}"
        raise ConfigError(
            f"role {kind.name!r} does not take its options: {type(error).__name__}: {error}", hint
        ) from error


def _say_goodbye(directory: Path, last_words: dict[str, Any], error: BaseException | None) -> None:
    """The status of a node that runs no more, and of what, if not of being told to."""
    reason = None if error is None or _is_cancellation(error) else f"{type(error).__name__}: {error}"
    try:
        write_status(directory, {**last_words, "state": STOPPED, "error": reason})
    except OSError as problem:
        log.error("node.no_last_status", error=str(problem))


def _is_cancellation(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)[1] is None
    return isinstance(error, trio.Cancelled)


# A process of its own


def run(
    directory: Path, *, driver: Driver | None = None, parent: int | None = None, passphrase: str | None = None
) -> int:
    """Run a node as this process until SIGTERM, SIGINT or the end of its driver; the exit code.

    0 after a stop in good order; 1 for failures; 3 for configuration, keys and a directory in use. A second signal ends
    the process at once. With `parent`, the process dies when that one does, however it does.
    """
    set_up_logging()
    set_up_interpreter()
    if parent is not None:
        die_with(parent)
    try:
        trio.run(_run_until_signal, directory, driver, passphrase)
    except UserError as error:
        log.error("node.failed", error=error.message, hint=error.hint, exit_code=error.exit_code)
        return error.exit_code
    except Exception:
        log.exception("node.crashed")
        return EXIT_FAILURE
    return EXIT_OK


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m roles.node DIR [--parent PID] [--passphrase-file FILE]`; else ROLEMESH_PASSPHRASE opens the keys."""
    parser = argparse.ArgumentParser(prog="python -m roles.node", description="Run the node of a data directory.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--parent", type=int, help="die when this process does")
    parser.add_argument("--passphrase-file", type=Path, help="file with the passphrase of sealed keys")
    options = parser.parse_args(arguments)
    try:
        passphrase = find_passphrase(options.passphrase_file)
    except ConfigError as error:
        parser.error(f"{error.message}: {error.hint}")
    return run(options.directory, parent=options.parent, passphrase=passphrase)


def set_up_logging() -> None:
    """Ours from info, the libraries' from warning, on standard error: JSON lines, or text on a terminal."""
    if sys.stderr.isatty():
        rendering: list[Any] = [structlog.dev.ConsoleRenderer()]
    else:
        rendering = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *rendering,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format='{"level":"%(levelname)s","logger":"%(name)s"} %(message)s'
    )


def die_with(parent: int) -> None:
    """Have the kernel kill this process when `parent` ends. Ends at once when it has ended already."""
    if sys.platform != "linux":
        return
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os._exit(EXIT_FAILURE)


async def _run_until_signal(directory: Path, driver: Driver | None, passphrase: str | None) -> None:
    nodes: list[RunningNode] = []
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(_obey_signals, nodes, nursery.cancel_scope)
            while await run_node(directory, ready=nodes.append, driver=driver, passphrase=passphrase):
                nodes.clear()
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise unwrap(group) from group


async def _obey_signals(
    nodes: list[RunningNode],
    starting: trio.CancelScope,
    task_status: TaskStatus = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
        task_status.started(None)
        number = await anext(received)
        log.info("node.stopping", signal=signal.Signals(number).name)
        for node in nodes:
            node.stop()
        if not nodes:
            starting.cancel()
        # Whatever hangs on the way out must not hang for ever.
        with trio.move_on_after(HARD_STOP_S):
            await anext(received)
        log.error("node.stopped_hard")
        os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
