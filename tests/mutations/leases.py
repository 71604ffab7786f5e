"""Leases and their audits: what is paid, what is proven, who keeps a blob, and what silence costs. Issue 6, "Store"."""

from tests.mutations.mutation import Mutation

LEASES = "tests/protocol/ledger/test_leases.py::"
AUDITS = "tests/protocol/test_audit.py::"
MACHINE = ("tests/protocol/ledger/test_lease_machine.py",)
PLACES, RULES, ROUNDS = (f"protocol/ledger/{name}.py" for name in ("lease_places", "leases", "lease_audits"))

MUTATIONS = (
    Mutation(
        RULES,
        "    if body.amount < cost:",
        "    if False:",
        (LEASES + "test_terms_that_make_no_sense_are_refused",),
        "a term begins only if the balance covers all of it",
    ),
    Mutation(
        RULES,
        "    if have < lease.factor:",
        "    if False:",
        (LEASES + "test_terms_that_make_no_sense_are_refused",),
        "a lease begins with as many nodes as it asks for",
    ),
    Mutation(
        RULES,
        "    if replica.is_asked:\n        raise",
        "    if False:\n        raise",
        (LEASES + "test_a_node_leaves_between_audits_but_not_while_one_waits_for_it",),
        "nobody leaves instead of answering",
    ),
    Mutation(
        RULES,
        "    if (body.contents, body.price, body.factor) != (lease.contents, lease.price, lease.factor):",
        "    if False:",
        (LEASES + "test_what_was_agreed_stays_while_a_lease_is_open",),
        "what was agreed stays while a lease is open",
    ),
    Mutation(
        ROUNDS,
        "        elif 0 < replica.height < draft.base.height:",
        "        elif 0 < replica.height:",
        (LEASES + "test_who_accepted_in_the_block_whose_seed_draws_is_first_asked_in_the_next_period",),
        "the seed is later than the acceptance",
    ),
    Mutation(
        ROUNDS,
        "shown = replace(replica, is_asked=0, misses=0, since_ms=lease.asked_ms)",
        "shown = replace(replica, misses=0, since_ms=lease.asked_ms)",
        (LEASES + "test_an_answer_is_paid_by_size_price_and_time_and_divided_as_leases_are",),
        "an answer is paid once",
    ),
    Mutation(
        ROUNDS,
        "    time_ms = min(lease.asked_ms - replica.since_ms, params.audit_ms)",
        "    time_ms = lease.asked_ms - replica.since_ms",
        (LEASES + "test_an_audit_pays_for_a_period_at_most_however_late_it_comes",),
        "an audit pays for a period at most",
    ),
    Mutation(
        ROUNDS,
        "        verify_answer(lease.contents, get_drawn(body.lease, lease, context.account), body.answer)",
        "        pass",
        (LEASES + "test_a_wrong_answer_is_none",),
        "nothing is paid without a proof",
    ),
    Mutation(
        ROUNDS,
        "        if replica.is_asked:\n            lease = _count_miss",
        "        if False:\n            lease = _count_miss",
        (LEASES + "test_silence_burns_stake_pays_nothing_and_has_another_node_drawn",),
        "silence costs stake",
    ),
    Mutation(
        ROUNDS,
        "    if missed.misses > params.audit_misses_max:",
        "    if False:",
        (LEASES + "test_a_second_miss_in_a_row_loses_the_lease_and_a_lease_nobody_is_in_ends_with_a_refund",),
        "repeated silence loses the lease",
    ),
    Mutation(
        ROUNDS,
        "    return lease.periods if lease.balance - under_way >= cost else 0",
        "    return lease.periods",
        (LEASES + "test_a_lease_is_renewed_while_its_balance_covers_a_whole_term",),
        "a lease is renewed only while its balance lasts",
    ),
    Mutation(
        ROUNDS,
        "    draft.credit(lease.payer, lease.balance)\n",
        "",
        (LEASES + "test_the_last_audit_of_a_term_ends_the_lease_and_gives_back_what_is_left",),
        "what is left goes back to the payer",
    ),
    Mutation(
        PLACES,
        "    if missing > 0 and lease.left:",
        "    if missing > 0 and not lease.draws:",
        (LEASES + "test_silence_burns_stake_pays_nothing_and_has_another_node_drawn",),
        "a lost replica is made anew",
    ),
    Mutation(
        PLACES,
        "free = replace(offer, leased_bytes=offer.leased_bytes - lease.contents.size_bytes)",
        "free = offer",
        (LEASES + "test_the_last_audit_of_a_term_ends_the_lease_and_gives_back_what_is_left",),
        "room is free again after a lease",
    ),
    Mutation(
        PLACES,
        "        and offer.room_bytes - offer.leased_bytes >= lease.contents.size_bytes\n",
        "        and offer.room_bytes >= lease.contents.size_bytes\n",
        (LEASES + "test_room_is_not_let_twice",),
        "room is not let twice",
    ),
    Mutation(
        PLACES,
        "    if len(holding) > lease.factor:",
        "    if False:",
        (LEASES + "test_who_takes_the_place_of_a_silent_node_sends_it_away",),
        "a lease pays for no more nodes than it asks for",
    ),
    Mutation(
        PLACES,
        "            hush(draft, replica.account)\n    fill",
        "            pass\n    fill",
        (LEASES + "test_who_does_not_accept_in_time_is_replaced_and_not_drawn_until_it_offers_anew",),
        "who is silent is not drawn",
    ),
    Mutation(
        "protocol/ledger/due.py",
        "    ANSWER_KIND: after_grace(end_audit),",
        "    ANSWER_KIND: end_audit,",
        (LEASES + "test_silence_burns_stake_pays_nothing_and_has_another_node_drawn",),
        "an outage of the ledger fines nobody",
    ),
    Mutation(
        "protocol/ledger/money.py",
        "    return storage, treasury, pay - storage - treasury",
        "    return storage, treasury, pay * 200 // BP",
        MACHINE,
        "no grain of a lease is lost",
    ),
    Mutation(
        "protocol/ledger/staking.py",
        "    draft.burned += amount - left\n",
        "",
        (LEASES + "test_silence_burns_stake_pays_nothing_and_has_another_node_drawn",),
        "a fine burns",
    ),
    Mutation(
        "protocol/audit.py",
        "data = sha256(_DRAW + seed + lease + account + number",
        "data = sha256(_DRAW + seed + lease + number",
        (AUDITS + "test_another_seed_lease_or_account_draws_other_pieces",),
        "each node is asked for other pieces",
    ),
    Mutation(
        "protocol/audit.py",
        "DRAWN_MAX = 10 ",
        "DRAWN_MAX = 8 ",
        (AUDITS + "test_who_lacks_a_tenth_of_the_pieces_is_caught_by_the_third_audit_in_95_of_100_cases",),
        "who lacks a tenth is caught",
    ),
    Mutation(
        "protocol/audit.py",
        'return sha256(b"\\x00" + piece).digest()',
        "return sha256(piece).digest()",
        (AUDITS + "test_the_root_is_that_of_the_standard_over_all_pieces_and_every_piece_is_shown_under_it",),
        "a branch is no piece",
    ),
    Mutation(
        "protocol/audit.py",
        "        if cid.digest in seen:",
        "        if False:",
        (AUDITS + "test_blocks_come_once_each_a_node_before_what_it_links",),
        "a block counts once",
    ),
)
