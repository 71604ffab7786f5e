"""The network file: written whole, read strictly, its spare accounts taken once."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from testnet.network_file import (
    FILE_NAME,
    NetworkFile,
    NetworkFileError,
    NodeEntry,
    SpareAccount,
    claim_account,
    find_network,
    read_network_file,
    release_account,
    write_network_file,
)


@pytest.fixture
def network() -> NetworkFile:
    node = NodeEntry("client-0", "client", "12D3KooX", "rm1x", ("/ip4/127.1.2.3/tcp/4001",), "nodes/client-0", 17)
    spare = tuple(SpareAccount(f"rm1{index}", "00" * 32) for index in range(5))
    return NetworkFile("dev-1", "00" * 8, 1, 5, {"name": "dev-1"}, (node,), spare, "http://127.1.2.4/", 16)


def test_a_network_file_reads_back_as_it_was_written(tmp_path: Path, network: NetworkFile) -> None:
    write_network_file(tmp_path / FILE_NAME, network)

    assert read_network_file(find_network(tmp_path)) == network
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 99}', '{"format": 1, "name": "x"}'])
def test_what_is_no_network_file_is_refused_with_the_reason(tmp_path: Path, text: str) -> None:
    path = tmp_path / FILE_NAME
    path.write_text(text)

    with pytest.raises(NetworkFileError, match=FILE_NAME):
        read_network_file(path)


def test_a_field_of_another_type_is_refused(tmp_path: Path, network: NetworkFile) -> None:
    path = tmp_path / FILE_NAME
    write_network_file(path, network)
    path.write_text(json.dumps({**json.loads(path.read_text()), "nodes": 5}))

    with pytest.raises(NetworkFileError, match="not a network file"):
        read_network_file(path)


def test_the_newest_network_is_found_and_none_is_an_error(
    tmp_path: Path, network: NetworkFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NetworkFileError, match="no network"):
        find_network(None)
    for name in ("dev-1", "dev-2"):
        (tmp_path / ".rolemesh" / name).mkdir(parents=True)
        write_network_file(tmp_path / ".rolemesh" / name / FILE_NAME, network)

    assert find_network(None).parent.name == "dev-2"


def test_two_claimants_never_get_the_same_account(tmp_path: Path, network: NetworkFile) -> None:
    path = tmp_path / FILE_NAME
    with ThreadPoolExecutor(5) as threads:
        claims = list(threads.map(lambda index: claim_account(path, network, f"claimant {index}"), range(5)))

    assert {claim.account for claim in claims} == {spare.account for spare in network.accounts}
    with pytest.raises(NetworkFileError, match="taken"):
        claim_account(path, network, "one too many")

    release_account(path, claims[3])
    assert claim_account(path, network, "in its place") == claims[3]
