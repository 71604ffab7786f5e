"""`rolemesh gov`: proposals and what came of them on the ledger of a stopped node, and options that say nothing."""

import json
from pathlib import Path

import pytest

from protocol.keys import format_account
from protocol.ledger.governance import Propose
from protocol.ledger.governance_params import RANGES
from protocol.ledger.governance_records import Choice, Enclave, EnclaveListing, Motion, TreasuryGrant
from protocol.ledger.governance_votes import build_votes
from roles.config import UserError
from testnet.cli.gov_motion import read_motion
from testnet.cli.output import CommandError, ExitCode
from testnet.snapshot import read_snapshot
from tests.support.governance import CHANGE
from tests.support.ledgers import Ledger
from tests.support.stored_node import write_stored_node
from tests.testnet.networks import run_cli

NODE = "validator-0"
HOLDER = b"\x09" * 32
ENCLAVE = Enclave(b"\x01" * 48, b"\x02" * 48, b"\x03" * 48)
MOTIONS = (
    CHANGE,
    Motion(grant=(TreasuryGrant(HOLDER, 3, 3, 3_600_000),)),
    Motion(enclave=(EnclaveListing(ENCLAVE, 1),)),
    Motion(feed_end=("GOOG",)),
)
FILES = {"--trust": None, "--distrust": None, "--feed": None}


def found() -> Ledger:
    """Four proposals that are in force, and a fifth that is voted on."""
    ledger = Ledger()
    voter = ledger.account(NODE)
    for number, motion in enumerate((*MOTIONS, CHANGE)):
        ledger.do(ledger.spare(number), Propose(f"motion {number}", motion))
        [key] = (key for key, item in ledger.state.proposals.items() if item.title == f"motion {number}")
        snapshot = ledger.blocks[-2][2] if number else None
        if snapshot is None:
            continue  # of genesis: nobody votes on the first
        ledger.do(voter, build_votes(snapshot, voter.public, key, Choice.YES)[0])
        if number < len(MOTIONS):
            for wait_ms in (15_000, 10_000, 5_000):
                ledger.block(after_ms=wait_ms)
    return ledger


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ledger = found()
    return write_stored_node(tmp_path_factory.mktemp("network"), ledger, NODE)


def ask(home: Path, *words: str) -> tuple[int, dict]:
    return run_cli("gov", *words, "--dir", str(home))


def test_proposals_are_listed_with_tallies_the_open_ones_first(home: Path) -> None:
    code, told = ask(home, "ls")
    assert code == ExitCode.OK
    rows = {row["title"]: row for row in told["proposals"]}
    assert told["proposals"][0]["title"] == "motion 4"
    assert (rows["motion 4"]["state"], rows["motion 4"]["would_be"]) == ("voting", "passed")
    assert rows["motion 4"]["tally"]["yes"] == 1_000 * 10**9
    assert rows["motion 0"]["state"] == "no quorum"
    assert {rows[f"motion {number}"]["state"] for number in (1, 2, 3)} == {"in force"}


def test_a_grant_is_shown_with_what_it_has_paid(home: Path) -> None:
    _, told = ask(home, "ls")
    key = next(row["proposal"] for row in told["proposals"] if row["title"] == "motion 1")
    code, told = ask(home, "show", key[:8])
    assert code == ExitCode.OK
    assert (told["grant_grains"], told["paid_grains"], told["state"]) == (3, 1, "in force")
    for wanted in (key[:7], "00" * 32):
        code, told = ask(home, "show", wanted)
        assert (code, told["error"]["code"]) == (ExitCode.USAGE, "no_proposal")


def test_each_payment_out_of_the_treasury_names_its_vote(home: Path) -> None:
    code, told = ask(home, "payments")
    assert code == ExitCode.OK
    [paid] = told["payments"]
    _, shown = ask(home, "show", paid["proposal"])
    assert (paid["title"], paid["amount_grains"], paid["to"]) == ("motion 1", 1, format_account(HOLDER))
    assert (shown["grant_grains"], shown["tally"]["yes"]) == (3, paid["yes_grains"])
    came_in, fees = sum(told["came_in_grains"].values()), told["came_in_grains"]["transaction"]
    assert came_in == fees > 0
    assert told["treasury_grains"] == told["genesis_grains"] + came_in - told["waiting_grains"] - 3
    assert ask(home, "payments", "--limit", "0")[0] == ExitCode.USAGE


def test_every_parameter_is_listed_with_its_range(home: Path) -> None:
    code, told = ask(home, "params")
    assert code == ExitCode.OK
    assert {row["parameter"]: (row["least"], row["most"]) for row in told["parameters"]} == dict(RANGES)


def test_trusted_enclaves_are_written_as_verify_reads_them(home: Path, tmp_path: Path) -> None:
    code, told = ask(home, "enclaves", "--out", str(tmp_path / "listed.json"))
    assert code == ExitCode.OK
    assert told["enclaves"] == [{"PCR0": "01" * 48, "PCR1": "02" * 48, "PCR2": "03" * 48}]
    files = FILES | {"--distrust": tmp_path / "listed.json"}
    motion = read_motion(tmp_path, "", "", "", 1, "", files, "")
    assert motion == Motion(enclave=(EnclaveListing(ENCLAVE, 0),))
    code, told = ask(home, "enclaves", "--out", str(tmp_path))
    assert (code, told["error"]["code"]) == (ExitCode.FAILURE, "cannot_write")


def test_the_snapshot_of_a_proposal_is_found_again(home: Path) -> None:
    proposals = {item.title: item for item in found().state.proposals.values()}
    for title in ("motion 0", "motion 4"):
        proposal = proposals[title]
        assert read_snapshot(home, proposal.height, proposal.root).height == proposal.height
    with pytest.raises(UserError, match="no state"):
        read_snapshot(home, 3, bytes(32))


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({}, "usage"),
        ({"change": "slash_bp=1", "end_feed": "GOOG"}, "usage"),
        ({"change": "slash_bp"}, "bad_parameter"),
        ({"change": "slash_bp=-1"}, "bad_parameter"),
        ({"change": "slash_bp=²"}, "bad_parameter"),
        ({"amount": "5"}, "usage"),
        ({"amount": "5", "to": "rm1x", "parts": 2}, "usage"),
        ({"amount": "5", "to": "rm1x"}, "bad_account"),
    ],
)
def test_options_that_are_no_motion_say_what_to_do(tmp_path: Path, options: dict, code: str) -> None:
    words = {"change": "", "amount": "", "to": "", "parts": 1, "every": "", "end_feed": ""} | options
    with pytest.raises(CommandError) as caught:
        read_motion(tmp_path, files=FILES, **words)
    assert caught.value.code == code
    assert caught.value.hint


def test_files_that_hold_no_motion_say_how_to_write_one(tmp_path: Path) -> None:
    for option, text in (("--trust", "[]"), ("--trust", "{}"), ("--feed", "[]"), ("--feed", '{"name": "rain"}')):
        (tmp_path / "file.json").write_text(text)
        with pytest.raises(CommandError, match=r"file\.json") as caught:
            read_motion(tmp_path, "", "", "", 1, "", FILES | {option: tmp_path / "file.json"}, "")
        assert caught.value.hint


def test_a_feed_is_read_from_a_file_with_its_terms(tmp_path: Path) -> None:
    terms = {
        "name": "rain",
        "source": "http-json",
        "address": "https://example.org/rain.json",
        "path": "mm",
        "decimals": 3,
        "heartbeat_ms": 60_000,
        "deviation_bp": 0,
        "outlier_bp": 1_000,
        "jump_bp": 0,
        "observers_min": 1,
        "age_ms_max": 120_000,
    }
    (tmp_path / "rain.json").write_text(json.dumps(terms))
    motion = read_motion(tmp_path, "", "", "", 1, "", FILES | {"--feed": tmp_path / "rain.json"}, "")
    assert motion.feed[0].name == "rain"
    assert (motion.feed[0].owner, motion.feed[0].deposit, motion.feed[0].allowed) == (b"", 0, ())
