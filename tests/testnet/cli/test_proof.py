"""`rolemesh proof` and `rolemesh verify`: proofs are made, carried and shown through files, a stranger's kind too."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from protocol.codec import encode
from protocol.keys import format_account, format_node
from protocol.ledger.genesis import Genesis, compute_chain_id
from protocol.proofs.receipt_file import Backing, decode_receipt_file
from protocol.registry import temporary_registrations
from roles.proof_kinds import load_proof_kinds
from roles.zk.process import has_ezkl
from testnet.cli import main
from testnet.cli.output import ExitCode
from testnet.network_file import FILE_NAME, NetworkFile, NodeEntry, read_network_file, write_network_file
from testnet.simulated_nitro import MEASUREMENT
from testnet.trust import find_test_chain, read_measurements
from tests.support.iris import make_iris_file
from tests.support.ledgers import Ledger

SEED = 7  # of tests.support.ledgers
LEDGER = Ledger({"validator": 1, "inference": 2, "verifier": 2, "client": 1})
FILE = make_iris_file(ledger=LEDGER)
TOY = """
from protocol.errors import InvalidProof
from protocol.registry import ProofDescription

class Seal:
    name = "seal"
    evidence_bytes_max = 32

    def describe(self):
        return ProofDescription(shows="that somebody has the request's id", does_not_show="who")

    def verify(self, context, evidence):
        if evidence != context.receipt.claim.request_id:
            raise InvalidProof("this seal is of another request")
        return "sealed"

SEAL = Seal()
"""


@pytest.fixture(autouse=True)
def _away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "answer.receipt").write_bytes(encode(FILE))
    write_network_file(tmp_path / FILE_NAME, make_network())
    load_proof_kinds()  # each registers itself once, when it is imported: not for one test alone
    with temporary_registrations():
        yield


def make_network(genesis: Genesis = LEDGER.foundation.genesis, seed: int = SEED) -> NetworkFile:
    entries = tuple(
        NodeEntry(
            name, name.partition("-")[0], format_node(LEDGER.node(name).public),
            format_account(LEDGER.account(name).public), (), f"nodes/{name}",
        )
        for name in LEDGER.foundation.nodes
    )  # fmt: skip
    chain = compute_chain_id(genesis).hex()
    return NetworkFile("dev", chain, seed, 0, json.loads(genesis.to_json()), entries, ())


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main([*arguments, "--json"])
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1
    return code, json.loads(out)


def get_level(result: dict[str, Any], level: str) -> dict[str, Any]:
    return next(item for item in result["files"][0]["levels"] if item["level"] == level)


def test_the_kinds_are_listed_with_what_each_shows_and_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    code, result = run_json(capsys, "proof", "kinds")
    assert code == ExitCode.OK
    assert [kind["name"] for kind in result["kinds"]] == ["reexec", "signed", "tee", "tee_simulated", "trace", "zk"]
    assert all(kind["shows"] and kind["does_not_show"] for kind in result["kinds"])
    assert [kind["name"] for kind in result["kinds"] if kind["missing"]] == ([] if has_ezkl() else ["zk"])


def test_a_simulated_enclave_is_added_and_shown_on_its_test_network_alone(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("proof", "add", "answer.receipt", "--kind", "tee_simulated", "--out", "proven.receipt")
    code, result = run_json(capsys, *arguments, "--genesis", FILE_NAME)
    assert code == ExitCode.OK
    assert result["shown"].startswith("simulated, not verified hardware")
    code, result = run_json(capsys, "verify", "proven.receipt", "--genesis", FILE_NAME)
    assert code == ExitCode.OK
    assert get_level(result, "tee_simulated")["text"].startswith("simulated, not verified hardware")
    code, result = run_json(capsys, "verify", "proven.receipt")
    assert code == ExitCode.VERIFICATION_FAILED
    assert "outside a test network" in result["error"]["message"]
    code, result = run_json(capsys, *arguments[:-1], "other.receipt")
    assert code == ExitCode.VERIFICATION_FAILED
    assert not Path("other.receipt").exists()
    assert Path("answer.receipt").read_bytes() == encode(FILE)


@pytest.mark.skipif(not has_ezkl(), reason="NO ZERO-KNOWLEDGE TEST: ezkl is not installed; run `make test-zk`")
def test_a_zero_knowledge_proof_is_made_and_shown_on_its_test_network_alone(capsys: pytest.CaptureFixture[str]) -> None:
    code, result = run_json(capsys, "proof", "add", "answer.receipt", "--kind", "zk", "--genesis", FILE_NAME)
    assert code == ExitCode.OK
    assert result["evidence_bytes"] < 4_000
    code, result = run_json(capsys, "verify", "answer.receipt", "--genesis", FILE_NAME)
    assert code == ExitCode.OK
    assert get_level(result, "zk")["shown"]
    code, result = run_json(capsys, "verify", "answer.receipt")
    assert code == ExitCode.VERIFICATION_FAILED
    assert "test networks only" in result["error"]["message"]
    file = decode_receipt_file(Path("answer.receipt").read_bytes())
    assert replace(file, backings=()) == FILE


def test_without_ezkl_the_command_says_how_to_install_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roles.zk.process.has_ezkl", lambda: False)
    code, result = run_json(capsys, "proof", "add", "answer.receipt", "--kind", "zk", "--genesis", FILE_NAME)
    assert (code, result["error"]["code"]) == (ExitCode.CONFIG, "no_ezkl")
    assert "pip install 'rolemesh[zk]'" in result["error"]["hint"]


def test_a_kind_of_an_installed_package_is_listed_added_and_verified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    about = site / "toy_seal-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "toy_seal.py").write_text(TOY)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-seal\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[rolemesh.proofs]\nseal = toy_seal:SEAL\n")
    code, result = run_json(capsys, "proof", "add", "answer.receipt", "--kind", "seal")
    assert (code, result["error"]["code"]) == (ExitCode.USAGE, "unknown_kind")

    monkeypatch.syspath_prepend(site)
    Path("seal.bin").write_bytes(FILE.receipt.claim.request_id)
    assert "seal" in [kind["name"] for kind in run_json(capsys, "proof", "kinds")[1]["kinds"]]
    code, result = run_json(capsys, "proof", "add", "answer.receipt", "--kind", "seal", "--evidence", "seal.bin")
    assert (code, result["shown"]) == (ExitCode.OK, "sealed")
    code, result = run_json(capsys, "verify", "answer.receipt")
    assert code == ExitCode.OK
    assert get_level(result, "seal") == {"level": "seal", "shown": True, "text": "sealed"}
    forged = replace(FILE, backings=(Backing("seal", bytes(32)),))
    Path("forged.receipt").write_bytes(encode(forged))
    code, result = run_json(capsys, "verify", "forged.receipt")
    assert code == ExitCode.VERIFICATION_FAILED
    assert "another request" in result["error"]["message"]


@pytest.mark.parametrize(
    "toy", ["x = 1", "SEAL = object()", TOY.replace("32", "10**9"), TOY.replace('"seal"', '"tee"')]
)
def test_a_package_that_offers_no_proof_kind_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, toy: str
) -> None:
    site, module = tmp_path / "site", f"toy_{abs(hash(toy))}"
    about = site / "toy-1.0.dist-info"
    about.mkdir(parents=True)
    (site / f"{module}.py").write_text(toy)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[rolemesh.proofs]\nsealing = {module}:SEAL\n")
    monkeypatch.syspath_prepend(site)
    code, result = run_json(capsys, "proof", "kinds")
    assert code == ExitCode.CONFIG
    assert "sealing" in result["error"]["message"]


def test_a_file_that_calls_itself_a_test_network_must_hold_its_keys(capsys: pytest.CaptureFixture[str]) -> None:
    assert find_test_chain(make_network()) == LEDGER.state.chain
    assert find_test_chain(make_network(seed=SEED + 1)) is None
    assert find_test_chain(replace(make_network(), nodes=())) is None
    assert find_test_chain(replace(make_network(), genesis={})) is None
    empty = replace(LEDGER.foundation.genesis, nodes=())
    assert find_test_chain(make_network(empty)) is None
    write_network_file(Path("public.json"), make_network(seed=SEED + 1))
    code, result = run_json(
        capsys, "proof", "add", "answer.receipt", "--kind", "tee_simulated", "--genesis", "public.json"
    )
    assert code == ExitCode.VERIFICATION_FAILED
    assert "outside a test network" in result["error"]["message"]


def test_another_test_network_does_not_do(capsys: pytest.CaptureFixture[str]) -> None:
    other = make_network(replace(LEDGER.foundation.genesis, time_ms=LEDGER.foundation.genesis.time_ms + 1))
    assert find_test_chain(other) not in (None, LEDGER.state.chain)
    write_network_file(Path("other.json"), other)
    assert read_network_file(Path("other.json")) == other
    code, _ = run_json(capsys, "proof", "add", "answer.receipt", "--kind", "tee_simulated", "--genesis", "other.json")
    assert code == ExitCode.VERIFICATION_FAILED


PCRS = {f"PCR{number}": getattr(MEASUREMENT, f"pcr{number}").hex() for number in range(3)}


@pytest.mark.parametrize("fields", [PCRS, [PCRS], {"Measurements": PCRS | {"HashAlgorithm": "Sha384"}}, [PCRS, PCRS]])
def test_measurements_are_read_as_nitro_prints_them(tmp_path: Path, fields: object) -> None:
    (tmp_path / "listed.json").write_text(json.dumps(fields))
    assert read_measurements(tmp_path / "listed.json") == {MEASUREMENT}
    assert set(asdict(MEASUREMENT)) == {"pcr0", "pcr1", "pcr2"}


@pytest.mark.parametrize(
    "text", ["", "1", "[1]", "{}", '{"PCR0": "00"}', json.dumps(PCRS | {"PCR1": "00"}), " " * 70_000]
)
def test_what_is_no_list_of_measurements_is_refused(capsys: pytest.CaptureFixture[str], text: str) -> None:
    Path("listed.json").write_text(text)
    code, result = run_json(capsys, "verify", "answer.receipt", "--measurements", "listed.json")
    assert (code, result["error"]["code"]) == (ExitCode.CONFIG, "bad_measurements")
    assert result["error"]["hint"]


@pytest.mark.parametrize(
    ("arguments", "code", "name"),
    [
        (("nothing.receipt", "--kind", "zk"), ExitCode.USAGE, "bad_receipt"),
        ((FILE_NAME, "--kind", "zk"), ExitCode.USAGE, "bad_receipt"),
        (("answer.receipt", "--kind", "oath"), ExitCode.USAGE, "unknown_kind"),
        (("answer.receipt", "--kind", "tee"), ExitCode.USAGE, "no_evidence"),
        (("answer.receipt", "--kind", "tee", "--evidence", "nothing"), ExitCode.USAGE, "bad_evidence"),
        (("answer.receipt", "--kind", "signed", "--evidence", FILE_NAME), ExitCode.USAGE, "bad_evidence"),
        (("answer.receipt", "--kind", "zk", "--evidence", "answer.receipt"), ExitCode.VERIFICATION_FAILED, None),
        (("digits.receipt", "--kind", "zk"), ExitCode.USAGE, "no_circuit"),
    ],
    ids=str,
)
def test_what_cannot_be_added_is_named_with_the_next_step(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: ExitCode, name: str | None
) -> None:
    Path("digits.receipt").write_bytes(encode(replace(FILE, request=replace(FILE.request, model=bytes(32)))))
    before = Path("answer.receipt").read_bytes()
    found, result = run_json(capsys, "proof", "add", *arguments, "--genesis", FILE_NAME)
    assert (found, result["error"]["code"]) == (code, name or "verification_failed")
    assert result["error"]["hint"]
    assert Path("answer.receipt").read_bytes() == before
