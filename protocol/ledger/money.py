"""Transfers, and the exact division of every fee and slash."""

from protocol.ledger.context import TransactionContext
from protocol.ledger.draft import Draft
from protocol.ledger.errors import InvalidAmount
from protocol.ledger.params import Params
from protocol.ledger.transactions import Transfer
from protocol.types import BP


def split_transaction_fee(fee: int, params: Params) -> tuple[int, int, int]:
    """Divide a fee into (validators, treasury, burn). The burn takes what rounding leaves.

    >>> split_transaction_fee(101, Params())
    (30, 30, 41)
    """
    validators = fee * params.fee_validators_bp // BP
    treasury = fee * params.fee_treasury_bp // BP
    return validators, treasury, fee - validators - treasury


def split_inference_fee(fee: int, verifiers: int, params: Params) -> tuple[int, int, int, int]:
    """Divide a fee into (worker, each verifier, treasury, burn). The burn takes what rounding leaves.

    >>> split_inference_fee(1_001, 2, Params())
    (800, 40, 100, 21)
    """
    worker = fee * params.inference_worker_bp // BP
    each = fee * params.inference_verifiers_bp // BP // verifiers
    treasury = fee * params.inference_treasury_bp // BP
    return worker, each, treasury, fee - worker - each * verifiers - treasury


def charge_fee(draft: Draft, account: bytes, builder: bytes) -> None:
    """Take the flat fee of one transaction and divide it. InsufficientBalance when the account cannot pay."""
    fee = draft.params.transaction_fee
    draft.debit(account, fee)
    validators, treasury, burn = split_transaction_fee(fee, draft.params)
    draft.credit(builder, validators)
    draft.treasury += treasury
    draft.burned += burn


def apply_transfer(draft: Draft, context: TransactionContext, body: Transfer) -> None:
    if not body.amount:
        raise InvalidAmount("a transfer", body.amount, 1)
    draft.debit(context.account, body.amount)
    draft.credit(body.to, body.amount)
