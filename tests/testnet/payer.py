"""A process that pays, one transfer after another, each given to one validator: `python -m tests.testnet.payer DIR`.

It prints a JSON line for each transfer once the ledger holds it: its nonce, its height, and how long it took in ms.
Each line it reads on standard input, the name of a validator and a count, has it pay so many times.
"""

import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from protocol.codec import encode
from protocol.keys import parse_node
from protocol.ledger.transactions import Transaction, Transfer
from protocol.messages import Transactions
from protocol.types import NodeState
from roles.node import RunningNode, run_node, set_up_logging
from roles.role import (
    Commanded,
    Context,
    Deliver,
    Effect,
    Event,
    LedgerAdvanced,
    Request,
    Role,
    SetTimer,
    Started,
    TimerFired,
)
from tests.support.jobs import sign_transaction

AGAIN_MS = 2_000  # to the next validator, while the ledger does not hold it


@dataclass(frozen=True)
class Pay:
    validators: tuple[bytes, ...]  # node keys, the first to be given the transfer first


@dataclass(frozen=True)
class Paid:
    nonce: int
    height: int


class Payer(Role):
    name = "client"
    protocols = ("txs",)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._pay: Pay | None = None
        self._transaction: Transaction | None = None
        self._tries = 0

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        match event:
            case Started(state):
                self._state = state
            case Commanded(Pay() as pay):
                self._pay, self._tries = pay, 0
                there = replace(self._ledger, time_ms=now_ms)
                self._transaction = sign_transaction(there, self.context.account, Transfer(bytes([7]) * 32, 1))  # type: ignore[arg-type]
                return self._give(now_ms)
            case TimerFired("again") if self._transaction is not None:
                return self._give(now_ms)
            case LedgerAdvanced(state, transactions):
                self._state = state
                if self._transaction in transactions:
                    paid = Paid(self._transaction.nonce, state.height)
                    self._transaction = None
                    return [Deliver(paid)]
        return []

    def _give(self, now_ms: int) -> list[Effect]:
        assert self._pay is not None
        self._tries += 1
        peer = self._pay.validators[(self._tries - 1) % len(self._pay.validators)]
        question = Transactions((encode(self._transaction),))
        again = SetTimer("again", now_ms + AGAIN_MS)
        return [Request(peer, "txs", question, f"pay-{now_ms}-{self._tries}", AGAIN_MS), again]


async def pay_as_told(node: RunningNode, validators: dict[str, bytes]) -> None:
    while node.core.state is not NodeState.SERVING or len(node.net.peers()) < len(validators):
        await trio.sleep(0.02)
    outcomes_in, outcomes = trio.open_memory_channel[Paid](1)
    node.deliver_to(lambda delivered: outcomes_in.send_nowait(delivered.outcome))
    say(ready=node.core.ledger.height)
    while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        first, count = line.split()
        names = sorted(validators, key=lambda name: name != first)
        for _ in range(int(count)):
            started_s = time.monotonic()
            node.command("client", Pay(tuple(validators[name] for name in names)))
            paid = await outcomes.receive()
            took_ms = round(1_000 * (time.monotonic() - started_s))
            say(nonce=paid.nonce, height=paid.height, ms=took_ms)


def say(**fields: int) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def main(directory: Path, validators: dict[str, bytes]) -> None:
    async def drive(node: RunningNode) -> None:
        await pay_as_told(node, validators)

    async def run() -> None:
        await run_node(directory, driver=drive)

    set_up_logging()
    trio.run(run)


if __name__ == "__main__":
    # The role is loaded from this module by its name: its messages must be that module's, not those of `__main__`.
    from tests.testnet.payer import main

    named = dict(word.split("=") for word in sys.argv[2:])
    main(Path(sys.argv[1]), {name: parse_node(node) for name, node in named.items()})
