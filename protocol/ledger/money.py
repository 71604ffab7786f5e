"""Transfers, and the exact division of what inference earns."""

from collections.abc import Sequence

from protocol.ledger.context import TransactionContext
from protocol.ledger.draft import Draft
from protocol.ledger.errors import InvalidAmount
from protocol.ledger.flows import Party, Source
from protocol.ledger.params import Params
from protocol.ledger.transactions import Transfer
from protocol.types import BP


def split_inference_fee(fee: int, verifiers: int, params: Params) -> tuple[int, int, int, int]:
    """Divide a fee into (worker, each verifier, treasury, burn). The burn takes what rounding leaves.

    >>> split_inference_fee(1_001, 2, Params())
    (800, 40, 100, 21)
    """
    worker = fee * params.inference_worker_bp // BP
    each = fee * params.inference_verifiers_bp // BP // verifiers
    treasury = fee * params.inference_treasury_bp // BP
    return worker, each, treasury, fee - worker - each * verifiers - treasury


def tell_inference_split(draft: Draft, fee: int, model: bytes, worker: bytes, verifiers: Sequence[bytes]) -> None:
    """Note what becomes of a fee that waits for its window, by the accounts that have earned it."""
    share, each, treasury, burn = split_inference_fee(fee, len(verifiers), draft.params)
    draft.tell(Source.INFERENCE, Party.INFERENCE, share, worker, model)
    for account in verifiers:
        draft.tell(Source.INFERENCE, Party.VERIFIER, each, account, model)
    draft.tell(Source.INFERENCE, Party.TREASURY, treasury, subject=model)
    draft.tell(Source.INFERENCE, Party.BURN, burn, subject=model)


def split_lease_pay(pay: int, params: Params) -> tuple[int, int, int]:
    """Divide what a lease pays for one audit into (storage node, treasury, burn). The burn takes what rounding leaves.

    >>> split_lease_pay(1_001, Params())
    (880, 100, 21)
    """
    storage = pay * params.lease_storage_bp // BP
    treasury = pay * params.lease_treasury_bp // BP
    return storage, treasury, pay - storage - treasury


def apply_transfer(draft: Draft, context: TransactionContext, body: Transfer) -> None:
    if not body.amount:
        raise InvalidAmount("a transfer", body.amount, 1)
    draft.debit(context.account, body.amount)
    draft.credit(body.to, body.amount)
