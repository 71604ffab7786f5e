"""`rolemesh gateway run`: what it refuses, and a gateway of a real network as a process of its own."""

import json
import socket

import httpx
import pytest

from testnet.cli.output import ExitCode
from testnet.launch import is_alive
from tests.support.forked import command
from tests.support.gateways import ASKED, INFER
from tests.testnet.networks import run_cli, start_network, wait_until

ROLES = "validator=1,inference=1,verifier=2,storage=1,client=1"


@pytest.mark.parametrize(
    ("words", "code", "exit_code"),
    [
        (("--listen", "gateway.example:8080"), "bad_address", ExitCode.USAGE),
        (("--listen", "8080"), "bad_address", ExitCode.USAGE),
        (("--timeout", "10m"), "bad_duration", ExitCode.USAGE),
        (("--data", "nothing"), "no_node", ExitCode.CONFIG),
        (("--network", "nothing"), "no_network", ExitCode.UNREACHABLE),
    ],
)
def test_what_cannot_work_is_refused_with_what_to_do(tmp_path, monkeypatch, words, code, exit_code):
    monkeypatch.chdir(tmp_path)

    found, told = run_cli("gateway", "run", *words)

    assert (found, told["error"]["code"]) == (exit_code, code)
    assert told["error"]["hint"]


@pytest.mark.full
def test_a_gateway_of_a_real_network_answers_until_it_is_told_to_stop(tmp_path):
    with start_network(tmp_path / "net", "--seed", "5", "--roles", ROLES) as up:
        up.wait_for_go()
        words = ("gateway", "run", "--network", str(up.directory), "--listen", "127.0.0.1:0", "--json")
        with command(words, tmp_path / "gateway.log") as process:
            out = tmp_path / "gateway.out"
            wait_until(lambda: out.exists() and "\n" in out.read_text(), "the gateway listens")
            url = json.loads(out.read_text())["url"]
            with httpx.Client(base_url=url, timeout=30) as http:
                answer = http.post(INFER, json=ASKED)
                assert (answer.status_code, answer.json()["parameters"]["is_attested"]) == (200, True)
                port = url.rpartition(":")[2]
                taken = run_cli("gateway", "run", "--network", str(up.directory), "--listen", f"127.0.0.1:{port}")
                assert taken[0] == ExitCode.CONFIG
                assert "cannot listen" in taken[1]["error"]["message"]
                process.terminate()
                assert process.wait() == ExitCode.OK
            with pytest.raises(OSError), socket.create_connection(("127.0.0.1", int(port)), timeout=5):
                pass


@pytest.mark.full
def test_a_network_brings_its_gateway_along_and_takes_it_down(tmp_path):
    with start_network(tmp_path / "net", "--seed", "6", "--roles", ROLES, "--gateway", "127.0.0.1:0") as up:
        up.wait_for_go()
        place = json.loads((up.directory / "gateway.json").read_text())
        answer = httpx.post(place["url"] + INFER, json=ASKED, timeout=30)
        assert (answer.status_code, answer.json()["parameters"]["verifiers"]) == (200, 2)
        assert run_cli("testnet", "down", "--dir", str(up.directory))[0] == ExitCode.OK
        assert not is_alive(place["pid"])


def test_a_gateway_for_everybody_is_refused_before_a_network_is_made(tmp_path):
    found, told = run_cli("testnet", "up", "--dir", str(tmp_path / "net"), "--gateway", "0.0.0.0:80")

    assert (found, told["error"]["code"]) == (ExitCode.USAGE, "bad_address")
    assert not (tmp_path / "net").exists()
