"""`rolemesh ledger recover`: operators gather keys, then signatures, and load the restart, or are told why not."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.consensus.log import encode_record
from protocol.consensus.messages import Vote
from protocol.keys import PrivateKey, format_account
from protocol.ledger.block import VoteKind, compute_vote_bytes
from protocol.ledger.restart import apply_restart
from protocol.ledger.restart_terms import RESTARTS_MAX, decode_restarts, encode_restarts
from protocol.ledger.transactions import Transfer
from roles.chain import DATABASE_NAME, Chain
from roles.config import ConfigError, NodeConfig, write_config, write_genesis
from roles.core_effects import Commit
from roles.keystore import get_key_path, read_public, seal_text, write_key, write_key_file
from roles.lock import DirectoryLock
from roles.recovery import FILE_NAME, describe_pending, read_decided, read_pending, read_standing
from roles.rotation import NEXT_LOG_NAME, get_next_path, take_up_keys
from roles.votelog import FILE_NAME as VOTES_NAME
from roles.votelog import create_vote_log, open_vote_log
from testnet.cli import main
from testnet.cli.output import ExitCode
from testnet.cli.recover import GENERATIONS_AHEAD_MAX
from tests.support.ledgers import Ledger
from tests.support.votes import make_final_ballot

NAMES = tuple(f"validator-{index}" for index in range(4))
THREE = NAMES[:3]
PASSPHRASE = "a horse of some length"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The directories of four validators and a client after two blocks, without vote logs."""
    home = tmp_path_factory.mktemp("original")
    ledger = Ledger({"validator": 4, "client": 1})
    for _ in range(2):
        ledger.do(ledger.spare(), Transfer(bytes(32), 1))
    for name in (*NAMES, "client-0"):
        seeds = ledger.foundation.nodes[name]
        (home / name).mkdir()
        write_genesis(home / name, ledger.foundation.genesis)
        write_config(home / name, NodeConfig(name, (name.split("-")[0],)))
        for purpose in ("node", "account", "vote"):
            seed = getattr(seeds, purpose)
            if seed is not None:
                write_key(home / name, purpose, seed, ledger.state.chain)
        extend(home / name, ledger, 0)
    return home, ledger


def extend(directory, ledger, height):
    chain = Chain(directory / DATABASE_NAME, ledger.state.chain)
    chain.start()
    chain.write([Commit(*entry) for entry in ledger.blocks[height:]])
    chain.close()


@pytest.fixture
def ledger(original):
    return original[1]


@pytest.fixture
def home(original, tmp_path, monkeypatch):
    shutil.copytree(original[0], tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.delenv("ROLEMESH_PASSPHRASE", raising=False)
    return tmp_path / "home"


@pytest.fixture
def run(home, capsys):
    def call(*words):
        code = main(["ledger", "recover", *map(str, words), "--json"])
        told = json.loads(capsys.readouterr().out)
        return code, told.get("error", told)

    return call


def propose(run, *names, **options):
    for name in names:
        words = [word for key, value in options.items() for word in (f"--{key}", value)]
        code, told = run("propose", f"{name}.offer", "--data", name, *words)
        assert code == ExitCode.OK, told
    return [f"{name}.offer" for name in names]


def sign(run, offers, *names):
    for name in names:
        code, told = run("sign", *offers, "--out", f"{name}.signed", "--data", name)
        assert code == ExitCode.OK, told
    return [f"{name}.signed" for name in names]


def test_three_of_four_restart_the_ledger_and_take_their_new_keys_up(run, home, ledger):
    offers = propose(run, *THREE)
    signed = sign(run, offers, *THREE)
    for name in THREE:
        former = read_public(get_key_path(home / name, "vote"))
        code, told = run("apply", *signed, "--data", name)
        assert code == ExitCode.OK
        assert (told["generation"], told["height"], len(told["seats"])) == (1, 2, 3)
        state = read_standing(home / name)
        assert state.block_id.hex() == told["id"]
        assert take_up_keys(home / name) == ("vote",)
        vote = read_public(get_key_path(home / name, "vote"))
        assert {"account": format_account(ledger.account(name).public), "vote": vote.hex()} in told["seats"]
        assert vote != former
        votes, history = open_vote_log(home / name, ledger.state.chain, vote)
        votes.close()
        assert not history.is_lost
        assert run("apply", *signed, "--data", name)[0] == ExitCode.OK  # once more does nothing
    assert run("apply", *signed, "--data", "client-0")[0] == ExitCode.OK
    restarts = decode_restarts((home / "client-0" / FILE_NAME).read_bytes())
    assert apply_restart(ledger.state, restarts[0]) == read_standing(home / "client-0")


def test_people_see_what_they_agree_on(home, run, capsys):
    offers = propose(run, *THREE)
    assert main(["ledger", "recover", "sign", *offers, "--out", "a.signed", "--data", NAMES[0]]) == ExitCode.OK
    said = capsys.readouterr()
    assert "stands on height 2" in said.out
    assert "3 validators with" in said.out
    assert said.out.count("votes by") == 3
    assert "recover apply FILES" in said.err


def test_sealed_keys_are_opened_with_their_passphrase_and_the_new_one_is_sealed_alike(run, home, ledger):
    (home / "passphrase.txt").write_text(PASSPHRASE + "\n")
    directory, seeds = home / NAMES[0], ledger.foundation.nodes[NAMES[0]]
    for purpose in ("account", "vote"):
        path = get_key_path(directory, purpose)
        path.unlink()
        key = PrivateKey.from_seed(getattr(seeds, purpose))
        write_key_file(path, seal_text(key, purpose, PASSPHRASE, ledger.state.chain))
    code, told = run("propose", "a.offer", "--data", directory)
    assert (code, told["code"]) == (ExitCode.CONFIG, "passphrase_needed")
    words = ("--data", directory, "--passphrase-file", "passphrase.txt")
    assert run("propose", "a.offer", *words)[0] == ExitCode.OK
    assert json.loads(get_next_path(directory, "vote").read_text())["mark"] == "insecure-dev"
    offers = ["a.offer", *propose(run, *NAMES[1:3])]
    assert run("sign", *offers, "--out", "a.signed", *words)[0] == ExitCode.OK


def test_too_little_stake_signs_nothing(run):
    offers = propose(run, *NAMES[:2])
    code, told = run("sign", *offers, "--out", "x.signed", "--data", NAMES[0])
    assert (code, told["code"]) == (ExitCode.FAILURE, "no_quorum")
    assert 2 * told["details"]["signed"] == told["details"]["total"]
    assert not Path("x.signed").exists()


def test_what_not_all_have_signed_is_not_loaded(run, home, ledger):
    offers = propose(run, *THREE)
    signed = sign(run, offers, *THREE[:2])
    code, told = run("apply", *signed, "--data", NAMES[0])
    assert (code, told["code"]) == (ExitCode.FAILURE, "not_signed")
    assert told["details"]["missing"] == [format_account(ledger.account(NAMES[2]).public)]
    assert not (home / NAMES[0] / FILE_NAME).exists()


def test_nobody_signs_two_restarts_of_one_number_but_all_may_begin_anew(run):
    offers = propose(run, *THREE)
    sign(run, offers, NAMES[0])
    others = propose(run, NAMES[3])
    code, told = run("sign", *offers, *others, "--out", "x.signed", "--data", NAMES[0])
    assert code == ExitCode.CONFIG
    assert "was signed here" in told["message"]
    for name in THREE:
        Path(f"{name}.offer").unlink()
    fresh = propose(run, NAMES[0], NAMES[1], generation=2)
    Path(f"{NAMES[3]}.offer").unlink()
    signed = sign(run, [*fresh, *propose(run, NAMES[3], generation=2)], NAMES[1], NAMES[3])
    assert run("sign", *fresh, f"{NAMES[3]}.offer", "--out", "anew.signed", "--data", NAMES[0])[0] == ExitCode.OK
    assert run("apply", *signed, "anew.signed", "--data", NAMES[3])[0] == ExitCode.OK


def test_a_restart_that_is_loaded_is_not_replaced_but_gone_on_from(run, home):
    signed = sign(run, propose(run, *THREE), *THREE)
    for name in (*THREE, NAMES[3]):
        assert run("apply", *signed, "--data", name)[0] == ExitCode.OK
        take_up_keys(home / name)
    first = [str(Path(path).rename(f"first-{path}")) for path in signed]
    for path in home.glob("*.offer"):
        path.unlink()
    later = (NAMES[0], NAMES[1], NAMES[3])
    again = sign(run, propose(run, *later), *later)
    for name in later:
        code, told = run("apply", *again, "--data", name)
        assert (code, told["generation"]) == (ExitCode.OK, 2)
        assert take_up_keys(home / name) == ("vote",)
        assert run("apply", *first, "--data", name)[1]["code"] == "other_restart"
        assert len(decode_restarts((home / name / FILE_NAME).read_bytes())) == 2


def test_a_ledger_that_is_ahead_or_behind_takes_no_restart(run, home, ledger):
    signed = sign(run, propose(run, *THREE), *THREE)
    ahead = Ledger({"validator": 4, "client": 1})
    for _ in range(3):
        ahead.do(ahead.spare(), Transfer(bytes(32), 1))
    assert ahead.blocks[:2] == ledger.blocks
    extend(home / NAMES[3], ahead, 2)
    code, told = run("apply", *signed, "--data", NAMES[3])
    assert (code, told["code"], told["details"]) == (ExitCode.CONFIG, "ahead", {"height": 3, "stands_on": 2})
    (home / NAMES[0] / DATABASE_NAME).unlink()
    for words in (("apply", *signed), ("sign", "validator-1.offer", "--out", "x.signed")):
        code, told = run(*words, "--data", NAMES[0])
        assert (code, told["code"], told["details"]) == (ExitCode.CONFIG, "behind", {"height": 0, "stands_on": 2})


def test_a_restart_that_is_loaded_ahead_of_the_ledger_is_waited_for_and_nothing_else_begun(run, home, ledger):
    signed = sign(run, propose(run, *THREE), *THREE)
    for name in THREE[:2]:
        assert run("apply", *signed, "--data", name)[0] == ExitCode.OK
    (home / NAMES[0] / DATABASE_NAME).unlink()
    for words in (("propose", "x.offer"), ("apply", *signed)):
        code, told = run(*words, "--data", NAMES[0])
        assert (code, told["code"], told["details"]) == (ExitCode.CONFIG, "behind", {"height": 0, "stands_on": 2})
    assert (home / NAMES[0] / FILE_NAME).read_bytes() == (home / NAMES[1] / FILE_NAME).read_bytes()
    assert take_up_keys(home / NAMES[0]) == ()
    pending = read_pending(home / NAMES[0], read_decided(home / NAMES[0]))
    found = describe_pending(read_decided(home / NAMES[0]), pending)
    assert (found["state"], found["stands_on"], found["height"]) == ("waits", 2, 0)
    assert "blocks 1 to 2 are fetched from peers" in found["advice"]


def test_a_restart_that_no_ledger_of_this_chain_can_come_to_is_refused_before_it_is_waited_for(run, home, ledger):
    signed = sign(run, propose(run, *THREE), *THREE)
    assert run("apply", *signed, "--data", NAMES[0])[0] == ExitCode.OK
    path = home / NAMES[0] / FILE_NAME
    [restart] = decode_restarts(path.read_bytes())
    terms = replace(restart.terms, height=9)
    for bad, why in (
        (replace(restart, terms=replace(terms, chain=bytes(8))), "stands on chain"),
        (replace(restart, terms=terms), "have not signed"),
    ):
        path.write_bytes(encode_restarts((bad,)))
        with pytest.raises(ConfigError, match=why):
            read_pending(home / NAMES[0], read_decided(home / NAMES[0]))


def test_a_vote_to_finalise_that_is_left_must_be_given_up_by_name(run, home, ledger):
    directory, vote = home / NAMES[0], ledger.foundation.nodes[NAMES[0]].vote
    key = PrivateKey.from_seed(vote)
    ballot = make_final_ballot(3, 1, b"b" * 32)
    data = compute_vote_bytes(ledger.state.chain, 3, 1, VoteKind.FINALISE, ballot.block_id)
    create_vote_log(directory, ledger.state.chain, key.public)
    log, _ = open_vote_log(directory, ledger.state.chain, key.public)
    log.write([encode_record(Vote(ballot, key.public, key.sign(data)))])
    log.close()
    code, told = run("propose", "a.offer", "--data", directory)
    assert (code, told["code"]) == (ExitCode.CONFIG, "may_be_decided")
    assert told["details"] == {"height": 3, "block_id": ballot.block_id.hex()}
    assert not get_next_path(directory, "vote").exists()
    named = ("--give-up", ballot.block_id.hex())
    assert run("propose", "a.offer", "--data", directory, "--give-up", "00" * 32)[0] == ExitCode.CONFIG
    assert run("propose", "a.offer", "--data", directory, *named)[0] == ExitCode.OK
    offers = ["a.offer", *propose(run, *NAMES[1:3])]
    assert run("sign", *offers, "--out", "a.signed", "--data", directory)[1]["code"] == "may_be_decided"
    assert run("sign", *offers, "--out", "a.signed", "--data", directory, *named)[0] == ExitCode.OK


def test_a_node_that_runs_is_left_alone(run, home):
    signed = sign(run, propose(run, *THREE), *THREE)
    with DirectoryLock(home / NAMES[3]):
        for words in (("propose", "d.offer"), ("sign", *signed, "--out", "d.signed"), ("apply", *signed)):
            code, told = run(*words, "--data", NAMES[3])
            assert code == ExitCode.CONFIG
            assert "in use by another node" in told["message"]
            assert "stop that node first" in told["hint"]


def test_files_that_are_none_differ_or_are_there_already_are_named(run, home):
    offers = propose(run, *THREE)
    assert run("propose", offers[0], "--data", NAMES[0])[1]["code"] == "file_exists"
    (home / "note").write_text("hello")
    for words in (("note",), ("nothing",)):
        code, told = run("apply", *words, "--data", NAMES[0])
        assert (code, told["code"]) == (ExitCode.USAGE, "bad_file")
        assert words[0] in told["message"]
    Path("late.offer").unlink(missing_ok=True)
    assert run("propose", "late.offer", "--data", NAMES[3], "--generation", 5)[0] == ExitCode.OK
    code, told = run("sign", *offers, "late.offer", "--out", "x.signed", "--data", NAMES[0])
    assert (code, told["code"]) == (ExitCode.VERIFICATION_FAILED, "bad_restart")
    assert "differ in generation: 1 and 5" in told["message"]
    assert run("propose", "old.offer", "--data", NAMES[3], "--generation", -1)[1]["code"] == "old_generation"


def test_who_has_no_seat_or_not_its_key_signs_and_loads_nothing(run, home):
    offers = propose(run, *THREE)
    code, told = run("sign", *offers, "--out", "x.signed", "--data", NAMES[3])
    assert (code, told["code"]) == (ExitCode.CONFIG, "no_key")
    assert run("propose", "c.offer", "--data", "client-0")[1]["code"] == "no_validator"
    signed = sign(run, offers, *THREE)
    get_next_path(home / NAMES[0], "vote").unlink()
    assert run("apply", *signed, "--data", NAMES[0])[1]["code"] == "no_key"
    assert not (home / NAMES[0] / VOTES_NAME).exists()
    assert (home / NAMES[0] / NEXT_LOG_NAME).exists()


def test_files_a_node_keeps_for_itself_are_named_when_they_are_damaged(run, home):
    offers = propose(run, *THREE)
    sign(run, offers, NAMES[0])
    noted = home / NAMES[0] / "restart-1.signed"
    noted.write_bytes(noted.read_bytes()[:-1])
    code, told = run("sign", *offers, "--out", "x.signed", "--data", NAMES[0])
    assert (code, told["code"]) == (ExitCode.CONFIG, "config")
    assert str(noted.name) in told["message"]
    assert "--generation" in told["hint"]
    for content in (b"", b"\x91"):
        (home / NAMES[1] / FILE_NAME).write_bytes(content)
        code, told = run("propose", "x.offer", "--data", NAMES[1])
        assert (code, told["code"]) == (ExitCode.CONFIG, "config")
        assert "restart cannot be used" in told["message"]


def test_a_number_that_would_leave_none_for_later_is_refused_and_nothing_made(run, home):
    for generation in (1 + GENERATIONS_AHEAD_MAX + 1, 2**63, 10**30):
        code, told = run("propose", "x.offer", "--data", NAMES[0], "--generation", generation)
        assert (code, told["code"]) == (ExitCode.USAGE, "late_generation")
    assert not get_next_path(home / NAMES[0], "vote").exists()
    assert not Path("x.offer").exists()


def test_a_fifth_restart_after_one_block_is_refused_before_a_key_is_made_for_it(run, home):
    later = (NAMES[0], NAMES[1], NAMES[3])
    for _ in range(RESTARTS_MAX):
        signed = sign(run, propose(run, *later), *later)
        for name in later:
            assert run("apply", *signed, "--data", name)[0] == ExitCode.OK
            take_up_keys(home / name)
        for path in [*home.glob("*.offer"), *home.glob("*.signed")]:
            path.unlink()
    code, told = run("propose", "x.offer", "--data", NAMES[0])
    assert (code, told["code"]) == (ExitCode.CONFIG, "too_many_restarts")
    assert "move the file `restart`" in told["hint"]
    assert not get_next_path(home / NAMES[0], "vote").exists()
    # The way on: without those that nobody could complete, under a number that nobody has signed yet.
    for name in later:
        (home / name / FILE_NAME).unlink()
    signed = sign(run, propose(run, *later), *later)
    code, told = run("apply", *signed, "--data", NAMES[0])
    assert (code, told["generation"]) == (ExitCode.OK, RESTARTS_MAX + 1)
