"""An app is put on the ledger of a network of real processes, a pass to it bought, shown, checked offline, renewed."""

from pathlib import Path

import pytest

from testnet.cli.output import ExitCode
from tests.testnet.networks import run_cli, start_network, wait_until

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
