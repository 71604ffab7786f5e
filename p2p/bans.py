"""Bans: faults add up and fade, too many at once end in a ban that ends by itself, and a new key does not shake it off.

Pure: events in, effects out, `now_ms` handed in (Unix milliseconds, so that bans outlive the process). A *place* is
where a peer calls from (`addresses.compute_place`). A ban doubles twice with each repetition; what is repeated is
forgiven one step per STRIKE_MS of peace.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from p2p.addresses import Network, compute_place, parse_ip, parse_network

FAULT = 10.0
VIOLATION = 34.0  # what no implementation does: the third is the end, however slowly a busy node gets to see it
BANNED_AT = 100.0  # ten faults within seconds
HALF_LIFE_MS = 30_000
FADED_MS = 10 * HALF_LIFE_MS  # then less than a hundredth of a fault is left of what leads to a ban
BAN_MS_MIN = 60_000  # the first one; then four times as long each
BAN_MS_MAX = 24 * 3_600_000
INHERIT_MS_MAX = 600_000  # new keys from a banned peer's place wait so long at most
STRIKE_MS = 3_600_000
PLACE_STRIKES = 3  # keys banned at one place before it is refused to everyone, before any handshake
PEERS_MAX = 4_096
BANS_MAX = 4_096
ALLOWED_MAX = 256
REASON_MAX = 200
BY_HAND_MS_MAX = 366 * 24 * 3_600_000


# What happened


@dataclass(frozen=True)
class Arrived:
    """A peer is connected, or tried to be, from an IP address."""

    node: bytes
    address: str


@dataclass(frozen=True)
class Blamed:
    """A peer broke a rule."""

    node: bytes
    reason: str
    amount: float = FAULT


@dataclass(frozen=True)
class Botched:
    """A handshake from an IP address came to nothing: there is nobody to blame but the address."""

    address: str


@dataclass(frozen=True)
class Ban:
    """The operator refuses a node key (32 bytes), or an address or network (text), for so long."""

    subject: bytes | str
    for_ms: int
    reason: str = "by hand"


@dataclass(frozen=True)
class Allow:
    """The operator vouches for a node key, an address or a network: no ban now, none later."""

    subject: bytes | str


@dataclass(frozen=True)
class Forget:
    """The operator takes back whatever was said by hand about a subject, and lifts its ban."""

    subject: bytes | str


Event = Arrived | Blamed | Botched | Ban | Allow | Forget

# What is wanted


@dataclass(frozen=True)
class HangUp:
    """End the connections of a node (bytes) or of everyone in a network (text)."""

    subject: bytes | str


@dataclass(frozen=True)
class Save:
    """What `to_json` gives has changed in a way that must outlive the process."""


Effect = HangUp | Save


@dataclass(frozen=True)
class Sentence:
    """A ban and what is remembered of it. `strikes` counts repetitions as of `until_ms`."""

    until_ms: int
    strikes: int
    reason: str

    def count_strikes(self, now_ms: int) -> int:
        """Repetitions not yet forgiven."""
        return max(0, self.strikes - max(0, now_ms - self.until_ms) // STRIKE_MS)


class Trusts(Protocol):
    """Says where many honest peers may share an address; `doors.Doors` does."""

    def is_trusted(self, address: str) -> bool: ...


class Bans:
    """Everyone's standing, bounded by PEERS_MAX and BANS_MAX. At trusted places each key answers for itself alone."""

    def __init__(self, trust: Trusts) -> None:
        self._trust = trust
        self._faults: dict[bytes | str, tuple[float, int]] = {}  # of nodes and places, oldest fault first
        self._places: dict[bytes, str] = {}  # where a node last called from, oldest first
        self._sentences: dict[bytes | str, Sentence] = {}
        self._allowed: dict[bytes | str, Network | None] = {}
        self._networks: dict[str, Network] = {}  # banned ones that are more than a place

    def handle(self, event: Event, now_ms: int) -> list[Effect]:
        match event:
            case Arrived(node, address):
                self._remember_place(node, compute_place(address))
                return []
            case Blamed(node, reason, amount):
                return self._blame(node, reason, amount, now_ms)
            case Botched(address):
                return self._take_botched(address, now_ms)
            case Ban(subject, for_ms, reason):
                return self._ban(subject, for_ms, reason, now_ms)
            case Allow(subject):
                subject = name_subject(subject)
                self._lift(subject)
                self._vouch(subject)
                return [Save()]
            case Forget(subject):
                subject = name_subject(subject)
                self._lift(subject)
                self._allowed.pop(subject, None)
                return [Save()]

    # Questions

    def get_faults(self, subject: bytes | str, now_ms: int) -> float:
        """What is left by now of the faults of a node, or of a place's failed handshakes."""
        amount, since_ms = self._faults.get(subject, (0.0, now_ms))
        return float(amount * 2.0 ** (-max(0, now_ms - since_ms) / HALF_LIFE_MS))

    def is_allowed(self, node: bytes, address: str = "") -> bool:
        """Whether the operator vouches for the node or for where it calls from."""
        return node in self._allowed or self._is_allowed_address(address)

    def is_banned(self, node: bytes, now_ms: int) -> bool:
        """Whether a node's own ban holds."""
        found = self._sentences.get(node)
        return found is not None and now_ms < found.until_ms and node not in self._allowed

    def check_address(self, address: str, now_ms: int) -> str:
        """Why nobody at this address gets a handshake: `banned`, or nothing."""
        if self._is_allowed_address(address):
            return ""
        ip = parse_ip(address)
        for text, network in self._networks.items():
            if ip is not None and ip in network and now_ms < self._sentences[text].until_ms:
                return "banned"
        place = self._sentences.get(compute_place(address))
        if place is None or now_ms >= place.until_ms:
            return ""
        return "banned" if place.strikes >= PLACE_STRIKES else ""

    def check_peer(self, node: bytes, address: str, is_known: bool, now_ms: int) -> str:
        """Why a peer that has said who it is does not stay: `banned`, `inherited`, or nothing."""
        if self.is_banned(node, now_ms):
            return "banned"
        if self.is_allowed(node, address):
            return ""
        if self.check_address(address, now_ms):
            return "banned"
        place = self._sentences.get(compute_place(address))
        inherits = place is not None and now_ms < place.until_ms and not is_known
        return "inherited" if inherits else ""

    def list_sentences(self, now_ms: int) -> list[tuple[bytes | str, Sentence]]:
        """Bans that hold now, the longest first."""
        held = [(subject, found) for subject, found in self._sentences.items() if now_ms < found.until_ms]
        return sorted(held, key=lambda item: (-item[1].until_ms, str(item[0])))

    def list_allowed(self) -> list[bytes | str]:
        """Whom the operator vouches for, in the order it was said."""
        return list(self._allowed)

    def get_sizes(self) -> dict[str, int]:
        """How much is remembered, by name: each has a bound above."""
        return {"faults": len(self._faults), "places": len(self._places), "bans": len(self._sentences)}

    # For the next process

    def to_json(self, now_ms: int) -> dict[str, Any]:
        """What must outlive the process, as JSON can hold it."""
        kept = {_write(subject): asdict(found) for subject, found in self._sentences.items() if found.strikes}
        alive = {text: fields for text, fields in kept.items() if self._is_worth_keeping(text, now_ms)}
        return {"bans": alive, "allowed": [_write(subject) for subject in self._allowed]}

    def restore(self, fields: Mapping[str, Any], now_ms: int) -> None:
        """Take over what `to_json` of an earlier process gave. ValueError, TypeError or KeyError for anything else."""
        for text, found in list(fields["bans"].items())[:BANS_MAX]:
            # A clock that has gone back must not make a ban longer than it could ever be.
            until_ms = min(int(found["until_ms"]), now_ms + BY_HAND_MS_MAX)
            self._sentence(_read(text), Sentence(until_ms, int(found["strikes"]), str(found["reason"])[:REASON_MAX]))
        for text in list(fields["allowed"])[:ALLOWED_MAX]:
            self._vouch(_read(text))

    # Underneath

    def _blame(self, node: bytes, reason: str, amount: float, now_ms: int) -> list[Effect]:
        place = self._places.get(node, "")
        if self.is_allowed(node, place.partition("/")[0]):
            return []
        total = self._add_fault(node, amount, now_ms)
        if total < BANNED_AT:
            return []
        if self.is_banned(node, now_ms):
            return [HangUp(node)]
        self._faults.pop(node, None)
        return self._punish(node, place, reason[:REASON_MAX], now_ms)

    def _add_fault(self, subject: bytes | str, amount: float, now_ms: int) -> float:
        total = self.get_faults(subject, now_ms) + amount
        self._faults.pop(subject, None)  # so that the order is by the latest fault
        while self._faults:
            oldest = next(iter(self._faults))
            if len(self._faults) < PEERS_MAX and self._faults[oldest][1] > now_ms - FADED_MS:
                break
            del self._faults[oldest]
        self._faults[subject] = (min(total, BANNED_AT), now_ms)
        return total

    def _take_botched(self, address: str, now_ms: int) -> list[Effect]:
        """Ten within seconds shut the place: an attacker without a key cannot be told from its neighbours."""
        place = compute_place(address)
        if not place or self._is_allowed_address(address) or self._trust.is_trusted(address):
            return []
        if self._add_fault(place, FAULT, now_ms) < BANNED_AT:
            return []
        del self._faults[place]
        found = self._sentences.get(place)
        strikes = max(PLACE_STRIKES, 1 + (found.count_strikes(now_ms) if found is not None else 0))
        for_ms = min(compute_ban_ms(1 + strikes - PLACE_STRIKES), INHERIT_MS_MAX)
        until_ms = max(now_ms + for_ms, found.until_ms if found is not None else 0)
        self._sentence(place, Sentence(until_ms, strikes, "handshakes that come to nothing"))
        return [Save()]

    def _punish(self, node: bytes, place: str, reason: str, now_ms: int) -> list[Effect]:
        at_place = self._sentences.get(place)
        of_place = at_place.count_strikes(now_ms) if at_place is not None else 0
        own = self._sentences.get(node)
        strikes = 1 + max(of_place, own.count_strikes(now_ms) if own is not None else 0)
        for_ms = compute_ban_ms(strikes)
        self._sentence(node, Sentence(now_ms + for_ms, strikes, reason))
        if place and not self._trust.is_trusted(place.partition("/")[0]):
            ends_ms = now_ms + min(for_ms, INHERIT_MS_MAX)
            until_ms = max(ends_ms, at_place.until_ms if at_place is not None else 0)
            self._sentence(place, Sentence(until_ms, of_place + 1, reason))
        return [HangUp(node), Save()]

    def _ban(self, subject: bytes | str, for_ms: int, reason: str, now_ms: int) -> list[Effect]:
        subject = name_subject(subject)
        self._allowed.pop(subject, None)
        until_ms = now_ms + min(max(for_ms, 1), BY_HAND_MS_MAX)
        self._sentence(subject, Sentence(until_ms, PLACE_STRIKES, reason[:REASON_MAX]))
        return [HangUp(subject), Save()]

    def _vouch(self, subject: bytes | str) -> None:
        if subject not in self._allowed and len(self._allowed) >= ALLOWED_MAX:
            del self._allowed[next(iter(self._allowed))]
        self._allowed[subject] = parse_network(subject) if isinstance(subject, str) else None

    def _sentence(self, subject: bytes | str, found: Sentence) -> None:
        if subject not in self._sentences and len(self._sentences) >= BANS_MAX:
            self._lift(min(self._sentences, key=lambda other: self._sentences[other].until_ms))
        self._sentences[subject] = found
        if isinstance(subject, str) and subject != compute_place(subject.partition("/")[0]):
            self._networks[subject] = parse_network(subject)

    def _lift(self, subject: bytes | str) -> None:
        self._sentences.pop(subject, None)
        if isinstance(subject, str):
            self._networks.pop(subject, None)
        else:
            self._faults.pop(subject, None)
            # A key that is forgiven frees its place too, or nobody new could come from there.
            self._sentences.pop(self._places.get(subject, ""), None)

    def _remember_place(self, node: bytes, place: str) -> None:
        self._places.pop(node, None)
        if len(self._places) >= PEERS_MAX:
            del self._places[next(iter(self._places))]
        self._places[node] = place

    def _is_allowed_address(self, address: str) -> bool:
        ip = parse_ip(address)
        return ip is not None and any(network is not None and ip in network for network in self._allowed.values())

    def _is_worth_keeping(self, text: str, now_ms: int) -> bool:
        return self._sentences[_read(text)].count_strikes(now_ms) > 0


def compute_ban_ms(strikes: int) -> int:
    """How long a ban lasts at so many repetitions.

    >>> [compute_ban_ms(strikes) // 60_000 for strikes in (1, 2, 3, 4, 5, 6, 99)]
    [1, 4, 16, 64, 256, 1024, 1440]
    """
    return int(min(BAN_MS_MIN * 4 ** min(strikes - 1, 16), BAN_MS_MAX))


def name_subject(subject: bytes | str) -> bytes | str:
    """The one spelling of a node key, address or network. Raises ValueError.

    >>> name_subject("192.0.2.7"), name_subject("192.0.2.7/24"), name_subject("2001:db8::1")
    ('192.0.2.7/32', '192.0.2.0/24', '2001:db8::/64')
    """
    if isinstance(subject, bytes):
        if len(subject) != 32:
            raise ValueError("a node key is 32 bytes")
        return subject
    return str(parse_network(subject)) if "/" in subject else compute_place(subject) or str(parse_network(subject))


def _write(subject: bytes | str) -> str:
    return subject if isinstance(subject, str) else f"node:{subject.hex()}"


def _read(text: str) -> bytes | str:
    return name_subject(bytes.fromhex(text.removeprefix("node:")) if text.startswith("node:") else text)
