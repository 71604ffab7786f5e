"""The bench of scale measures what it says: the sampled routers' own work, repeated exactly."""

from xml.etree import ElementTree

from testnet.bench.figures import compare
from testnet.bench.scale import SAMPLE, draw, is_flat, record, replay


def test_a_recording_holds_what_every_sampled_router_was_given():
    recording = record(60, lambda text: None)

    assert len(recording.events) == len(recording.seeds) == SAMPLE
    assert recording.deliveries > SAMPLE
    assert 1 < recording.copies < 12
    assert replay(recording) > 0


def test_a_fifth_more_is_still_flat_and_more_is_not():
    figures = [compare(str(value), value, "us", "100 nodes", 10.0) for value in (10.0, 12.0)]

    assert is_flat(figures)
    assert not is_flat([*figures, compare("x", 12.1, "us", "100 nodes", 10.0)])


def test_the_plot_is_a_well_formed_picture():
    recording = record(60, lambda text: None)

    root = ElementTree.fromstring(draw([(compare("scale_60", 20.0, "us", "60 nodes", 20.0), recording)]))

    assert root.tag.endswith("svg")
