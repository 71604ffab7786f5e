"""Mutations of what tells where money came from and went, who comes back, and what clients sign."""

from tests.mutations.mutation import Mutation

COHORTS = ("tests/testnet/test_cohorts.py::test_counts_are_those_of_sets_of_epochs_whatever_the_width_has_become",)
ACTIVITY = ("tests/testnet/test_activity.py",)
STATS = "tests/testnet/cli/test_stats.py::"
LOG = "tests/roles/test_service_log.py::"
SHARES = ("tests/testnet/test_allocations.py",)

MUTATIONS = (
    Mutation(
        "protocol/ledger/vesting.py",
        "    if not account:\n        draft.fund(Source.GENESIS, amount)\n    elif",
        "    if",
        ("tests/protocol/ledger/test_vesting.py",),
        "what vests for the ecosystem is the treasury's",
    ),
    Mutation(
        "protocol/ledger/vesting.py",
        "        draft.earn(Source.GRANT, Party.GRANTEE, account, amount, key)",
        "        draft.earn(Source.GRANT, Party.GRANTEE, account, amount)",
        ("tests/testnet/cli/test_gov.py::test_each_payment_out_of_the_treasury_names_its_vote",),
        "a payment out of the treasury names its vote",
    ),
    Mutation(
        "protocol/ledger/draft.py",
        "        del self.flows[mark.flows :]\n",
        "",
        (
            "tests/protocol/ledger/test_settlement.py"
            "::test_a_settlement_that_is_refused_for_its_last_leaf_tells_of_no_pay",
        ),
        "what is taken back was not paid",
    ),
    Mutation(
        "testnet/payments.py",
        "        return began + sum(self.came_in.values()) - waiting - self.granted",
        "        return began + sum(self.came_in.values()) - waiting - self.paid",
        ("tests/testnet/cli/test_gov.py::test_each_payment_out_of_the_treasury_names_its_vote",),
        "the treasury has what came in less what was granted",
    ),
    Mutation(
        "testnet/allocations.py",
        "    return parts | {first: parts[first] + amount - sum(parts.values())}",
        "    return parts",
        SHARES,
        "no grain of a supply is lost in shares",
    ),
    Mutation(
        "testnet/allocations.py",
        "    if total != BP:",
        "    if total > BP:",
        SHARES,
        "shares come to the whole",
    ),
    Mutation(
        "testnet/cohorts.py", "(mask | mask >> 1) & EVEN", "mask & EVEN", COHORTS, "a span of two epochs has both"
    ),
    Mutation(
        "testnet/cohorts.py", "for row in grid[:span]", "for row in grid[: span + 1]", COHORTS, "new ones do not return"
    ),
    Mutation(
        "testnet/activity.py",
        "                if key not in paid:\n",
        "                if False:\n",
        ACTIVITY,
        "receipts of a forfeit batch are not settled",
    ),
    Mutation(
        "testnet/activity.py",
        'if table == "batches" and row is None and',
        'if table == "batches" and',
        ACTIVITY,
        "a batch counts when it is paid, not before",
    ),
    Mutation(
        "testnet/statements.py",
        "            verify_signed(said, said.account)\n",
        "",
        (STATS + "test_a_statement_counts_once_for_its_account_if_it_is_signed_for_this_chain",),
        "a statement is its account's own",
    ),
    Mutation(
        "testnet/statements.py",
        "said.chain != self.chain or (said.account, said.epoch) in self._seen",
        "said.chain != self.chain",
        (STATS + "test_a_statement_counts_once_for_its_account_if_it_is_signed_for_this_chain",),
        "a statement counts once",
    ),
    Mutation(
        "roles/service_log.py",
        "            effects, self._epoch = self.keep(), _Epoch(epoch)",
        "            self._epoch = _Epoch(epoch)",
        (LOG + "test_an_epoch_that_is_over_is_signed_before_the_next_one_is_counted",),
        "an epoch that is over is signed",
    ),
    Mutation(
        "roles/service_log.py",
        "len(counts) < CODES_MAX - 1",
        "len(counts) < CODES_MAX + 1",
        (LOG + "test_what_grows_has_a_bound",),
        "workers do not fill a statement with codes",
    ),
)
