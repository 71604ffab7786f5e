"""A client's channels and the vouchers it has signed on them.

A voucher's number is written before the voucher leaves: a restarted client never signs one number twice. After a power
cut it may, for what left in the last moments on a stream; the worker refuses that, and nothing is paid for it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from protocol.codec import decode, encode
from protocol.jobs import Voucher
from protocol.keys import Signer
from protocol.ledger.job_records import Channel
from protocol.ledger.state import State
from protocol.ledger.transactions import ChannelOpening, OpenChannels
from protocol.signing import sign
from protocol.types import Grains, Whole
from roles.role import Effect, Store


@dataclass(frozen=True)
class VoucherState:
    """The last voucher signed on a channel."""

    seq: Whole
    cumulative: Grains


class Purse:
    """Money in channels. Amounts in grains."""

    def __init__(self, account: Signer, deposit: int) -> None:
        self._account = account
        self._deposit = deposit
        self._signed: dict[bytes, VoucherState] = {}
        self._answered: dict[bytes, int] = {}  # grains, by channel, of answered vouchers that are settled
        self._unsettled: dict[bytes, dict[int, int]] = {}  # of answered vouchers that are not, by number

    def restore(self, stored: Mapping[bytes, bytes]) -> None:
        """What an earlier process has signed. How much of it was answered went with it: all of it, for all we know."""
        self._signed = {channel: decode(VoucherState, data) for channel, data in stored.items()}
        self._answered = {channel: state.cumulative for channel, state in self._signed.items()}

    def find_channel(self, state: State, payee: bytes, fee: int, mode: str) -> bytes | None:
        """An open channel to this payee with room for the fee; the fullest first, so that old ones are used up."""
        fitting = [
            (channel.deposit - self._get_signed(key).cumulative, key)
            for key, channel in state.channels.items()
            if channel.payer == self._account.public
            and (channel.payee, channel.mode) == (payee, mode)
            and not channel.closing_ms
            # Vouchers on a channel whose record is lost may be out there: leave it alone.
            and (key in self._signed or channel.settled_seq == 0)
        ]
        roomy = sorted((left, key) for left, key in fitting if left >= fee)
        return roomy[0][1] if roomy else None

    def sign_voucher(self, channel: bytes, amount: int, request_id: bytes, attempt: int, expiry_ms: int) -> Voucher:
        last = self._get_signed(channel)
        self._signed[channel] = now = VoucherState(last.seq + 1, last.cumulative + amount)
        unsigned = Voucher(channel, now.seq, amount, now.cumulative, request_id, attempt, expiry_ms, bytes(64))
        return sign(unsigned, self._account)

    def note_answered(self, voucher: Voucher) -> None:
        """The voucher's worker has earned it."""
        self._unsettled.setdefault(voucher.channel, {})[voucher.seq] = voucher.amount

    def is_overpaid(self, key: bytes, channel: Channel) -> bool:
        """Whether more of the channel is paid than what came of it, as far as it is settled."""
        unsettled = self._unsettled.get(key, {})
        for seq in [seq for seq in unsettled if seq <= channel.settled_seq]:
            self._answered[key] = self._answered.get(key, 0) + unsettled.pop(seq)
        return channel.paid > self._answered.get(key, 0)

    def keep(self, voucher: Voucher) -> Effect:
        """Goes before whatever sends the voucher."""
        state = VoucherState(voucher.seq, voucher.cumulative)
        return Store("vouchers", voucher.channel, encode(state))

    def plan_channels(self, wanted: Collection[tuple[bytes, str]], fee: int) -> OpenChannels:
        """One transaction that opens a channel to each payee in its mode, roomy enough for one job of this fee."""
        deposit = max(self._deposit, fee)
        return OpenChannels(tuple(ChannelOpening(payee, deposit, mode) for payee, mode in sorted(wanted)))

    def _get_signed(self, channel: bytes) -> VoucherState:
        return self._signed.get(channel, VoucherState(0, 0))
