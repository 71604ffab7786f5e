"""Refusals name accounts, nodes and models as people write them, so that they can be found again."""

from dataclasses import replace

import pytest

from protocol.content import format_cid
from protocol.errors import InvalidTransaction
from protocol.keys import format_account, format_node
from protocol.ledger.app_errors import NotYourApp
from protocol.ledger.errors import NotYourModel, SelfPayment, UnknownNode
from protocol.ledger.feed_errors import NotYourFeed, NotYourWorkflow
from protocol.ledger.job_errors import NotYourChannel, NotYourJob
from protocol.ledger.staking import Delegate
from protocol.signing import sign
from tests.support.ledgers import Ledger
from tests.support.workflows import found, make_body

ACCOUNT = bytes(range(32))


@pytest.mark.parametrize(
    "error",
    [
        UnknownNode(ACCOUNT),
        NotYourChannel(bytes(32), ACCOUNT),
        NotYourJob(bytes(32), ACCOUNT),
        NotYourModel("digits", ACCOUNT),
        NotYourFeed("btc-usd", ACCOUNT),
        NotYourWorkflow("calm", ACCOUNT),
        SelfPayment(ACCOUNT),
        NotYourApp("chess", ACCOUNT),
    ],
)
def test_an_account_is_written_with_its_checksum(error: InvalidTransaction) -> None:
    assert format_account(ACCOUNT) in str(error)
    assert ACCOUNT.hex() not in str(error)


def test_a_model_is_written_as_its_cid() -> None:
    ledger = found()
    error = ledger.refuse(ledger.account("client-0"), make_body(ledger, model=ACCOUNT))
    assert format_cid(ACCOUNT) in str(error)


def test_a_node_is_written_as_its_peer_id() -> None:
    ledger = Ledger({"validator": 1, "inference": 2, "verifier": 2, "client": 1})
    channel = ledger.open_channel()
    _, _, work = ledger.work(channel)
    other = ledger.node("inference-1")
    foreign = replace(work, claim=sign(replace(work.claim, worker=other.public), other))
    error = ledger.refuse(ledger.account("inference-0"), ledger.settle(channel, foreign))
    assert format_node(other.public) in str(error)


def test_a_stranger_is_no_validator_by_its_account() -> None:
    ledger = Ledger({"validator": 1, "inference": 1, "client": 1})
    account = ledger.account("inference-0").public
    error = ledger.refuse(ledger.account("client-0"), Delegate(account, 10**11))
    assert format_account(account) in str(error)
