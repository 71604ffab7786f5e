"""Orders: one token, one transaction; each ends in one way, and what is over is forgotten before what is not."""

from protocol.errors import InsufficientBalance
from roles.orders import ORDERS_MAX, Orders, OrderState
from roles.role import PeerUp, Submitted


def test_a_token_is_taken_once():
    orders = Orders()

    assert orders.open("a")
    assert not orders.open("a")
    assert orders.get("a") == OrderState()
    assert orders.get("b") is None


def test_an_order_ends_at_a_height_or_with_a_named_reason():
    orders = Orders()
    for token in ("final", "refused", "odd", "early"):
        orders.open(token)

    orders.note(Submitted("final", 7))
    orders.note(Submitted("refused", None, "NonceMismatch: nonce is 3, the account's next is 5"))
    orders.note(Submitted("odd", None, "1024 transactions wait already"))
    orders.refuse("early", InsufficientBalance(5, 9))
    orders.note(Submitted("unknown", 7))
    orders.note(PeerUp(b""))

    assert orders.get("final") == OrderState(height=7)
    assert orders.get("refused") == OrderState(code="NonceMismatch", reason="nonce is 3, the account's next is 5")
    assert orders.get("odd") == OrderState(code="Refused", reason="1024 transactions wait already")
    early = OrderState(code="InsufficientBalance", reason="has 5 grains, needs 9", numbers={"have": 5, "need": 9})
    assert orders.get("early") == early
    assert len(orders) == 4


def test_what_is_over_makes_room_and_what_is_not_stays():
    orders = Orders()
    for number in range(ORDERS_MAX):
        assert orders.open(str(number))
    assert not orders.open("more")

    orders.note(Submitted("17", 1))

    assert orders.open("more")
    assert orders.get("17") is None
    assert len(orders) == ORDERS_MAX
