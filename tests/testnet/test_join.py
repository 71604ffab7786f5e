"""The data directory of one more node."""

from pathlib import Path

import pytest

from roles.config import ENGINE_WORKERS_MAX, ConfigError, read_config
from testnet import join
from testnet.found import NetworkPlan, found_network
from testnet.join import change_node, make_node


def make_one(directory: Path) -> None:
    (directory / "net").mkdir()
    network = found_network(NetworkPlan(directory / "net", 5, {"validator": 1}, ()), 0)
    make_node(directory / "node", network, network.accounts[0], "inference")


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 1), (8, 7), (256, ENGINE_WORKERS_MAX)])
def test_a_new_node_runs_as_many_models_at_once_as_its_machine_has_cores_to_spare(
    tmp_path, monkeypatch, cores: int, workers: int
):
    monkeypatch.setattr(join.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(join.os, "cpu_count", lambda: cores)
    make_one(tmp_path)

    assert read_config(tmp_path / "node").engine_workers == workers


def test_how_many_run_at_once_is_kept_for_the_next_start_and_bounded(tmp_path):
    make_one(tmp_path)

    assert change_node(tmp_path / "node", engine_workers=3).engine_workers == 3
    with pytest.raises(ConfigError, match="engine_workers 65: from 1 to 64"):
        change_node(tmp_path / "node", engine_workers=65)
    assert read_config(tmp_path / "node").engine_workers == 3
