"""A verifier that fails a worker is avoided for a while, longer each time, until it attests again."""

from roles.shunned import NODES_MAX, SHUN_MS, SHUN_MS_MAX, Shunned

A, B = b"a" * 32, b"b" * 32


def test_who_has_failed_is_found_until_its_time_is_over():
    shunned = Shunned()
    assert shunned.find((A, B), 0) is None
    shunned.add(B, 100)
    assert shunned.find((A, B), 100) == B
    assert shunned.find((A,), 100) is None
    assert shunned.find((A, B), 100 + SHUN_MS - 1) == B
    assert shunned.find((A, B), 100 + SHUN_MS) is None


def test_failures_in_a_row_double_the_time_up_to_a_bound_and_one_attestation_ends_it():
    shunned = Shunned()
    now_ms, waits = 0, []
    for _ in range(10):
        shunned.add(A, now_ms)
        shunned.add(A, now_ms)  # another claim of the same moment is no second failure
        start_ms = now_ms
        while shunned.find((A,), now_ms):
            now_ms += 1_000
        waits.append(now_ms - start_ms)
    assert waits[:3] == [SHUN_MS, 2 * SHUN_MS, 4 * SHUN_MS]
    assert max(waits) == SHUN_MS_MAX
    shunned.add(A, now_ms)
    shunned.forgive(A)
    assert shunned.find((A,), now_ms) is None
    shunned.add(A, now_ms)
    assert shunned.find((A,), now_ms + SHUN_MS) is None


def test_of_more_than_can_be_remembered_the_one_whose_time_is_over_first_is_forgotten():
    shunned = Shunned()
    nodes = [number.to_bytes(32, "big") for number in range(NODES_MAX + 1)]
    for at_ms, node in enumerate(nodes):
        shunned.add(node, at_ms)

    assert shunned.find(nodes[:1], NODES_MAX) is None
    assert all(shunned.find([node], NODES_MAX) for node in nodes[1:])
