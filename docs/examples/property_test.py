"""A property test of your own, as it stands in the README: `pytest docs/examples/property_test.py`."""

from hypothesis import given, settings

from testnet.sim import simulate
from testnet.strategies import fault_plans, seeds


@given(seed=seeds(), faults=fault_plans())
@settings(max_examples=10, deadline=None)
def test_whatever_goes_wrong_no_grain_is_made_or_lost_and_no_lie_is_believed(seed, faults):
    network = simulate(seed, liars=1, faults=faults)
    asked = [network.request("digits", input=row) for row in range(4)]
    assert network.run_until(lambda: all(each.is_done for each in asked))
    assert network.supply() == simulate(seed).supply()
    assert network.one_state_root()
    assert all(each.label == each.expected for each in asked if each.is_attested)
