"""Keys that follow others: taken up when the ledger on disk names them, whatever a crash has left undone."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from protocol.keys import PrivateKey
from protocol.ledger.errors import InvalidSignature
from protocol.ledger.transactions import RotateKeys
from roles.chain import DATABASE_NAME, Chain
from roles.core_effects import Commit
from roles.keystore import get_key_path, read_public, write_key
from roles.rotation import NEXT_LOG_NAME, begin_next_log, get_next_path, plan_rotation, take_up_keys
from roles.votelog import FILE_NAME, create_vote_log, open_vote_log, read_votes
from tests.support.ledgers import Ledger

NAME = "validator-1"
NEW = PrivateKey.from_seed(b"w" * 32)
OTHER = PrivateKey.from_seed(b"x" * 32)


def found(directory: Path, vote: bool = True, node: bool = False, epochs: int = 1) -> Ledger:
    """The directory of a validator that has asked for other keys, with a ledger so many epochs later."""
    ledger = Ledger({"validator": 4})
    seeds = ledger.foundation.nodes[NAME]
    for purpose, seed in (("node", seeds.node), ("account", seeds.account), ("vote", seeds.vote)):
        assert seed is not None
        write_key(directory, purpose, seed, ledger.state.chain)
    create_vote_log(directory, ledger.state.chain, vote_of(ledger).public)
    if vote:
        write_key(directory, "vote.next", NEW.seed, ledger.state.chain)
        begin_next_log(directory, ledger.state.chain, NEW.public)
    if node:
        write_key(directory, "node.next", OTHER.seed, ledger.state.chain)
    ledger.do(ledger.account(NAME), make_order(ledger, vote, node))
    for _ in range(epochs):
        ledger.block(after_ms=ledger.state.params.epoch_ms)
    chain = Chain(directory / DATABASE_NAME, ledger.state.chain)
    chain.start()
    for block, certificate, state in ledger.blocks:
        chain.write([Commit(block, certificate, state)])
    chain.close()
    return ledger


def vote_of(ledger: Ledger) -> PrivateKey:
    return PrivateKey.from_seed(ledger.foundation.nodes[NAME].vote or b"")


def make_order(ledger: Ledger, vote: bool, node: bool) -> RotateKeys:
    following = OTHER if node else ledger.node(NAME)
    account = ledger.account(NAME).public
    return plan_rotation(account, following, NEW if vote else None, vote_of(ledger).public)


def test_a_key_is_taken_up_once_the_epoch_names_it_and_the_old_one_and_its_log_are_kept(tmp_path: Path) -> None:
    ledger = found(tmp_path)
    former = vote_of(ledger).public
    log = (tmp_path / FILE_NAME).read_bytes()
    assert take_up_keys(tmp_path) == ("vote",)
    assert take_up_keys(tmp_path) == ()
    assert read_public(get_key_path(tmp_path, "vote")) == NEW.public
    assert read_public(tmp_path / "keys" / f"vote.former-{former.hex()[:16]}.key") == former
    assert (tmp_path / f"votes.former-{former.hex()[:16]}.log").read_bytes() == log
    votes, history = open_vote_log(tmp_path, ledger.state.chain, NEW.public)
    votes.close()
    assert not history.is_lost


def test_until_the_epoch_ends_the_node_keeps_the_key_it_has(tmp_path: Path) -> None:
    ledger = found(tmp_path, epochs=0)
    assert take_up_keys(tmp_path) == ()
    assert read_public(get_key_path(tmp_path, "vote")) == vote_of(ledger).public
    assert (tmp_path / NEXT_LOG_NAME).exists()


def test_a_key_that_the_ledger_does_not_know_is_not_taken_up(tmp_path: Path) -> None:
    found(tmp_path)
    os.unlink(get_next_path(tmp_path, "vote"))
    write_key(tmp_path, "vote.next", OTHER.seed, None)
    assert take_up_keys(tmp_path) == ()


def test_a_node_key_and_a_vote_key_are_taken_up_together(tmp_path: Path) -> None:
    found(tmp_path, node=True)
    assert take_up_keys(tmp_path) == ("vote", "node")
    assert read_public(get_key_path(tmp_path, "node")) == OTHER.public


def test_a_node_without_ledger_or_without_a_key_that_waits_has_nothing_to_do(tmp_path: Path) -> None:
    ledger = found(tmp_path, vote=False, node=True)
    assert ledger.state.nodes[ledger.account(NAME).public].vote == vote_of(ledger).public
    (tmp_path / DATABASE_NAME).rename(tmp_path / "away.db")
    assert take_up_keys(tmp_path) == ()
    (tmp_path / "away.db").rename(tmp_path / DATABASE_NAME)
    assert take_up_keys(tmp_path) == ("node",)


@pytest.mark.parametrize("calls", range(4))
def test_a_crash_between_any_two_steps_is_mended_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    ledger = found(tmp_path)
    former = vote_of(ledger).public
    left = [calls]

    def die_after(real: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Path) -> None:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            real(*arguments)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", die_after(os.replace))
        patched.setattr(os, "link", die_after(os.link))
        with pytest.raises(KeyboardInterrupt):
            take_up_keys(tmp_path)
    assert read_public(get_key_path(tmp_path, "vote")) == former
    assert take_up_keys(tmp_path) == ("vote",)
    votes, history = open_vote_log(tmp_path, ledger.state.chain, NEW.public)
    votes.close()
    assert not history.is_lost
    assert (tmp_path / f"votes.former-{former.hex()[:16]}.log").exists()
    assert read_public(tmp_path / "keys" / f"vote.former-{former.hex()[:16]}.key") == former


def test_the_same_order_names_no_vote_key_that_nobody_holds(tmp_path: Path) -> None:
    ledger = Ledger({"validator": 4})
    body = make_order(ledger, vote=False, node=True)
    assert body.vote_proof == b""
    assert isinstance(ledger.refuse(ledger.account(NAME), replace(body, vote=NEW.public)), InvalidSignature)


def test_the_log_that_waits_is_that_of_the_key_that_waits(tmp_path: Path) -> None:
    chain = Ledger({"validator": 4}).state.chain
    for key in (NEW, OTHER, OTHER):  # the first key's file was lost, and another one made
        begin_next_log(tmp_path, chain, key.public)
        held = read_votes((tmp_path / NEXT_LOG_NAME).read_bytes())
        assert held is not None
        assert held.start.vote == key.public
