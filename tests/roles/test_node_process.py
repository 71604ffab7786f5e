"""A node as a process of its own: started, asked, killed, started again; and how it refuses what cannot work."""

import json
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from protocol.ledger.genesis import compute_chain_id
from roles.config import EXIT_CONFIG, EXIT_OK, NodeConfig, write_config, write_genesis
from roles.keystore import write_key
from roles.status import Liveness, read_status
from testnet.genesis import build_genesis
from tests.support.forked import forked

WAIT_S_MAX = 30.0
DISK_BYTES = 256 * 1024  # no file may grow beyond it, which is what a full disk looks like to whoever writes


def found(directory, role="validator", listen="/ip4/127.0.0.1/tcp/0"):
    """A data directory of the only node of a network."""
    foundation = build_genesis(7, {role: 1}, now_ms=1_700_000_000_000)
    chain = compute_chain_id(foundation.genesis)
    directory.mkdir(exist_ok=True)
    write_config(directory, NodeConfig(name=f"{role}-0", roles=(role,), listen=listen))
    write_genesis(directory, foundation.genesis)
    for purpose, seed in vars(foundation.nodes[f"{role}-0"]).items():
        if seed is not None:
            write_key(directory, purpose, seed, chain)
    return directory


def forked_node(directory):
    """A node as a process; killed at the end if it still runs."""
    return forked("roles.node:main", (str(directory),), directory.parent / f"{directory.name}.log")


@contextmanager
def node_process(directory, *arguments):
    """As `forked_node`, but an interpreter of its own: `python -m roles.node`."""
    with (directory.parent / f"{directory.name}.log").open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "roles.node", str(directory), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def wait_until(condition, what):
    """Ask ten times a second: the other side is another process, and files are all it tells us by."""
    deadline = time.monotonic() + WAIT_S_MAX
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {WAIT_S_MAX} s"
        time.sleep(0.1)


def wait_until_up(directory, process):
    def is_up():
        assert process.poll() is None, read_log(directory)
        fields = read_status(directory).fields
        return fields.get("pid") == process.pid and fields.get("state") not in (None, "starting", "stopped")

    wait_until(is_up, "status of a running node")


def read_log(directory):
    return (directory.parent / f"{directory.name}.log").read_text()


def get_failure(directory):
    """The last error the node logged."""
    return [json.loads(line) for line in read_log(directory).splitlines() if '"node.failed"' in line][-1]


def test_a_node_starts_says_how_it_is_and_leaves_in_good_order(tmp_path):
    directory = found(tmp_path / "node")

    with node_process(directory) as process:
        wait_until_up(directory, process)
        status = read_status(directory)
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S_MAX) == EXIT_OK

    assert status.liveness is Liveness.RUNNING
    assert status.fields["name"] == "validator-0"
    assert status.fields["addresses"][0].startswith("/ip4/127.0.0.1/tcp/")
    assert len(bytes.fromhex(status.fields["state_root"])) == 32
    assert status.fields["rss_bytes"] > 10_000_000
    assert read_status(directory).liveness is Liveness.STOPPED
    assert read_status(directory).fields["error"] is None
    for path in (directory / "keys").iterdir():
        assert json.loads(path.read_text())["seed"] not in read_log(directory)


def test_a_killed_node_comes_back_on_the_same_directory(tmp_path):
    directory = found(tmp_path / "node")
    heights = []

    for _ in range(2):
        with forked_node(directory) as process:
            wait_until_up(directory, process)
            heights.append(read_status(directory).fields["height"])
            process.send_signal(signal.SIGKILL)
            process.wait(WAIT_S_MAX)
        assert read_status(directory).liveness is Liveness.STALE

    assert heights == sorted(heights)


def test_a_second_node_on_one_directory_is_refused_and_the_first_goes_on(tmp_path):
    directory = found(tmp_path / "node")

    with forked_node(directory) as first:
        wait_until_up(directory, first)
        with forked_node(directory) as second:
            assert second.wait(WAIT_S_MAX) == EXIT_CONFIG
        assert first.poll() is None
        assert read_status(directory).liveness is Liveness.RUNNING

    failure = get_failure(directory)
    assert f"pid {first.pid}" in failure["error"]
    assert "data directory of its own" in failure["hint"]


def test_a_port_in_use_is_said_plainly(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        directory = found(tmp_path / "node", listen=f"/ip4/127.0.0.1/tcp/{port}")
        with forked_node(directory) as process:
            assert process.wait(WAIT_S_MAX) == EXIT_CONFIG

    failure = get_failure(directory)
    assert str(port) in failure["error"]
    assert "listen" in failure["hint"]


def test_a_node_dies_with_whoever_started_it(tmp_path):
    directory = found(tmp_path / "node")
    code = "import subprocess, sys, os; "
    code += "subprocess.Popen([sys.executable, '-m', 'roles.node', sys.argv[1], '--parent', str(os.getpid())]); "
    code += "sys.stdin.read()"
    launcher = subprocess.Popen(
        [sys.executable, "-c", code, str(directory)], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: read_status(directory).fields.get("addresses"), "status of a running node")
    finally:
        launcher.kill()
        launcher.wait()
        launcher.stdin.close()

    wait_until(lambda: read_status(directory).liveness is Liveness.STALE, "end of the orphan")


@pytest.mark.parametrize(("signal_number", "start"), [(signal.SIGINT, node_process), (signal.SIGTERM, forked_node)])
def test_a_signal_while_starting_is_obeyed_too(tmp_path, signal_number, start):
    directory = found(tmp_path / "node")

    with start(directory) as process:
        wait_until(lambda: (directory / "lock").exists(), "lock")
        process.send_signal(signal_number)
        assert process.wait(WAIT_S_MAX) == EXIT_OK


def test_a_broken_configuration_ends_in_its_own_exit_code(tmp_path):
    directory = found(tmp_path / "node")
    (directory / "node.json").write_text("{")

    with forked_node(directory) as process:
        assert process.wait(WAIT_S_MAX) == EXIT_CONFIG
    assert "not JSON" in get_failure(directory)["error"]


def keeping_node(directory, *limit):
    """A node that says a number for each that it has kept, on a disk of so many bytes, and is killed."""
    arguments = (str(directory), *map(str, limit))
    return forked("tests.roles.keeping_node:main", arguments, directory.parent / f"{directory.name}.log")


def test_what_a_node_has_said_survives_kill_9(tmp_path):
    directory = found(tmp_path / "node")
    events = directory / "events.jsonl"
    events.touch()

    for _ in range(4):
        run_until_it_has_said_more(directory)


def test_a_node_at_the_end_of_its_disk_stops_and_has_said_nothing_it_lost(tmp_path):
    directory = found(tmp_path / "node")
    (directory / "events.jsonl").touch()

    with keeping_node(directory, DISK_BYTES) as process:
        assert process.wait(WAIT_S_MAX) == 1

    assert "StoreFailed" in read_log(directory)
    assert "StoreFailed" in read_status(directory).fields["error"]
    run_until_it_has_said_more(directory)


def run_until_it_has_said_more(directory):
    events = directory / "events.jsonl"
    before = events.stat().st_size
    with keeping_node(directory) as process:
        wait_until(lambda: events.stat().st_size > before + 2_000 or process.poll() is not None, "event")
        assert process.poll() is None, read_log(directory)
