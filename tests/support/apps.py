"""A ledger with an app on it, and what its users do."""

from protocol.keys import PrivateKey
from protocol.ledger.app_records import PassRecord, Tier
from protocol.ledger.apps import BuyPass, RegisterApp, ReportedUse, ReportUse, compute_pass_key
from protocol.ledger.light import trust_genesis
from protocol.proofs.ledger_file import VERSION, LedgerFile, Section, build_state_proof
from protocol.proofs.pass_file import PassFile, make_pass
from protocol.types import GRAINS_PER_ROLE
from tests.support.ledgers import Ledger

APP = "poems"
DAY = Tier("day", 2 * GRAINS_PER_ROLE, 0, 20_000, 5)
MEMBER = Tier("member", 0, 50 * GRAINS_PER_ROLE, 10_000, 3)
ROLES = {"validator": 1, "inference": 1, "client": 2}


class AppWorld:
    """`owner` has registered APP, which `server` serves as well; `users` are spare accounts."""

    def __init__(self, check_signatures: bool = False) -> None:
        self.ledger = Ledger(ROLES, check_signatures=check_signatures)
        self.owner, self.server = self.ledger.account("client-0"), self.ledger.account("client-1")
        self.users = [self.ledger.spare(index) for index in range(2)]
        self.model = next(iter(self.ledger.state.models))
        self.ledger.do(self.owner, self.registration())
        self.trusted = trust_genesis(self.ledger.foundation.genesis)

    def registration(self, *tiers: Tier) -> RegisterApp:
        return RegisterApp(APP, "poems by the dozen", tiers or (DAY, MEMBER), (self.server.public,), 500)

    def buy(self, user: PrivateKey, periods: int = 1, tier: Tier = DAY) -> PassRecord:
        self.ledger.do(user, BuyPass(APP, tier, periods))
        return self.find(user)

    def find(self, user: PrivateKey) -> PassRecord:
        return self.ledger.state.passes[compute_pass_key(APP, user.public)]

    def use(self, user: PrivateKey, requests: int, period: int = 0, fees: int = 1_000) -> ReportUse:
        since_ms = self.find(user).since_ms
        return ReportUse(APP, (ReportedUse(user.public, since_ms, period, self.model, requests, fees),))

    def prove(self, user: PrivateKey) -> LedgerFile:
        """What the ledger says now of a user's pass."""
        block, certificate, state = self.ledger.blocks[-1]
        proof = build_state_proof(state, [("passes", compute_pass_key(APP, user.public))])
        return LedgerFile(VERSION, (), (), (Section(block.header, certificate, (proof,), ()),))

    def make_pass(self, user: PrivateKey, until_ms: int = 2**62) -> PassFile:
        return make_pass(self.ledger.state.chain, self.find(user), self.prove(user), user, until_ms)
