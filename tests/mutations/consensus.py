"""Votes, certificates, views and what outlives a crash: the consensus core. Issue 4, "Consensus".

Not in here, since they change nothing: to nullify what was finalised (`view not in self.votes[FINALISE]`), because
whoever finalises a view holds its certificate, in memory and in its log, and leaves a notarised view before it could
nullify it; and to stay in a notarised view whose successor is proposed (`while self.view in self.held.notarised`), as
the timer leads out of it as well: it costs time, which no promise is about.
"""

from tests.mutations.mutation import Mutation

FILE = "tests/protocol/consensus/test_core.py"
CORE = (FILE,)
TIMERS = ("tests/protocol/consensus/test_timers.py",)
SIMULATED = ("tests/sim/test_agreement.py",)
PLACE = "protocol/consensus"
HEIGHTS, HEIGHT, SIGNED = f"{PLACE}/core.py", f"{PLACE}/simplex.py", f"{PLACE}/signed.py"
LEADERS, TALLY, MESSAGES = f"{PLACE}/leaders.py", f"{PLACE}/tally.py", f"{PLACE}/messages.py"
BLOCK = "protocol/ledger/block.py"

MUTATIONS = (
    Mutation(
        TALLY,
        "ballot, limit = vote.ballot, 2 * self._total",
        "ballot, limit = vote.ballot, self._total",
        CORE,
        "a certificate is made of votes of more than two thirds",
    ),
    Mutation(
        BLOCK,
        "return 3 * weight > 2 * total",
        "return 3 * weight > total",
        CORE,
        "a certificate with votes of a third alone is refused",
    ),
    Mutation(
        BLOCK,
        "        if not is_vote(item.vote, certificate.ballot, item.signature):",
        "        if False:",
        CORE,
        "every signature of a certificate is checked",
    ),
    Mutation(
        BLOCK,
        "if item.vote <= before or item.vote not in weights:",
        "if item.vote not in weights:",
        CORE,
        "no vote counts twice in a certificate",
    ),
    Mutation(
        HEIGHT,
        "        if not self._signatures.is_vote(voter, ballot, vote.signature):",
        "        if False:",
        CORE,
        "a vote is signed by its voter",
    ),
    Mutation(
        HEIGHT,
        "if voter not in self.weights or ballot.view > self.view + GAP_MAX:",
        "if voter not in self.weights:",
        CORE,
        "votes of far-off views are not kept",
    ),
    Mutation(
        HEIGHT,
        "        if count is None:\n            verify_ballot(ballot)\n        elif",
        "        if count is not None and",
        CORE,
        "a vote's ballot says what its kind does",
    ),
    Mutation(
        HEIGHT,
        "if ballot.view > self.view + GAP_MAX or proposal.leader != self._leader(ballot.view):",
        "if ballot.view > self.view + GAP_MAX:",
        CORE,
        "only a view's leader proposes",
    ),
    Mutation(
        HEIGHT,
        "        if not self._signatures.is_proposal(proposal.leader, ballot, proposal.signature):",
        "        if False:",
        CORE,
        "a proposal is signed by its leader",
    ),
    Mutation(
        HEIGHT,
        "        verify_binding(proposal, self._signatures)\n",
        "",
        CORE,
        "a proposal's ballot names its justification",
    ),
    Mutation(
        MESSAGES,
        "if notarised != wanted or nullified != gap:",
        "if notarised != wanted:",
        CORE,
        "no gap between a proposal and what it repeats goes unjustified",
    ),
    Mutation(
        MESSAGES,
        "if why.notarised and why.notarised[0].ballot.block_id != ballot.block_id:",
        "if False:",
        CORE,
        "a proposal repeats the very block that was notarised",
    ),
    Mutation(
        HEIGHT,
        "                if not self.held.has(item.ballot):\n                    verify_certified(",
        "                if False:\n                    verify_certified(",
        CORE,
        "the certificates of a justification are checked",
    ),
    Mutation(
        SIGNED,
        "return self.may_sign and view not in self.votes[NULLIFY] and view not in self.votes[FINALISE]",
        "return self.may_sign and view not in self.votes[FINALISE]",
        CORE,
        "nobody finalises what it has nullified",
    ),
    Mutation(
        HEIGHT,
        "if proposal is not None and proposal.ballot.block_id in self._checked and",
        "if proposal is not None and",
        CORE,
        "nobody votes for a block it has not checked",
    ),
    Mutation(
        HEIGHT,
        "self.effects += (Persist(vote), Broadcast(vote))",
        "self.effects += (Broadcast(vote), Persist(vote))",
        CORE,
        "a vote is kept before it leaves",
    ),
    Mutation(
        HEIGHT,
        "self.effects += (Persist(proposal), Broadcast(proposal))",
        "self.effects += (Broadcast(proposal), Persist(proposal))",
        CORE,
        "a proposal is kept before it leaves",
    ),
    Mutation(
        HEIGHT,
        "            self.effects.append(Persist(notarised))\n",
        "",
        CORE,
        "the certificate is kept with the vote that rests on it",
    ),
    Mutation(
        SIGNED,
        "                self.votes[record.ballot.kind][record.ballot.view] = record\n",
        "                pass\n",
        CORE,
        "a restarted validator knows what it has voted",
    ),
    Mutation(
        SIGNED,
        "                self.proposals[record.ballot.view] = record\n",
        "                pass\n",
        CORE,
        "a restarted leader proposes the same bytes",
    ),
    Mutation(
        HEIGHT,
        "self.signed.begin(began.may_vote and self._voter in self.weights)",
        "self.signed.begin(self._voter in self.weights)",
        CORE,
        "without its vote log a validator does not vote",
    ),
    Mutation(
        HEIGHT,
        "            self.signed.may_sign = False\n",
        "            pass\n",
        CORE,
        "whoever sees its key used elsewhere votes no more",
    ),
    Mutation(
        HEIGHT,
        '        """Others may have missed votes that we have not, and a liar\'s they may never get."""\n'
        "        self.effects.append(Broadcast(item))\n",
        "        return\n",
        CORE,
        "certificates are relayed",
    ),
    Mutation(
        HEIGHT,
        "            self._let_others_in()\n",
        "            pass\n",
        CORE,
        "a timer proves entry into its view",
    ),
    Mutation(
        HEIGHT,
        "        self.effects.append(ShareCause())\n",
        "",
        CORE,
        "a cause the leader has not taken up goes to all",
    ),
    Mutation(
        HEIGHT,
        "            if leader != self._voter and 1 not in self._proposals:\n",
        "            if leader != self._voter:\n",
        CORE,
        "whom the leader has woken tells it no cause",
    ),
    Mutation(
        HEIGHT,
        "        self.effects += [Broadcast(said) for said in self.signed.list_said(view)]  # it may have been lost\n",
        "",
        CORE,
        "a timer repeats the votes there are",
    ),
    Mutation(
        HEIGHT,
        "            self.effects.append(SetTimer(self.height, view, self._timer_ms))\n",
        "            pass\n",
        CORE,
        "a timer is set again",
    ),
    Mutation(
        HEIGHT,
        "        is_over = self.view in self.held.notarised\n",
        "        is_over = False\n",
        TIMERS,
        "a later view that is notarised lasts no longer than others take to nullify the next",
    ),
    Mutation(
        HEIGHT,
        "            if not has_entered and 1 < ballot.view == self.view:",
        "            if False:",
        TIMERS,
        "whoever is in a view when it is notarised sets its timer anew",
    ),
    Mutation(
        HEIGHT,
        "self._least_ms * growth // 8 if is_over",
        "self._timer_ms * growth // 8 if is_over",
        TIMERS,
        "a notarised view is left by the timer that was told, not the stretched one",
    ),
    Mutation(
        HEIGHT,
        "            if not has_entered and 1 < ballot.view == self.view:",
        "            if not has_entered and ballot.view == self.view:",
        TIMERS,
        "a first view that is notarised has all its time to be finalised",
    ),
    Mutation(
        HEIGHT,
        "if not self.view and not self.is_decided and self.tally.is_more_than_a_third_heard:",
        "if not self.view and not self.is_decided:",
        CORE,
        "a lone vote wakes nobody",
    ),
    Mutation(
        HEIGHT,
        "if self.is_decided or (event.height, event.view) != (self.height, self.view):",
        "if self.is_decided:",
        CORE,
        "a block that was built too late is not proposed",
    ),
    Mutation(
        HEIGHTS,
        "        if len(kept) < EARLY_MAX:\n",
        "        if True:\n",
        CORE,
        "messages of the next height are bounded",
    ),
    Mutation(
        HEIGHTS,
        "            kept.append(message)\n",
        "            pass\n",
        CORE,
        "messages of the next height are kept",
    ),
    Mutation(
        HEIGHTS,
        "here.now_ms - self._answered_ms >= ANSWER_MS:",
        "True:",
        CORE,
        "who is behind is not answered without end",
    ),
    Mutation(
        HEIGHT,
        "                self._nullify(view)\n",
        "                pass\n",
        CORE,
        "a view whose nullification is forgotten is nullified again",
    ),
    Mutation(
        HEIGHTS,
        "                self._answer_late(decided)\n",
        "                pass\n",
        CORE,
        "who has decided without the block tells those who have not decided",
    ),
    Mutation(
        HEIGHT,
        '            self.effects.append(Accuse("two proposals in a view", known, proposal))\n',
        "",
        CORE,
        "a leader of two proposals is accused",
    ),
    Mutation(
        TALLY,
        "        if before is None:\n",
        "        if True:\n",
        CORE,
        "two votes of one kind are held against their voter",
    ),
    Mutation(
        TALLY,
        "            if others is not None:\n",
        "            if False:\n",
        CORE,
        "votes to finalise and to nullify are held against their voter",
    ),
    Mutation(
        TALLY,
        "elif self._bad and (bad := self._bad.get(ballot)) is not None:",
        "elif self._bad and (bad := None) is not None:",
        CORE,
        "a vote for what cannot be justified is held against its voter",
    ),
    Mutation(
        HEIGHT,
        "        asked = (ballot.block_id, bool(ballot.parent))\n",
        "        asked = (ballot.block_id, False)\n",
        CORE,
        "a block refused for its time is looked at again once notarised",
    ),
    Mutation(
        LEADERS,
        "        point -= validator.weight\n",
        "        point -= 1\n",
        CORE,
        "leaders are drawn by weight",
    ),
    Mutation(
        "roles/validator.py",
        "result = self._drafts.get_result(block_id, self._pool) if is_for and self._peers else None",
        "result = None",
        ("tests/roles/test_validator.py",),
        "a block is kept before the vote for it",
    ),
)  # fmt: skip
