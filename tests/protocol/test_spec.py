"""The specification is made from the code and up to date."""

from dataclasses import dataclass
from pathlib import Path

from protocol.registry import EXTENSION_KIND_MIN, all_messages, message, temporary_registrations
from protocol.spec import find_types, format_spec
from protocol.types import Whole

PAGE = Path(__file__).parents[2] / "docs" / "spec" / "messages.md"


@dataclass(frozen=True)
class Ping:
    number: Whole


def test_the_committed_page_is_what_the_code_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == format_spec(), "make it anew: python docs/spec/generate.py"


def test_every_kind_type_and_field_has_its_row() -> None:
    page = format_spec()
    for kind in all_messages():
        if kind.kind < EXTENSION_KIND_MIN:
            assert f"| 0x{kind.kind:04x} | `{kind.name}` | {kind.type.__name__} |" in page
    for cls in find_types():
        for field in cls.__dataclass_fields__.values():  # type: ignore[attr-defined]
            if not str(field.type).startswith("typing.ClassVar"):
                assert f"| `{field.name}` |" in page


def test_what_an_extension_registers_is_not_in_our_specification() -> None:
    before = format_spec()
    with temporary_registrations():
        message(0x8001, "greetings.ping")(Ping)
        assert format_spec() == before
