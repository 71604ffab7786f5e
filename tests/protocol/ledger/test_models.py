"""Models on the ledger: whose a name is, what may be registered, and how a model leaves."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.check import check_request
from protocol.errors import InsufficientBalance, MalformedMessage
from protocol.ledger.apply import next_due_ms
from protocol.ledger.errors import InvalidModel, LimitReached, NotYourModel, UnknownModel
from protocol.ledger.genesis import Genesis
from protocol.ledger.limits import ROWS_MAX
from protocol.ledger.model_records import Calibration, ModelName, TensorSpec
from protocol.ledger.models import (
    BOUND_PPT_MAX,
    HONEST_PPT_MIN,
    RegisterModel,
    RetireModel,
    compute_bound_ppt,
    explain_calibration,
)
from protocol.ledger.params import Params
from protocol.topics import infer_topic
from protocol.types import INT_MAX, Verdict
from tests.support.jobs import find_model, make_request, pay
from tests.support.ledgers import Ledger

PARAMS = Params()
ROWS = TensorSpec("uint8", (0, 64))
CALIBRATION = Calibration(
    bound_ppt=4_000_000,
    honest_ppt=1_000_000,
    fp16_ppt=24_000_000,
    rows=5_000,
    seed=7,
    isa="avx512vnni",
    versions=("1.26.0", "1.31.1"),
)


def register(name: str = "mine", version: int = 1, digest: bytes = b"\x01" * 32, **changes: object) -> RegisterModel:
    gives, labels = (TensorSpec("int32", (0, 2)),), ("no", "yes")
    plain = RegisterModel(name, version, digest, 1_000, 1, (), (ROWS,), gives, labels, ROWS_MAX)
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_a_model_is_registered_with_its_deposit_and_stays_as_it_was() -> None:
    ledger = Ledger()
    owner = ledger.spare()
    before = ledger.state.get_balance(owner.public)
    ledger.do(owner, register(exact=0, calibration=(CALIBRATION,)))

    model = ledger.state.models[b"\x01" * 32]
    assert (model.name, model.version, model.size_bytes, model.owner) == ("mine", 1, 1_000, owner.public)
    assert (model.exact, model.calibration, model.labels) == (0, (CALIBRATION,), ("no", "yes"))
    assert before - ledger.state.get_balance(owner.public) == PARAMS.model_deposit + PARAMS.base_fee_min
    assert model.deposit == PARAMS.model_deposit
    assert model.rows_max == ROWS_MAX
    assert isinstance(ledger.refuse(owner, register(version=2)), InvalidModel)  # the same file


def test_a_name_belongs_to_who_had_it_first_and_versions_only_go_up() -> None:
    ledger = Ledger()
    owner, other = ledger.spare(0), ledger.spare(1)
    ledger.do(owner, register(version=3))

    assert isinstance(ledger.refuse(other, register(version=4, digest=b"\x02" * 32)), NotYourModel)
    for version in (1, 3):
        assert isinstance(ledger.refuse(owner, register(version=version, digest=b"\x02" * 32)), InvalidModel)
    ledger.do(owner, register(version=4, digest=b"\x02" * 32))

    assert ledger.state.model_names["mine"] == ModelName(owner.public, 4, 2)


def test_names_of_genesis_are_nobodys() -> None:
    ledger = Ledger()
    digits = find_model(ledger.state)

    assert isinstance(ledger.refuse(ledger.spare(), register("digits", 2)), NotYourModel)
    assert isinstance(ledger.refuse(ledger.spare(), RetireModel(digits.digest)), NotYourModel)


def test_a_retired_model_takes_no_work_and_its_deposit_comes_back_when_nothing_can_be_claimed() -> None:
    ledger = Ledger()
    owner = ledger.spare()
    ledger.do(owner, register())
    held = ledger.state.get_balance(owner.public)
    assert isinstance(ledger.refuse(ledger.spare(1), RetireModel(b"\x01" * 32)), NotYourModel)
    ledger.do(owner, RetireModel(b"\x01" * 32))
    retired_ms = ledger.state.time_ms

    assert ledger.state.models[b"\x01" * 32].retired_ms == retired_ms
    assert isinstance(ledger.refuse(owner, RetireModel(b"\x01" * 32)), UnknownModel)
    assert isinstance(ledger.refuse(ledger.spare(1), register(digest=b"\x02" * 32)), NotYourModel)
    assert next_due_ms(ledger.state) == retired_ms + PARAMS.unbonding_ms
    ledger.block(after_ms=PARAMS.unbonding_ms - 1)
    assert b"\x01" * 32 in ledger.state.models
    ledger.block(after_ms=1)

    assert ledger.state.get_balance(owner.public) - held == PARAMS.model_deposit - PARAMS.base_fee_min
    assert b"\x01" * 32 not in ledger.state.models
    assert "mine" not in ledger.state.model_names
    ledger.do(ledger.spare(1), register())  # free again


def test_a_name_stays_as_long_as_one_of_its_versions_does() -> None:
    ledger = Ledger()
    owner = ledger.spare()
    ledger.do(owner, register())
    ledger.do(owner, register(version=2, digest=b"\x02" * 32))
    ledger.do(owner, RetireModel(b"\x02" * 32))
    ledger.block(after_ms=PARAMS.unbonding_ms)

    assert ledger.state.model_names["mine"] == ModelName(owner.public, 2, 1)
    assert isinstance(ledger.refuse(owner, register(version=2, digest=b"\x03" * 32)), InvalidModel)


def test_requests_for_a_retired_model_are_not_passed_on() -> None:
    ledger = Ledger()
    channel = ledger.open_channel()
    request = make_request(ledger.state, ledger.foundation)
    item = pay(request, ledger.foundation, channel, 1)
    topic, sender, now_ms = infer_topic(request.model), request.client, ledger.state.time_ms
    model = ledger.state.models[request.model]
    retired = replace(ledger.state, models={request.model: replace(model, retired_ms=now_ms)})

    assert check_request(topic, sender, item, ledger.state, now_ms)[0] == Verdict.ACCEPT
    assert check_request(topic, sender, item, retired, now_ms)[0] == Verdict.IGNORE


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": ""}, "a name is"),
        ({"name": "Digits"}, "a name is"),
        ({"name": "digits "}, "a name is"),
        ({"name": "dıgits"}, "a name is"),
        ({"version": 0}, "at least 1"),
        ({"size_bytes": 0}, "at least 1"),
        ({"inputs": ()}, "tensors of"),
        ({"outputs": (TensorSpec("string", (0,)),)}, "tensors of"),
        ({"labels": ("a", "a")}, "twice"),
        ({"rows_max": 0}, "1 to 64 rows"),
        ({"rows_max": 65}, "1 to 64 rows"),
        ({"calibration": (CALIBRATION,)}, "exact one has none"),
        ({"exact": 0}, "comes with its calibration"),
        ({"exact": 0, "calibration": (replace(CALIBRATION, rows=0),)}, "no rows"),
        ({"exact": 0, "calibration": (replace(CALIBRATION, versions=()),)}, "no version"),
        ({"exact": 0, "calibration": (replace(CALIBRATION, bound_ppt=5_000_000),)}, "4000000 follows from 1000000"),
        ({"exact": 0, "calibration": (replace(CALIBRATION, fp16_ppt=16_000_000),)}, "half precision"),
    ],
)
def test_what_contradicts_itself_is_refused_with_the_reason(changes: dict[str, object], reason: str) -> None:
    ledger = Ledger()

    error = ledger.refuse(ledger.spare(), register(**changes))  # type: ignore[arg-type]

    assert isinstance(error, InvalidModel)
    assert reason in str(error)


def test_there_is_room_for_so_many_models_and_nobody_registers_on_credit() -> None:
    ledger = Ledger(params=replace(PARAMS, models_max=3))
    ledger.do(ledger.spare(), register())
    assert isinstance(ledger.refuse(ledger.spare(), register("other", 1, b"\x02" * 32)), LimitReached)

    dear = Ledger(params=replace(PARAMS, model_deposit=INT_MAX))
    assert isinstance(dear.refuse(dear.spare(), register()), InsufficientBalance)


@given(honest=st.integers(0, 10**9))
def test_the_bound_is_four_times_the_farthest_honest_row_and_never_below_what_other_processors_do(honest: int) -> None:
    bound = compute_bound_ppt(honest)

    assert bound == max(4 * honest, 4 * HONEST_PPT_MIN)
    calibration = replace(CALIBRATION, honest_ppt=honest, bound_ppt=bound)
    assert (explain_calibration(replace(calibration, fp16_ppt=4 * bound + 1)) == "") is (bound <= BOUND_PPT_MAX)
    assert explain_calibration(replace(calibration, fp16_ppt=4 * bound)) != ""


def test_a_model_of_genesis_has_a_name_of_its_own_and_no_owner() -> None:
    genesis = Ledger().foundation.genesis
    first, second = genesis.models
    for models in (
        (first, replace(second, name=first.name)),
        (first, replace(second, owner=b"\x01" * 32)),
        (first, replace(second, deposit=1)),
        (first, replace(second, retired_ms=1)),
        (replace(first, exact=1, calibration=(CALIBRATION,)), second),
        (first, replace(second, exact=0, calibration=(replace(CALIBRATION, fp16_ppt=1),))),
    ):
        with pytest.raises(MalformedMessage, match=r"a model of genesis|two models|has no calibration|half precision"):
            Genesis.from_json(replace(genesis, models=models).to_json())
