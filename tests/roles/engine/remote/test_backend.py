"""A model run by a server: a real one, over real sockets, in good order and in every other."""

import datetime
import ipaddress
import ssl
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from protocol.content import compute_digest
from protocol.errors import MissingBlob
from protocol.generation import Generation, make_inputs
from protocol.ledger.model_records import ModelRecord
from protocol.proofs.classes import Comparison, Computation, compare
from protocol.proofs.profiles import parse_profile
from protocol.tensor import compute_tensors_digest
from roles.engine.errors import BadInput, Busy, ComputeFailed, ComputeTimedOut, ModelRefused, Withdrawn
from roles.engine.inline import InlineEngine
from roles.engine.remote import backend as backends
from roles.engine.remote.backend import Backend, BackendState
from roles.engine.remote.engine import Engine
from roles.engine.remote.errors import BackendDown, BackendFailed, BackendRefused, BadAnswer
from roles.engine.remote.settings import BackendConfig
from roles.engine.session import load_session
from tests.support.models import MODELS, draw_inputs
from tests.support.oip_server import OipServer, serving

NAMES = ("digits", "digits-fp32", "cancer", "diabetes")
FILES = {name: MODELS[name].read_bytes() for name in NAMES}
DIGESTS = {name: compute_digest(data) for name, data in FILES.items()}
PATIENCE_S = 60.0
PLACE = "00ff" * 4


def make_record(name, exact=1, calibration=()):
    return ModelRecord(name, DIGESTS[name], exact, (), (), (), calibration=calibration)


async def prepare(digest, timeout_s):
    session = load_session(next(data for data in FILES.values() if compute_digest(data) == digest))
    return session.inputs, session.outputs


def compute_here(name, inputs):
    return InlineEngine(lambda _: FILES[name]).compute(DIGESTS[name], inputs)[0]


def make_backend(server, name="digits", look_every_s=0.05, url="", **options):
    config = BackendConfig(f"{name}@1", url or f"{server.url}/{name}", **options)
    return Backend(config, lambda _: make_record(name), prepare, PLACE, look_every_s)


async def wait_for(backend, *states):
    with trio.fail_after(PATIENCE_S):
        while backend.state not in states:
            await trio.sleep(0.005)


@asynccontextmanager
async def running(backend):
    async with trio.open_nursery() as nursery:
        nursery.start_soon(backend.run)
        yield nursery
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def ready(name="digits", options=None, **server_options):
    """A server with a model, and a backend that is ready for it."""
    with trio.fail_after(2 * PATIENCE_S):
        async with serving(OipServer({name: FILES[name]}, **server_options)) as server:
            backend = make_backend(server, name, **(options or {}))
            async with running(backend) as nursery:
                await wait_for(backend, BackendState.READY)
                yield server, backend, nursery


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(backends, "BACKOFF_S_MAX", 0.1)
    monkeypatch.setattr(backends, "WAIT_S", 0.05)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("extensions", "kind"), [(("binary_tensor_data",), "binary"), ((), "json")])
def test_a_server_gives_what_the_model_gives_here_raw_where_it_says_it_can_and_in_json_elsewhere(
    name, extensions, kind
):
    async def main():
        async with ready(name, extensions=extensions) as (server, backend, _):
            for rows in (1, 7):
                inputs = draw_inputs(FILES[name], rows, seed=rows)
                outputs, profile = await backend.compute(inputs, PATIENCE_S)
                assert outputs == compute_here(name, inputs)
                assert profile == f"ort=tester-1.0;ep=oip;isa={PLACE};th=1;opt=all;batch={rows}"
            assert server.kinds == [kind] * 2
            assert backend.describe()["tensors"] == kind

    trio.run(main)


def test_its_profile_is_like_no_others_so_that_exact_digests_must_agree_and_float_ones_lie_within_the_bound():
    line = "ort=tester-1.0;ep=oip;isa=00ff00ff00ff00ff;th=1;opt=all;batch=1"
    own, elsewhere = line, line.replace("00ff", "00fe")
    assert str(parse_profile(own)) == own
    inputs = draw_inputs(FILES["digits"], 1, seed=1)
    right = compute_here("digits", inputs)
    wrong = compute_here("digits", draw_inputs(FILES["digits"], 1, seed=2))
    computed = {
        side: [Computation(profile, compute_tensors_digest(outputs)) for profile in (own, elsewhere)]
        for side, outputs in (("right", right), ("wrong", wrong))
    }
    assert compare(make_record("digits"), computed["right"][0], computed["right"][1]) is Comparison.AGREE
    assert compare(make_record("digits"), computed["right"][0], computed["wrong"][1]) is Comparison.DISPUTABLE
    calibrated = make_record("digits", 0, (SimpleNamespace(bound_ppt=10**6),))
    assert compare(calibrated, computed["right"][0], computed["wrong"][1]) is Comparison.OPEN


SPOILT = {
    "wrong shape": (BadAnswer, "shape"),
    "wrong type": (BadAnswer, "FP64"),
    "wrong id": (BadAnswer, "not '1'"),
    "wrong name": (BadAnswer, "else"),
    "one output more": (BadAnswer, "more"),
    "too few": (BadAnswer, "output|numbers"),
    "no JSON": (BadAnswer, "not JSON"),
    "huge": (BadAnswer, "100000000 bytes"),
    "huge unsaid": (BadAnswer, "more than"),
    "packed": (BadAnswer, "packed"),
    "no number": (ComputeFailed, "NaN"),
    "cut": (BackendFailed, "broke off"),
    "dies": (BackendFailed, "broke off"),
    "500": (BackendFailed, "status 500"),
    "redirect": (BackendFailed, "status 307"),
    "400": (BackendRefused, "status 400"),
}
BOTH = [("binary_tensor_data",), ()]


@pytest.mark.parametrize("extensions", BOTH, ids=["binary", "json"])
@pytest.mark.parametrize("spoil", SPOILT)
def test_what_is_no_answer_is_a_failure_with_its_reason_and_the_next_job_is_none_the_worse(spoil, extensions):
    kind, reason = SPOILT[spoil]
    inputs = draw_inputs(FILES["diabetes"], 3, seed=1)

    async def main():
        async with ready("diabetes", extensions=extensions) as (server, backend, _):
            server.spoil = spoil
            with pytest.raises(kind, match=reason):
                await backend.compute(inputs, PATIENCE_S)
            assert server.sent < 32 * 1024 * 1024, "whatever a socket holds, and not all of it"
            server.spoil = ""
            assert (await backend.compute(inputs, PATIENCE_S))[0] == compute_here("diabetes", inputs)
            assert (backend.stats.answered, backend.stats.failed) == (1, 1)

    trio.run(main)


@pytest.mark.parametrize(("spoil", "extensions"), [("null", ()), ("text", ()), ("too many", ("binary_tensor_data",))])
def test_what_only_one_way_of_writing_numbers_allows_is_refused_too(spoil, extensions):
    async def main():
        async with ready("diabetes", extensions=extensions) as (server, backend, _):
            server.spoil = spoil
            with pytest.raises((BadAnswer, ComputeFailed)):
                await backend.compute(draw_inputs(FILES["diabetes"], 3, seed=1), PATIENCE_S)

    trio.run(main)


def test_a_server_is_not_asked_to_generate_and_the_refusal_says_who_would(monkeypatch):
    monkeypatch.setitem(FILES, "pydoc", MODELS["pydoc"].read_bytes())
    monkeypatch.setitem(DIGESTS, "pydoc", compute_digest(FILES["pydoc"]))

    async def main():
        async with ready("pydoc") as (server, backend, _):
            wanted = make_inputs(Generation((1, 2), max_tokens=4))
            with pytest.raises(BackendRefused, match="pydoc@1=local"):
                await backend.compute(wanted, PATIENCE_S)
            assert not server.kinds
            step = draw_inputs(FILES["pydoc"], 1, seed=1)
            assert (await backend.compute(step, PATIENCE_S))[0] == compute_here("pydoc", step)

    trio.run(main)


def test_inputs_the_model_does_not_take_are_refused_before_anything_is_sent():
    async def main():
        async with ready() as (server, backend, _):
            with pytest.raises(BadInput):
                await backend.compute(draw_inputs(FILES["cancer"], 1, seed=1), PATIENCE_S)
            assert not server.kinds
            assert backend.state is BackendState.READY

    trio.run(main)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"inputs": [], "outputs": []}, "does not say what inputs"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 10]}]}, "is missing"),
    ],
)
def test_a_server_whose_model_is_another_is_unfit_and_is_asked_nothing(metadata, reason):
    async def main():
        async with serving(OipServer({"diabetes": FILES["diabetes"]}, metadata=metadata)) as server:
            backend = make_backend(server, "diabetes")
            async with running(backend):
                await wait_for(backend, BackendState.UNFIT)
                assert reason in backend.reason
                assert "settings of the model" in backend.reason
                with pytest.raises(BackendDown, match="unfit"):
                    await backend.compute(draw_inputs(FILES["diabetes"], 1, seed=1), PATIENCE_S)
                server.metadata = {}
                await wait_for(backend, BackendState.READY)
        assert not server.kinds

    trio.run(main)


def test_a_server_that_is_not_there_is_looked_for_until_it_is_and_missed_again_when_it_has_gone():
    inputs = draw_inputs(FILES["digits"], 1, seed=1)

    async def main():
        with trio.fail_after(PATIENCE_S):
            async with serving(OipServer({"digits": FILES["digits"]})) as gone:
                pass
            server = OipServer({"digits": FILES["digits"]}, port=gone.port)
            backend = make_backend(server)
            async with running(backend):
                await wait_for(backend, BackendState.DOWN)
                assert "cannot be reached" in backend.reason
                with pytest.raises(BackendDown, match=r"digits@1 at http://127\.0\.0\.1"):
                    await backend.compute(inputs, PATIENCE_S)
                async with serving(server, gone.port):
                    await wait_for(backend, BackendState.READY)
                    assert (await backend.compute(inputs, PATIENCE_S))[0] == compute_here("digits", inputs)
                await wait_for(backend, BackendState.DOWN)
                assert backend.stats.opened == 1

    trio.run(main)


def test_after_failures_in_a_row_nothing_is_asked_then_one_job_at_a_time_until_one_is_answered():
    inputs = draw_inputs(FILES["digits"], 1, seed=1)

    async def main():
        async with ready() as (server, backend, nursery):
            server.spoil = "500"
            for _ in range(backends.FAILURES_MAX):
                with pytest.raises(BackendFailed):
                    await backend.compute(inputs, PATIENCE_S)
            assert backend.state is BackendState.DOWN
            assert "3 failures in a row" in backend.reason
            with pytest.raises(BackendDown):
                await backend.compute(inputs, PATIENCE_S)
            await wait_for(backend, BackendState.TRYING)
            with pytest.raises(BackendFailed):
                await backend.compute(inputs, PATIENCE_S)
            assert backend.state is BackendState.DOWN
            server.spoil, server.hold, server.running_max = "", trio.Event(), 0
            await wait_for(backend, BackendState.TRYING)
            answers = []

            async def compute():
                answers.append((await backend.compute(inputs, PATIENCE_S))[0])

            for _ in range(5):
                nursery.start_soon(compute)
            while not server.running:
                await trio.sleep(0.005)
            assert backend.describe()["waiting"] == 4
            server.hold.set()
            while len(answers) < 5:
                await trio.sleep(0.005)
            assert backend.state is BackendState.READY
            assert answers == [compute_here("digits", inputs)] * 5

    trio.run(main)


def test_at_most_so_many_requests_are_under_way_so_many_more_wait_and_the_rest_is_told_at_once(monkeypatch):
    monkeypatch.setattr(backends, "WAITING_MAX", 3)
    inputs = draw_inputs(FILES["digits"], 1, seed=1)

    async def main():
        async with ready(options={"concurrency": 2}) as (server, backend, nursery):
            server.hold = trio.Event()
            ends = []

            async def compute(number):
                try:
                    await backend.compute(inputs, PATIENCE_S, f"job {number}")
                except Withdrawn:
                    ends.append("withdrawn")
                else:
                    ends.append("answered")

            for number in range(5):
                nursery.start_soon(compute, number)
                while backend.describe()["running"] + backend.describe()["waiting"] <= number:
                    await trio.sleep(0)
            with pytest.raises(Busy):
                await backend.compute(inputs, PATIENCE_S)
            assert backend.stats.refused_busy == 1
            assert backend.withdraw("job 3")
            assert not backend.withdraw("job 0"), "it runs"
            with pytest.raises(ComputeTimedOut, match="waiting"):
                await backend.compute(inputs, 0.01)
            while server.running < 2:
                await trio.sleep(0.005)
            server.hold.set()
            while len(ends) < 5:
                await trio.sleep(0.005)
            assert sorted(ends) == ["answered"] * 4 + ["withdrawn"]
            assert server.running_max == 2
            assert (backend.describe()["running"], backend.describe()["waiting"]) == (0, 0)

    trio.run(main)


def test_a_client_in_a_hurry_is_not_the_servers_fault_but_a_server_that_hangs_is():
    inputs = draw_inputs(FILES["digits"], 1, seed=1)

    async def main():
        async with ready(options={"timeout_s": 1}) as (server, backend, _):
            server.hold = trio.Event()
            for _ in range(2 * backends.FAILURES_MAX):
                with pytest.raises(ComputeTimedOut, match="running"):
                    await backend.compute(inputs, 0.01)
            assert backend.state is BackendState.READY
            async with trio.open_nursery() as hanging:

                async def hang():
                    with pytest.raises(ComputeTimedOut, match=r"running after 1\.000 s"):
                        await backend.compute(inputs, PATIENCE_S)

                for _ in range(backends.FAILURES_MAX):
                    hanging.start_soon(hang)
            assert "no answer within 1 s" in backend.reason
            server.hold.set()

    trio.run(main)


def test_a_server_that_says_nothing_while_it_computes_is_waited_for_and_one_that_has_nothing_to_do_is_not(monkeypatch):
    monkeypatch.setattr(backends, "LOOK_S_MAX", 0.1)
    inputs = draw_inputs(FILES["digits"], 1, seed=1)
    answers = []

    async def main():
        async with ready() as (server, backend, nursery):
            server.hold, server.is_mute = trio.Event(), True

            async def compute():
                answers.append((await backend.compute(inputs, PATIENCE_S))[0])

            nursery.start_soon(compute)
            looks = server.asked.count("/v2")
            while server.asked.count("/v2") < looks + 4:
                await trio.sleep(0.01)
            assert backend.state is BackendState.READY
            server.hold.set()
            await wait_for(backend, BackendState.DOWN)
            assert "says nothing for 0.1 s" in backend.reason
            assert answers == [compute_here("digits", inputs)]

    trio.run(main)


def test_a_kept_connection_that_the_server_has_closed_costs_no_job():
    inputs = draw_inputs(FILES["digits"], 1, seed=1)

    async def main():
        async with serving(OipServer({"digits": FILES["digits"]})) as server:
            backend = make_backend(server, look_every_s=PATIENCE_S)
            async with running(backend):
                await wait_for(backend, BackendState.READY)
                port = server.port
                await backend.compute(inputs, PATIENCE_S)
                server.spoil = "dies"  # once, and each connection that is open
                with pytest.raises(BackendFailed):
                    await backend.compute(inputs, PATIENCE_S)
                server.spoil = ""
                assert server.port == port
                assert (await backend.compute(inputs, PATIENCE_S))[0] == compute_here("digits", inputs)

    trio.run(main)


def make_certificate(folder):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tester")])
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=9))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(certificate.public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "all.pem").write_bytes(private + certificate.public_bytes(pem))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "all.pem")
    return context


def test_over_https_the_server_must_have_a_certificate_of_those_named_and_the_environment_names_no_proxy(
    tmp_path, monkeypatch
):
    context = make_certificate(tmp_path)
    inputs = draw_inputs(FILES["digits"], 1, seed=1)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    async def main():
        with trio.fail_after(PATIENCE_S):
            async with serving(OipServer({"digits": FILES["digits"]}), tls=context) as server:
                url = f"https://127.0.0.1:{server.port}/digits"
                trusting = make_backend(server, url=url, ca=str(tmp_path / "ca.pem"))
                other = make_backend(server, url=url)
                async with running(trusting), running(other):
                    await wait_for(trusting, BackendState.READY)
                    await wait_for(other, BackendState.DOWN)
                    assert "certificate" in other.reason.lower()
                    assert (await trusting.compute(inputs, PATIENCE_S))[0] == compute_here("digits", inputs)

    trio.run(main)


def test_what_the_node_itself_has_not_got_yet_is_waited_for_and_a_file_that_is_refused_is_said():
    async def main():
        async with serving(OipServer({"digits": FILES["digits"]})) as server:
            held, known = [], []

            async def prepare_later(digest, timeout_s):
                if not held:
                    raise MissingBlob(digest)
                return await prepare(digest, timeout_s)

            async def refuse(digest, timeout_s):
                raise ModelRefused("it holds a loop")

            find = lambda _: make_record("digits") if known else None  # noqa: E731
            config = BackendConfig("digits@1", f"{server.url}/digits")
            backend = Backend(config, find, prepare_later, PLACE, 0.05)
            refused = Backend(config, lambda _: make_record("digits"), refuse, PLACE, 0.05)
            async with running(backend), running(refused):
                while "the ledger has no model digits@1" not in backend.reason:
                    await trio.sleep(0.005)
                assert not backend.is_for(DIGESTS["digits"])
                known.append(True)
                while "file is not here yet" not in backend.reason:
                    await trio.sleep(0.005)
                assert backend.state is BackendState.WAITING
                held.append(True)
                await wait_for(backend, BackendState.READY)
                await wait_for(refused, BackendState.UNFIT)
                assert refused.reason == "it holds a loop"

    trio.run(main)


def test_jobs_on_a_model_with_a_server_never_run_elsewhere_and_operators_only_here():
    class Here:
        measures = ()

        async def compute(self, model, inputs, timeout_s, name, say):
            return "here"

        def submit(self, model, inputs, timeout_s, name, on_end):
            on_end("here")

        async def inspect(self, model, question, timeout_s):
            return "operator"

        def withdraw(self, name):
            return False

    async def main():
        server = OipServer({"digits": FILES["digits"]}, port=9)
        backend = make_backend(server)
        async with trio.open_nursery() as nursery:
            engine = Engine(nursery, Here(), (backend,))
            with pytest.raises(BackendDown):
                await engine.compute(DIGESTS["digits"], (), PATIENCE_S)
            assert await engine.compute(DIGESTS["cancer"], (), PATIENCE_S) == "here"
            assert await engine.inspect(DIGESTS["digits"], None, PATIENCE_S) == "operator"
            assert not engine.withdraw("nobody")
            answers = []
            for model in ("digits", "cancer"):
                engine.submit(DIGESTS[model], (), PATIENCE_S, "name", answers.append)
        assert answers[0] == "here"
        assert isinstance(answers[1], BackendDown)

    trio.run(main)
