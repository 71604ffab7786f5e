"""What room on the ledger may cost before those who must speak there lose by it."""

from collections.abc import Iterator
from dataclasses import replace

from protocol.audit import answer_audit, draw_pieces
from protocol.codec import encode
from protocol.ledger.fees import count_units
from protocol.ledger.lease_audits import AnswerAudit
from protocol.ledger.leases import compute_pay_max
from protocol.ledger.money import split_lease_pay
from testnet.bench.economy.edge import Edge
from testnet.bench.economy.network import Network, Setting
from testnet.bench.economy.played import MILLI, Running, compute_pay, compute_share, play
from testnet.bench.economy.stores import Store, get_contents, make_blob, read_blob
from testnet.bench.economy.verifiers import Verifier
from testnet.bench.economy.workers import Worker
from testnet.found import LEASE_PRICE_GRAINS

STORES = 6
DEAR_TIMES = 20
HEAD_BYTES = 192  # of a transaction around its body, about
NOTHING = bytes(32)


def measure_room(setting: Setting, seed: int, batch: Network) -> Iterator[Edge]:
    """Base fees at which work in batches, and an answer to an audit, bring nothing any more.

    What is gained falls in a line as the base fee rises, so that one at DEAR_TIMES the shipped one tells the edge.
    """
    shipped, params = setting.params.base_fee_min, setting.params
    raised = replace(setting, individual=0, params=replace(params, base_fee_min=DEAR_TIMES * shipped))
    dear = play(raised, seed)
    for kind, who in ((Worker, "worker"), (Verifier, "verifier")):
        pay, fees = compute_pay(batch, kind), compute_fees(batch, kind)
        fall = (pay - compute_pay(dear, kind)) / (DEAR_TIMES - 1)
        arithmetic, played = (shipped * (1 + (pay - setting.costs.row) / each) for each in (fees, fall))
        yield make_edge(who, f"a {who} of batches loses", shipped, arithmetic, played)
    roles = {**setting.roles, "storage": STORES}
    cheap, dear = (play(replace(each, roles=roles, individual=0), seed) for each in (setting, raised))
    brings, _, _ = split_lease_pay(compute_pay_max(get_contents().size_bytes, LEASE_PRICE_GRAINS, params), params)
    answered = compute_answer_pay(cheap)
    fall = (answered - compute_answer_pay(dear)) / (DEAR_TIMES - 1)
    arithmetic, played = brings / count_answer_units(), shipped * (1 + answered / fall)
    yield make_edge("storage", "an answer to an audit costs more than it brings", shipped, arithmetic, played)


def make_edge(who: str, breaks: str, shipped: float, arithmetic: float, played: float) -> Edge:
    """In mROLE for a unit of room."""
    at, by_arithmetic, as_played = (value / MILLI for value in (shipped, arithmetic, played))
    return Edge(f"base_fee_{who}", "base fee", at, "mROLE", breaks, by_arithmetic, as_played)


def compute_fees(network: Network, kind: Running) -> float:
    """What transactions have cost for each row that was run: what is missing of the share. Grains."""
    return compute_share(network, kind) * network.setting.price - compute_pay(network, kind)


def compute_answer_pay(network: Network) -> float:
    """What stores have gained for each audit they have answered. Grains."""
    stores, wealth = network.list_of(Store), network.wealth
    answers = sum(network.state.work[store.account].paid for store in stores if store.account in network.state.work)
    return sum(wealth[store.account] - network.began[store.account] for store in stores) / max(1, answers)


def count_answer_units() -> int:
    """The room an answer takes."""
    drawn = draw_pieces(NOTHING, NOTHING, NOTHING, get_contents().pieces)
    body = AnswerAudit(NOTHING, answer_audit(make_blob(), drawn, read_blob))
    return count_units(len(encode(body)) + HEAD_BYTES)
