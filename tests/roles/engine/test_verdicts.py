"""What is remembered of models, and for how long."""

from roles.engine.verdicts import BLAMED_S, KILLS_MAX, REMEMBERED_MAX, Admission, Verdicts

MODEL = bytes(32)
TAKEN = Admission(True, "takes float32 (rows, 2); gives float32 (rows, 2)")


def test_kills_in_a_row_are_answered_with_longer_and_longer_waits():
    verdicts, waits = Verdicts(), []
    for _ in range(9):
        verdicts.count_kill(MODEL, "it crashed", 0.0)
        waits.append(verdicts.compute_backoff_s(MODEL))

    assert waits[:4] == [0.0, 0.2, 0.4, 0.8]
    assert waits[-1] == 10.0


def test_one_kill_too_many_refuses_a_model_for_a_while_and_then_once_more_at_once():
    verdicts = Verdicts()
    verdicts.settle(MODEL, TAKEN)

    refusals = [verdicts.count_kill(MODEL, "it crashed", 7.0) for _ in range(KILLS_MAX)]

    assert refusals[:-1] == [None] * (KILLS_MAX - 1)
    assert verdicts.get(MODEL, 7.0 + BLAMED_S - 1) == refusals[-1]
    assert "5 times in a row, the last time so: it crashed" in refusals[-1].reason
    assert verdicts.get(MODEL, 7.0 + BLAMED_S) == TAKEN
    assert verdicts.count_kill(MODEL, "it crashed", 7.0 + BLAMED_S) is not None


def test_a_finished_job_makes_good_for_the_kills_before():
    verdicts = Verdicts()
    for _ in range(KILLS_MAX - 1):
        verdicts.count_kill(MODEL, "it crashed", 0.0)

    verdicts.forgive(MODEL)

    assert verdicts.compute_backoff_s(MODEL) == 0.0
    assert verdicts.count_kill(MODEL, "it crashed", 0.0) is None


def test_a_process_that_ends_before_it_has_the_model_only_makes_the_next_one_wait():
    verdicts = Verdicts()
    for _ in range(2 * KILLS_MAX):
        assert verdicts.count_kill(MODEL, "no room", 0.0, is_blamed=False) is None

    assert verdicts.get(MODEL, 0.0) is None
    assert verdicts.compute_backoff_s(MODEL) == 10.0


def test_only_so_many_models_are_remembered_and_the_oldest_goes_first():
    verdicts = Verdicts()
    models = [place.to_bytes(32, "big") for place in range(REMEMBERED_MAX + 1)]
    for model in models:
        verdicts.settle(model, TAKEN)
        verdicts.count_kill(model, "it crashed", 0.0)

    assert list(verdicts.get_all(0.0)) == models[1:]
    assert verdicts.compute_backoff_s(models[0]) == 0.0
