"""Which models a node fetches and serves, as the ledger goes on."""

from dataclasses import replace
from pathlib import Path

from protocol.content import compute_digest, format_cid
from protocol.ledger.model_records import ModelRecord
from protocol.ledger.state import State
from roles.models import MODELS_MAX, ModelShelf
from roles.role import Fetch, Record, SetTimer
from tests.support.ledgers import Ledger
from tests.support.onnx_bytes import UINT8, unary

MODELS = Path(__file__).parents[2] / "testnet" / "models"
STATE = Ledger().state
FILES = [(MODELS / name).read_bytes() for name in ("digits.onnx", "digits-fp32.onnx")]
SHIPPED = {compute_digest(data): data for data in FILES}
FLOATS = unary("Sigmoid")


def add(state: State, data: bytes, **changes: object) -> State:
    record = ModelRecord(f"model-{len(state.models)}", compute_digest(data), 1, (), (), ())
    return replace(state, models={**state.models, record.digest: replace(record, **changes)})  # type: ignore[arg-type]


def fetch(shelf: ModelShelf, data: bytes) -> list[object]:
    return [*shelf.on_fetched(format_cid(compute_digest(data)), data, "", 0)]


def make_full() -> ModelShelf:
    shelf = ModelShelf(None)
    assert {effect.source for effect in shelf.start(STATE) if isinstance(effect, Fetch)} == set(
        map(format_cid, SHIPPED)
    )
    for data in SHIPPED.values():
        assert not shelf.is_complete
        fetch(shelf, data)
    return shelf


def test_a_model_registered_later_is_fetched_and_served_while_the_node_goes_on_serving_the_others() -> None:
    shelf = make_full()
    later = add(STATE, FLOATS, exact=0)
    assert shelf.advance(STATE) == []

    assert shelf.advance(later) == [Fetch(format_cid(compute_digest(FLOATS)))]
    assert shelf.is_complete
    assert shelf.advance(later) == []
    fetch(shelf, FLOATS)

    assert shelf.held == tuple(sorted([*SHIPPED, compute_digest(FLOATS)]))


def test_a_model_registered_as_exact_whose_graph_is_not_is_never_held_and_stops_nobody() -> None:
    shelf = ModelShelf(None)
    shelf.start(add(STATE, FLOATS))
    for data in SHIPPED.values():
        fetch(shelf, data)
    assert not shelf.is_complete

    (effect,) = fetch(shelf, FLOATS)

    assert isinstance(effect, Record)
    assert effect.name == "model.refused"
    assert "Sigmoid" in str(effect.fields["reason"])
    assert shelf.is_complete
    assert shelf.held == tuple(sorted(SHIPPED))


def test_an_exact_model_whose_rows_its_worker_could_not_defend_is_never_held() -> None:
    wide = unary("Relu", UINT8, ("rows", 2**18))  # eight rows would be all of a blob
    shelf = ModelShelf([compute_digest(wide)])
    shelf.start(add(STATE, wide, rows_max=8))

    (effect,) = fetch(shelf, wide)

    assert isinstance(effect, Record)
    assert effect.name == "model.refused"
    assert "at most 7 rows" in str(effect.fields["reason"])
    other = ModelShelf([compute_digest(wide)])
    other.start(add(STATE, wide, rows_max=7))
    fetch(other, wide)
    assert other.held == (compute_digest(wide),)


def test_a_node_with_a_list_serves_that_and_nothing_that_comes_later() -> None:
    digest = next(iter(SHIPPED))
    shelf = ModelShelf([digest])

    assert shelf.start(STATE) == [Fetch(format_cid(digest))]
    assert shelf.advance(add(STATE, FLOATS)) == []
    fetch(shelf, SHIPPED[digest])
    assert shelf.held == (digest,)


def test_retired_models_are_not_fetched_and_forgotten_ones_not_served() -> None:
    shelf = make_full()
    later = add(STATE, FLOATS, exact=0)

    assert shelf.advance(add(STATE, FLOATS, retired_ms=5)) == []
    shelf.advance(later)
    fetch(shelf, FLOATS)
    shelf.advance(STATE)

    assert shelf.held == tuple(sorted(SHIPPED))


def test_no_more_are_held_than_a_node_record_can_name() -> None:
    crowded = STATE
    for number in range(MODELS_MAX):
        crowded = add(crowded, bytes([number]))
    shelf = ModelShelf(None)
    assert len(shelf.start(crowded)) == MODELS_MAX
    assert shelf.advance(add(crowded, b"more")) == []


def test_a_model_that_nobody_has_is_asked_for_again() -> None:
    shelf = ModelShelf(None)
    shelf.start(STATE)
    cid = format_cid(next(iter(SHIPPED)))

    missing, timer = shelf.on_fetched(cid, None, "nobody has it", 10)

    assert isinstance(missing, Record)
    assert isinstance(timer, SetTimer)
    assert shelf.on_timer(timer.name) == [Fetch(cid)]
    assert shelf.on_timer("other") == []
    assert shelf.on_fetched("another", b"", "", 10) == []
