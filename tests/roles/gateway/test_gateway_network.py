"""The gateway of a real network: answers that were attested, receipts that verify, and the command that runs it."""

import httpx
import openai
import pytest
import trio

from protocol.tensor import Tensor
from roles.engine.remote.client import open_client
from roles.engine.remote.settings import BackendConfig
from roles.engine.remote.wire import ask
from roles.engine.specs import IoSpec
from roles.gateway.run import Plan, run_gateway
from testnet.found import load_model_files
from tests.support.gateways import ASKED, INFER
from tests.support.generations import ENTRY
from tests.support.node_network import run_network


@pytest.mark.full
def test_answers_are_attested_and_their_receipts_verify(tmp_path):
    said = {}

    async def main():
        async with run_network(tmp_path, load_model_files()) as directory, trio.open_nursery() as nursery:
            stop, ready = trio.Event(), trio.Event()

            def announce(url, client):
                said["url"], said["client"] = url, client
                ready.set()

            nursery.start_soon(run_gateway, Plan(directory, ("127.0.0.1", 0), 30.0), announce, stop)
            await ready.wait()
            async with httpx.AsyncClient(base_url=said["url"], timeout=30) as http:
                said["named"] = (await http.get("/v2/models/digits")).json()["inputs"][0]["name"]
                said["ready"] = (await http.get("/v2/health/ready")).status_code
                said["quorum"] = await http.post(INFER, json=ASKED)
                said["spot"] = await http.post(INFER, json=ASKED, headers={"X-Verify": "spot"})
                said["dear"] = await http.post(INFER, json=ASKED, headers={"X-Max-Fee": "1"})
                said["receipt"] = (await http.get(said["quorum"].headers["X-Receipt"])).content
                said["metrics"] = (await http.get("/metrics")).text
            # What a node asks its servers with takes the network for one.
            rows = Tensor("uint8", (3, 64), bytes(192))
            specs = (IoSpec("input-0", "uint8", (0, 64)),), (IoSpec("output-0", "int32", (0, 10)),)
            async with open_client(BackendConfig("digits@1", f"{said['url']}/digits/versions/1")) as backend:
                said["server"] = await backend.describe()
                await backend.verify_ready()
                said["outputs"] = await backend.infer(ask(specs, (rows,), 1, is_binary=True))
            said["findings"] = said["client"].verify(said["receipt"])
            stop.set()

    trio.run(main)
    parameters = said["quorum"].json()["parameters"]
    assert said["ready"] == 200
    assert said["named"] == "pixels", "as in the file, which a storage node has"
    assert (parameters["is_attested"], parameters["verifiers"]) == (True, 2)
    assert said["spot"].json()["parameters"]["is_attested"] is False
    assert (said["dear"].status_code, said["dear"].json()["code"]) == (402, "fee_too_low")
    assert {item.level: item.is_shown for item in said["findings"]}["attested"]
    assert said["quorum"].json()["outputs"] == said["spot"].json()["outputs"]
    assert said["server"].is_binary
    assert said["outputs"][0].shape == (3, 10)
    assert "rolemesh_gateway_under_way 0" in said["metrics"]


@pytest.mark.full
def test_text_is_streamed_and_attested_for_openais_client(tmp_path):
    said = {}

    async def main():
        async with run_network(tmp_path, load_model_files({"pydoc"})) as directory, trio.open_nursery() as nursery:
            stop, ready = trio.Event(), trio.Event()

            def announce(url, client):
                said["url"], said["client"] = url, client
                ready.set()

            nursery.start_soon(run_gateway, Plan(directory, ("127.0.0.1", 0), 30.0), announce, stop)
            await ready.wait()
            async with openai.AsyncOpenAI(base_url=f"{said['url']}/v1", api_key="none", max_retries=0) as client:
                options = {"model": "pydoc", "prompt": "The ", "max_tokens": 200, "temperature": 0}
                stream = await client.completions.create(stream=True, **options)
                said["chunks"] = [chunk async for chunk in stream]
                said["whole"] = await client.completions.create(extra_headers={"X-Verify": "spot"}, **options)
                with pytest.raises(openai.APIStatusError) as caught:
                    await client.completions.create(extra_headers={"X-Max-Fee": "1"}, **options)
                said["dear"] = caught.value.status_code
            async with httpx.AsyncClient(base_url=said["url"]) as http:
                said["receipt"] = (await http.get(said["chunks"][-1].x_receipt["receipt"])).content
            said["findings"] = said["client"].verify(said["receipt"])
            stop.set()

    trio.run(main)
    text = "".join(chunk.choices[0].text for chunk in said["chunks"])
    assert text == said["whole"].choices[0].text == ENTRY["sample"]["text"]
    assert len(said["chunks"]) > 2, "pieces, as many as the time it took makes them, and the end"
    assert said["chunks"][-1].x_receipt["is_attested"] is True
    assert {item.level: item.is_shown for item in said["findings"]}["attested"]
    assert said["dear"] == 402
