"""What a node writes into its event log about itself: news at once, and a sign of life every ten seconds."""

from roles.vitals import PEERS_MAX, QUIET_MS, Vitals


def make_status(time_ms: int, height: int = 1, peers: tuple[str, ...] = ("a",)) -> dict[str, object]:
    return {"time_ms": time_ms, "height": height, "rss_bytes": 7, "peers": peers}


def get_names(vitals: Vitals, status: dict[str, object]) -> list[str]:
    return [name for name, _ in vitals.tell(status)]


def test_a_node_without_news_says_every_ten_seconds_that_it_is_there() -> None:
    vitals = Vitals()
    told = [second for second in range(60) if "node.status" in get_names(vitals, make_status(1_000 * second))]

    assert told == list(range(0, 60, QUIET_MS // 1_000))


def test_a_height_and_other_peers_are_told_at_once() -> None:
    vitals = Vitals()
    get_names(vitals, make_status(0))

    assert get_names(vitals, make_status(1_000, height=2)) == ["node.status"]
    assert get_names(vitals, make_status(2_000, height=2, peers=("b", "a"))) == ["node.peers"]
    assert get_names(vitals, make_status(3_000, height=2, peers=("a", "b"))) == [], "the same peers in another order"


def test_of_very_many_peers_some_are_named_and_all_are_counted() -> None:
    status = make_status(0, peers=tuple(map(str, range(2 * PEERS_MAX))))
    told = dict(Vitals().tell(status))

    assert told["node.peers"]["count"] == 2 * PEERS_MAX
    assert len(told["node.peers"]["peers"]) == PEERS_MAX
