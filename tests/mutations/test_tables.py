"""The tables of mutations follow the code: each still applies and parses, and names tests that are there."""

import ast
from collections import Counter

import pytest

from tests.mutations.mutation import DoesNotApply, Mutation, read_source
from tests.mutations.run import MUTATIONS, ROOT, Verdict, copied_tree, try_one


def find_tests(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_mutation_applies_and_is_still_python():
    for mutation in MUTATIONS:
        ast.parse(mutation.apply(read_source(ROOT, mutation)))


def test_every_mutation_breaks_a_promise_of_its_own_and_names_tests_that_are_there():
    assert [promise for promise, count in Counter(each.promise for each in MUTATIONS).items() if count > 1] == []
    known: dict[str, set[str]] = {}
    for test in sorted({test for mutation in MUTATIONS for test in mutation.tests}):
        file, _, name = test.partition("::")
        found = known.setdefault(file, find_tests(file))
        assert not name or name in found, test


@pytest.mark.parametrize("old", ["no such text", "import"])
def test_a_change_that_does_not_apply_exactly_once_says_so(old):
    mutation = Mutation("p2p/keeper.py", old, "", (), "nothing")
    with pytest.raises(DoesNotApply, match="times, not once"):
        mutation.apply(read_source(ROOT, mutation))
    with pytest.raises(DoesNotApply, match="gone"):
        read_source(ROOT, Mutation("p2p/gone.py", old, "", (), "nothing"))


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.promise)
def test_a_test_notices_when_it_does_not_hold_that(mutation):
    with copied_tree() as copy:
        verdict, said = try_one(copy, mutation)

    assert verdict is Verdict.CAUGHT, said
