"""A node's pages: what they say of a moment (pure), the names of metrics, and the server on a real socket."""

import json
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio

from protocol.types import NodeState
from roles.health import TURN_S_MAX, Page, Vital, choose_page
from roles.http_server import CONNECTIONS_MAX, REQUEST_BYTES_MAX, open_http

WELL = Vital(
    version="1.2.3",
    chain="00ff",
    state=NodeState.SERVING,
    roles=("inference",),
    turn_s=0.0,
    has_peers_to_find=True,
    inbound=2,
    outbound=3,
    banned=1,
    height=7,
    reach="reachable",
    advice="",
    restart={},
    sandbox={"seccomp": True, "landlock": False},
    backends={
        "digits@1": {"state": "ready", "reason": "", "answered": 3, "failed": 1, "timed_out": 0, "refused_busy": 0}
    },
    keys={},
    rss_bytes=1_000,
    topics={"/rolemesh/00ff/claims/1": {"delivered": 4}},
    queues={"inbox": 0},
    shed={"outcomes": 2},
    refused={"block": 5},
    penalties=6,
)
# These names, types and labels are what dashboards and alerts are written against: changing one breaks them.
METRICS = {
    "rolemesh_build_info": ("gauge", {"version", "chain"}),
    "rolemesh_state": ("gauge", {"state"}),
    "rolemesh_roles": ("gauge", {"role"}),
    "rolemesh_head_height": ("gauge", set()),
    "libp2p_peers": ("gauge", {"direction"}),
    "rolemesh_bans": ("gauge", set()),
    "rolemesh_sandbox": ("gauge", {"measure"}),
    "rolemesh_backend_ready": ("gauge", {"model"}),
    "rolemesh_backend_jobs_total": ("counter", {"model", "outcome"}),
    "rolemesh_reachable": ("gauge", set()),
    "rolemesh_connections_refused_total": ("counter", {"reason"}),
    "rolemesh_penalties_total": ("counter", set()),
    "rolemesh_gossip_messages_total": ("counter", {"topic", "event"}),
    "rolemesh_queue_length": ("gauge", {"queue"}),
    "rolemesh_shed_total": ("counter", {"what"}),
    "process_resident_memory_bytes": ("gauge", set()),
}


LIVEZ = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


def read_metrics(text):
    """As Prometheus itself reads it."""
    parser = pytest.importorskip("prometheus_client.parser")
    return list(parser.text_string_to_metric_families(text))


def test_the_names_types_and_labels_of_metrics_are_pinned():
    families = read_metrics(choose_page("/metrics", WELL).body)
    found = {}
    for family in families:
        name = family.name + "_total" * (family.type == "counter")
        found[name] = (family.type, {label for sample in family.samples for label in sample.labels})
    assert found == METRICS


def test_metrics_say_what_is_the_case_whatever_is_in_a_name():
    odd = replace(WELL, topics={'a"b\\c\nd': {"delivered": 4}})
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in read_metrics(choose_page("/metrics", odd).body)
        for sample in family.samples
    }
    assert values["rolemesh_gossip_messages_total", 'a"b\\c\nd', "delivered"] == 4
    assert values["libp2p_peers", "outbound"] == 3
    assert values["rolemesh_state", "serving"] == 1
    assert values["rolemesh_connections_refused_total", "block"] == 5


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({}, []),
        ({"inbound": 0, "outbound": 0}, ["peers"]),
        ({"inbound": 0, "outbound": 0, "has_peers_to_find": False}, []),
        ({"state": NodeState.SYNCING}, ["ledger", "serving"]),
        ({"state": NodeState.OBSERVING}, ["serving"]),
        ({"reach": "unreachable", "advice": "open port 4001"}, ["reachable"]),
        ({"reach": "trusted"}, []),
        ({"restart": {"state": "waits", "advice": "fetch the blocks"}}, ["restart"]),
        ({"keys": {"state": "replaced", "advice": "put the key back"}}, ["keys"]),
        ({"keys": {"state": "rotating", "advice": "wait"}}, []),
        ({"restart": {"state": "loaded", "advice": "wait for the others"}}, []),
        ({"turn_s": TURN_S_MAX + 1}, ["loop"]),
    ],
)
def test_a_node_that_is_not_ready_names_the_check_that_failed(change, failed):
    vital = replace(WELL, **change)
    page = choose_page("/readyz?verbose", vital)
    checks = json.loads(page.body)["checks"]
    assert [check["name"] for check in checks if not check["ok"]] == failed
    assert page.status == choose_page("/readyz", vital).status == (503 if failed else 200)
    for name in failed:
        assert f"not ready: {name}: " in choose_page("/readyz", vital).body
    assert choose_page("/livez", vital).status == (503 if "loop" in failed else 200)


def test_other_paths_are_not_found():
    for target in ("/", "/metricsx", "*", "http://x/livezz", ""):
        assert choose_page(target, WELL).status == 404


@asynccontextmanager
async def server():
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            running = await open_http("127.0.0.1", 0, lambda target: Page(200, f"you want {target}\n"))
            nursery.start_soon(running.run)
            yield int(running.url.rpartition(":")[2])
            nursery.cancel_scope.cancel()


async def talk(port, data):
    """Everything the server says to some bytes until it hangs up."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(data)
        said = b""
        try:
            while more := await stream.receive_some(65_536):
                said += more
        except trio.BrokenResourceError:
            pass
        return said


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", b"200"),
        (b"GET /livez HTTP/1.0\r\n\r\n", b"200"),
        (b"HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n", b"405"),
        (b"POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody", b"405"),
        (b"GET /livez HTTP/1.1\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"400"),
        (b"GET /" + b"x" * REQUEST_BYTES_MAX, b"431"),
    ],
)
def test_each_request_gets_one_answer(data, status):
    async def main():
        async with server() as port:
            return await talk(port, data)

    said = trio.run(main)
    assert said.startswith(b"HTTP/1.1 " + status)
    assert (b"you want /livez\n" in said) == (status == b"200")


def test_as_many_callers_as_there_may_be_who_say_nothing_keep_others_out_until_their_time_is_up(monkeypatch):
    async def main():
        async with server() as port, trio.open_nursery() as nursery:
            monkeypatch.setattr("roles.http_server.REQUEST_S_MAX", 3_600)
            idle = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(CONNECTIONS_MAX)]
            refused = await talk(port, LIVEZ)
            await idle.pop().aclose()
            monkeypatch.setattr("roles.http_server.REQUEST_S_MAX", 0.05)
            served = await ask_until_answered(port)
            late = await trio.open_tcp_stream("127.0.0.1", port)  # the last place, and not a word
            ended = await late.receive_some(1)
            nursery.cancel_scope.cancel()
        return refused, served, ended

    refused, served, ended = trio.run(main)
    assert refused == ended == b""
    assert served.startswith(b"HTTP/1.1 200")


async def ask_until_answered(port):
    while not (said := await talk(port, LIVEZ)):
        pass
    return said


def test_callers_who_say_nothing_keep_nobody_out_for_long():
    async def main():
        async with server() as port:
            idle = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(CONNECTIONS_MAX)]
            for stream in idle[: CONNECTIONS_MAX // 2]:
                await stream.aclose()
            return await ask_until_answered(port)

    assert trio.run(main).startswith(b"HTTP/1.1 200")
