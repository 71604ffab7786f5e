"""Traces: which operator two of them disagree about, and what running that one says."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import InvalidProof, MalformedMessage
from protocol.proofs.context import ProofContext, Trust
from protocol.proofs.kinds import TRACE
from protocol.proofs.trace import (
    DIGEST_SIZE,
    TRACE_BYTES_MAX,
    Exhibit,
    Given,
    InputsDiffer,
    Judgement,
    OperatorRun,
    find_fault,
    find_misfit,
    judge,
    pack_trace,
    unpack_trace,
)
from protocol.registry import find_proof_kind
from protocol.tensor import Tensor, compute_tensors_digest
from tests.support.jobs import OUTPUT, make_request
from tests.support.ledgers import Ledger

OFF = "ort=1.31.1;ep=cpu;isa=avx2;th=1;opt=disable;batch=1"


def number(value):
    return (Tensor("int32", (), value.to_bytes(4, "little")),)


def run(sources, fault=None):
    """A model whose operators hash what they take; `fault` gives something else, and the rest go on from there."""
    given = [number(7)]
    for at, taken in enumerate(sources[1:], 1):
        data = b"".join(compute_tensors_digest(given[source]) for source in taken)
        value = int.from_bytes(hashlib.sha256(at.to_bytes(4, "big") + data).digest()[:3], "big")
        given.append(number(value + (at == fault)))
    return given


def digests(given):
    return tuple(map(compute_tensors_digest, given))


def show(sources, given, operator):
    return Exhibit(tuple(Given(source, given[source]) for source in sources[operator]))


@st.composite
def graphs(draw):
    """What each operator takes: any that come before it."""
    count = draw(st.integers(1, 30))
    rows = [()]
    for at in range(1, count + 1):
        taken = draw(st.sets(st.integers(0, at - 1), min_size=0 if at > 1 else 1, max_size=4))
        rows.append(tuple(sorted(taken)))
    return tuple(rows)


@given(st.data())
def test_of_any_graph_exactly_the_operator_with_the_planted_fault_is_named_and_found_guilty(data):
    sources = data.draw(graphs())
    fault = data.draw(st.integers(1, len(sources) - 1))
    honest, lie = run(sources), run(sources, fault)

    named = find_fault(digests(honest), digests(lie))

    assert named == fault
    assert all(honest[source] == lie[source] for source in sources[fault])
    for operator in range(1, len(sources)):
        # Whoever runs one operator on what the liar says it took finds fault with this one alone.
        taken = show(sources, lie, operator)
        data_in = b"".join(compute_tensors_digest(item.tensors) for item in taken.items)
        value = int.from_bytes(hashlib.sha256(operator.to_bytes(4, "big") + data_in).digest()[:3], "big")
        ran = OperatorRun(len(sources) - 1, compute_tensors_digest(number(value)), "", OFF)
        expected = Judgement.WRONG if operator == fault else Judgement.SOUND
        assert judge(digests(lie), operator, taken, ran) is expected


@given(graphs())
def test_equal_traces_have_no_fault(sources):
    assert find_fault(digests(run(sources)), digests(run(sources))) is None


def test_traces_of_other_inputs_blame_nobody_and_one_of_another_length_is_wrong_from_the_start():
    ours, theirs = (b"a" * 32, b"b" * 32), (b"c" * 32, b"b" * 32)

    with pytest.raises(InputsDiffer):
        find_fault(ours, theirs)
    assert find_fault(ours, (b"a" * 32, b"b" * 32, b"b" * 32)) == 1


@pytest.mark.parametrize("size", [0, 32, 63, 65, TRACE_BYTES_MAX + DIGEST_SIZE])
def test_a_trace_is_two_digests_at_least_and_no_more_than_fit_a_transaction(size):
    with pytest.raises(MalformedMessage, match=f"a trace of {size} bytes"):
        unpack_trace(bytes(size))


def test_a_trace_comes_out_as_it_went_in():
    whole = tuple(bytes((at,)) * 32 for at in range(5))

    assert unpack_trace(pack_trace(whole)) == whole


SOURCES = ((), (0,), (0, 1), (2,))
GIVEN = run(SOURCES)
SHOWN = show(SOURCES, GIVEN, 2)
RAN = OperatorRun(3, digests(GIVEN)[2], "", OFF)


@pytest.mark.parametrize(
    ("exhibit", "why"),
    [
        (Exhibit(SHOWN.items[::-1]), "not in strict order"),
        (Exhibit((*SHOWN.items, SHOWN.items[-1])), "not in strict order"),
        (Exhibit((Given(2, GIVEN[2]),)), "takes nothing from operator 2"),
        (Exhibit((Given(1, number(1)),)), "is not what the trace says"),
        (Exhibit((Given(1, (Tensor("int32", (2,), b""),)),)), "wants 8 bytes"),
        (Exhibit((Given(1, (Tensor("text", (), b""),)),)), "dtype 'text'"),
    ],
)
def test_an_exhibit_that_does_not_follow_from_the_trace_condemns_who_published_it(exhibit, why):
    assert why in find_misfit(digests(GIVEN), 2, exhibit)
    assert judge(digests(GIVEN), 2, exhibit, RAN) is Judgement.WRONG


def test_what_gives_the_digest_of_the_trace_is_sound_and_all_else_is_wrong():
    whole = digests(GIVEN)

    assert find_misfit(whole, 2, SHOWN) == ""
    assert judge(whole, 2, SHOWN, RAN) is Judgement.SOUND
    assert judge(whole, 2, SHOWN, replace(RAN, digest=whole[1])) is Judgement.WRONG
    assert judge(whole, 2, SHOWN, replace(RAN, digest=b"", reason="takes others")) is Judgement.WRONG
    assert judge(whole, 2, SHOWN, replace(RAN, operators=4)) is Judgement.WRONG


def test_a_trace_backs_the_receipt_whose_inputs_and_output_it_joins():
    ledger = Ledger()
    receipt, _, _ = ledger.work(ledger.open_channel())
    whole = (receipt.claim.input_digest, b"m" * 32, receipt.output_digest)

    request = make_request(ledger.state, ledger.foundation)
    context = ProofContext(request, receipt, (OUTPUT,), request.deadline_ms, Trust())

    assert find_proof_kind("trace") is TRACE
    assert "each of 1 operators" in TRACE.verify(context, pack_trace(whole))
    with pytest.raises(InvalidProof, match="the trace ends with"):
        TRACE.verify(context, pack_trace(whole[:2]))
    with pytest.raises(InvalidProof, match="the trace begins with"):
        TRACE.verify(context, pack_trace(whole[1:]))
