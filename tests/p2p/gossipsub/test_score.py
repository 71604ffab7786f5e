"""Scores: each of P1 to P7 in numbers, how they fade, and what is remembered of peers that leave."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.gossipsub import ScoreParams, TopicScore, expect_rate
from p2p.gossipsub.score import RETAINED_MAX, Conduct, Scores, TopicConduct
from protocol.errors import LocalError

TOPIC = b"t"
PLAIN = ScoreParams()
RATED = TopicScore(
    mesh_deliveries_weight=-1.0,
    mesh_deliveries_threshold=10.0,
    mesh_deliveries_cap=20.0,
    mesh_failure_weight=-0.5,
    mesh_deliveries_activation_ms=5_000,
)


def conduct_on(params=None, **counters):
    conduct = Conduct()
    topic = conduct.topics[TOPIC] = TopicConduct(params or TopicScore())
    for name, value in counters.items():
        setattr(topic, name, value)
    return conduct


@pytest.mark.parametrize(
    ("conduct", "score"),
    [
        pytest.param(conduct_on(in_mesh=True, in_mesh_ms=10_500), 10 * 0.01, id="P1: whole quanta in the mesh"),
        pytest.param(conduct_on(in_mesh=True, in_mesh_ms=10**9), 60 * 0.01, id="P1 is capped"),
        pytest.param(conduct_on(in_mesh=False, in_mesh_ms=10**9), 0.0, id="P1 ends with the mesh"),
        pytest.param(conduct_on(first=7.0), 7 * 0.25, id="P2: first deliveries"),
        pytest.param(conduct_on(RATED, in_mesh=True, is_active=True, mesh=4.0), -36.0, id="P3: the deficit squared"),
        pytest.param(conduct_on(RATED, in_mesh=True, is_active=False, mesh=4.0), 0.0, id="P3 begins after a while"),
        pytest.param(conduct_on(in_mesh=True, is_active=True), 0.0, id="P3 is off where little is said"),
        pytest.param(conduct_on(RATED, failure=8.0), -4.0, id="P3b: what a mesh peer that left still owes"),
        pytest.param(conduct_on(invalid=4.0), -80.0, id="P4: invalid messages squared"),
        pytest.param(Conduct(app_score=-3.0), -3.0, id="P5: the application's opinion"),
        pytest.param(Conduct(behaviour=4.0), 0.0, id="P7 forgives the first few"),
        pytest.param(Conduct(behaviour=7.0), -90.0, id="P7: behaviour squared"),
    ],
)
def test_what_each_part_counts(conduct, score):
    assert Scores(PLAIN).compute(conduct) == pytest.approx(score)


def test_topics_add_up_to_a_cap_and_faults_know_none():
    conduct = conduct_on(first=50.0)
    for name in (b"u", b"v", b"w", b"x", b"y"):
        conduct.topics[name] = TopicConduct(TopicScore())
        conduct.topics[name].first = 50.0
    assert Scores(PLAIN).compute(conduct) == PLAIN.topic_score_cap
    conduct.topics[TOPIC].invalid = 100.0
    assert Scores(PLAIN).compute(conduct) < -1_000


def test_many_peers_of_one_group_all_suffer_and_exempt_ones_do_not():
    scores = Scores(PLAIN)
    conducts = [scores.meet(b"%d" % i, "10.0.0.1") for i in range(PLAIN.colocation_threshold)]
    assert scores.compute(conducts[0]) == 0
    conducts += [scores.meet(b"more %d" % i, "10.0.0.1") for i in range(3)]
    assert [scores.compute(conduct) for conduct in conducts] == [-9.0] * len(conducts)
    exempt = [scores.meet(b"local %d" % i, "") for i in range(100)]
    assert scores.compute(exempt[0]) == 0


def test_leaving_and_coming_back_clears_nothing_and_faults_of_the_absent_do_not_fade():
    scores = Scores(PLAIN)
    bad = scores.meet(b"bad", "10.0.0.1")
    bad.behaviour = 9.0
    before = scores.compute(bad)
    scores.part(b"bad", bad, 0)
    for second in range(100):
        scores.age([], second * 1_000)
    assert scores.compute(scores.meet(b"bad", "10.0.0.1")) == before


def test_credit_is_not_kept_and_what_is_kept_ends_after_its_time():
    scores = Scores(PLAIN)
    good = scores.meet(b"good", "g")
    good.app_score = 5.0
    bad = scores.meet(b"bad", "g")
    bad.behaviour = 9.0
    scores.part(b"good", good, 0)
    scores.part(b"bad", bad, 0)
    assert scores.get_sizes() == {"retained": 1, "groups": 1}
    scores.age([], PLAIN.retain_ms)
    assert scores.get_sizes() == {"retained": 0, "groups": 0}
    assert scores.compute(scores.meet(b"bad", "g")) == 0


def test_a_mesh_peer_that_leaves_owing_deliveries_takes_its_debt_along():
    scores = Scores(PLAIN)
    conduct = scores.meet(b"a", "")
    topic = conduct.topics[TOPIC] = TopicConduct(RATED)
    topic.in_mesh = topic.is_active = True
    topic.mesh, topic.first = 4.0, 5.0
    scores.part(b"a", conduct, 0)
    assert (topic.failure, topic.first, topic.in_mesh) == (36.0, 0.0, False)


def test_what_is_remembered_of_strangers_is_bounded():
    scores = Scores(PLAIN)
    for i in range(RETAINED_MAX + 500):
        conduct = scores.meet(b"%d" % i, f"g{i}")
        scores.part(b"%d" % i, conduct, 0)
    assert scores.get_sizes() == {"retained": RETAINED_MAX, "groups": RETAINED_MAX}


@given(
    invalid=st.floats(0, 1e4), first=st.floats(0, 50), mesh=st.floats(0, 20), failure=st.floats(0, 1e4),
    behaviour=st.floats(0, 1e4),
)  # fmt: skip
def test_every_score_fades_to_exactly_zero(invalid, first, mesh, failure, behaviour):
    scores = Scores(PLAIN)
    conduct = conduct_on(RATED, invalid=invalid, first=first, mesh=mesh, failure=failure)
    conduct.behaviour = behaviour
    last = scores.compute(conduct) - first * RATED.first_deliveries_weight
    for second in range(1, 1_500):
        scores.age([conduct], second * 1_000)
        now = scores.compute(conduct) - sum(t.first * RATED.first_deliveries_weight for t in conduct.topics.values())
        assert now >= last - 1e-9 or last >= PLAIN.topic_score_cap - 6
        last = now
    assert scores.compute(conduct) == 0
    assert conduct.topics == {}


def test_a_busy_topic_expects_its_share_and_a_quiet_one_nothing():
    assert expect_rate(0.5).mesh_deliveries_weight == 0
    busy = expect_rate(10)
    mute, honest = (conduct_on(busy, in_mesh=True, is_active=True, mesh=mesh) for mesh in (0.0, 60.0))
    assert Scores(PLAIN).compute(mute) == pytest.approx(-20.0)
    assert Scores(PLAIN).compute(honest) == 0


def test_rewards_that_punish_and_faults_that_pay_are_refused():
    for wrong in (
        {"invalid_weight": 1.0},
        {"first_deliveries_weight": -1.0},
        {"invalid_decay": 1.0},
        {"mesh_deliveries_weight": -1.0},
    ):
        with pytest.raises(LocalError):
            TopicScore(**wrong)
    for wrong in ({"behaviour_weight": 1.0}, {"publish_threshold": -5.0}, {"accept_px_threshold": -1.0}):
        with pytest.raises(LocalError):
            ScoreParams(**wrong)
