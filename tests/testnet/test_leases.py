"""A blob leased on storage nodes that are processes: fetched, audited, paid; when one is killed another takes over."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testnet.cli.output import ExitCode
from tests.testnet.networks import Up, kill_hard, run_cli, start_network, wait_until

ROLES = "validator=1,storage=3,client=1"
LEASE_S = 120.0  # three periods and what goes with them


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with start_network(tmp_path_factory.mktemp("leases") / "net", "--seed", "47", "--roles", ROLES) as up:
        up.wait_for_go()
        wait_until(lambda: len(list_offers(up)) == 3, "all storage nodes let room")
        yield up


def list_offers(up: Up) -> list[dict[str, Any]]:
    """As the payer's node has them on its disk."""
    code, told = run_cli("store", "lease", "ls", "--dir", str(directory_of(up, "client-0")))
    assert code == ExitCode.OK, told
    return list(told["offers"])


def directory_of(up: Up, name: str) -> Path:
    entry = up.network.get_node(name)
    assert entry is not None
    return up.directory / entry.directory


def put(up: Up, folder: Path, size: int) -> str:
    file = folder / "blob"
    file.write_bytes(bytes(range(256)) * (size // 256))
    code, told = run_cli("store", "put", str(file), "--data", str(directory_of(up, "client-0")))
    assert code == ExitCode.OK, told
    return str(told["cid"])


def lease(up: Up, *words: str) -> tuple[int, dict[str, Any]]:
    return run_cli("store", "lease", *words, "--from", str(directory_of(up, "client-0")))


def show(up: Up, cid: str) -> dict[str, Any]:
    code, told = run_cli("store", "lease", "show", cid, "--dir", str(up.directory))
    assert code == ExitCode.OK, told
    return told


def list_holding(up: Up, cid: str) -> set[str]:
    return {each["node"] for each in show(up, cid)["replicas"] if each["state"] == "holding"}


@pytest.mark.full  # a period and more in real time
def test_a_blob_is_leased_audited_paid_and_mended_when_a_node_is_killed(standing: Up, tmp_path: Path) -> None:
    cid = put(standing, tmp_path, 3_000_000)
    code, told = lease(standing, cid, "--copies", "2", "--for", "10m")
    assert (code, told["holding"]) == (ExitCode.OK, 2), told
    holders = list_holding(standing, cid)
    assert len(holders) == 2
    for name in holders:
        code, listed = run_cli("store", "ls", "--data", str(directory_of(standing, name)))
        assert (code, [pin["cid"] for pin in listed["pins"]]) == (ExitCode.OK, [cid])

    put_in = told["amount_grains"]
    wait_until(lambda: show(standing, cid)["balance_grains"] < put_in, "an audit is paid", LEASE_S)
    victim = sorted(holders)[0]
    kill_hard(standing.pids[victim])
    (third,) = {"storage-0", "storage-1", "storage-2"} - holders
    mended = (holders - {victim}) | {third}
    wait_until(lambda: list_holding(standing, cid) == mended, "another has taken its place", LEASE_S)

    code, listed = run_cli("store", "lease", "ls", "--dir", str(standing.directory))
    assert code == ExitCode.OK
    assert [row["cid"] for row in listed["leases"]] == [cid]
    assert {offer["node"] for offer in listed["offers"] if offer["is_silent"]} == {victim}
    assert run_cli("testnet", "check", str(standing.directory))[0] == ExitCode.OK


def test_a_lease_is_held_by_as_many_nodes_as_it_asks_for_and_added_to(standing: Up, tmp_path: Path) -> None:
    cid = put(standing, tmp_path, 100_000)
    code, told = lease(standing, cid, "--copies", "1", "--for", "1m")
    assert (code, told["holding"], told["periods"], told["renews"]) == (ExitCode.OK, 1, 2, False), told

    code, more = lease(standing, cid, "--for", "90s", "--renew", "--amount", "1")

    assert (code, more["periods"], more["renews"]) == (ExitCode.OK, 3, True), more
    assert more["balance_grains"] >= told["balance_grains"] + 10**9 - told["term_cost_grains"]

    code, again = lease(standing, cid, "--amount", "1")  # what is not said stays as it is
    assert (code, again["periods"], again["renews"], again["copies"]) == (ExitCode.OK, 3, True, 1), again
    code, again = lease(standing, cid, "--amount", "1", "--no-renew")
    assert (code, again["periods"], again["renews"]) == (ExitCode.OK, 3, False), again
    for words in (("--copies", "2"), ("--price", "5")):
        code, refused = lease(standing, cid, "--amount", "1", *words)
        assert (code, refused["error"]["code"]) == (ExitCode.USAGE, "lease_open"), refused

    (holder,) = list_holding(standing, cid)
    code, left = run_cli("store", "lease", "leave", cid, "--from", str(directory_of(standing, holder)))
    assert (code, left["lease"]) == (ExitCode.OK, more["lease"]), left
    wait_until(lambda: len(list_holding(standing, cid) - {holder}) == 1, "another has taken its place")
    code, refused = run_cli("store", "lease", "leave", cid, "--from", str(directory_of(standing, holder)))
    assert refused["error"]["code"] == "no_lease"


def test_what_cannot_be_leased_is_refused_with_what_to_do(standing: Up, tmp_path: Path) -> None:
    cid = put(standing, tmp_path, 50_000)
    code, told = lease(standing, cid, "--copies", "4")
    assert (code, told["error"]["code"]) == (ExitCode.FAILURE, "too_few_stores")
    code, told = lease(standing, cid, "--copies", "0")
    assert (code, told["error"]["code"]) == (ExitCode.USAGE, "bad_value")
    code, told = lease(standing, cid, "--copies", "-1", "--price", "1", "--amount", "1")
    assert (code, told["error"]["code"]) == (ExitCode.USAGE, "bad_value")
    code, told = lease(standing, cid, "--copies", "2", "--amount", "0.000000001")
    assert (code, told["error"]["code"]) == (ExitCode.FAILURE, "InvalidAmount")
    missing = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
    code, told = lease(standing, missing)
    assert told["error"]["code"] == "missing"
    code, told = run_cli("store", "lease", "show", missing, "--dir", str(standing.directory))
    assert (code, told["error"]["code"]) == (ExitCode.USAGE, "no_lease")
