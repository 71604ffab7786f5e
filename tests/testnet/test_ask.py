"""A client that asks once begins when it would be heard, on small networks too."""

from types import SimpleNamespace

import pytest

from protocol.types import NodeState
from testnet.ask import LISTENERS_WANTED, _Asker
from tests.support.core_parts import make_parts

PARTS = make_parts()


def make_node(workers: int, listeners: int, state: NodeState = NodeState.SERVING) -> SimpleNamespace:
    """What an asker sees of a node: a ledger with so many inference nodes, of whom so many are heard of."""
    records = PARTS.state.get_nodes("inference")[:workers]
    ledger = SimpleNamespace(get_nodes=lambda role: records)
    net = SimpleNamespace(subscribers=lambda topic: tuple(record.node for record in records[:listeners]))
    return SimpleNamespace(
        plan=SimpleNamespace(chain=PARTS.state.chain), net=net, core=SimpleNamespace(state=state, ledger=ledger)
    )


@pytest.mark.parametrize(
    ("workers", "listeners", "state", "begins"),
    [
        (1, 1, NodeState.SERVING, True),
        (1, 0, NodeState.SERVING, False),
        (3, 1, NodeState.SERVING, False),
        (3, 2, NodeState.SERVING, True),
        (3, 3, NodeState.SYNCING, False),
    ],
)
def test_it_begins_once_it_follows_the_ledger_and_enough_workers_listen(workers, listeners, state, begins):
    asker = _Asker(ask=None, note=print)  # type: ignore[arg-type]

    assert asker._is_connected(make_node(workers, listeners, state), LISTENERS_WANTED) is begins
