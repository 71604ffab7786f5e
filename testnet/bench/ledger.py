"""The ledger beside this machine's own limit, how fast one core verifies signatures: `rolemesh bench ledger`.

What one process does is per second of processor time, so that what else runs on the machine does not show; rounds of
the limit and of the figure take turns, and the median of each counts. What four validators do together is in
`finality`.
"""

import hashlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from protocol.codec import decode, encode
from protocol.jobs import Voucher
from protocol.keys import PrivateKey, verify
from protocol.ledger.apply import apply_block, build_block
from protocol.ledger.block import (
    Certificate,
    Header,
    VoteSignature,
    compute_block_id,
    compute_vote_bytes,
    make_final_ballot,
    verify_certificate,
)
from protocol.ledger.fees import with_fee
from protocol.ledger.genesis import build_state, compute_chain_id
from protocol.ledger.signatures import forget_verified
from protocol.ledger.state import State
from protocol.ledger.transactions import Transaction, Transfer, get_transaction_kind
from protocol.signing import sign, verify_signed
from roles.chain import Chain
from roles.core_effects import Commit
from testnet.bench.consensus import VALIDATORS, play, record
from testnet.bench.figures import Figure, Note, compare
from testnet.bench.finality import measure as finality
from testnet.genesis import Foundation, build_genesis
from testnet.recompute import recompute

LIMIT = "ed25519 verify"
NAMES = ("vouchers", "replay", "replay_certified", "consensus_events", *finality.NAMES)
ROUNDS = 5
SIGNATURES = 2_000  # of a round
ACCOUNTS = 64
BLOCK_TRANSFERS = 500
BLOCKS, BLOCKS_FULL = 6, 40
HEIGHTS, CORE_ROUNDS = 100, 25  # decided by cores alone
GENESIS_MS = 1_700_000_000_000
PAYEE = bytes([9]) * 32


@dataclass(frozen=True)
class Story:
    """A ledger that has happened: blocks of transfers between accounts, each with the state it leads to."""

    foundation: Foundation
    commits: tuple[Commit, ...]

    @property
    def transfers(self) -> int:
        return sum(len(commit.block.transactions) for commit in self.commits)


def measure(note: Note, full: bool, only: frozenset[str]) -> Iterator[Figure]:
    """Figures as they come. `only` names the ones that are wanted; empty for all."""
    if not only or "vouchers" in only:
        note(f"vouchers: {ROUNDS} rounds of {SIGNATURES}")
        yield measure_vouchers(note)
    if not only or only & {"replay", "replay_certified"}:
        blocks = BLOCKS_FULL if full else BLOCKS
        note(f"replay: making {blocks} blocks of {BLOCK_TRANSFERS} transfers")
        story = make_story(blocks)
        if not only or "replay" in only:
            yield measure_replay(story, note)
        if not only or "replay_certified" in only:
            yield measure_replay_certified(story)
    if not only or "consensus_events" in only:
        yield measure_consensus_events(note)
    if not only or only & frozenset(finality.NAMES):
        yield from finality.measure(note, make_limit(SIGNATURES), SIGNATURES, full, only)


def measure_vouchers(note: Note) -> Figure:
    """Vouchers decoded and verified one by one, as a worker does before it takes a job."""
    payer = PrivateKey.from_seed(bytes([1]) * 32)
    wires = [encode(sign(_make_voucher(number), payer)) for number in range(SIGNATURES)]
    check_signatures = make_limit(SIGNATURES)

    def check_vouchers() -> None:
        forget_verified()
        for wire in wires:
            verify_signed(decode(Voucher, wire), payer.public)

    def decode_vouchers() -> None:
        for wire in wires:
            decode(Voucher, wire)

    ours, limit = _take_turns(check_vouchers, check_signatures)
    whole_us, decoding_us, limit_us = (
        1e6 * seconds / SIGNATURES for seconds in (ours, time_cpu(decode_vouchers), limit)
    )
    rest_us = whole_us - decoding_us - limit_us
    note(f"a voucher takes {whole_us:.1f} us: signature {limit_us:.1f}, decoding {decoding_us:.1f}, hash {rest_us:.1f}")
    return compare("vouchers", SIGNATURES / ours, "/s", LIMIT, SIGNATURES / limit)


def measure_replay(story: Story, note: Note) -> Figure:
    """A stored ledger recomputed from genesis with all that is signed in it, as `rolemesh ledger replay` does."""
    check_signatures = make_limit(story.transfers)
    with TemporaryDirectory(prefix="rolemesh-bench-") as folder:
        path = Path(folder) / "node.db"
        store(story, path)

        def replay() -> None:
            forget_verified()
            result = recompute(story.foundation.genesis, {"bench": path})
            assert result.holds, result.findings
            assert result.transactions == story.transfers

        ours, limit = _take_turns(replay, check_signatures, rounds=3)
    each_us, limit_us = (1e6 * seconds / story.transfers for seconds in (ours, limit))
    note(
        f"a transfer takes {each_us:.0f} us to recompute: signature {limit_us:.0f}, the ledger {each_us - limit_us:.0f}"
    )
    return compare("replay", story.transfers / ours, "/s", LIMIT, story.transfers / limit)


def measure_replay_certified(story: Story) -> Figure:
    """Certified blocks followed without a look at the signatures of their transactions, as most nodes do."""
    check_signatures = make_limit(SIGNATURES)

    def follow() -> None:
        state = build_state(story.foundation.genesis)
        for commit in story.commits:
            verify_certificate(commit.certificate, commit.block.header, state)
            state = apply_block(state, commit.block, check_signatures=False)
        assert state == story.commits[-1].state

    ours, limit = _take_turns(follow, check_signatures, rounds=3)
    return compare("replay_certified", story.transfers / ours, "/s", LIMIT, SIGNATURES / limit)


def measure_consensus_events(note: Note) -> Figure:
    """What happens to validators, taken through their consensus cores alone; ballots are signed by name.

    The fastest of many short rounds counts: whatever else the machine does can only make one slower.
    """
    parts = record(HEIGHTS)
    count = sum(len(part.events) for part in parts)
    note(f"consensus_events: {HEIGHTS} heights of {VALIDATORS} validators, {count / HEIGHTS:.0f} events each")
    check_signatures = make_limit(SIGNATURES)
    pairs = [(time_cpu(lambda: play(parts)), time_cpu(check_signatures)) for _ in range(CORE_ROUNDS)]
    ours, limit = (min(seconds) for seconds in zip(*pairs, strict=True))
    return compare("consensus_events", count / ours, "/s", LIMIT, SIGNATURES / limit)


def make_story(blocks: int, transfers: int = BLOCK_TRANSFERS) -> Story:
    """Blocks of so many transfers, by ACCOUNTS accounts in turn."""
    foundation = build_genesis(1, {"validator": 1}, spare_accounts=ACCOUNTS, now_ms=GENESIS_MS)
    payers = [PrivateKey.from_seed(seed) for seed in foundation.spare]
    seeds = foundation.nodes["validator-0"]
    builder = PrivateKey.from_seed(seeds.account).public
    vote = PrivateKey.from_seed(seeds.vote or b"")
    state = build_state(foundation.genesis)
    commits: list[Commit] = []
    for height in range(1, blocks + 1):
        numbers = range((height - 1) * transfers, height * transfers)
        signed = [make_transfer(state, payers[n % ACCOUNTS], n // ACCOUNTS, 1 + n) for n in numbers]
        block, state, dropped = build_block(state, signed, state.time_ms + 100, builder, check_signatures=False)
        assert len(block.transactions) == transfers, dropped[:1]
        commits.append(Commit(block, certify(block.header, vote), state))
    return Story(foundation, tuple(commits))


def make_transfer(state: State, payer: PrivateKey, nonce: int, amount: int) -> Transaction:
    """A signed transfer that the next blocks can hold."""
    unsigned = Transaction(
        chain=state.chain,
        account=payer.public,
        nonce=nonce,
        kind=get_transaction_kind(Transfer),
        body=encode(Transfer(PAYEE, amount)),
        fee=0,
        tip=0,
        valid_until_ms=state.time_ms + 3_600_000,
        signature=bytes(64),
    )
    return sign(with_fee(unsigned, state.base_fee), payer)


def certify(header: Header, vote: PrivateKey) -> Certificate:
    """The decision of a ledger with one validator."""
    ballot = make_final_ballot(header.height, 1, compute_block_id(header))
    data = compute_vote_bytes(header.chain, ballot.height, ballot.view, ballot.kind, ballot.block_id)
    return Certificate(ballot, (VoteSignature(vote.public, vote.sign(data)),))


def store(story: Story, path: Path) -> None:
    """The story in a node's database."""
    chain = Chain(path, compute_chain_id(story.foundation.genesis))
    chain.start()
    for commit in story.commits:
        chain.write([commit])
    chain.close()


def make_limit(count: int) -> Callable[[], None]:
    """Verify so many signatures, each of another message of 56 bytes, as long as most of what is signed here."""
    key = PrivateKey.from_seed(bytes([2]) * 32)
    messages = [hashlib.sha256(number.to_bytes(8)).digest() + bytes(24) for number in range(count)]
    signed = [(message, key.sign(message)) for message in messages]

    def check() -> None:
        assert all(verify(key.public, message, signature) for message, signature in signed)

    return check


def time_cpu(work: Callable[[], None]) -> float:
    """Seconds of processor time that `work` takes."""
    begun_s = time.process_time()
    work()
    return time.process_time() - begun_s


def _take_turns(ours: Callable[[], None], limit: Callable[[], None], rounds: int = ROUNDS) -> tuple[float, float]:
    """Median seconds of both, measured in turn."""
    pairs = [(time_cpu(ours), time_cpu(limit)) for _ in range(rounds)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def _make_voucher(number: int) -> Voucher:
    request_id = hashlib.sha256(number.to_bytes(8)).digest()
    return Voucher(bytes([3]) * 32, number + 1, 1_000, 1_000 * (number + 1), request_id, 0, GENESIS_MS, bytes(64))
