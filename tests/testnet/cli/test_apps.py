"""`rolemesh app`: apps and what they have sold on the ledger of a stopped node, bad tiers, and bad passes."""

from pathlib import Path

import pytest

from protocol.codec import encode
from protocol.ledger.app_records import Tier
from protocol.ledger.apps import BuyPass, RegisterApp
from testnet.cli.apps import parse_tier
from testnet.cli.output import CommandError, ExitCode
from tests.support.apps import APP, AppWorld
from tests.support.ledgers import Ledger
from tests.support.stored_node import write_stored_node
from tests.testnet.networks import run_cli

NODE = "validator-0"
DAY = Tier("day", 1_000, 0, 86_400_000, 10)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ledger = Ledger()
    ledger.do(ledger.spare(0), RegisterApp("chat", "Chat", (DAY,), (), 500))
    ledger.do(ledger.spare(1), BuyPass("chat", DAY, 3))
    return write_stored_node(tmp_path_factory.mktemp("network"), ledger, NODE)


def test_apps_are_listed_and_shown_with_what_they_sold(home: Path) -> None:
    code, told = run_cli("app", "ls", "--dir", str(home))
    assert code == ExitCode.OK
    assert [(row["app"], row["sold"], row["income_grains"]) for row in told["apps"]] == [("chat", 3, 3_000)]
    code, told = run_cli("app", "show", "chat", "--dir", str(home))
    assert code == ExitCode.OK
    assert (told["tiers"][0]["price_grains"], told["uses"], told["is_retired"]) == (1_000, [], False)
    code, told = run_cli("app", "show", "none", "--dir", str(home))
    assert (code, told["error"]["code"]) == (ExitCode.USAGE, "no_app")


def test_a_tier_asks_for_a_price_or_for_stake() -> None:
    assert parse_tier("day=2,1d,1000") == Tier("day", 2 * 10**9, 0, 86_400_000, 1_000)
    assert parse_tier("holder=stake:100,1h,5") == Tier("holder", 0, 100 * 10**9, 3_600_000, 5)


@pytest.mark.parametrize("text", ["", "day", "day=2,1d", "day=2,1d,-1", "day=x,1d,5", "day=2,soon,5", "=2,1d,5"])
def test_what_is_no_tier_says_how_to_write_one(text: str) -> None:
    with pytest.raises(CommandError) as caught:
        parse_tier(text)
    assert caught.value.hint


def test_a_pass_that_is_over_forged_or_no_pass_is_refused_with_the_reason(tmp_path: Path) -> None:
    world = AppWorld(check_signatures=True)
    world.buy(world.users[0])
    genesis, file = tmp_path / "genesis.json", tmp_path / "poems.pass"
    genesis.write_text(world.ledger.foundation.genesis.to_json())
    data = encode(world.make_pass(world.users[0]))
    reasons = {data: "good until", data[:-1] + bytes([data[-1] ^ 1]): "", b"": "", data[:100]: ""}
    for shown, reason in reasons.items():
        file.write_bytes(shown)
        code, told = run_cli("app", "check", str(file), "--genesis", str(genesis))
        assert (code, told["error"]["code"]) == (ExitCode.VERIFICATION_FAILED, "bad_pass")
        assert reason in told["error"]["message"]
    code, told = run_cli("app", "check", str(file), "--genesis", str(genesis), "--app", APP)
    assert code == ExitCode.VERIFICATION_FAILED
    code, told = run_cli("app", "check", str(file))
    assert (code, told["error"]["code"]) == (ExitCode.USAGE, "no_genesis")
    code, told = run_cli("app", "check", str(tmp_path / "none.pass"), "--genesis", str(genesis))
    assert (code, told["error"]["code"]) == (ExitCode.USAGE, "cannot_read")
