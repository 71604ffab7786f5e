"""`rolemesh gateway key`: keys are made, listed and taken back; and no gateway opens to others without one."""

import json
from contextlib import contextmanager, suppress
from threading import Thread

import httpx
import pytest

from roles.gateway.keys import read_key
from testnet.cli import main
from testnet.cli.output import ExitCode
from testnet.genesis import PRICE_GRAINS
from testnet.join import open_client
from testnet.papers import read_papers
from tests.support.forked import command
from tests.support.gateways import ASKED, INFER
from tests.testnet.networks import kill_hard, run_cli, start_network, wait_until

ROLES = "validator=1,inference=1,verifier=2,storage=1,client=1"


@pytest.fixture
def data(tmp_path):
    """A data directory, as far as these commands look at it."""
    (tmp_path / "node.json").write_text("{}")
    return str(tmp_path)


def test_a_key_is_shown_once_listed_with_its_limits_and_taken_back(data, capsys):
    words = ("--per-window", "0.5", "--window", "1h", "--max-fee", "0.01", "--expires", "30d", "--model", "digits")

    code, made = run_cli("gateway", "key", "add", "web", "--limit", "20", *words, "--data", data)

    assert code == ExitCode.OK
    assert read_key(made["key"])[0] == made["id"]
    code, found = run_cli("gateway", "key", "ls", "--data", data)
    (key,) = found["keys"]
    assert "key" not in key
    assert {name: key[name] for name in ("label", "state", "limit_grains", "window_limit_grains", "window_ms")} == {
        "label": "web", "state": "good", "limit_grains": 20 * 10**9, "window_limit_grains": 5 * 10**8,
        "window_ms": 3_600_000,
    }  # fmt: skip
    assert (key["max_fee_grains"], key["models"], key["spent_grains"]) == (10**7, ["digits"], 0)
    assert key["expires_ms"] - key["made_ms"] == 30 * 86_400_000
    assert run_cli("gateway", "key", "revoke", "web", "--data", data)[1]["state"] == "revoked"
    assert main(["gateway", "key", "ls", "--data", data]) == ExitCode.OK
    table = capsys.readouterr().out
    assert "revoked" in table
    assert made["key"] not in table


@pytest.mark.parametrize(
    ("words", "code", "exit_code"),
    [
        (("add", "web"), "bad_terms", ExitCode.USAGE),
        (("add", "a b", "--limit", "1"), "bad_terms", ExitCode.USAGE),
        (("add", "web", "--limit", "-1"), "bad_amount", ExitCode.USAGE),
        (("add", "web", "--limit", "1", "--window", "soon"), "bad_duration", ExitCode.USAGE),
        (("revoke", "cats"), "config", ExitCode.CONFIG),
    ],
)
def test_what_cannot_be_a_key_is_refused_with_what_to_do(data, words, code, exit_code):
    found, told = run_cli("gateway", "key", *words, "--data", data)

    assert (found, told["error"]["code"]) == (exit_code, code)
    assert told["error"]["hint"]


def test_keys_are_looked_for_where_a_gateway_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert run_cli("gateway", "key", "ls", "--data", "nothing")[1]["error"]["code"] == "no_node"
    assert run_cli("gateway", "key", "ls")[1]["error"]["code"] == "no_network"


@pytest.mark.parametrize("words", [("--listen", "0.0.0.0:0"), ("--require-key",)])
def test_a_gateway_that_asks_for_keys_is_refused_while_nobody_holds_one(data, words):
    run_cli("gateway", "key", "add", "web", "--limit", "1", "--data", data)
    run_cli("gateway", "key", "revoke", "web", "--data", data)

    code, told = run_cli("gateway", "run", *words, "--data", data)

    assert code == ExitCode.CONFIG
    assert "nobody holds a key" in told["error"]["message"]
    assert "gateway key add" in told["error"]["hint"]


@pytest.mark.full
def test_a_gateway_that_is_killed_has_spent_no_more_than_its_key_allows_and_goes_on_counting(tmp_path):
    with start_network(tmp_path / "net", "--seed", "5", "--roles", ROLES) as up:
        up.wait_for_go()
        data = open_client(up.directory)
        made = run_cli("gateway", "key", "add", "web", "--limit", "0.005", "--data", str(data))
        headers = {"Authorization": f"Bearer {made[1]['key']}", "X-Max-Fee": str(PRICE_GRAINS)}
        for life in range(2):
            with run_gateway(data, tmp_path / f"gateway-{life}.log", headers) as (process, http):
                assert http.post(INFER, json=ASKED).status_code == 200
                kill_while_it_asks(process.pid, http, data)
        with run_gateway(data, tmp_path / "gateway-last.log", headers) as (process, http):
            wait_until(lambda: read_key_state(data)["held_grains"] == 0, "what was cut is settled")
            while (answer := http.post(INFER, json=ASKED)).status_code == 200:
                pass
        state, (_, requests) = read_key_state(data), zip(*read_papers(data).list_requests(), strict=True)

    assert (answer.status_code, answer.json()["code"]) == (402, "key_limit_reached")
    assert state["spent_grains"] == 5 * PRICE_GRAINS
    assert sum(item.voucher.amount for record in requests for item in record.attempts if not item.refusals) == (
        5 * PRICE_GRAINS
    )


@contextmanager
def run_gateway(data, log, headers):
    words = ("gateway", "run", "--data", str(data), "--listen", "127.0.0.1:0", "--require-key", "--json")
    with command(words, log) as process:
        out = log.with_suffix(".out")
        wait_until(lambda: out.exists() and "\n" in out.read_text(), "the gateway listens")
        with httpx.Client(base_url=json.loads(out.read_text())["url"], timeout=30, headers=headers) as http:
            yield process, http


def kill_while_it_asks(pid, http, data):
    def ask():
        with suppress(httpx.TransportError):
            http.post(INFER, json=ASKED)

    before = read_key_state(data)["requests"]
    asking = Thread(target=ask)
    asking.start()
    wait_until(lambda: read_key_state(data)["requests"] > before, "a request is under way")
    kill_hard(pid)
    asking.join()


def read_key_state(data):
    return run_cli("gateway", "key", "ls", "--data", str(data))[1]["keys"][0]
