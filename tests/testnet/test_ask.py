"""A client that asks once begins when it would be heard, on small networks too."""

import logging
from types import SimpleNamespace

import pytest
import structlog

from protocol.types import NodeState
from roles.client import LISTENERS_WANTED, is_heard
from testnet.ask import logging_to
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
    assert is_heard(make_node(workers, listeners, state), LISTENERS_WANTED) is begins


def test_what_a_client_logs_goes_to_its_file_and_only_as_long_as_it_runs(tmp_path):
    before = structlog.get_config()
    with logging_to(tmp_path / "node.log"):
        structlog.get_logger().info("of a node")
        logging.getLogger("some.library").warning("of a library")
    structlog.get_logger().info("of somebody else")
    logging.getLogger("some.library").warning("of another library")

    said = (tmp_path / "node.log").read_text()
    assert "of a node" in said
    assert "of a library" in said
    assert "else" not in said
    assert "another" not in said
    assert structlog.get_config() == before
