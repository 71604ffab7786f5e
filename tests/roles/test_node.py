"""Whole nodes in one trio loop, on loopback and on disk: what reaches the core, and what survives."""

import base64
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import pytest
import trio

from p2p.net import Answered, Asked, Delivered, PeerConnected
from protocol.ledger.genesis import build_state, compute_chain_id
from protocol.types import NodeState, Verdict
from roles import core_effects as ce
from roles.config import ConfigError, NodeConfig, UserError, write_config, write_genesis
from roles.durable import StoreFailed
from roles.eventlog import read_events
from roles.keystore import (
    PassphraseNeeded,
    get_key_path,
    get_place,
    read_key,
    seal_text,
    write_key,
    write_key_file,
)
from roles.lock import is_locked
from roles.node import run_node
from roles.status import Liveness, read_status
from testnet.genesis import build_genesis

WAIT_S_MAX = 20.0
ROLES = {"validator": 1, "storage": 1, "client": 1}
FOUNDATION = build_genesis(7, ROLES, now_ms=1_700_000_000_000)
CHAIN = compute_chain_id(FOUNDATION.genesis)


def found(folder, name, **options):
    """The data directory of one node of the network."""
    directory = folder / name
    directory.mkdir()
    write_config(directory, NodeConfig(name=name, roles=(name.partition("-")[0],), **options))
    write_genesis(directory, FOUNDATION.genesis)
    for purpose, seed in vars(FOUNDATION.nodes[name]).items():
        if seed is not None:
            write_key(directory, purpose, seed, CHAIN)
    return directory


def seal(directory, purpose, passphrase):
    """Have one of a node's keys lie sealed, fast."""
    path = get_key_path(directory, purpose)
    key = read_key(directory, purpose, get_place(CHAIN, FOUNDATION.genesis.name))
    path.unlink()
    write_key_file(path, seal_text(key, purpose, passphrase, CHAIN))


class ScriptedCore:
    """Does what `script` says to each event, and remembers what it was told."""

    def __init__(self, script, plan, restored):
        self.script = script
        self.restored = restored
        self.told = []
        self.state = NodeState.SERVING
        self.ledger = build_state(plan.genesis)
        self.pending_restarts = (self.ledger, ())
        self.rotation = {}

    def handle(self, event, now_ms):
        self.told.append(event)
        return self.script(event) or []

    def check(self, topic, data, forwarder, now_ms):
        return Verdict.ACCEPT


@asynccontextmanager
async def nodes(*directories_and_scripts):
    """Running nodes on scripted cores; stopped in good order at the end."""
    with trio.fail_after(WAIT_S_MAX):
        async with trio.open_nursery() as nursery:
            running = []
            for directory, script in directories_and_scripts:
                make_core = partial(ScriptedCore, script) if script else None
                running.append(await nursery.start(partial(run_node, directory, make_core=make_core)))
            yield running
            for node in running:
                node.stop()


async def until(condition):
    while not condition():
        await trio.sleep(0.005)


def idle(event):
    return []


def test_two_nodes_hear_and_answer_each_other(tmp_path):
    here, there = found(tmp_path, "storage-0"), found(tmp_path, "client-0")

    def answering(event):
        match event:
            case ce.Boot():
                return [ce.NetSubscribe("topic"), ce.NetServe("ask")]
            case Asked(token=token, data=data):
                return [ce.NetReply(token, b"re: " + data)]

    async def main():
        def asking(event):
            match event:
                case ce.Boot():
                    return [ce.NetLearn(first.node, first.addresses), ce.NetSubscribe("topic"), ce.Wake("again", 0)]
                case PeerConnected():
                    return [ce.NetRequest(first.node, "ask", b"question", "token", 5_000)]
                case ce.Woke("again") if first.core.told and not is_heard():
                    return [ce.NetPublish("topic", b"news", ""), ce.Wake("again", 0)]

        def is_heard():
            return any(isinstance(event, Delivered) for event in first.core.told)

        async with nodes((here, answering)) as (first,), nodes((there, asking)) as (second,):
            await until(lambda: is_heard() and Answered("token", b"re: question") in second.core.told)
            assert first.describe()["topics"]["topic"]["delivered"] == 1
            assert first.describe()["peers"] == [second.describe()["node"]]
        return first.core.told

    told = trio.run(main)
    assert next(event for event in told if isinstance(event, Delivered)).data == b"news"
    assert isinstance(told[-1], ce.Stop)


def test_what_was_kept_is_there_in_the_next_process_and_boots_are_counted(tmp_path):
    directory = found(tmp_path, "storage-0")
    digest = bytes.fromhex("6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d")

    def keeping(event):
        return [ce.Put("b", b"key", b"value"), ce.PutBlob(digest, b"\0")] if isinstance(event, ce.Boot) else []

    def reading(event):
        return [ce.LoadBlob(digest)] if isinstance(event, ce.Boot) else []

    async def main():
        async with nodes((directory, keeping)) as (first,):
            await until(lambda: first.core.told)
        async with nodes((directory, reading)) as (second,):
            await until(lambda: len(second.core.told) == 2)
        return first.core.restored, second.core

    first, second = trio.run(main)
    assert first.state is None
    assert second.restored.boot == first.boot + 1
    assert second.restored.kv["b"] == {b"key": b"value"}
    assert second.told[1] == ce.BlobLoaded(digest, b"\0")


def test_what_binds_processes_that_run_models_stands_in_the_status_and_once_in_the_event_log(tmp_path):
    directory = found(tmp_path, "client-0")
    write_config(directory, NodeConfig(name="client-0", roles=("inference",)))

    async def main():
        async with nodes((directory, idle)) as (node,):
            await until(lambda: read_status(directory).fields.get("sandbox"))
            return node.describe()["sandbox"]

    sandbox = trio.run(main)
    events = [event for event in read_events(directory) if event["name"] == "engine.sandbox"]
    assert "rlimits" in sandbox["in_force"]
    assert {*sandbox["in_force"], *sandbox["missing"]} == {"namespaces", "landlock", "seccomp", "rlimits"}
    assert [{name: event[name] for name in sandbox} for event in events] == [sandbox]


def test_a_node_that_runs_no_models_starts_no_process_and_claims_no_sandbox(tmp_path):
    async def main():
        async with nodes((found(tmp_path, "storage-0"), idle)) as (node,):
            await until(lambda: node.core.told)
            assert node.describe()["sandbox"] == {}

    trio.run(main)


def test_half_written_files_of_a_killed_process_are_swept_and_nothing_else(tmp_path):
    directory = found(tmp_path, "client-0")
    (directory / "receipts").mkdir()
    halves = [".status.json.x1", ".node.json.ab", "receipts/.ab.receipt.01", "keys/.node.0011", "keys/.vote.0022"]
    others = ["receipts/ab.receipt", "notes.txt", ".hidden", "keys/README"]
    for name in halves + others:
        (directory / name).write_text("x")

    trio.run(stop_at_once, directory)

    assert [name for name in halves + others if (directory / name).exists()] == others


def test_a_driver_commands_roles_reads_outcomes_and_ends_the_node(tmp_path):
    directory = found(tmp_path, "client-0")

    def obliging(event):
        if isinstance(event, ce.Command):
            return [ce.Deliver(event.role, event.command * 2)]

    outcomes = []

    async def drive(node):
        node.deliver_to(outcomes.append)
        for number in range(3):
            node.command("client", number)
        while len(outcomes) < 3:
            await trio.sleep(0.001)

    async def main():
        with trio.fail_after(WAIT_S_MAX):
            await run_node(directory, driver=drive, make_core=partial(ScriptedCore, obliging))

    trio.run(main)
    assert outcomes == [ce.Deliver("client", 0), ce.Deliver("client", 2), ce.Deliver("client", 4)]
    assert read_status(directory).liveness is Liveness.STOPPED


def test_a_node_starts_on_sealed_keys_with_their_passphrase_and_tells_nobody(tmp_path, capfd):
    directory = found(tmp_path, "validator-0")
    secrets = [
        read_key(directory, name, get_place(CHAIN, FOUNDATION.genesis.name)).seed for name in ("account", "vote")
    ]
    for purpose in ("account", "vote"):
        seal(directory, purpose, "a passphrase")

    async def stop_at_once(node):
        await trio.lowlevel.checkpoint()

    with pytest.raises(PassphraseNeeded):
        trio.run(partial(run_node, directory))
    with pytest.raises(ConfigError, match="the passphrase does not fit"):
        trio.run(partial(run_node, directory, passphrase="another"))
    trio.run(partial(run_node, directory, driver=stop_at_once, passphrase="a passphrase"))

    left = b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())
    out, err = capfd.readouterr()
    said = left + out.encode() + err.encode()
    for secret in (*secrets, b"a passphrase"):
        for text in (secret, secret.hex().encode(), base64.b64encode(secret), repr(secret).encode()):
            assert text not in said


def test_a_second_node_on_the_directory_is_refused_and_the_first_goes_on(tmp_path):
    directory = found(tmp_path, "client-0")

    async def main():
        async with nodes((directory, idle)) as (first,):
            with pytest.raises(ConfigError, match="in use"):
                await run_node(directory)
            await until(lambda: read_status(directory).fields.get("state") == "serving")
            assert first.core.told[-1:] != [ce.Stop()]

    trio.run(main)


def test_a_full_disk_ends_the_node_with_a_reason_and_frees_the_directory(tmp_path):
    directory = found(tmp_path, "client-0")
    (directory / "events.jsonl").symlink_to("/dev/full")

    def logging(event):
        return [ce.Log("claim.made", {})]

    with pytest.raises(StoreFailed, match="No space left") as caught:
        trio.run(partial(run_node, directory, make_core=partial(ScriptedCore, logging)))

    assert "space" in caught.value.hint
    assert "No space left" in read_status(directory).fields["error"]
    assert not is_locked(directory)


def test_a_bug_in_a_role_ends_the_node_as_what_it_is(tmp_path):
    directory = found(tmp_path, "client-0")

    def buggy(event):
        raise ZeroDivisionError("here")

    with pytest.raises(ZeroDivisionError):
        trio.run(partial(run_node, directory, make_core=partial(ScriptedCore, buggy)))

    assert read_status(directory).fields["error"] == "ZeroDivisionError: here"
    assert not is_locked(directory)


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 1_000, b"SQLite format 3\0" + bytes(4_096)])
def test_a_damaged_database_is_said_plainly_and_left_as_it_is(tmp_path, content):
    directory = found(tmp_path, "client-0")
    (directory / "node.db").write_bytes(content)
    if not content:
        return trio.run(stop_at_once, directory)  # an empty file is a new database

    with pytest.raises(UserError) as caught:
        trio.run(run_node, directory)

    assert "node.db" in str(caught.value)
    assert caught.value.hint
    assert (directory / "node.db").read_bytes() == content
    assert not is_locked(directory)


async def stop_at_once(directory):
    async with nodes((directory, idle)):
        pass


@pytest.mark.parametrize(
    ("name", "content"),
    [("node.json", "[]"), ("genesis.json", "{}"), ("keys/node.key", "{}"), ("keys/account.key", "")],
)
def test_a_damaged_file_is_said_plainly_and_left_as_it_is(tmp_path, name, content):
    directory = found(tmp_path, "client-0")
    (directory / name).write_text(content)

    with pytest.raises(ConfigError, match=name) as caught:
        trio.run(run_node, directory)

    assert caught.value.hint
    assert (directory / name).read_text() == content


def test_keys_of_another_test_network_are_refused(tmp_path):
    directory = found(tmp_path, "client-0")
    write_genesis(directory, build_genesis(8, ROLES, now_ms=1_700_000_000_000).genesis)

    with pytest.raises(ConfigError, match="public development key"):
        trio.run(run_node, directory)


@pytest.mark.parametrize("listen", ["/ip4/127.0.0.1/udp/1", "/ip4/127.0.0.1/tcp/65536", "/ip4/1.2.3/tcp/1", "/x"])
def test_an_address_nobody_can_listen_on_is_refused(tmp_path, listen):
    directory = found(tmp_path, "client-0", listen=listen)

    with pytest.raises(ConfigError, match="listen") as caught:
        trio.run(run_node, directory)

    assert "listen" in caught.value.hint


def test_an_unknown_role_is_refused_before_anything_is_sent(tmp_path):
    directory = found(tmp_path, "client-0")
    write_config(directory, replace(NodeConfig("client-0", ("client",)), roles=("baker",)))

    with pytest.raises(ConfigError, match="baker"):
        trio.run(run_node, directory)
