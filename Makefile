# rolemesh. `make` lists what there is. Every target sets up .venv first; from the second time on that takes no time.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-full test-zk nightly mutations fuzz check format lock benchmarks models spec vectors clean

python := .venv/bin/python
# Tests start hundreds of interpreters: where the environment forbids bytecode files, each would compile all of the code.
export PYTHONDONTWRITEBYTECODE :=
# For example: make demo ARGS="--seed 7 --liar 1", make test ARGS="tests/protocol -x"
ARGS ?=
FUZZ ?=
# Tests mostly wait for processes and timers: one worker more than two cores. ARGS="-n 0" for none, to debug.
# tests/conftest.py says which files begin first.
parallel := -n 3 --dist loadfile --no-loadscope-reorder

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  make \1@\2/p' Makefile | while IFS=@ read -r name text; do \
		printf '%-18s %s\n' "$$name" "$$text"; done

setup:  ## .venv with everything for nodes, tests and linters
	@.ci/setup dev

demo:  ## a local network for a minute: real processes, a real model, checked, paid, recorded
	@.ci/setup run
	@.venv/bin/rolemesh testnet up --load digits --workflow volatility --lease --propose --app --duration 60s $(ARGS)

test: setup  ## the tests, in less than 10 minutes
	@$(python) -m pytest $(parallel) -m "not full and not nightly" $(ARGS)

test-full: setup  ## the tests and the longer ones, in at most an hour
	@$(python) -m pytest $(parallel) -m "not nightly" $(ARGS)

# A night is resumable. ROLEMESH_SEEDS=FIRST:LAST names the seeds of its sweeps; FIRST seeds the properties as well, so
# that the same range is the same night. What a property found is tried first next time (.hypothesis), and the fuzzer goes
# on from its last finished chunk (.fuzz).
seed = $(firstword $(subst :, ,$(ROLEMESH_SEEDS)))
nightly: setup  ## every test with many more examples, and the fuzzer; ROLEMESH_SEEDS=1000:9000 for a range of seeds
	@ROLEMESH_PROFILE=nightly $(python) -m pytest $(if $(seed),--hypothesis-seed=$(seed)) $(ARGS)
	@$(MAKE) --no-print-directory fuzz

mutations: setup  ## break each promise of the network on purpose and see that a test notices; ARGS="bans.py" for some
	@$(python) -m tests.mutations.run $(ARGS)

fuzz:  ## what is left of ten million inputs for the decoders; FUZZ="yamux --minutes 30" for less
	@.ci/setup fuzz
	@$(python) -m tests.fuzz.run $(FUZZ)

test-zk:  ## the tests of zero-knowledge proofs, which `make test` skips unless ezkl is installed
	@.ci/setup zk
	@$(python) -m pytest tests/roles/zk tests/testnet/cli/test_proof.py $(ARGS)

# What is written from the code (`make spec vectors`) is held against it here too: that takes seconds, the tests minutes.
check: setup  ## linters, types, and whether spec and vectors are as the code says
	@$(python) -m ruff check .
	@$(python) -m ruff format --check .
	@$(python) -m mypy
	@$(python) -m pytest -q -n 0 tests/protocol/test_spec.py tests/protocol/test_vectors.py

format: setup  ## put the code into the one format
	@$(python) -m ruff format .
	@$(python) -m ruff check --fix .

lock:  ## write .ci/locks anew from pyproject.toml (needs uv)
	@.ci/lock $(ARGS)

benchmarks: setup  ## measure gossip, and write the table of docs/benchmarks.md anew
	@.venv/bin/rolemesh bench gossip --json $(ARGS) | $(python) -m testnet.bench.table gossip docs/benchmarks.md

models:  ## train the models that ship with rolemesh once more
	@.ci/setup train
	@$(python) -m testnet.models.train $(ARGS)

spec: setup  ## write docs/spec/messages.md anew from the code
	@$(python) docs/spec/generate.py

vectors: setup  ## write tests/vectors anew: only when the wire changes on purpose
	@$(python) tests/make_vectors.py

clean:  ## remove .venv and what tools leave behind
	@rm -rf .venv .venv.lock .mypy_cache .pytest_cache .ruff_cache .hypothesis .fuzz build dist
