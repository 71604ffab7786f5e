"""What work costs whoever does it. The ledger knows nothing of this: it is stated, and every figure depends on it."""

from dataclasses import dataclass

from protocol.types import BP
from testnet.found import LEASE_PRICE_GRAINS
from testnet.genesis import PRICE_GRAINS

ROW_BP = 200  # of what a row is sold for: what running it costs


@dataclass(frozen=True)
class Costs:
    """In grains."""

    row: int = PRICE_GRAINS * ROW_BP // BP  # to run the model on a row, whoever does
    epoch: int = PRICE_GRAINS  # to keep up a node that runs models, whatever it does
    epoch_light: int = PRICE_GRAINS // 20  # one that does not
    stored: int = LEASE_PRICE_GRAINS // 4  # to keep a MiB for an hour
    block: int = 1_000  # to check and keep a block, for a validator


def make_costs(row_bp: int) -> Costs:
    """The same, with another cost of running a row: in basis points of the shipped price."""
    return Costs(row=PRICE_GRAINS * row_bp // BP)
