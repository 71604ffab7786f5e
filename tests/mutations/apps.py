"""Passes to apps, and gateways that keep to them. Issue 7, "Apps"."""

from tests.mutations.mutation import Mutation

PASS_FILE, BOOK, REPORTS, DOOR, RULES = (
    "protocol/proofs/pass_file.py",
    "roles/gateway/pass_book.py",
    "roles/gateway/use_reports.py",
    "roles/gateway/passes.py",
    "protocol/ledger/apps.py",
)
SHOWN = ("tests/protocol/proofs/test_pass_file.py",)
LET_IN = "tests/roles/gateway/test_passes.py::"
COUNTED = "tests/roles/gateway/test_use_reports.py"
LEDGER = "tests/protocol/ledger/test_apps.py::"

MUTATIONS = (
    Mutation(
        PASS_FILE,
        "        verify_signed(said, said.holder)\n",
        "        pass\n",
        SHOWN,
        "a pass is its holder's word",
    ),
    Mutation(
        PASS_FILE,
        "    if said.until_ms > bought.until_ms:",
        "    if False:",
        SHOWN,
        "a pass is not stretched",
    ),
    Mutation(
        PASS_FILE,
        "    if not said.since_ms <= time_ms < said.until_ms:",
        "    if not said.since_ms <= time_ms:",
        SHOWN,
        "a pass ends by expiry",
    ),
    Mutation(
        PASS_FILE,
        "    if bought is None or said.since_ms != bought.since_ms:",
        "    if bought is None:",
        SHOWN,
        "a statement is of one purchase",
    ),
    Mutation(
        BOOK,
        ">= right.quota",
        "> right.quota",
        (COUNTED,),
        "a gateway lets nobody past a quota",
    ),
    Mutation(
        BOOK,
        "SET done = done + held, held = 0 WHERE",
        "SET held = 0 WHERE",
        (COUNTED,),
        "what was under way in a killed gateway counts",
    ),
    Mutation(
        BOOK,
        "            if not is_counted:\n",
        "            if False:\n",
        (COUNTED + "::test_what_the_ledger_refuses_is_said_and_tried_again",),
        "what the ledger refuses is reported anew",
    ),
    Mutation(
        REPORTS,
        "            await trio.sleep_until(begun_s + VALID_MS / 1_000 + LATE_S)\n",
        "            pass\n",
        (COUNTED + "::test_a_report_that_was_on_its_way_when_the_gateway_was_killed_counts_once",),
        "a report that is late counts once",
    ),
    Mutation(
        DOOR,
        "    return replace(settings, max_fee=min(settings.max_fee, usual))",
        "    return settings",
        (LET_IN + "test_whoever_asks_under_a_pass_cannot_raise_what_the_owner_pays",),
        "who serves an app pays no more than is usual",
    ),
    Mutation(
        RULES,
        "    draft.debit(context.account, cost + room)\n    draft.burn(Source.APP, room, body.app.encode())\n",
        "    draft.debit(context.account, cost)\n",
        (LEDGER + "test_room_on_the_ledger_is_burnt_for_also_by_who_buys_of_itself",),
        "room for passes costs something",
    ),
)
