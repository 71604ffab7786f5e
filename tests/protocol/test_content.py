"""Blobs have one name, and it is the one IPFS tools give them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiformats import CID

from protocol.content import CID_TEXT_SIZE, compute_digest, format_cid, parse_cid
from protocol.errors import LocalError, MalformedMessage


@given(st.binary(max_size=100))
def test_a_cid_is_the_one_others_compute_and_reads_back(data: bytes) -> None:
    digest = compute_digest(data)

    assert format_cid(digest) == str(CID("base32", 1, "raw", ("sha2-256", digest)))
    assert parse_cid(format_cid(digest)) == digest


@given(st.data())
def test_a_cid_has_one_spelling(data: st.DataObject) -> None:
    text = format_cid(compute_digest(b"data"))
    position = data.draw(st.integers(0, CID_TEXT_SIZE - 1))
    changed = text[:position] + data.draw(st.characters()) + text[position + 1 :]
    try:
        digest = parse_cid(changed)
    except MalformedMessage:
        return
    assert format_cid(digest) == changed


def test_other_cids_and_spellings_are_refused() -> None:
    text = format_cid(compute_digest(b"data"))
    for wrong in (
        "",
        text.upper(),
        text[:-1],
        text + "a",
        text[:-1] + "b",  # bits that mean nothing
        "ı" + text[1:],
        "z" + text[1:],
        "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi",  # dag-pb
        "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG",  # version 0
    ):
        with pytest.raises(MalformedMessage):
            parse_cid(wrong)
    with pytest.raises(LocalError):
        format_cid(b"short")
