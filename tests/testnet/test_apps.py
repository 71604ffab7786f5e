"""Real processes: an app, a pass to it bought, shown, checked offline, renewed; and used at a gateway."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from protocol.keys import format_account
from roles.keystore import get_key_path, read_public
from testnet.cli.output import ExitCode
from testnet.join import open_client
from tests.support.forked import Forked, command
from tests.support.gateways import ASKED, INFER
from tests.testnet.networks import kill_hard, run_cli, run_process, start_network, wait_until

DAY_MS = 86_400_000
TIERS = ("--tier", "day=2,1d,1000", "--tier", "holder=stake:100,1m,500")


@pytest.mark.full
@pytest.mark.timeout(180)
def test_a_pass_is_bought_shown_renewed_and_sold_no_more_once_the_app_is_retired(tmp_path: Path) -> None:
    with start_network(tmp_path / "net", "--seed", "41", "--roles", "validator=2,client=2") as up:
        up.wait_for_go()
        entries = {node.name: up.directory / node.directory for node in up.network.nodes}
        genesis = str(up.directory / "testnet.json")
        file = tmp_path / "chat.pass"

        def do(command: str, *words: str, payer: str) -> tuple[int, dict]:
            return run_cli("app", command, *words, "--from", str(entries[payer]))

        def show(name: str) -> dict:
            _, told = run_cli("app", "show", "chat", "--dir", str(entries[name]))
            return told

        code, told = do("register", "chat", "Chat", *TIERS, "--server", "client-1", payer="client-0")
        assert (code, told["state"]) == (ExitCode.OK, "final"), told
        wait_until(lambda: "error" not in show("client-1"), "the buyer's node has it")
        code, told = do("register", "chat", "Mine", "--tier", "day=1,1d,1", payer="client-1")
        assert (code, told["error"]["code"]) == (ExitCode.FAILURE, "NotYourApp")
        code, told = do("pass", "chat", payer="client-1")
        assert (code, told["error"]["code"]) == (ExitCode.FAILURE, "no_pass")
        for periods in ("0", "367"):
            code, told = do("buy", "chat", "--tier", "day", "--periods", periods, payer="client-1")
            assert (code, told["error"]["code"]) == (ExitCode.USAGE, "bad_periods")
        code, told = do("buy", "chat", "--tier", "holder", payer="client-1")
        assert (code, told["error"]["code"]) == (ExitCode.FAILURE, "StakeTooLow")

        code, bought = do("buy", "chat", "--tier", "day", "--periods", "2", payer="client-1")
        assert (code, bought["cost_grains"]) == (ExitCode.OK, 4 * 10**9), bought
        code, told = do("pass", "chat", "--out", str(file), payer="client-1")
        assert (code, told["until_ms"]) == (ExitCode.OK, bought["until_ms"]), told
        assert file.stat().st_mode & 0o777 == 0o600
        code, told = run_cli("app", "check", str(file), "--genesis", genesis)
        assert (code, told["quota"], told["period"]) == (ExitCode.OK, 1_000, 0), told
        code, told = run_cli("app", "check", str(file), "--genesis", genesis, "--app", "prose")
        assert (code, told["error"]["code"]) == (ExitCode.VERIFICATION_FAILED, "bad_pass")

        code, told = do("buy", "chat", "--tier", "day", payer="client-1")
        assert (code, told["until_ms"]) == (ExitCode.OK, bought["until_ms"] + DAY_MS), told
        wait_until(lambda: show("client-0")["sold"] == 3, "the owner's node has it")
        assert show("client-0")["income_grains"] == 6 * 10**9

        code, told = do("retire", "chat", payer="client-0")
        assert code == ExitCode.OK, told
        wait_until(lambda: show("client-1")["is_retired"], "the buyer's node knows")
        code, told = do("buy", "chat", "--tier", "day", payer="client-1")
        assert (code, told["error"]["code"]) == (ExitCode.FAILURE, "AppRetired")
        code, told = do("register", "chat", "Chat", *TIERS, payer="client-0")
        assert (code, told["error"]["code"]) == (ExitCode.FAILURE, "AppRetired")
        code, told = do("pass", "chat", "--for", "1h", "--out", str(file), payer="client-1")
        assert code == ExitCode.OK, told
    code, told = run_cli("testnet", "check", str(up.directory))
    assert code == ExitCode.OK, told


@contextmanager
def run_gateway(directory: Path, log: Path, *words: str) -> Iterator[tuple[Forked, str]]:
    """A gateway of the app on a client's directory, and its URL."""
    out = log.with_suffix(".out")
    words = ("gateway", "run", "--data", str(directory), "--listen", "127.0.0.1:0", "--app", "chat", "--json")
    with command(words, log) as process:
        wait_until(lambda: out.exists() and "\n" in out.read_text(), "the gateway listens")
        yield process, json.loads(out.read_text())["url"]


@pytest.mark.full
@pytest.mark.timeout(240)
def test_a_gateway_keeps_to_a_quota_through_kill_9_and_reports_what_was_used(tmp_path: Path) -> None:
    roles = "validator=1,inference=1,verifier=2,storage=1,client=2"
    with start_network(tmp_path / "net", "--seed", "43", "--roles", roles) as up:
        up.wait_for_go()
        entries = {node.name: up.directory / node.directory for node in up.network.nodes}
        server = open_client(up.directory)
        name = format_account(read_public(get_key_path(server, "account")))
        owner, buyer = ("--from", str(entries["client-0"])), ("--from", str(entries["client-1"]))

        def show() -> dict:
            return run_cli("app", "show", "chat", "--dir", str(entries["validator-0"]))[1]

        words = ("gateway", "run", "--data", str(server), "--app", "chat", "--listen", "127.0.0.1:0")
        code, told = run_cli(*words)
        assert (code, "knows no app" in told["error"]["message"]) == (ExitCode.CONFIG, True), told
        terms = ("--tier", "day=2,1d,3", "--fee-percent", "10")
        code, told = run_cli("app", "register", "chat", "Chat", *terms, *owner)
        assert code == ExitCode.OK, told
        code, told = run_cli(*words)
        assert (code, "not named" in told["error"]["message"]) == (ExitCode.CONFIG, True), told
        code, told = run_cli("app", "register", "chat", "Chat", *terms, "--server", name, *owner)
        assert code == ExitCode.OK, told
        wait_until(lambda: run_cli("app", "show", "chat", "--dir", str(entries["client-1"]))[0] == 0, "it is known")
        code, told = run_cli("app", "buy", "chat", "--tier", "day", *buyer)
        assert code == ExitCode.OK, told
        code, told = run_cli("app", "pass", "chat", "--out", str(tmp_path / "chat.pass"), *buyer)
        assert code == ExitCode.OK, told
        headers = {"X-App-Pass": told["token"]}

        with run_gateway(server, tmp_path / "first.log") as (process, url):
            assert httpx.post(url + INFER, json=ASKED).status_code == 401
            for _ in range(2):
                answer = httpx.post(url + INFER, json=ASKED, headers=headers, timeout=30)
                assert answer.status_code == 200, answer.text
            kill_hard(process.pid)
        with run_gateway(server, tmp_path / "second.log") as (process, url):
            statuses = [httpx.post(url + INFER, json=ASKED, headers=headers, timeout=30).status_code for _ in range(3)]
            assert statuses == [200, 429, 429]
            wait_until(lambda: show()["requests"] >= 2, "what the killed one has served is on the ledger", 90.0)
            process.terminate()
            assert process.wait() == ExitCode.OK
        wait_until(lambda: show()["requests"] == 3, "the last one reports what is left")
        told = show()
        assert [use["requests"] for use in told["uses"]] == [3]
        assert told["shared_grains"] > 0
    code, told = run_cli("testnet", "check", str(up.directory))
    assert code == ExitCode.OK, told


@pytest.mark.full
@pytest.mark.timeout(240)
def test_a_run_that_serves_an_app_waits_until_a_pass_is_used_up_and_counted(tmp_path: Path) -> None:
    words = ("testnet", "up", "--dir", str(tmp_path / "net"), "--seed", "47", "--duration", "2m", "--app")
    roles = "validator=1,inference=1,verifier=2,storage=1,client=1"
    code, report = run_process(*words, "--roles", roles, "--load", "digits", "--rows", "20", timeout_s=200.0)
    assert code == ExitCode.OK, report
    assert report["bars"]["app"]
    assert report["ledger"]["apps"]["demo"]["requests"] == 3


def test_an_app_needs_an_account_for_its_gateway(tmp_path: Path) -> None:
    words = ("--dir", str(tmp_path / "net"), "--load", "digits", "--app", "--accounts", "0")
    code, told = run_cli("testnet", "up", *words)
    assert (code, told["error"]["code"]) == (ExitCode.USAGE, "usage")
    assert not (tmp_path / "net").exists()
