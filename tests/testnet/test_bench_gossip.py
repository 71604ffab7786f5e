"""The gossip benchmark counts what arrives, once, of every stack, and its tables say what it printed."""

import json
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from testnet.bench import table
from testnet.bench.gossip.peers import find_missing_js, list_edges, open_pair
from testnet.bench.gossip.process import Process
from testnet.bench.gossip.rounds import Flow, run_burst, run_flow
from testnet.bench.gossip.shares import Sampler
from testnet.bench.gossip.tally import Round, Tally, write_payload
from testnet.cli import main

FIGURE = {"name": "a", "value": 12_345.6, "unit": "msg/s", "peer": "b", "peer_value": 0.1234, "ratio": 2.0}


def test_a_delivery_counts_once_for_each_member_and_only_in_its_round():
    tally = Tally(2)
    tally.begin(Round(7, 64, tail=5))
    payload = write_payload(7, 100_000, 0, bytes(48))

    for member, data in [(0, payload), (0, payload), (1, payload), (0, write_payload(6, 1, 0, bytes(48)))]:
        tally.note(member, b"head" + data + bytes(5))

    assert tally.count == 2


def test_a_sample_taken_where_bytecode_has_no_line_counts_like_any_other():
    frame = SimpleNamespace(f_lineno=None, f_code=None, f_globals={"__name__": "p2p.gossip"}, f_back=None)
    sampler = Sampler()

    sampler._note(0, frame)

    assert sampler.stop()["routing"] == 100


def test_everyone_in_the_ring_has_six_neighbours():
    edges = {frozenset(edge) for edge in list_edges(16)}

    assert len(edges) == 48
    assert {sum(node in edge for edge in edges) for node in range(16)} == {6}


@pytest.mark.parametrize(
    ("stack", "policy"),
    [
        pytest.param("ours", "nosign", marks=pytest.mark.full),
        ("ours", "sign"),
        pytest.param("ours", "envelope", marks=pytest.mark.full),
        ("stock", "nosign"),
        pytest.param("raw", "nosign", marks=pytest.mark.full),  # what counts deliveries in the tests below
        pytest.param("js", "sign", marks=pytest.mark.skipif(bool(find_missing_js()), reason=find_missing_js())),
    ],
)
def test_every_stack_delivers_what_it_publishes(stack, policy):
    async def run():
        async with open_pair(stack, policy, 71) as pair:
            flow = await run_flow(pair, Flow("short", 256, 16, policy, (stack,)), 0.1)
            return flow, await run_burst(pair, 50)

    flow, arrived = trio.run(run)

    assert flow.share == 1
    assert flow.rate > 0
    assert arrived == 50


@asynccontextmanager
async def open_counter():
    """The counting side of a round, and a function that has messages of a round delivered to it."""
    async with trio.open_nursery() as tasks, AsyncExitStack() as nodes:
        process = Process("raw", nodes, tasks)
        (node,) = (await process.do_open(1, "127.0.44.75", "nosign"))["nodes"]
        _, _, host, _, port = node["address"].split("/")
        async with await trio.open_tcp_stream(host, int(port)) as stream:

            async def deliver(number, seq):
                await stream.send_all((64).to_bytes(4) + write_payload(number, seq, 0, bytes(48)))
                with trio.fail_after(5):
                    while (await process.do_count())["delivered"] <= seq:
                        await trio.sleep(0)

            yield process, deliver
        tasks.cancel_scope.cancel()


def test_a_counter_outlives_whoever_hangs_up_on_what_it_is_told():
    async def hang_up_early(port):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.receive_some(1)  # and leaves the rest unread, which makes a reset of the goodbye
            await stream.send_all((2).to_bytes(8))

    async def run():
        async with open_counter() as (process, deliver):
            # Whether the counter first hears of the hang-up or of a message is up to the scheduler.
            for number in range(1, 21):
                await hang_up_early((await process.do_expect(tell_every=1, number=number, size=64))["port"])
                await deliver(number, 0)
                await deliver(number, 1)
            return number

    assert trio.run(run) == 20


def test_whoever_follows_a_round_is_told_though_one_of_the_last_round_hangs_up_late():
    async def run():
        async with open_counter() as (process, deliver):
            ports = [(await process.do_expect(tell_every=1, number=number, size=64))["port"] for number in (1, 2)]
            late, follower = [await trio.open_tcp_stream("127.0.0.1", port) for port in ports]
            async with follower:
                await follower.receive_some(8)
                await late.aclose()
                await trio.testing.wait_all_tasks_blocked()
                await deliver(2, 0)
                with trio.fail_after(5):
                    return int.from_bytes(await follower.receive_some(8))

    assert trio.run(run) == 1


def test_a_figure_nobody_knows_is_refused_with_those_there_are(capsys):
    assert main(["bench", "gossip", "--only", "mesh_17"]) == 2

    assert "mesh_16" in capsys.readouterr().err


def test_a_table_takes_the_place_of_the_one_before(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- x -->\nold\n<!-- /x -->\nafter\n", encoding="utf-8")
    monkeypatch.setattr("sys.stdin", iter([json.dumps(FIGURE) + "\n"]))

    assert table.main("x", page) == 0

    text = page.read_text("utf-8")
    assert text.startswith("before\n<!-- x -->\n| figure |")
    assert "| `a` | 12,346 msg/s | b | 0.123 msg/s | 2× |" in text
    assert text.endswith("\n<!-- /x -->\nafter\n")
    assert "old" not in text


def test_a_benchmark_that_failed_leaves_the_table_alone(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text("<!-- x -->\n<!-- /x -->\n", encoding="utf-8")
    monkeypatch.setattr("sys.stdin", iter([json.dumps(FIGURE) + "\n", '{"error": {"code": "bug"}}\n']))

    assert table.main("x", page) == 1
    assert page.read_text("utf-8") == "<!-- x -->\n<!-- /x -->\n"
