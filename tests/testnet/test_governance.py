"""A change is proposed, voted on and in force on a network of real processes, at one header for all of them."""

from functools import partial
from pathlib import Path

import pytest

from testnet.cli.output import ExitCode
from tests.testnet.networks import run_cli, run_process, start_network, wait_until

VALUE = 123_456


@pytest.mark.full
@pytest.mark.timeout(240)
def test_what_the_holders_vote_for_is_in_force_on_every_node(tmp_path: Path) -> None:
    with start_network(tmp_path / "net", "--seed", "37", "--roles", "validator=2,client=1") as up:
        up.wait_for_go()
        entries = {node.name: up.directory / node.directory for node in up.network.nodes}

        def gov(command: str, *words: str, payer: str) -> tuple[int, dict]:
            return run_cli("gov", command, *words, "--from", str(entries[payer]))

        def read_value(name: str) -> int:
            _, told = run_cli("gov", "params", "--dir", str(entries[name]))
            return next(row["value"] for row in told["parameters"] if row["parameter"] == "base_fee_min")

        def read_state() -> str:
            code, told = run_cli("gov", "show", key, "--dir", str(entries["validator-0"]))
            assert code == ExitCode.OK, told
            return str(told["state"])

        def has(name: str) -> bool:
            return run_cli("gov", "show", key, "--dir", str(entries[name]))[0] == ExitCode.OK

        code, told = gov("propose", "dearer blocks", "--set", "base_fee_min=0", payer="client-0")
        assert (code, told["error"]["code"]) == (ExitCode.FAILURE, "InvalidProposal")
        assert "gov params" in told["error"]["hint"]
        code, told = gov("propose", "dearer blocks", "--set", f"base_fee_min={VALUE}", payer="client-0")
        assert (code, told["state"]) == (ExitCode.OK, "final"), told
        key = told["proposal"]
        wait_until(partial(has, "validator-1"), "all have it")

        code, told = gov("vote", key, "yes", payer="client-0")
        assert (code, told["error"]["code"]) == (ExitCode.FAILURE, "no_stake")
        for number, name in enumerate(("validator-0", "validator-1"), 1):
            code, told = gov("vote", key[:12], "yes", payer=name)
            assert code == ExitCode.OK, told
            assert told["tally"]["yes"] == number * told["stake_grains"] // 2
        code, told = gov("vote", key, "no", payer="validator-0")
        assert (code, told["error"]["code"]) == (ExitCode.FAILURE, "AlreadyVoted")

        wait_until(lambda: read_state() == "in force", "the vote is over and its delay too")
        wait_until(lambda: {read_value(name) for name in entries} == {VALUE}, "it is in force everywhere")
        code, told = gov("vote", key, "no", payer="validator-0")
        assert (code, told["error"]["code"]) == (ExitCode.FAILURE, "VotingOver")

        # Of what fees have brought the treasury meanwhile: the payment names its vote, on whichever node one looks.
        code, told = gov("propose", "thanks", "--grant", "0.000001", "--to", "client-0", payer="client-0")
        assert (code, told["state"]) == (ExitCode.OK, "final"), told
        key = told["proposal"]
        for name in ("validator-0", "validator-1"):
            wait_until(partial(has, name), "it has the proposal")
            code, told = gov("vote", key, "yes", payer=name)
            assert code == ExitCode.OK, told
        wait_until(lambda: read_state() == "in force", "the grant is in force")
        code, told = run_cli("gov", "payments", "--dir", str(entries["validator-0"]))
        assert code == ExitCode.OK, told
        [payment] = told["payments"]
        assert (payment["proposal"], payment["amount_grains"], payment["title"]) == (key, 1_000, "thanks")
        assert payment["to"] == next(node.account for node in up.network.nodes if node.name == "client-0")
        assert payment["yes_grains"] == payment["stake_grains"]
        code, told = run_cli("ledger", "stats", "--dir", str(entries["validator-0"]))
        assert (code, told["from_the_ledger"]["treasury"]["paid_grains"]) == (ExitCode.OK, 1_000), told
    code, told = run_cli("testnet", "check", str(up.directory))
    assert code == ExitCode.OK, told


@pytest.mark.full
@pytest.mark.timeout(240)
def test_a_run_that_proposes_waits_until_the_change_is_in_force_and_says_so(tmp_path: Path) -> None:
    words = ("testnet", "up", "--dir", str(tmp_path / "net"), "--seed", "39", "--duration", "2m", "--propose")
    roles = "validator=2,inference=1,verifier=2,storage=1,client=1"
    code, report = run_process(*words, "--roles", roles, "--load", "digits", "--rows", "20", timeout_s=200.0)
    assert code == ExitCode.OK, report
    assert report["bars"]["proposal"]
    [proposal] = report["ledger"]["proposals"].values()
    assert (proposal["state"], proposal["changes"]) == ("in force", {"model_deposit": 50 * 10**9})
