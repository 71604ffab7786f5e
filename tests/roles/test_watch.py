"""What stands around running nodes: serving only once peers dialled back, pages, the control socket, bans that stay."""

import json
import os
from contextlib import asynccontextmanager
from functools import partial

import httpx
import pytest
import structlog
import trio

from p2p.bans import BANNED_AT, FAULT
from protocol.keys import format_node
from protocol.ledger.genesis import compute_chain_id
from protocol.types import NodeState
from roles.config import ConfigError, NodeConfig, read_config, write_config, write_genesis
from roles.control import SOCKET_NAME, NodeUnreachable, RequestRefused, ask_node
from roles.equipment import must_be_reachable
from roles.eventlog import read_events
from roles.keystore import write_key
from roles.node import run_node
from roles.peers_file import FILE_NAME, PeersDamaged, read_peers
from roles.status import read_status
from testnet.cli import main as run_cli
from testnet.genesis import build_genesis
from testnet.join import change_node

WAIT_S_MAX = 20.0
FOUNDATION = build_genesis(7, {"validator": 1, "storage": 1, "client": 1}, now_ms=1_700_000_000_000)
CHAIN = compute_chain_id(FOUNDATION.genesis)


def found(folder, name, **options):
    """The data directory of one node of the network."""
    directory = folder / name
    directory.mkdir(parents=True)
    write_config(directory, NodeConfig(name=name, roles=(name.partition("-")[0],), **options))
    write_genesis(directory, FOUNDATION.genesis)
    for purpose, seed in vars(FOUNDATION.nodes[name]).items():
        if seed is not None:
            write_key(directory, purpose, seed, CHAIN)
    return directory


@asynccontextmanager
async def nodes(*directories):
    """Running nodes, each told where the first one is; stopped in good order at the end."""
    with trio.fail_after(WAIT_S_MAX):
        async with trio.open_nursery() as nursery:
            running = [await nursery.start(partial(run_node, directory)) for directory in directories]
            for node in running[1:]:
                node.net.learn(running[0].node, running[0].net.addresses)
            yield running
            for node in running:
                node.stop()


async def until(condition):
    while not condition():
        await trio.sleep(0.005)


async def ask(directory, command, **fields):
    return await trio.to_thread.run_sync(ask_node, directory, {"command": command, **fields})


def run(main):
    """Run a test's coroutine; one error in nested groups of one comes out by itself."""
    try:
        return trio.run(main)
    except BaseExceptionGroup as group:
        error = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from None


def test_a_node_that_must_be_reachable_serves_once_a_peer_has_dialled_it_back(tmp_path):
    here = found(tmp_path, "validator-0", listen="/ip4/127.0.60.1/tcp/0")
    there = found(tmp_path, "storage-0", listen="/ip4/127.0.60.2/tcp/0", reachability="dial-back")

    async def main():
        async with nodes(there) as (alone,):
            await until(lambda: read_status(there).fields.get("reach", {}).get("state") == "unknown")
            assert not alone.is_serving
        async with nodes(here, there) as (first, second):
            await until(lambda: second.is_serving)
            await until(lambda: read_status(there).fields["reach"] == {"state": "reachable", "advice": ""})
            assert first.describe()["reach"] == {"state": "trusted", "advice": ""}

    run(main)


def test_a_node_nobody_can_dial_observes_and_says_what_to_do_everywhere(tmp_path):
    here = found(tmp_path, "validator-0", listen="/ip4/127.0.60.1/tcp/0")
    announce = "/ip4/127.0.60.2/tcp/1"
    there = found(
        tmp_path,
        "storage-0",
        listen="/ip4/127.0.60.2/tcp/0",
        announce=(announce,),
        reachability="dial-back",
        http="127.0.0.1:0",
        trusted=("127.0.60.0/24",),
    )

    async def main():
        async with nodes(here, there) as (first, second):
            assert second.net._host.doors.is_trusted("127.0.60.1")
            assert not first.net._host.doors.is_trusted("127.0.60.1")
            await until(lambda: read_status(there).fields.get("reach", {}).get("state") == "unreachable")
            await until(
                lambda: second.core.ledger.height == first.core.ledger.height and second.core.state != "syncing"
            )
            assert second.core.state is NodeState.OBSERVING
            fields = read_status(there).fields
            assert fields["addresses"] == [announce]
            assert announce in fields["reach"]["advice"]
            async with httpx.AsyncClient(base_url=fields["http"], trust_env=False) as http:
                ready = await http.get("/readyz", params={"verbose": ""})
                live, metrics = await http.get("/livez"), await http.get("/metrics")
            assert (ready.status_code, live.status_code, metrics.status_code) == (503, 200, 200)
            failed = {check["name"]: check["detail"] for check in ready.json()["checks"] if not check["ok"]}
            assert announce in failed["reachable"]
            assert "serving" in failed
            assert "rolemesh_reachable 0" in metrics.text
            assert first.node.hex() not in metrics.text
            assert format_node(first.node) not in metrics.text

    with structlog.testing.capture_logs() as said:
        run(main)
    (warning,) = [line for line in said if line["event"] == "node.reach" and line["log_level"] == "warning"]
    assert announce in warning["advice"]


def test_peers_are_listed_banned_and_allowed_through_the_command_line_and_a_ban_outlives_the_node(tmp_path, capsys):
    deep = tmp_path / "-".join(["deep"] * 30)
    here = found(deep, "validator-0", listen="/ip4/127.0.60.1/tcp/0")
    there = found(tmp_path, "storage-0", listen="/ip4/127.0.61.2/tcp/0")
    assert len(os.fspath(here / SOCKET_NAME)) > 108

    async def rolemesh(*words):
        code = await trio.to_thread.run_sync(run_cli, ["peers", *words, "--data", str(here), "--json"])
        return code, json.loads(capsys.readouterr().out.splitlines()[-1])

    async def main():
        async with nodes(here, there) as (first, second):
            peer = format_node(second.node)
            await until(lambda: second.node in first.net.peers())
            assert (here / SOCKET_NAME).stat().st_mode & 0o777 == 0o600

            code, listed = await rolemesh("ls")
            assert code == 0
            assert [(row["node"], row["address"]) for row in listed["peers"]] == [(peer, "127.0.61.2")]

            assert (await rolemesh("ban", "nobody"))[0] == 2
            code, said = await rolemesh("ban", peer, "--for", "10m", "--reason", "junk")
            assert (code, said["subject"], said["state"]) == (0, peer, "banned")
            await until(lambda: first.net.peers() == ())
            await until(lambda: read_peers(here).get("standing", {}).get("bans"))

        async with nodes(here, there) as (first, second):
            await until(lambda: first.net.refusals().get("banned"))
            (ban,) = (await rolemesh("ls"))[1]["bans"]
            assert (ban["subject"], ban["reason"]) == (peer, "junk")
            assert 0 < ban["left_s"] <= 600

            assert (await rolemesh("allow", peer))[0] == 0
            await until(lambda: second.node in first.net.peers())
            for _ in range(int(2 * BANNED_AT / FAULT)):
                first.net.penalise(second.node, "junk")
            (row,), allowed = ((said := (await rolemesh("ls"))[1])["peers"]), said["allowed"]
            assert (row["direction"], row["is_allowed"], allowed) == ("inbound", True, [peer])
            assert second.node in first.net.peers()
            assert (await rolemesh("forget", peer))[1]["state"] == "forgotten"
            first.net.penalise(second.node, "junk")
            (row,), allowed = ((said := (await rolemesh("ls"))[1])["peers"]), said["allowed"]
            assert (allowed, row["is_allowed"]) == ([], False)
            assert 0 < row["faults"] <= FAULT
            (row,) = (await ask(there, "peers.ls"))["peers"]
            assert row["direction"] == "outbound"
        assert (await rolemesh("ls"))[0] == 4

    run(main)
    assert not (here / SOCKET_NAME).exists()


def test_junk_on_the_control_socket_is_answered_and_the_node_goes_on(tmp_path):
    here = found(tmp_path, "validator-0")

    async def main():
        async with nodes(here):
            for junk in (
                [],
                {"command": "peers.ban"},
                {"command": "peers.ban", "subject": "::1", "for_s": True},
                {},
                7,
            ):
                with pytest.raises(RequestRefused):
                    await trio.to_thread.run_sync(ask_node, here, junk)
            async with await trio.open_unix_socket(here / SOCKET_NAME) as stream:
                await stream.send_all(b"\xff{\n")
                assert b"error" in await stream.receive_some(1_000)
            assert (await ask(here, "peers.ls"))["peers"] == []

    run(main)
    with pytest.raises(NodeUnreachable):
        ask_node(here, {"command": "peers.ls"})


def test_a_socket_a_killed_process_left_is_replaced(tmp_path):
    here = found(tmp_path, "validator-0")
    (here / SOCKET_NAME).touch()

    async def main():
        async with nodes(here):
            assert (await ask(here, "peers.ls"))["bans"] == []

    run(main)


@pytest.mark.parametrize(
    "junk", ["", "[]", '{"format": 1, "standing": {}}', '{"format": 1, "peers": [{"node": "00"}]}']
)
def test_a_damaged_file_of_peers_is_an_error_that_says_what_to_do(tmp_path, junk):
    here = found(tmp_path, "validator-0")
    (here / FILE_NAME).write_text(junk)
    with pytest.raises(PeersDamaged) as error:
        run(partial(run_node, here))
    assert FILE_NAME in error.value.message
    assert "move" in error.value.hint


def test_http_on_a_taken_port_is_an_error_that_says_what_to_do(tmp_path):
    async def main():
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        with pytest.raises(ConfigError, match=str(port)):
            await run_node(found(tmp_path, "validator-0", http=f"127.0.0.1:{port}"))
        await listener.aclose()

    run(main)


def test_whom_a_node_reached_is_written_down_when_it_ends(tmp_path):
    here = found(tmp_path, "validator-0", listen="/ip4/127.0.60.1/tcp/0")
    there = found(tmp_path, "storage-0", listen="/ip4/127.0.60.2/tcp/0")
    reached = []

    async def main():
        async with nodes(here, there) as (first, second):
            await until(lambda: second.net.remember()["peers"])
            reached.append(first.node.hex())
            assert read_peers(there)["peers"] == []  # the next look is half a minute away

    run(main)
    assert [peer["node"] for peer in read_peers(there)["peers"]] == reached


def test_where_a_node_is_found_and_watched_is_kept_for_the_next_start(tmp_path):
    here = found(tmp_path, "storage-0", listen="/ip4/0.0.0.0/tcp/4001")
    announce = ("/ip4/192.0.2.7/tcp/4001",)
    assert must_be_reachable(change_node(here, "", ""))
    changed = change_node(here, "", "", announce, "127.0.0.1:9464")
    assert (changed.announce, changed.http) == (announce, "127.0.0.1:9464")
    assert change_node(here, "", "") == changed == read_config(here)
    assert must_be_reachable(changed)


def test_a_node_that_listens_everywhere_announces_nothing_it_was_not_told(tmp_path):
    here = found(tmp_path, "storage-0", listen="/ip4/0.0.0.0/tcp/0")

    async def main():
        async with nodes(here) as (node,):
            assert node.describe()["addresses"] == []
            assert node.net.addresses != ()

    run(main)


def test_only_a_node_of_a_test_network_takes_faults_and_its_log_has_where_they_begin_and_end(tmp_path):
    there = found(tmp_path, "validator-0", listen="/ip4/127.0.60.7/tcp/0")
    here = found(tmp_path, "storage-0", listen="/ip4/127.0.60.8/tcp/0", faults=True)
    stall = {"id": "f1.link-0", "kind": "stall", "is_all_but": True, "silence": 1}

    async def main():
        async with nodes(there, here) as (other, node):
            await until(lambda: node.net.peers() and other.net.peers())
            for command in ("faults.put", "faults.ls"):
                with pytest.raises(RequestRefused, match="test network"):
                    await ask(there, command, orders=[stall])
            said = await ask(here, "faults.put", orders=[stall], seed=3)
            assert [order["id"] for order in said["orders"]] == ["f1.link-0"]
            assert len(node.net.link_faults.rules) == 1
            with pytest.raises(RequestRefused, match="whole number"):
                await ask(here, "faults.put", orders=[{**stall, "delay_ms": "5"}])
            await ask(here, "faults.put", orders=[])
            assert node.net.link_faults.rules == ()

    run(main)
    told = [event for event in read_events(here) if event["name"].startswith("fault.")]
    assert [(event["name"], event["fault"], event["kind"]) for event in told] == [
        ("fault.started", "f1.link-0", "stall"),
        ("fault.ended", "f1.link-0", "stall"),
    ]
