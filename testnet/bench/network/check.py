"""What a network that is down has left behind, held against its ledgers as they are recomputed from genesis.

    python -m testnet.bench.network.check DIRECTORY

prints one JSON object; a process of its own, since it takes its time and memory.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from roles.eventlog import read_events
from testnet.facts import collect_facts
from testnet.genesis import PRICE_GRAINS
from testnet.papers import find_places

CHECK_S = 900.0


class NotChecked(Exception):
    """The checking process gave no answer. The text says what it gave instead."""


@dataclass(frozen=True)
class Checked:
    """Sums over a whole network. Lies are claims whose worker has noted that they are one."""

    blocks: int
    transactions: int
    findings: tuple[str, ...]  # of chains that do not hold, of vouchers that ended as they never must
    acknowledged: int  # receipts that clients hold
    paid: int
    refunded: int
    unaccounted: int
    unheard: int  # vouchers that were paid and whose clients hold no receipt
    under_way: int
    lies: int
    lies_proven: int
    lies_paid: int
    lies_proven_paid: int


def check(directory: Path) -> Checked:
    """Recompute the ledgers of a directory and sum up. Raises UserError when there are none."""
    result, facts, receipts = collect_facts(directory)
    lies = {bytes.fromhex(str(event["claim_id"])) for event in _list_lies(directory)}
    proven = {bytes.fromhex(item["claim_id"]) for item in facts.proven_wrong}
    paid = receipts.paid_claims | {bytes.fromhex(claim_id) for claim_id in facts.paid_claims}
    return Checked(
        blocks=result.blocks,
        transactions=result.transactions,
        findings=(*result.findings, *receipts.findings),
        acknowledged=receipts.acknowledged,
        paid=receipts.acknowledged - receipts.refunded - receipts.unaccounted,
        refunded=receipts.refunded,
        unaccounted=receipts.unaccounted,
        unheard=-(-receipts.unheard // PRICE_GRAINS),
        under_way=receipts.under_way,
        lies=len(lies),
        lies_proven=len(lies & proven),
        lies_paid=len(lies & paid),
        lies_proven_paid=len(lies & proven & paid),
    )


def check_apart(directory: Path) -> Checked:
    """`check` in a process of its own. Raises NotChecked."""
    command = [sys.executable, "-m", "testnet.bench.network.check", str(directory)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise NotChecked(f"the ledgers were not recomputed in {CHECK_S:.0f} s") from error
    if done.returncode:
        raise NotChecked(done.stderr.strip().rpartition("\n")[2] or "the checking process said nothing")
    return read_checked(json.loads(done.stdout))


def read_checked(fields: Mapping[str, Any]) -> Checked:
    """From what `asdict` gave and JSON made of it. Raises TypeError."""
    return Checked(**{**fields, "findings": tuple(fields["findings"])})


def _list_lies(directory: Path) -> Iterator[Mapping[str, Any]]:
    for place in find_places(directory):
        yield from (event for event in read_events(place) if event["name"] == "lie.told")


if __name__ == "__main__":
    json.dump(asdict(check(Path(sys.argv[1]))), sys.stdout)
