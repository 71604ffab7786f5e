"""Keys over real sockets: what is said in both APIs, and OpenAI's own client with one."""

from contextlib import closing

import openai
import pytest
import trio

from roles.attempts import Recalled
from roles.gateway import app as apps
from roles.gateway.key_book import KeyBook
from roles.gateway.keys import KeyTerms, make_key
from roles.gateway.spending import get_now_ms
from tests.support.gateways import ASKED, INFER, FakeAsker, serving

KEY = make_key(b"\1" * 6, b"\2" * 32)
SHOWN = {"Authorization": f"Bearer {KEY.text}"}
TEXT = {"model": "pydoc", "prompt": "The ", "max_tokens": 5}


def run(folder, asker, check, **terms):
    async def main():
        with closing(KeyBook(folder, is_synced=False)) as book:
            book.add(KEY, KeyTerms("web", **terms), get_now_ms())
            async with serving(asker, folder, book, needs_key=True) as served:
                await check(served, book)
                assert served.errors == []

    trio.run(main)


def look(book):
    state = book.find(KEY.id, get_now_ms())
    return state.spent, state.held


async def ask_both(served, headers):
    """Statuses, codes, reasons and headers of a request to either API."""
    oip = await served.http.post(INFER, json=ASKED, headers=headers)
    text = await served.http.post("/v1/completions", json=TEXT, headers=headers)
    said = [(oip, oip.json(), oip.json().get("error")), (text, text.json().get("error", {}), None)]
    return [(answer.status_code, body.get("code"), reason or body.get("message")) for answer, body, reason in said]


def test_each_request_is_paid_from_its_key_and_both_clients_send_what_was_reserved(tmp_path):
    asker = FakeAsker(pieces=("one",))

    async def check(served, book):
        assert [status for status, *_ in await ask_both(served, SHOWN)] == [200, 200]
        assert look(book) == (2 * asker.costs, 0)

    run(tmp_path, asker, check, limit=1_000, fee_max=50)
    assert [(asked["max_fee"], asked["max_spend"]) for asked in asker.asked] == [(50, 50)] * 2
    assert len({asked["nonce"] for asked in asker.asked}) == 2


def test_without_a_key_that_counts_nothing_is_asked_and_both_apis_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(apps, "WRONG_KEY_S", 0.01)
    asker = FakeAsker()

    async def check(served, book):
        for headers, code in (({}, "missing_api_key"), ({"Authorization": "Bearer none"}, "invalid_api_key")):
            assert [said[:2] for said in await ask_both(served, headers)] == [(401, code)] * 2
        book.revoke("web", get_now_ms())
        for status, code, reason in await ask_both(served, SHOWN):
            assert (status, code) == (401, "key_revoked")
            assert "'web'" in reason
        assert (await served.http.get("/v2")).headers["WWW-Authenticate"] == "Bearer"
        assert (await served.http.get("/readyz")).status_code == 200

    run(tmp_path, asker, check, limit=1_000)
    assert asker.asked == []


@pytest.mark.parametrize(
    ("terms", "status", "code"),
    [
        ({"limit": 7}, 402, "key_limit_reached"),
        ({"window_limit": 7}, 429, "key_window_reached"),
        ({"limit": 7, "models": ("iris",)}, 403, "model_not_allowed"),
    ],
)
def test_a_key_that_allows_no_more_is_refused_with_numbers_and_when_to_come_back(tmp_path, terms, status, code):
    asker = FakeAsker()

    async def check(served, book):
        await served.http.post(INFER, json=ASKED, headers=SHOWN)  # it costs all there is
        assert [said[:2] for said in await ask_both(served, SHOWN)] == [(status, code)] * 2
        answer = await served.http.post(INFER, json=ASKED, headers=SHOWN)
        assert ("Retry-After" in answer.headers) == (status == 429)

    run(tmp_path, asker, check, **terms)


def test_what_requests_under_way_hold_is_free_again_when_they_end(tmp_path):
    asker = FakeAsker(hold=trio.Event())

    async def check(served, book):
        async def ask():
            statuses.append((await served.http.post(INFER, json=ASKED, headers=SHOWN)).status_code)

        statuses = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            while not asker.asked:
                await trio.sleep(0.005)
            assert [said[:2] for said in await ask_both(served, SHOWN)] == [(429, "key_busy")] * 2
            asker.hold.set()
        assert statuses == [200]
        assert (await served.http.post(INFER, json=ASKED, headers=SHOWN)).status_code == 200
        assert look(book) == (14, 0)

    run(tmp_path, asker, check, limit=100)


def test_whoever_hangs_up_pays_what_a_worker_may_claim(tmp_path):
    asker = FakeAsker(hold=trio.Event())

    async def check(served, book):
        with trio.move_on_after(5) as scope:
            async with trio.open_nursery() as nursery:

                async def hang_up():
                    while not asker.asked:
                        await trio.sleep(0.005)
                    nonce = asker.asked[0]["nonce"]
                    asker.recalled[nonce] = Recalled("", 9, is_open=True, is_known=True)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(hang_up)
                await served.http.post(INFER, json=ASKED, headers=SHOWN)
        assert not scope.cancelled_caught
        while served.desk.under_way:
            await trio.sleep(0.005)
        assert look(book) == (0, 50)
        asker.recalled[asker.asked[0]["nonce"]] = Recalled("", 9, is_known=True)
        with trio.fail_after(5):
            while look(book) != (9, 0):
                await trio.sleep(0.01)

    run(tmp_path, asker, check, limit=50)


def test_openais_own_client_shows_its_key_streams_and_is_told_when_it_is_spent(tmp_path, monkeypatch):
    monkeypatch.setattr(apps, "WRONG_KEY_S", 0.01)

    def call(url):
        with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY.text, max_retries=0, timeout=20) as client:
            chunks = list(client.completions.create(stream=True, **TEXT))
            whole = client.completions.create(**TEXT)
            with pytest.raises(openai.APIStatusError) as spent:
                client.completions.create(stream=True, **TEXT)
        other = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=20)
        with other, pytest.raises(openai.AuthenticationError) as wrong:
            other.models.list()
        return chunks, whole, spent.value, wrong.value

    async def check(served, book):
        chunks, whole, spent, wrong = await trio.to_thread.run_sync(call, served.url)

        assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text == "one"
        assert (spent.status_code, spent.code) == (402, "key_limit_reached")
        assert wrong.code == "invalid_api_key"
        assert look(book) == (14, 0)

    run(tmp_path, FakeAsker(pieces=("one",)), check, limit=14)
