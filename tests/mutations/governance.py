"""Proposals and votes: ranges, stake that counts once, outcomes, what is carried out. Issue 7, "Governance"."""

from tests.mutations.mutation import Mutation

GOVERNANCE = "tests/protocol/ledger/test_governance.py::"
MACHINE = "tests/protocol/ledger/test_governance_machine.py"
RULES, VOTES, RANGES = (f"protocol/ledger/governance{name}.py" for name in ("", "_votes", "_params"))

MUTATIONS = (
    Mutation(
        RANGES,
        "    if not allowed.least <= value <= allowed.most:",
        "    if not allowed.least <= value:",
        (GOVERNANCE + "test_a_parameter_does_not_leave_its_range", MACHINE),
        "a parameter cannot leave its range",
    ),
    Mutation(
        RANGES,
        "        verify_params(changed)\n",
        "        pass\n",
        (GOVERNANCE + "test_two_changes_that_do_not_fit_together_leave_what_a_ledger_can_run_with",),
        "votes never leave parameters that no ledger can run with",
    ),
    Mutation(
        VOTES,
        "    if known.choice:\n        raise",
        "    if False:\n        raise",
        (GOVERNANCE + "test_stake_votes_once",),
        "a node's stake votes once",
    ),
    Mutation(
        VOTES,
        "    if draft.ballots.get(key) is not None:",
        "    if False:",
        (GOVERNANCE + "test_stake_votes_once",),
        "a delegation votes once",
    ),
    Mutation(
        VOTES,
        "    stake = behind - known.overridden",
        "    stake = behind",
        (GOVERNANCE + "test_a_delegators_vote_subtracts_from_what_its_validator_inherits_before_it_or_after",),
        "who has voted itself is not voted for",
    ),
    Mutation(
        VOTES,
        "        proposal = _add(proposal, heir.choice, -amount)\n",
        "        pass\n",
        (GOVERNANCE + "test_a_delegators_vote_subtracts_from_what_its_validator_inherits_before_it_or_after",),
        "a delegator overrides its validator's vote",
    ),
    Mutation(
        VOTES,
        "    if compute_root(body.head, body.params, tree_root) != proposal.root:",
        "    if False:",
        (GOVERNANCE + "test_stake_that_moves_meanwhile_votes_where_it_was_and_nowhere_else",),
        "stake votes as it stood at the snapshot",
    ),
    Mutation(
        VOTES,
        '        _verify_entry(proposal, body, "pools", context.account, pool, own.pool_proof)\n',
        "",
        (GOVERNANCE + "test_a_proof_is_good_for_its_account_record_and_proposal_alone",),
        "what a validator inherits is proven",
    ),
    Mutation(
        VOTES,
        "    if proposal.phase != ProposalPhase.VOTING:",
        "    if False:",
        (GOVERNANCE + "test_a_deposit_comes_back_or_burns",),
        "nobody votes when the vote is over",
    ),
    Mutation(
        RULES,
        "tally.total * BP < params.proposal_quorum_bp * stake",
        "tally.yes * BP < params.proposal_quorum_bp * stake",
        (GOVERNANCE + "test_an_outcome_is_one_and_follows_the_shares",),
        "all that vote count for the quorum",
    ),
    Mutation(
        RULES,
        "(tally.yes + tally.no + tally.veto)",
        "(tally.yes + tally.no)",
        (GOVERNANCE + "test_an_outcome_is_one_and_follows_the_shares",),
        "a veto is a no as well",
    ),
    Mutation(
        RULES,
        "    if phase in (ProposalPhase.VETOED, ProposalPhase.NO_QUORUM):",
        "    if phase == ProposalPhase.VETOED:",
        (GOVERNANCE + "test_a_deposit_comes_back_or_burns",),
        "a proposal nobody cares for costs its deposit",
    ),
    Mutation(
        RULES,
        "        due_ms += draft.params.proposal_delay_ms\n",
        "",
        (GOVERNANCE + "test_a_parameter_is_changed_for_every_transaction_from_one_header_on",),
        "what is voted comes into force only after its delay",
    ),
    Mutation(
        RULES,
        "        draft.go_back(mark)\n",
        "",
        (GOVERNANCE + "test_a_grant_that_finds_no_room_for_its_account_stays_in_the_treasury",),
        "what cannot be carried out is not carried out in part",
    ),
    Mutation(
        RULES,
        "    draft.treasury -= grant.amount\n",
        "",
        (MACHINE,),
        "a grant comes out of the treasury",
    ),
    Mutation(
        RULES,
        "    if draft.treasury < grant.amount:",
        "    if False:",
        (GOVERNANCE + "test_what_cannot_be_carried_out_any_more_fails_whole_and_says_why",),
        "the treasury grants no more than it has",
    ),
    Mutation(
        RULES,
        "        draft.base_fee = max(draft.base_fee, draft.params.base_fee_min)\n",
        "",
        (GOVERNANCE + "test_a_parameter_is_changed_for_every_transaction_from_one_header_on",),
        "no block is cheaper than the least base fee",
    ),
    Mutation(
        "protocol/ledger/draft.py",
        "            params=self.params,\n",
        "",
        (GOVERNANCE + "test_a_parameter_is_changed_for_every_transaction_from_one_header_on",),
        "a changed parameter stays changed",
    ),
    Mutation(
        "protocol/ledger/due.py",
        "    VOTE_END_KIND: after_grace(end_vote),",
        "    VOTE_END_KIND: end_vote,",
        (GOVERNANCE + "test_a_ledger_that_slept_through_the_end_of_a_vote_still_takes_votes_for_a_while",),
        "a ledger that slept still takes votes",
    ),
)
