"""Feeds and workflows: positions, quorums, holds, costs, history, ticks. Issue 6, parts 2 and 3."""

from tests.mutations.mutation import Mutation

FEEDS = "tests/protocol/ledger/test_feeds.py::"
CANDLES = "tests/protocol/test_candles.py::"
PROOF = "tests/protocol/proofs/test_feed_proof.py::"
ORACLE = "tests/roles/test_oracle.py::"
SOURCES = "tests/roles/test_sources.py::"
WORKFLOWS = "tests/protocol/ledger/test_workflows.py::"
RUNNER = "tests/roles/test_runner.py::"
CONTESTS = "tests/protocol/ledger/test_contests.py::"

MUTATIONS = (
    Mutation(
        "protocol/ledger/contests.py",
        "if not sides.agreeing or not sides.dissenting:",
        "if not sides.dissenting:",
        (CONTESTS + "test_a_run_is_contested_with_what_shows_it_and_nothing_else",),
        "a result that nobody agrees with is not paid",
    ),
    Mutation(
        "protocol/ledger/contests.py",
        "    if open_ms:",
        "    if not open_ms:",
        (
            CONTESTS + "test_a_verifier_that_disputes_the_truth_loses_its_bond_and_the_run_is_settled",
            CONTESTS + "test_a_run_that_nobody_disputes_is_settled_with_those_who_agree",
        ),
        "a disputed run is not settled before the dispute has ended",
    ),
    Mutation(
        "protocol/ledger/escrow.py",
        "if job is not None and (run is None or not run.contest):",
        "if job is not None:",
        (CONTESTS + "test_a_contested_run_is_ended_by_nothing_else",),
        "a contested run outlives its deadline",
    ),
    Mutation(
        "protocol/ledger/dispute_ends.py",
        "    forfeit_claimed(draft, dispute.worker, dispute.claim)\n    give_back_run(draft, dispute.claim)",
        "    forfeit_claimed(draft, dispute.worker, dispute.claim)",
        (CONTESTS + "test_a_worker_that_is_found_wrong_is_slashed_and_the_runs_money_is_budget_again",),
        "a run whose result is proven wrong is paid back",
    ),
    Mutation(
        "protocol/ledger/runs.py",
        "    at = next(number for number, tick in enumerate(past) if tick.outcome != Outcome.RUNNING)",
        "    at = 0",
        (WORKFLOWS + "test_a_run_that_takes_long_stays_on_the_record",),
        "a run that is open is on its workflow's record",
    ),
    Mutation(
        "protocol/ledger/feeds.py",
        "return max(2 * (max(observers - 1, 0) // 3) + 1, observers_min)",
        "return max((max(observers - 1, 0) // 3) + 1, observers_min)",
        (
            FEEDS + "test_with_f_of_3f_plus_1_observers_lying_a_report_stays_inside_the_honest_range",
            FEEDS + "test_a_report_needs_a_quorum_of_a_feeds_observers_and_keeps_their_median",
        ),
        "f + 1 observations are no quorum",
    ),
    Mutation(
        "protocol/ledger/oracle.py",
        "oldest = max(feed.round + (not is_further), current - draft.params.oracle_rounds_late)",
        "oldest = max(feed.round, current - draft.params.oracle_rounds_late)",
        (FEEDS + "test_the_first_report_of_a_round_becomes_the_value_of_its_feed",),
        "a round is reported once",
    ),
    Mutation(
        "protocol/ledger/oracle.py",
        "if (first.round, first.sequence) != (feed.round, feed.sequence + 1) or",
        "if first.round != feed.round or",
        (FEEDS + "test_between_heartbeats_only_a_value_that_has_moved_is_reported_and_only_the_next_in_order",),
        "reports within a round follow one another",
    ),
    Mutation(
        "protocol/ledger/oracle.py",
        "return not feed.held or is_beyond(feed.held[0], value, terms.jump_bp)",
        "return not feed.held",
        (FEEDS + "test_a_second_jump_elsewhere_is_held_in_its_turn",),
        "a jump is confirmed by one like it",
    ),
    Mutation(
        "protocol/ledger/oracle.py",
        "is_silent = missed > len(observers)",
        "is_silent = missed > 0",
        (FEEDS + "test_who_is_in_one_report_of_so_many_is_not_silent",),
        "who was left out of some reports is not silent",
    ),
    Mutation(
        "protocol/ledger/feeds.py",
        "    draft.observers.delete(key)\n    slash(draft, owner.account",
        "    slash(draft, owner.account",
        (FEEDS + "test_two_readings_for_one_position_cost_stake_once",),
        "an equivocation is slashed once",
    ),
    Mutation(
        "protocol/ledger/feeds.py",
        "if observer is not None and not observer.left_ms and observer.since_ms <= start_ms:",
        "if observer is not None and not observer.left_ms:",
        (FEEDS + "test_who_joins_within_a_round_observes_from_the_next_one_on",),
        "nobody joins a round that has begun",
    ),
    Mutation(
        "protocol/candles.py",
        "if page is not None and page.number > number:",
        "if page is not None and page.number > number + PAGES:",
        (CANDLES + "test_candles_of_any_duration_and_either_order_are_those_of_the_whole_history",),
        "what is overwritten is not told to be empty",
    ),
    Mutation(
        "protocol/proofs/feed_proof.py",
        "        if entry not in entries:\n"
        "            raise InvalidProof(f\"the file leaves out page {slot} of level {level} of {query.feed!r}\")\n"
        "        page = entries[entry]\n",
        "        page = entries.get(entry)\n",
        (PROOF + "test_a_file_that_leaves_out_a_page_is_no_answer",),
        "a proof leaves nothing out",
    ),
    Mutation(
        "roles/oracle.py",
        "if position is None or (last is not None and position <= (last.round, last.sequence)):",
        "if position is None:",
        (
            ORACLE + "test_it_signs_one_reading_a_position_and_says_it_again_while_it_waits",
            ORACLE + "test_a_crash_makes_no_equivocation",
        ),
        "an observer never contradicts itself",
    ),
    Mutation(
        "roles/oracle.py",
        "self._signed = {item.feed: item for item in kept}",
        "self._signed = {}",
        (ORACLE + "test_a_crash_makes_no_equivocation",),
        "nor does it after a crash",
    ),
    Mutation(
        "roles/feeds.py",
        "        os.killpg(process.pid, signal.SIGKILL)\n",
        "        process.kill()\n",
        (SOURCES + "test_a_program_that_does_not_end_is_killed_with_all_it_has_started",),
        "a source leaves no process behind",
    ),
    Mutation(
        "protocol/ledger/workflows.py",
        "if terms is None or feed is None or is_stale(terms, feed, draft.time_ms):",
        "if terms is None or feed is None:",
        (WORKFLOWS + "test_stale_inputs_are_refused",),
        "stale inputs are refused",
    ),
    Mutation(
        "protocol/ledger/workflows.py",
        "        workflow = replace(note_ticks(workflow, slept), next_tick=newest)\n",
        "        workflow = replace(workflow, next_tick=newest)\n",
        (WORKFLOWS + "test_a_ledger_that_slept_fires_the_tick_it_wakes_in_and_notes_the_rest_as_one",),
        "ticks that were slept through are noted",
    ),
    Mutation(
        "protocol/ledger/workflows.py",
        "    _go_on(draft, replace(workflow, next_tick=newest + 1))\n",
        "    _go_on(draft, replace(workflow, next_tick=newest + 2))\n",
        (WORKFLOWS + "test_through_sleeps_stale_feeds_and_bad_workers_each_tick_is_fired_once_or_noted",),
        "no tick is passed over",
    ),
    Mutation(
        "protocol/ledger/runs.py",
        "    if not outputs or compute_tensors_digest(outputs) != output_digest:",
        "    if not outputs:",
        (WORKFLOWS + "test_a_run_is_settled_with_what_it_asked_for_and_nothing_else",),
        "a published result is the one that was attested",
    ),
    Mutation(
        "protocol/ledger/runs.py",
        "        workflow = replace(workflow, budget=workflow.budget + refund)\n",
        "        workflow = replace(workflow, budget=workflow.budget)\n",
        (WORKFLOWS + "test_a_run_nobody_does_is_paid_back_and_noted_as_failed",),
        "what a run did not cost is budget again",
    ),
    Mutation(
        "roles/runner.py",
        "            self._claim(job, entry, state)\n            self._jobs[key] = job\n",
        "            self._claim(job, entry, state)\n",
        (RUNNER + "test_a_worker_that_was_killed_goes_on_with_its_claim",),
        "a worker claims a run once, killed or not",
    ),
)  # fmt: skip
