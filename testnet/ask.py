"""Ask a running network for one inference: join it as a client, wait for the attested result, leave."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
import trio

from protocol.committee import compute_order, compute_working_set
from protocol.topics import topic_name
from protocol.types import NodeState
from roles import core_effects as ce
from roles.attempts import Ask, Outcome
from roles.node import Commands, Outcomes, RunningNode, run_node, unwrap

JOIN_TIMEOUT_S = 15.0
LATE_S = 3.0  # the client itself ends a request at its deadline; this is for a client that does not
OPEN_TIMEOUT_S = 3.0
POLL_S = 0.02
LISTENERS_WANTED = 2  # inference nodes known to hear requests
LOG_NAME = "node.log"


class NoNetwork(Exception):
    """No node of the network let us catch up in time."""


@dataclass
class _Asker:
    """Drives one client node: waits until it follows the ledger, asks once, keeps the outcome."""

    ask: Ask
    note: Callable[[str], None]
    node: RunningNode | None = None
    outcome: Outcome | None = None

    async def drive(self, commands: Commands, outcomes: Outcomes) -> None:
        assert self.node is not None
        with trio.move_on_after(JOIN_TIMEOUT_S) as joining:
            while not self._is_connected(self.node, LISTENERS_WANTED):
                await trio.sleep(POLL_S)
        if joining.cancelled_caught and not self._is_connected(self.node, 1):
            peers = len(self.node.net.peers())
            raise NoNetwork(f"not caught up with the network after {JOIN_TIMEOUT_S:.0f} s ({peers} peers connected)")
        self.note(f"joined: {len(self.node.net.peers())} peers, height {self.node.core.ledger.height}")
        await commands.send(ce.Command("client", self.ask))
        with trio.move_on_after(self.ask.timeout_ms / 1_000 + LATE_S):
            async for delivered in outcomes:
                if isinstance(delivered.outcome, Outcome) and delivered.outcome.token == self.ask.token:
                    self.outcome = delivered.outcome
                    break
        with trio.move_on_after(OPEN_TIMEOUT_S):
            while self.outcome is not None and self._is_opening(self.node, self.outcome):
                await trio.sleep(POLL_S)

    def _is_connected(self, node: RunningNode, listeners_wanted: int) -> bool:
        """The ledger is followed and a request would find ears: what nobody hears is only repeated seconds later."""
        listeners = node.net.subscribers(topic_name(node.plan.chain, "infer/0"))
        workers = len(node.core.ledger.get_nodes("inference"))
        return node.core.state is NodeState.SERVING and len(listeners) >= min(listeners_wanted, workers)

    def _is_opening(self, node: RunningNode, outcome: Outcome) -> bool:
        """A worker before the one who answered was passed over because the channel to it is only being opened.

        Leaving now would take that transaction back, and a worker new to this client would never get a job from it.
        """
        state, account = node.core.ledger, node.plan.keys.account.public
        epoch = state.get_epoch(state.epoch)
        if epoch is None or not outcome.request_id:
            return False
        workers = compute_working_set(epoch.seed, account, self.ask.model, epoch.candidates, state.params.working_set)
        order = compute_order(outcome.request_id, workers)
        before = order[: order.index(outcome.worker)] if outcome.worker in order else ()
        paid = {channel.payee for channel in state.channels.values() if channel.payer == account}
        return any(candidate.account not in paid for candidate in epoch.candidates if candidate.node in before)


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """What is logged goes to the end of a file while inside; afterwards where it went before."""
    before = structlog.get_config()
    with path.open("a", encoding="utf-8") as log:
        handler = logging.StreamHandler(log)
        handler.setLevel(logging.WARNING)
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(log))
        logging.getLogger().addHandler(handler)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(handler)
            structlog.configure(**before)


def ask_network(directory: Path, ask: Ask, note: Callable[[str], None]) -> Outcome:
    """Run the client node of a data directory until `ask` has ended.

    Raises NoNetwork, UserError (a directory in use, an address taken), or what a bug raises. An outcome that never came
    has the code `timeout`.
    """
    asker = _Asker(ask, note)

    def remember(node: RunningNode) -> None:
        asker.node = node

    async def run() -> None:
        await run_node(directory, ready=remember, driver=asker.drive)

    with logging_to(directory / LOG_NAME):
        try:
            trio.run(run)
        except BaseExceptionGroup as group:
            raise unwrap(group) from group
    if asker.outcome is None:
        return Outcome(ask.token, False, b"", code="timeout", reason="the client gave no outcome in time")
    return asker.outcome
