"""Who is let in: with a key, without one, from this machine and from elsewhere."""

import pytest

from roles.gateway.door import Caller, Door
from roles.gateway.faults import Fault
from roles.gateway.keys import KeyState, KeyTerms, make_key, refuse_key

KEY = make_key(b"\1" * 6, b"\2" * 32)
STATE = KeyState(KEY.id, KEY.digest, KeyTerms("web", limit=1), 0)
HOST = {"host": "127.0.0.1:8080"}
SHOWN = {"authorization": f"Bearer {KEY.text}"}


def find(text: str) -> KeyState:
    if text != KEY.text:
        raise refuse_key("invalid_api_key", "no such key")
    return STATE


def admit(needs_key: bool, path: str, address: str, headers: dict[str, str]) -> KeyState | tuple[int, str] | None:
    try:
        return Door(find, needs_key).admit(path, Caller(address, HOST | headers))
    except Fault as fault:
        return fault.status, fault.code


@pytest.mark.parametrize(
    ("path", "headers", "found"),
    [
        ("/v2", {}, None),
        ("/v2", {"authorization": "Bearer none"}, None),  # OpenAI's client always shows something
        ("/v2", {"authorization": "Basic cm1rXw=="}, None),
        ("/v2", SHOWN, STATE),
        ("/v2", {"authorization": "Bearer rmk_mistyped"}, (401, "invalid_api_key")),  # not spent without its limits
        ("/metrics", SHOWN, None),
        ("/v2", {"host": "evil.example"}, (403, "foreign")),
        ("/v2", SHOWN | {"origin": "https://evil.example"}, (403, "foreign")),
    ],
)
def test_on_its_own_machine_a_gateway_asks_for_no_key_and_keeps_to_the_one_it_is_shown(path, headers, found):
    assert admit(False, path, "127.0.0.1", headers) == found


@pytest.mark.parametrize(
    ("path", "address", "headers", "found"),
    [
        ("/v2", "127.0.0.1", {}, (401, "missing_api_key")),
        ("/v1/models", "9.9.9.9", {}, (401, "missing_api_key")),
        ("/receipts/00/bafk", "9.9.9.9", {}, (401, "missing_api_key")),
        ("/else", "9.9.9.9", {"authorization": "Bearer none"}, (401, "invalid_api_key")),
        ("/v1/models", "9.9.9.9", SHOWN | {"host": "gateway.example", "origin": "https://page.example"}, STATE),
        ("/livez", "9.9.9.9", {"host": "gateway.example"}, None),
        ("/v2/health/ready", "9.9.9.9", {}, None),
        ("/metrics", "127.0.0.1", {}, None),
        ("/metrics", "9.9.9.9", SHOWN, (403, "foreign")),
        ("/metrics", "127.0.0.1", {"x-forwarded-for": "9.9.9.9"}, (403, "foreign")),
    ],
)
def test_for_others_a_gateway_does_nothing_without_a_key_but_tell_how_it_is(path, address, headers, found):
    assert admit(True, path, address, headers) == found
