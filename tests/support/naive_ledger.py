"""The ledger's money rules once more, as naively as they can be put: dictionaries, no drafts, no tables, no roots.

Kept apart from `protocol.ledger` on purpose: the two are written from the same rules and must agree on every balance.
"""

from collections import defaultdict
from dataclasses import dataclass, field

FEE = 100_000  # a KiB begun, where blocks are all but empty
BP = 10_000


@dataclass
class NaiveLedger:
    """`balances` in grains by account. Methods return whether the operation is allowed, and do it if so."""

    balances: dict[bytes, int]
    bonds: dict[bytes, int]
    builder: bytes
    time_ms: int
    units: int = 1  # of the transaction at hand
    tip: int = 0  # that it offers
    nonces: dict[bytes, int] = field(default_factory=lambda: defaultdict(int))
    unbonding: list[list[object]] = field(default_factory=list)  # [due_ms, validator, account, amount]
    delegated: dict[tuple[bytes, bytes], int] = field(default_factory=dict)  # by validator and delegator
    rewards: int = 0  # the builder's, kept back while others have stake behind it
    channels: dict[int, dict[str, object]] = field(default_factory=dict)
    jobs: dict[int, list[object]] = field(default_factory=dict)  # [payer, payee, amount, due_ms, graced]
    pending: list[tuple[int, dict[bytes, int], int, int]] = field(default_factory=list)
    wrong: set[int] = field(default_factory=set)
    disputes: dict[tuple[int, bytes], list[object]] = field(default_factory=dict)  # [accused, bond, due_ms, graced, id]
    treasury: int = 0
    burned: int = 0

    def pass_time(self, time_ms: int, grace_ms: int) -> None:
        """Move on to the next block's time and carry out what is due."""
        self.time_ms = time_ms
        for entry in [entry for entry in self.pending if entry[0] <= time_ms]:
            self.pending.remove(entry)
            for account, amount in entry[1].items():
                self.balances[account] = self.balances.get(account, 0) + amount
            self.treasury += entry[2]
            self.burned += entry[3]
        for number, channel in list(self.channels.items()):
            if not 0 < channel["closing_ms"] <= time_ms:  # type: ignore[operator]
                continue
            if not channel["graced"]:
                channel["closing_ms"], channel["graced"] = time_ms + grace_ms, True
            else:
                self.balances[channel["payer"]] += channel["deposit"] - channel["paid"]  # type: ignore[index,operator]
                del self.channels[number]
        for number, job in list(self.jobs.items()):
            if job[3] <= time_ms and not job[4]:  # type: ignore[operator]
                job[3:] = [time_ms + grace_ms, True]
            elif job[3] <= time_ms:  # type: ignore[operator]
                self.end_job(number, 0)
        late = [(held[2], 1, held[4], lie, account) for (lie, account), held in self.disputes.items()]
        answers = [(item[0], 0, number, number, b"") for number, item in enumerate(self.unbonding)]
        over = []
        for due_ms, is_dispute, _, number, account in sorted([*late, *answers]):
            if due_ms > time_ms:  # type: ignore[operator]
                continue
            if is_dispute:
                self.pass_dispute(number, account, grace_ms)
            elif any(held[0] == self.unbonding[number][1] for held in self.disputes.values()):
                self.unbonding[number][0] = time_ms + grace_ms
            else:
                over.append(self.unbonding[number])
        for unbonding in over:
            self.unbonding.remove(unbonding)
            self.balances[unbonding[2]] += unbonding[3]  # type: ignore[index,operator]

    def pass_dispute(self, lie: int, account: bytes, grace_ms: int) -> None:
        """The worker has been silent: at first it has the grace, then it has lost."""
        held = self.disputes.get((lie, account))
        if held is None:
            return
        if not held[3]:
            held[2:4] = [self.time_ms + grace_ms, True]
            return
        for (other, challenger), entry in list(self.disputes.items()):
            if other == lie:
                self.balances[challenger] += entry[1]  # type: ignore[operator]
                del self.disputes[other, challenger]
        self.wrong.add(lie)
        self.slash(held[0], account)  # type: ignore[arg-type]

    def pay_fee(self, account: bytes) -> None:
        """Blocks hold one transaction at most, so that dividing its fee is dividing the block's."""
        fee = FEE * self.units
        self.balances[account] -= fee + self.tip
        self.balances[self.builder] += self.tip
        if any(validator == self.builder for validator, _ in self.delegated):
            self.rewards += fee * 3_000 // BP
        else:
            self.balances[self.builder] += fee * 3_000 // BP
        self.treasury += fee * 3_000 // BP
        self.burned += fee - 2 * (fee * 3_000 // BP)
        self.nonces[account] += 1

    def pay_rewards(self) -> None:
        """What blocks have earned the builder and its delegators, pro rata; the rest burns."""
        behind = {account: amount for (validator, account), amount in self.delegated.items()}
        behind[self.builder] = self.bonds[self.builder]
        total = sum(behind.values()) or 1  # nothing may be behind it any more
        shares = {account: self.rewards * amount // total for account, amount in behind.items()}
        for account, share in shares.items():
            self.balances[account] += share
        self.burned += self.rewards - sum(shares.values())
        self.rewards = 0

    def delegate(self, account: bytes, validator: bytes, amount: int, least: int) -> bool:
        is_other = validator == self.builder and account != validator
        had = self.delegated.get((validator, account), 0)
        if not is_other or amount <= 0 or had + amount < least or not self.can_pay(account, amount):
            return False
        self.balances[account] -= amount
        self.pay_rewards()
        self.delegated[validator, account] = had + amount
        self.pay_fee(account)
        return True

    def undelegate(self, account: bytes, validator: bytes, amount: int, least: int, delay_ms: int) -> bool:
        had = self.delegated.get((validator, account), 0)
        if not 0 < amount <= had or 0 < had - amount < least or not self.can_pay(account, 0):
            return False
        self.pay_rewards()
        self.delegated[validator, account] -= amount
        if amount == had:
            del self.delegated[validator, account]
        self.unbonding.append([self.time_ms + delay_ms, validator, account, amount])
        self.pay_fee(account)
        return True

    def can_pay(self, account: bytes, amount: int) -> bool:
        return self.balances.get(account, 0) >= FEE * self.units + self.tip + amount

    def transfer(self, sender: bytes, to: bytes, amount: int) -> bool:
        if amount <= 0 or not self.can_pay(sender, amount):
            return False
        self.pay_fee(sender)
        self.balances[sender] -= amount
        self.balances[to] = self.balances.get(to, 0) + amount
        return True

    def change_bond(self, account: bytes, amount: int) -> None:
        if account == self.builder:
            self.pay_rewards()
        self.bonds[account] += amount

    def stake(self, account: bytes, amount: int) -> bool:
        if account not in self.bonds or amount <= 0 or not self.can_pay(account, amount):
            return False
        self.balances[account] -= amount
        self.change_bond(account, amount)
        self.pay_fee(account)
        return True

    def unstake(self, account: bytes, amount: int, delay_ms: int) -> bool:
        if account not in self.bonds or not 0 < amount <= self.bonds[account] or not self.can_pay(account, 0):
            return False
        self.change_bond(account, -amount)
        self.unbonding.append([self.time_ms + delay_ms, account, account, amount])
        self.pay_fee(account)
        return True

    def open(self, number: int, payer: bytes, payee: bytes, deposit: int) -> bool:
        if payer == payee or deposit <= 0 or not self.can_pay(payer, deposit):
            return False
        self.pay_fee(payer)
        self.balances[payer] -= deposit
        self.channels[number] = {
            "payer": payer, "payee": payee, "deposit": deposit, "paid": 0, "seq": 0, "closing_ms": 0, "graced": False
        }  # fmt: skip
        return True

    def top_up(self, number: int, account: bytes, amount: int) -> bool:
        channel = self.channels.get(number)
        is_open = channel is not None and channel["payer"] == account and not channel["closing_ms"]
        if channel is None or not is_open or amount <= 0 or not self.can_pay(account, amount):
            return False
        self.pay_fee(account)
        self.balances[account] -= amount
        channel["deposit"] += amount  # type: ignore[operator]
        return True

    def close(self, number: int, account: bytes, delay_ms: int) -> bool:
        channel = self.channels.get(number)
        if channel is None or channel["payer"] != account or channel["closing_ms"] or not self.can_pay(account, 0):
            return False
        self.pay_fee(account)
        channel["closing_ms"] = self.time_ms + delay_ms
        return True

    def settle(
        self,
        number: int,
        account: bytes,
        first: int,
        amounts: list[int | None],
        verifiers: list[list[bytes]],
        window: int,
    ) -> bool:
        """`amounts` of consecutive leaves, None for a zero leaf; `verifiers` the accounts of each paid one."""
        channel = self.channels.get(number)
        if channel is None or channel["payee"] != account or first != channel["seq"] + 1:  # type: ignore[operator]
            return False
        total = sum(amount or 0 for amount in amounts)
        if channel["paid"] + total > channel["deposit"] or not self.can_pay(account, 0):  # type: ignore[operator]
            return False
        self.pay_fee(account)
        channel["paid"] += total  # type: ignore[operator]
        channel["seq"] += len(amounts)  # type: ignore[operator]
        shares: dict[bytes, int] = defaultdict(int)
        treasury = burn = 0
        paid = [amount for amount in amounts if amount is not None]
        for amount, drawn in zip(paid, verifiers, strict=True):
            more = self.divide(amount, account, drawn, shares)
            treasury, burn = treasury + more[0], burn + more[1]
        if total:
            self.pending.append((self.time_ms + window, dict(shares), treasury, burn))
        return True

    @staticmethod
    def divide(amount: int, worker: bytes, verifiers: list[bytes], shares: dict[bytes, int]) -> tuple[int, int]:
        """Add to everybody's share; what is left for (treasury, burn)."""
        shares[worker] += amount * 8_000 // BP
        left = amount - amount * 8_000 // BP
        for verifier in verifiers:
            shares[verifier] += amount * 800 // BP // len(verifiers)
            left -= amount * 800 // BP // len(verifiers)
        treasury = amount * 1_000 // BP
        return treasury, left - treasury

    def order(self, number: int, payer: bytes, payee: bytes, amount: int, in_ms: int, longest_ms: int) -> bool:
        is_sound = amount > 0 and payee != payer and payee in self.bonds and 0 < in_ms <= longest_ms
        if not is_sound or not self.can_pay(payer, amount):
            return False
        self.pay_fee(payer)
        self.balances[payer] -= amount
        self.jobs[number] = [payer, payee, amount, self.time_ms + in_ms, False]
        return True

    def end_job(self, number: int, spent: int) -> None:
        payer, _, amount, _, _ = self.jobs.pop(number)
        self.balances[payer] += amount - spent  # type: ignore[index,operator]

    def refuse(self, number: int, account: bytes) -> bool:
        if number not in self.jobs or self.jobs[number][1] != account or not self.can_pay(account, 0):
            return False
        self.pay_fee(account)
        self.end_job(number, 0)
        return True

    def finish(self, number: int, account: bytes, amount: int, verifiers: list[bytes], window: int) -> bool:
        job = self.jobs.get(number)
        if job is None or job[1] != account or amount > job[2] or not self.can_pay(account, 0):  # type: ignore[operator]
            return False
        self.pay_fee(account)
        self.end_job(number, amount)
        shares: dict[bytes, int] = defaultdict(int)
        treasury, burn = self.divide(amount, account, verifiers, shares)
        self.pending.append((self.time_ms + window, dict(shares), treasury, burn))
        return True

    def dispute(self, lie: int, accused: bytes, reporter: bytes, bond: int, delay_ms: int, key: bytes) -> bool:
        is_open = (lie, reporter) in self.disputes or lie in self.wrong
        if is_open or accused == reporter or not self.can_pay(reporter, bond):
            return False
        self.pay_fee(reporter)
        self.balances[reporter] -= bond
        self.disputes[lie, reporter] = [accused, bond, self.time_ms + delay_ms, False, key]
        return True

    def slash(self, accused: bytes, reporter: bytes) -> None:
        taken = (self.bonds[accused] + 9) // 10
        self.bonds[accused] -= taken
        for item in self.unbonding:
            if item[1] == accused:
                part = (item[3] + 9) // 10  # type: ignore[operator]
                taken += part
                item[3] -= part  # type: ignore[operator]
        reward = 0 if accused == reporter else taken // 2
        self.balances[reporter] += reward
        self.burned += taken - reward

    def supply(self) -> int:
        channels = sum(item["deposit"] - item["paid"] for item in self.channels.values())  # type: ignore[operator,misc]
        pending = sum(sum(shares.values()) + treasury + burn for _, shares, treasury, burn in self.pending)
        unbonding: int = sum(item[3] for item in self.unbonding)  # type: ignore[misc]
        liquid = sum(self.balances.values()) + sum(self.bonds.values()) + sum(self.delegated.values()) + self.rewards
        jobs: int = sum(job[2] for job in self.jobs.values())  # type: ignore[misc]
        bonds: int = sum(held[1] for held in self.disputes.values())  # type: ignore[misc]
        return liquid + channels + jobs + bonds + pending + unbonding + self.treasury + self.burned
