"""Rational participants: at every epoch's end they leave where they lose, and join where they expect to gain."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from testnet.bench.economy.network import Network
from testnet.bench.economy.participant import Participant

LOOK_BACK = 3  # epochs whose profit is looked at: what a batch earns comes that late
JOINING_MAX = 1  # of a role, in an epoch
LEAVING_PARTS = 4  # of a role, one part at most leaves in an epoch, those that lose most: with fewer the others gain
UPKEEP_STEP = 1.25  # from one participant of a role to the next dearer one


@dataclass(frozen=True)
class Books:
    """What everybody had when an epoch ended, and had spent on work. Grains, by name."""

    wealth: Mapping[str, int]
    costs: Mapping[str, int]
    serving: frozenset[str]


class Choices:
    """What rational participants go by. Those of `roles` are rational, but `others`."""

    def __init__(self, roles: Sequence[str], others: frozenset[str] = frozenset()) -> None:
        self._roles = roles
        self._others = others
        self._books: deque[Books] = deque(maxlen=LOOK_BACK + 1)
        self.joined = 0
        self.left = 0

    def choose(self, network: Network) -> None:
        """Once an epoch."""
        self._books.append(keep_books(network))
        if len(self._books) <= LOOK_BACK:
            return
        for role in self._roles:
            people = [each for each in network.people.values() if each.role == role and each.name not in self._others]
            inside = [each for each in people if self._has_served(each.name)]
            losing = [each for each in inside if self._compute_profit(each.name) < 0]
            losing.sort(key=lambda each: self._compute_profit(each.name))
            for each in losing[: -(-len(inside) // LEAVING_PARTS)]:
                each.leave()
                self.left += 1
            outside = [each for each in people if not each.is_gone and self._is_outside(network, each)]
            for each in self._find_gaining(inside, outside)[:JOINING_MAX]:
                network.join(each)
                self.joined += 1

    def _find_gaining(self, inside: Sequence[Participant], outside: Sequence[Participant]) -> list[Participant]:
        """Who expects to gain as one more among those inside, who earn less then: the cheapest first."""
        if not inside:
            return sorted(outside, key=lambda each: each.upkeep)
        before_upkeep = sum(self._compute_profit(each.name) + LOOK_BACK * each.upkeep for each in inside)
        each_ms = before_upkeep / (len(inside) + 1)
        gaining = [each for each in outside if each_ms > LOOK_BACK * each.upkeep]
        return sorted(gaining, key=lambda each: each.upkeep)

    def _has_served(self, name: str) -> bool:
        return all(name in books.serving for books in self._books)

    def _is_outside(self, network: Network, each: Participant) -> bool:
        node = network.state.nodes.get(each.account)
        return node is None or not node.bond

    def _compute_profit(self, name: str) -> int:
        """Over all epochs that are looked at."""
        first, last = self._books[0], self._books[-1]
        return last.wealth[name] - first.wealth[name] - (last.costs[name] - first.costs[name])


def keep_books(network: Network) -> Books:
    wealth = network.wealth
    people = network.people.items()
    return Books(
        {name: wealth[each.account] for name, each in people},
        {name: each.cost for name, each in people},
        frozenset(name for name, each in people if not each.is_gone and each.is_serving(network.state)),
    )


def spread_upkeep(network: Network, roles: Sequence[str]) -> None:
    """Nobody has the same costs: in each role the next one's upkeep is a quarter more, in an order of dice."""
    for role in roles:
        people = [each for each in network.people.values() if each.role == role]
        network.dice.shuffle(people)
        for number, each in enumerate(people):
            each.upkeep = int(each.upkeep * UPKEEP_STEP**number)
