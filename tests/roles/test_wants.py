"""Blobs asked for over the control socket: fetched once, and what failed may be asked for again."""

from roles.role import Fetched, PeerUp
from roles.wants import WANTS_MAX, Wants


def test_a_blob_is_fetched_once_however_often_it_is_asked_for():
    wants = Wants()
    assert wants.describe("a")["state"] == "unknown"

    assert wants.open("a")
    assert not wants.open("a")
    assert wants.describe("a")["state"] == "fetching"
    wants.note(PeerUp(b""))
    wants.note(Fetched("b", b"", ""))
    wants.note(Fetched("a", b"data", ""))

    assert wants.describe("a") == {"cid": "a", "state": "held", "reason": ""}
    assert wants.describe("b")["state"] == "unknown"


def test_what_nobody_had_says_so_and_may_be_asked_for_again():
    wants = Wants()
    wants.open("a")
    wants.note(Fetched("a", None, "no storage node has it"))

    assert wants.describe("a") == {"cid": "a", "state": "missing", "reason": "no storage node has it"}
    assert wants.open("a")


def test_only_so_many_are_remembered():
    wants = Wants()
    for number in range(WANTS_MAX + 1):
        wants.open(str(number))

    assert wants.describe("0")["state"] == "unknown"
    assert wants.describe("1")["state"] == "fetching"
