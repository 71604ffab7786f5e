"""A gateway of an app: who is let in, in both APIs' words, and that no pass is used past its quota."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial, wraps
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from protocol.ledger.apps import RetireApp
from protocol.proofs.pass_file import AppPass, Right, format_token
from protocol.signing import sign
from roles.client import FEE_MAX
from roles.client_errors import Refused
from roles.gateway.faults import Fault
from roles.gateway.pass_book import PassBook
from roles.gateway.passes import HEADER, Passes, read_right
from tests.support.apps import APP, DAY, AppWorld
from tests.support.gateways import ASKED, INFER, FakeAsker, serving

TEXT = {"model": "pydoc", "prompt": "one", "max_tokens": 3}
FORGERIES = AppWorld(check_signatures=True)
FORGERIES.buy(FORGERIES.users[0])


def on_trio(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @wraps(test)
    def run(**fixtures: Any) -> None:
        trio.run(partial(test, **fixtures))

    return run


@dataclass
class Shop:
    """An app with a user that has bought a pass; `now_ms` is what the gateway's clock shows."""

    world: AppWorld
    book: PassBook
    now_ms: int
    errors: list[Exception]

    @property
    def passes(self) -> Passes:
        return Passes(APP, self.book, lambda: self.world.ledger.state, self.errors.append, lambda: self.now_ms)

    def show(self, change: Callable[[AppPass], AppPass] = lambda it: it, user: int = 0) -> dict[str, str]:
        """The header for the first user's pass, after `change` is made to it and a user has signed it."""
        statement = change(self.world.make_pass(self.world.users[0]).statement)
        return {HEADER: format_token(sign(statement, self.world.users[user]))}


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    world = AppWorld(check_signatures=True)
    held = world.buy(world.users[0], periods=2)
    with closing(PassBook(tmp_path, APP)) as book:
        yield Shop(world, book, held.since_ms + 1, [])


async def ask_both(http: httpx.AsyncClient, headers: dict[str, str]) -> tuple[int, str]:
    """Status and code, which both APIs must give alike, each in its own shape."""
    oip = await http.post(INFER, json=ASKED, headers=headers)
    openai = await http.post("/v1/completions", json=TEXT, headers=headers)
    assert oip.status_code == openai.status_code, (oip.text, openai.text)
    assert oip.json()["code"] == openai.json()["error"]["code"]
    assert oip.json()["error"] == openai.json()["error"]["message"] != ""
    return oip.status_code, oip.json()["code"]


@on_trio
async def test_who_shows_no_pass_that_is_good_here_is_told_why(shop: Shop, tmp_path: Path) -> None:
    asker = FakeAsker()
    async with serving(asker, tmp_path, passes=shop.passes) as served:
        assert await ask_both(served.http, {}) == (401, "missing_pass")
        assert await ask_both(served.http, {HEADER: "rmp_nonsense"}) == (401, "invalid_pass")
        assert await ask_both(served.http, shop.show(user=1)) == (401, "invalid_pass")
        stretched = shop.show(lambda it: replace(it, until_ms=it.until_ms + 1))
        assert await ask_both(served.http, stretched) == (401, "invalid_pass")
        other = shop.show(lambda it: replace(it, holder=shop.world.users[1].public), user=1)
        assert await ask_both(served.http, other) == (401, "invalid_pass")
        assert await ask_both(served.http, shop.show(lambda it: replace(it, app="prose"))) == (403, "wrong_app")
        good = shop.show()
        shop.now_ms = shop.world.find(shop.world.users[0]).until_ms
        assert await ask_both(served.http, good) == (403, "pass_expired")
        assert (await served.http.get("/v1/models")).status_code == 401
        assert (await served.http.get("/livez")).status_code == 200
        assert (await served.http.get("/metrics")).status_code == 200
    assert not asker.asked


@on_trio
async def test_a_pass_lets_in_from_elsewhere_too_and_a_key_is_asked_for_beside_it_if_that_is_wanted(
    shop: Shop, tmp_path: Path
) -> None:
    elsewhere = {**shop.show(), "Host": "chat.example", "X-Forwarded-For": "192.0.2.7"}
    async with serving(FakeAsker(), tmp_path, passes=shop.passes) as served:
        assert (await served.http.post(INFER, json=ASKED, headers=elsewhere)).status_code == 200
        assert (await served.http.get("/metrics", headers=elsewhere)).status_code == 403
    async with serving(FakeAsker(), tmp_path, needs_key=True, passes=shop.passes) as served:
        assert await ask_both(served.http, elsewhere) == (401, "missing_api_key")


@on_trio
async def test_a_retired_app_is_served_until_the_end_of_what_was_paid(shop: Shop, tmp_path: Path) -> None:
    good = shop.show()
    shop.world.ledger.do(shop.world.owner, RetireApp(APP))
    async with serving(FakeAsker(), tmp_path, passes=shop.passes) as served:
        assert (await served.http.post(INFER, json=ASKED, headers=good)).status_code == 200
        shop.now_ms = shop.world.find(shop.world.users[0]).until_ms
        assert await ask_both(served.http, good) == (403, "app_retired")


@on_trio
async def test_a_period_has_its_quota_whichever_api_is_asked_and_says_when_the_next_begins(
    shop: Shop, tmp_path: Path
) -> None:
    asker = FakeAsker(pieces=("abc",))
    async with serving(asker, tmp_path, passes=shop.passes) as served:
        headers = shop.show()
        for _ in range(DAY.quota - 2):
            assert (await served.http.post(INFER, json=ASKED, headers=headers)).status_code == 200
        for streams in (True, False):
            body = {**TEXT, "stream": streams}
            assert (await served.http.post("/v1/completions", json=body, headers=headers)).status_code == 200
        assert await ask_both(served.http, headers) == (429, "pass_used_up")
        refused = await served.http.post(INFER, json=ASKED, headers=headers)
        assert refused.headers["retry-after"] == str(DAY.period_ms // 1_000)
        shop.now_ms += DAY.period_ms
        assert (await served.http.post(INFER, json=ASKED, headers=headers)).status_code == 200
    uses = [(item.period, item.requests, item.fees) for item in shop.book.list_unsent()]
    assert sorted(uses) == [(0, 2, 14), (0, 3, 21), (1, 1, 7)]


@on_trio
async def test_a_request_that_fails_is_given_back_and_one_nobody_waits_for_is_not(shop: Shop, tmp_path: Path) -> None:
    asker = FakeAsker(error=Refused("busy", "all are busy"))
    async with serving(asker, tmp_path, passes=shop.passes) as served:
        headers = shop.show()
        for _ in range(DAY.quota + 1):
            assert (await served.http.post(INFER, json=ASKED, headers=headers)).status_code == 429
        assert shop.book.list_unsent() == ()
        asker.error, asker.hold = None, trio.Event()
        with trio.move_on_after(5), pytest.raises(httpx.ReadTimeout):
            await served.http.post(INFER, json=ASKED, headers=headers, timeout=0.1)
        while not shop.book.list_unsent():
            await trio.sleep(0.01)
    assert [(item.requests, item.fees) for item in shop.book.list_unsent()] == [(1, 0)]


@on_trio
async def test_whoever_asks_under_a_pass_cannot_raise_what_the_owner_pays(shop: Shop, tmp_path: Path) -> None:
    asker = FakeAsker()
    async with serving(asker, tmp_path, passes=shop.passes) as served:
        for asked, allowed in ((str(2**60), FEE_MAX), ("5", 5)):
            headers = {**shop.show(), "X-Max-Fee": asked}
            assert (await served.http.post(INFER, json=ASKED, headers=headers)).status_code == 200
            assert asker.asked[-1]["max_fee"] == allowed


@on_trio
async def test_openais_own_client_shows_a_pass_and_is_told_when_it_is_used_up(shop: Shop, tmp_path: Path) -> None:
    def call(url: str) -> openai.APIStatusError:
        with openai.OpenAI(
            base_url=f"{url}/v1", api_key="none", default_headers=shop.show(), max_retries=0, timeout=20
        ) as client:
            for _ in range(DAY.quota):
                assert client.completions.create(**TEXT).choices[0].text == "abc"
            with pytest.raises(openai.RateLimitError) as caught:
                client.completions.create(**TEXT)
        return caught.value

    async with serving(FakeAsker(pieces=("abc",)), tmp_path, passes=shop.passes) as served:
        error = await trio.to_thread.run_sync(call, served.url)
    assert error.code == "pass_used_up"


@on_trio
async def test_what_other_servers_have_reported_is_used_up_too(shop: Shop, tmp_path: Path) -> None:
    user = shop.world.users[0]
    shop.world.ledger.do(shop.world.server, shop.world.use(user, DAY.quota - 1))
    async with serving(FakeAsker(), tmp_path, passes=shop.passes) as served:
        assert (await served.http.post(INFER, json=ASKED, headers=shop.show())).status_code == 200
        assert await ask_both(served.http, shop.show()) == (429, "pass_used_up")


@given(
    since_ms=st.integers(0, 2**62),
    until_ms=st.integers(0, 2**62),
    signer=st.integers(0, 1),
    holder=st.integers(0, 1),
    at_ms=st.integers(-30_000, 30_000),
)
def test_only_the_holder_has_a_right_and_only_within_what_it_bought(
    since_ms: int, until_ms: int, signer: int, holder: int, at_ms: int
) -> None:
    """The statement is whatever somebody likes to sign."""
    held = FORGERIES.find(FORGERIES.users[0])
    real = FORGERIES.make_pass(FORGERIES.users[0]).statement
    said = replace(real, since_ms=since_ms, until_ms=until_ms, holder=FORGERIES.users[holder].public)
    for statement in (said, replace(said, since_ms=held.since_ms), replace(said, until_ms=held.until_ms)):
        now_ms = held.since_ms + at_ms
        shown = format_token(sign(statement, FORGERIES.users[signer]))
        if right := find_right(shown, now_ms):
            assert signer == holder == 0
            assert held.since_ms == statement.since_ms <= now_ms < statement.until_ms <= held.until_ms
            assert right.quota == DAY.quota


def find_right(shown: str, now_ms: int) -> Right | None:
    try:
        return read_right(shown, FORGERIES.ledger.state, APP, now_ms)
    except Fault:
        return None
