"""The specification is made from the code and up to date."""

from dataclasses import dataclass
from pathlib import Path
from runpy import run_path

from protocol.registry import (
    EXTENSION_KIND_MIN,
    ProofDescription,
    all_messages,
    extend_topic,
    message,
    register_proof_kind,
    register_topic,
    temporary_registrations,
)
from protocol.types import Whole
from tests.support.from_types import find_all_types

SPEC = Path(__file__).parents[2] / "docs" / "spec"
PAGE = SPEC / "messages.md"
build_page = run_path(str(SPEC / "generate.py"))["build_page"]


@dataclass(frozen=True)
class Ping:
    number: Whole


class Word:
    name = "word"

    def describe(self) -> ProofDescription:
        return ProofDescription("that somebody said so", "that it is so")


def test_the_committed_page_is_what_the_code_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == build_page(), "make it anew: python docs/spec/generate.py"


def test_every_kind_type_and_field_has_its_row() -> None:
    page = build_page()
    for kind in all_messages():
        if kind.kind < EXTENSION_KIND_MIN:
            assert f"| 0x{kind.kind:04x} | `{kind.name}` | {kind.type.__name__} |" in page
    for cls in find_all_types():
        for field in cls.__dataclass_fields__.values():  # type: ignore[attr-defined]
            if not str(field.type).startswith("typing.ClassVar"):
                assert f"| `{field.name}` |" in page


def test_what_an_extension_registers_is_not_in_our_specification() -> None:
    before = build_page()
    with temporary_registrations():
        message(0x8001, "greetings.ping")(Ping)
        extend_topic("claims", 0x8001)
        register_topic("greetings", frozenset({0x8001}), ("client",), "who says hello")
        register_proof_kind(Word())
        assert build_page() == before
