"""What accounts say of the service they have had, from the data directories they keep it in: checked, and added up.

A statement counts if its account has signed it for this chain, once for each epoch; who said what stays with the sums.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protocol.codec import decode
from protocol.errors import ProtocolError
from protocol.keys import format_account, format_node
from protocol.service import EDGES_MS, ServiceStatement, add_latencies, compute_quantile_ms
from protocol.signing import verify_signed
from roles.chain import read_kept
from roles.service_log import BUCKET
from testnet.papers import find_places
from testnet.recompute import DATABASE_NAME

REFUSED_SHOWN = 8
PERCENTS = (50, 95, 99)


@dataclass
class Service:
    """`latencies` count answers by bucket (`protocol.service`)."""

    latencies: tuple[int, ...] = (0,) * len(EDGES_MS)
    refusals: Counter[str] = field(default_factory=Counter)
    said_by: set[bytes] = field(default_factory=set)

    def describe(self) -> dict[str, Any]:
        times = {f"p{percent}_ms": compute_quantile_ms(self.latencies, percent) for percent in PERCENTS}
        refusals = dict(sorted(self.refusals.items()))
        return {"answered": sum(self.latencies), **times, "refused": sum(refusals.values()), "refusals": refusals}


@dataclass
class Heard:
    """Sums over statements. `refused` says why some do not count."""

    chain: bytes
    statements: int = 0
    in_all: Service = field(default_factory=Service)
    by: dict[bytes, Service] = field(default_factory=dict)  # account
    about: dict[bytes, Service] = field(default_factory=dict)  # node key of a worker
    failures: Counter[str] = field(default_factory=Counter)
    failed_by: Counter[bytes] = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)
    _seen: set[tuple[bytes, int]] = field(default_factory=set)

    def take(self, data: bytes, where: str) -> None:
        """Add one statement, or note what is wrong with it."""
        try:
            said = decode(ServiceStatement, data)
            verify_signed(said, said.account)
        except ProtocolError as error:
            self.refused.append(f"{where}: {error}")
            return
        if said.chain != self.chain or (said.account, said.epoch) in self._seen:
            why = "of another chain" if said.chain != self.chain else f"a second one of epoch {said.epoch}"
            self.refused.append(f"{where}: {why}")
            return
        self._seen.add((said.account, said.epoch))
        self.statements += 1
        for item in said.workers:
            sums = (
                self.in_all,
                self.by.setdefault(said.account, Service()),
                self.about.setdefault(item.worker, Service()),
            )
            for service in sums:
                service.latencies = add_latencies(service.latencies, item.latencies)
                service.refusals.update({each.code: each.count for each in item.refusals})
                service.said_by.add(said.account)
        self.failures.update({each.code: each.count for each in said.failures})
        self.failed_by[said.account] += sum(each.count for each in said.failures)


def read_statements(directories: Iterable[Path], chain: bytes) -> Heard:
    """Every statement in these networks' and nodes' directories, whose nodes may be running."""
    heard = Heard(chain)
    places = dict.fromkeys(place.resolve() for directory in directories for place in find_places(directory))
    for place in places:
        for data in read_kept(place / DATABASE_NAME, f"client/{BUCKET}").values():
            heard.take(data, place.name)
    return heard


def describe_statements(heard: Heard, owners: Mapping[bytes, bytes]) -> dict[str, Any]:
    """`owners` are the accounts of workers, by node key, as the ledger has them."""
    return {
        "statements": heard.statements,
        "refused": len(heard.refused),
        "refused_why": heard.refused[:REFUSED_SHOWN],
        "in_all": {**heard.in_all.describe(), "failures": dict(sorted(heard.failures.items()))},
        "by": [
            {"account": format_account(account), **service.describe(), "failed": heard.failed_by[account]}
            for account, service in sorted(heard.by.items(), key=lambda item: -sum(item[1].latencies))
        ],
        "about": [
            {
                "node": format_node(worker),
                "account": format_account(owners[worker]) if worker in owners else None,
                "said_by": len(service.said_by),
                **service.describe(),
            }
            for worker, service in sorted(heard.about.items(), key=lambda item: -sum(item[1].latencies))
        ],
    }
