"""An app served by a gateway: its passes are let in and counted, and what they were used for is reported."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import trio

from protocol.keys import format_account
from protocol.ledger.apps import ReportUse
from protocol.ledger.state import State
from protocol.types import NodeState
from roles.chain import DATABASE_NAME
from roles.config import ConfigError
from roles.gateway.pass_book import PassBook
from roles.gateway.passes import Passes
from roles.gateway.use_reports import Reporter
from roles.node import RunningNode
from roles.orders import OrderState

LAST_REPORT_S = 5.0  # for the last report to be final; one that is not is found again by the next gateway


class NodeLedger:
    """The ledger as a running node has it (`use_reports.Ledger`)."""

    def __init__(self, node: RunningNode) -> None:
        self._node = node
        self.account: bytes = node.plan.keys.account.public
        self.database: Path = node.plan.directory / DATABASE_NAME

    @property
    def state(self) -> State:
        return self._node.core.ledger

    @property
    def is_ready(self) -> bool:
        return self._node.core.state is NodeState.SERVING

    def order(self, token: str, body: ReportUse) -> None:
        self._node.order(token, body)

    def get_order(self, token: str) -> OrderState | None:
        return self._node.core.orders.get(token)


@asynccontextmanager
async def serving_app(app: str, node: RunningNode, report: Callable[[Exception], None]) -> AsyncIterator[Passes | None]:
    """The passes to an app while inside, None for no app. On the way out what they were used for is reported.

    Raises ConfigError for an app that is not on the ledger, or is not for this node's account to serve.
    """
    if not app:
        yield None
        return
    ledger = NodeLedger(node)
    verify_server(ledger.state, app, ledger.account)
    with closing(PassBook(node.plan.directory, app)) as book:
        reporter, over = Reporter(app, book, ledger, report), trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reporter.run, over)
            yield Passes(app, book, lambda: ledger.state, report)
            over.set()
            nursery.cancel_scope.deadline = trio.current_time() + LAST_REPORT_S


def verify_server(state: State, app: str, account: bytes) -> None:
    """ConfigError unless the ledger has the app, and takes the account's word for its use."""
    record = state.apps.get(app)
    if record is None:
        raise ConfigError(f"the ledger knows no app {app!r}", "`rolemesh app ls` shows those there are")
    if account not in (record.owner, *record.servers):
        name = format_account(account)
        hint = f"have its owner name it: `rolemesh app register {app} … --server {name}`, or serve with --data OWNER"
        raise ConfigError(f"account {name} is not named to serve the app {app!r}", hint)
