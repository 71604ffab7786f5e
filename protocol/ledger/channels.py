"""Payment channels: money a payer sets aside for one payee. Settlement alone moves it on (`settlement`)."""

from dataclasses import replace

from protocol.jobs import Mode
from protocol.ledger.context import TransactionContext
from protocol.ledger.draft import Draft
from protocol.ledger.errors import InvalidAmount, LimitReached, SelfPayment
from protocol.ledger.job_errors import ChannelClosing, InvalidMode, NotYourChannel, UnknownChannel
from protocol.ledger.job_records import Channel
from protocol.ledger.records import DueItem
from protocol.ledger.transactions import CloseChannel, OpenChannels, TopUpChannel, compute_channel_id

WITHDRAW_KIND = 3
MODES = frozenset(str(mode) for mode in Mode)


def apply_open_channels(draft: Draft, context: TransactionContext, body: OpenChannels) -> None:
    """Open one channel per opening; all of them or none."""
    if not body.openings:
        raise InvalidAmount("the deposits", 0, 1)
    if len(draft.channels) + len(body.openings) > draft.params.channels_max:
        raise LimitReached("channels", len(draft.channels), draft.params.channels_max)
    for index, opening in enumerate(body.openings):
        if not opening.deposit:
            raise InvalidAmount("a deposit", opening.deposit, 1)
        if opening.payee == context.account:
            raise SelfPayment(context.account)
        draft.debit(context.account, opening.deposit)
        if opening.mode not in MODES:
            raise InvalidMode(opening.mode)
        channel = Channel(
            payer=context.account,
            payee=opening.payee,
            deposit=opening.deposit,
            paid=0,
            cumulative=0,
            settled_seq=0,
            closing_ms=0,
            mode=opening.mode,
        )
        draft.channels.put(compute_channel_id(context.id, index), channel)


def apply_top_up_channel(draft: Draft, context: TransactionContext, body: TopUpChannel) -> None:
    channel = _get_open(draft, context, body.channel)
    if not body.amount:
        raise InvalidAmount("a top-up", body.amount, 1)
    draft.debit(context.account, body.amount)
    draft.channels.put(body.channel, replace(channel, deposit=channel.deposit + body.amount))


def apply_close_channel(draft: Draft, context: TransactionContext, body: CloseChannel) -> None:
    """Begin to close; the payee can still settle until the delay, and the grace after it, are over."""
    channel = _get_open(draft, context, body.channel)
    closing_ms = draft.time_ms + draft.params.channel_close_delay_ms
    draft.channels.put(body.channel, replace(channel, closing_ms=closing_ms))
    draft.plan(DueItem(closing_ms, WITHDRAW_KIND, body.channel, waking=1, graced=0))


def withdraw(draft: Draft, item: DueItem) -> None:
    """Due: the payer gets what no leaf has taken, and the channel is gone."""
    channel = draft.channels.get(item.id)
    if channel is not None:
        draft.channels.delete(item.id)
        draft.credit(channel.payer, channel.deposit - channel.paid)


def _get_open(draft: Draft, context: TransactionContext, key: bytes) -> Channel:
    """A channel of the sender's that is not closing."""
    channel = draft.channels.get(key)
    if channel is None:
        raise UnknownChannel(key)
    if channel.payer != context.account:
        raise NotYourChannel(key, context.account)
    if channel.closing_ms:
        raise ChannelClosing(key, channel.closing_ms)
    return channel
