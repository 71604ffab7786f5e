"""The tables of kinds, topics and proofs: what clashes, what does not, and who may add what."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from protocol import registry
from protocol.errors import LocalError, UnknownKind
from protocol.registry import (
    ProofDescription,
    all_messages,
    all_proof_kinds,
    extend_protocol,
    extend_topic,
    find_proof_kind,
    find_protocol,
    find_topic,
    get_message,
    kind_of,
    message,
    register_proof_kind,
    register_protocol,
    register_topic,
    temporary_registrations,
)
from protocol.topics import PROTOCOLS, TOPICS
from protocol.types import Whole


@pytest.fixture(autouse=True)
def isolated() -> Iterator[None]:
    with temporary_registrations():
        yield


def make_message(name: str = "Ping") -> type:
    return dataclass(frozen=True)(type(name, (), {"__annotations__": {"number": Whole}, "__module__": __name__}))


def test_a_registered_message_is_found_both_ways() -> None:
    ping = message(0x8001, "greetings.ping")(make_message())

    assert get_message(0x8001) is ping
    assert kind_of(ping) == 0x8001
    assert [(kind.kind, kind.name) for kind in all_messages() if kind.type is ping] == [(0x8001, "greetings.ping")]


def test_an_unknown_kind_is_no_ones_fault_and_an_unknown_type_is_ours() -> None:
    with pytest.raises(UnknownKind):
        get_message(0xFFFF)
    with pytest.raises(LocalError):
        kind_of(make_message())


def test_the_same_module_may_be_imported_twice() -> None:
    message(0x8001, "greetings.ping")(make_message())
    again = message(0x8001, "greetings.ping")(make_message())

    assert get_message(0x8001) is again
    assert kind_of(again) == 0x8001


@pytest.mark.parametrize(
    ("kind", "name"), [(0x8001, "greetings.pong"), (0x8002, "greetings.ping"), (0x8001, "greetings.ping")]
)
def test_a_number_or_name_that_is_taken_is_refused(kind: int, name: str) -> None:
    message(0x8001, "greetings.ping")(make_message())

    with pytest.raises(LocalError, match="already"):
        message(kind, name)(make_message("Pong"))


def test_a_type_has_one_kind() -> None:
    ping = message(0x8001, "greetings.ping")(make_message())

    with pytest.raises(LocalError, match="already"):
        message(0x8002, "greetings.pong")(ping)


@pytest.mark.parametrize("kind", [0, -1, 0x0101, 0x7FFF, 0x1_0000])
def test_kinds_outside_their_range_are_refused_to_others(kind: int) -> None:
    with pytest.raises(LocalError):
        message(kind, "greetings.ping")(make_message())


def test_a_field_without_a_bound_is_refused_at_registration() -> None:
    unbounded: type = dataclass(frozen=True)(type("Unbounded", (), {"__annotations__": {"number": int}}))

    with pytest.raises(LocalError):
        message(0x8001, "greetings.ping")(unbounded)
    with pytest.raises(UnknownKind):
        get_message(0x8001)


@pytest.mark.parametrize("name", ["", "two words", "a" * 65, "naïve", "a/b", "..."])
def test_names_are_plain(name: str) -> None:
    with pytest.raises(LocalError):
        message(0x8001, name)(make_message())


def test_topics_and_protocols_are_found_by_what_stands_before_the_slash() -> None:
    register_topic("greetings", frozenset({0x8001}), ("client",), "who says hello")
    register_protocol("greet", frozenset({0x8001}), ("client",), "hello, straight")

    for short in ("greetings", "greetings/loud"):
        found = find_topic(short)
        assert found is not None
        assert found.kinds == {0x8001}
    assert find_topic("greetingsloud") is None
    assert find_protocol("greet") == PROTOCOLS["greet"]
    assert find_protocol("greetings") is None
    assert "greetings" in TOPICS


def test_an_extension_may_use_an_existing_topic_for_its_own_kinds() -> None:
    extend_topic("claims", 0x8001)
    extend_protocol("sync", 0x8001)

    assert 0x8001 in TOPICS["claims"].kinds
    assert 0x0102 in TOPICS["claims"].kinds
    assert 0x8001 in PROTOCOLS["sync"].kinds
    with pytest.raises(LocalError):
        extend_topic("claims", 0x0101)
    with pytest.raises(LocalError):
        extend_topic("nowhere", 0x8001)


def test_a_topic_that_is_taken_is_refused_and_the_same_again_is_fine() -> None:
    claims = TOPICS["claims"]
    extend_topic("claims", 0x8001)

    register_topic("claims", claims.kinds, claims.listeners, claims.about)

    assert 0x8001 in TOPICS["claims"].kinds
    with pytest.raises(LocalError, match="taken"):
        register_topic("claims", frozenset({0x8002}), ("client",), "something else")


class Word:
    """Believe whoever says so."""

    name = "word"
    evidence_bytes_max = 64

    def describe(self) -> ProofDescription:
        return ProofDescription(shows="that somebody said so", does_not_show="that it is so")

    def verify(self, context: object, evidence: bytes) -> str:
        return f"somebody said {evidence!r}"


class OtherWord(Word):
    pass


def test_proof_kinds_are_found_by_name() -> None:
    word = Word()
    register_proof_kind(word)
    register_proof_kind(Word())

    found = find_proof_kind("word")
    assert found is not None
    assert found.describe().does_not_show == "that it is so"
    assert found in all_proof_kinds()
    assert find_proof_kind("oath") is None
    with pytest.raises(LocalError, match="already"):
        register_proof_kind(OtherWord())


def test_what_is_registered_for_a_while_is_forgotten() -> None:
    before = (all_messages(), dict(TOPICS), dict(PROTOCOLS), all_proof_kinds())

    def fail_inside() -> None:
        with temporary_registrations():
            message(0x8001, "greetings.ping")(make_message())
            register_topic("greetings", frozenset({0x8001}), ("client",), "who says hello")
            register_protocol("greet", frozenset({0x8001}), ("client",), "hello, straight")
            register_proof_kind(Word())
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert (all_messages(), dict(TOPICS), dict(PROTOCOLS), all_proof_kinds()) == before


def test_the_tables_are_not_changed_from_outside() -> None:
    with pytest.raises(TypeError):
        registry.all_topics()["claims"] = TOPICS["node"]  # type: ignore[index]
