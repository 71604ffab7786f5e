"""Validators: they build blocks, for which they are paid, and judge disputes, for which they are not."""

from dataclasses import dataclass

from protocol.ledger.dispute_records import DisputePhase
from protocol.ledger.disputes import JudgeOperator, get_judges
from protocol.proofs.trace import Judgement
from testnet.bench.economy.chain import Chain
from testnet.bench.economy.jobs import compute_truth
from testnet.bench.economy.participant import Participant


@dataclass(kw_only=True)
class Validator(Participant):
    """One that does not judge saves running the operator in question, and the fee of saying what it found."""

    judges: bool = True

    def act(self, chain: Chain) -> None:
        if self.is_gone or not self.is_serving(chain.state):
            return
        self.take_stake_back(chain)
        self.cost += self.costs.block
        for key, dispute in chain.state.disputes.items():
            if not self.judges or dispute.phase != DisputePhase.VERDICT:
                continue
            has_spoken = any(vote.account == self.account for vote in dispute.votes)
            if has_spoken or self.account not in get_judges(chain.state.get_epoch(dispute.epoch), dispute):
                continue
            self.run_rows(dispute.claim.rows)
            is_true = dispute.output_digest == compute_truth(dispute.claim.input_digest)
            chain.submit(self.account, JudgeOperator(key, Judgement.SOUND if is_true else Judgement.WRONG))
