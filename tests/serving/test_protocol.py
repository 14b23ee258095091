"""The Open Inference Protocol, by the public client that people use."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import tritonclient.http as triton
from fastapi.testclient import TestClient
from tritonclient.utils import InferenceServerException

from anywidth.serving.app import create_app
from anywidth.serving.service import Service
from served_tiny import LIMITS, make_governor


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)


@pytest.fixture
def public(address):
    client = triton.InferenceServerClient(address)
    yield client
    client.close()


def asked(images: np.ndarray, *, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("input", list(images.shape), "FP32")
    tensor.set_data_from_numpy(images, binary_data=binary)
    return tensor


def test_health_and_metadata(public):
    assert public.is_server_live()
    assert public.is_server_ready()
    assert public.is_model_ready("tiny")
    assert public.is_model_ready("tiny", "1")
    assert not public.is_model_ready("other")
    assert public.get_server_metadata()["name"] == "anywidth"
    assert public.get_model_metadata("tiny") == {
        "name": "tiny",
        "versions": ["1"],
        "platform": "anywidth_torch",
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 3, 8, 8]}],
        "outputs": [{"name": "output", "datatype": "FP32", "shape": [-1, 4]}],
    }


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_inference_in_json_and_bytes(public, served, images, binary_in, binary_out):
    outputs = None if binary_out is None else [triton.InferRequestedOutput("output", binary_data=binary_out)]
    result = public.infer(
        "tiny", [asked(images, binary=binary_in)], outputs=outputs, request_id="é7", model_version="1"
    )
    (wanted,) = served.ladder.run([images], width=1.0)
    assert np.allclose(result.as_numpy("output"), wanted, atol=1e-5)
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("é7", "tiny", "1")
    assert response["parameters"]["width"] == 1.0
    assert response["parameters"]["macs"] == served.point(1.0).macs


@pytest.mark.parametrize("width", [0.25, 0.5, 1.0])
def test_a_request_chooses_its_width(public, served, images, width):
    result = public.infer("tiny", [asked(images)], parameters={"width": width})
    assert result.get_response()["parameters"]["width"] == width
    assert np.allclose(result.as_numpy("output"), served.ladder.run([images], width=width)[0], atol=1e-5)


def test_a_request_sets_a_budget(public, served, images):
    def used(budget: str) -> float:
        return public.infer("tiny", [asked(images)], parameters={"budget": budget}).get_response()["parameters"][
            "width"
        ]

    assert used(f"macs<={served.point(0.5).macs}") == 0.5
    assert used(f"params<={served.point(1.0).params - 1}") == 0.5
    assert used("latency<=100s") == 1.0
    for budget, message in (
        ("macs<=1", "no width meets 'macs<=1'"),
        ("size<=1MB", "limits size, not latency or macs or params"),
        ("x", "cannot read"),
    ):
        with pytest.raises(InferenceServerException, match=message):
            used(budget)


@pytest.mark.parametrize("packed", ["gzip", "deflate"])
def test_packed_requests(public, served, images, packed):
    result = public.infer("tiny", [asked(images)], request_compression_algorithm=packed)
    assert np.allclose(result.as_numpy("output"), served.ladder.run([images], width=1.0)[0], atol=1e-5)


def test_requests_side_by_side(served, address, images):
    with triton.InferenceServerClient(address, concurrency=8) as client:
        calls = [client.async_infer("tiny", [asked(images[i % 3 : i % 3 + 1])]) for i in range(24)]
        wanted = served.ladder.run([images], width=1.0)[0]
        for number, call in enumerate(calls):
            assert np.allclose(call.get_result().as_numpy("output"), wanted[number % 3 : number % 3 + 1], atol=1e-5)


def test_errors_reach_the_client_with_their_reason(public, images):
    tensor = triton.InferInput("input", [3, 3, 8, 8], "INT8")
    tensor.set_data_from_numpy(images.astype(np.int8))
    with pytest.raises(InferenceServerException, match="is FP32, not 'INT8'"):
        public.infer("tiny", [tensor])
    with pytest.raises(InferenceServerException, match="width 0.6 is not offered; there are 0.25, 0.5, 1"):
        public.infer("tiny", [asked(images)], parameters={"width": 0.6})
    with pytest.raises(InferenceServerException, match="there is no output 'x'; the network has output"):
        public.infer("tiny", [asked(images)], outputs=[triton.InferRequestedOutput("x")])
    with pytest.raises(InferenceServerException, match="Not Found"):
        public.infer("other", [asked(images)])


def test_a_token_is_wanted_where_one_is_set(served, start, images):
    address = start(create_app(Service(served, make_governor(), LIMITS), token="geheim"))
    with triton.InferenceServerClient(address) as client:
        assert client.is_server_live()
        for headers in ({}, {"Authorization": "Bearer falsch"}, {"Authorization": "geheim"}):
            with pytest.raises(InferenceServerException, match="Authorization: Bearer TOKEN"):
                client.infer("tiny", [asked(images)], headers=headers)
        result = client.infer("tiny", [asked(images)], headers={"Authorization": "Bearer geheim"})
        assert result.as_numpy("output").shape == (3, 4)


def test_every_address_but_health_and_the_page_wants_the_token(served):
    app = create_app(Service(served, make_governor(), LIMITS), token="geheim")
    client = TestClient(app)
    ready = {"/v2/models/tiny/ready", "/v2/models/tiny/versions/1/ready"}
    free = {"/", "/page.js", "/page.css", "/v2/health/live", "/v2/health/ready", *ready}
    addresses = app.openapi()["paths"]  # known to the program, though not served
    assert addresses.keys() >= {"/v2", "/v2/models/tiny/infer", "/metrics", "/spectrum", "/predict"}
    for path in (*addresses, "/", "/page.js", "/page.css"):
        for method in addresses.get(path, ["get"]):
            status = client.request(method, path).status_code
            assert (status == 401) == (path not in free), (method, path, status)
    assert client.get("/openapi.json").status_code in (401, 404)


def test_json_by_hand(client, served, images):
    """As curl sends it."""
    body = {
        "inputs": [{"name": "input", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": images[0].ravel().tolist()}]
    }
    response = client.post("/v2/models/tiny/infer", content=json.dumps(body))
    assert response.status_code == 200
    (output,) = response.json()["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("output", "FP32", [1, 4])
    assert np.allclose(output["data"], served.ladder.run([images[:1]], width=1.0)[0][0], atol=1e-5)
    packed = gzip.compress(json.dumps(body).encode())
    again = client.post("/v2/models/tiny/infer", content=packed, headers={"Content-Encoding": "gzip"})
    assert np.allclose(again.json()["outputs"][0]["data"], output["data"], atol=1e-5)


def test_metrics_count_what_happened(served, images):
    from starlette.testclient import TestClient

    with TestClient(create_app(Service(served, make_governor(), LIMITS))) as client:
        body = {"inputs": [{"name": "input", "shape": [2, 3, 8, 8], "datatype": "FP32", "data": images[:2].tolist()}]}
        for width in (0.25, 0.25, 1.0):
            body["parameters"] = {"width": width}
            assert client.post("/v2/models/tiny/infer", json=body).status_code == 200
        assert client.post("/v2/models/tiny/infer", content="{").status_code == 400
        text = client.get("/metrics").text
    for line in (
        'anywidth_request_seconds_count{width="0.25"} 2.0',
        'anywidth_request_seconds_count{width="1"} 1.0',
        'anywidth_refused_total{reason="invalid"} 1.0',
        "anywidth_width 1.0",
        "anywidth_queue_requests 0.0",
        "anywidth_batch_rows_sum 6.0",
        'anywidth_decisions_total{reason="asked"} 3.0',
    ):
        assert line in text


def test_ready_ends_when_it_drains(served):
    from starlette.testclient import TestClient

    service = Service(served, make_governor(), LIMITS)
    with TestClient(create_app(service)) as client:
        assert client.get("/v2/health/ready").status_code == 200
        service.batcher.drain(10)
        assert client.get("/v2/health/ready").status_code == 503
        assert client.get("/v2/health/live").status_code == 200
        body = {"inputs": [{"name": "input", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": [0.0] * 192}]}
        refused = client.post("/v2/models/tiny/infer", json=body)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")


def test_large_requests_at_once(served, start):
    """Larger than what is read in the loop itself, as JSON, and more of them than are read at a time."""
    from concurrent.futures import ThreadPoolExecutor

    import httpx

    from anywidth.serving import Limits

    limits = Limits(body=2_000_000, rows=8)
    address = start(create_app(Service(served, make_governor(), limits)), limits)
    images = np.random.default_rng(1).normal(size=(8, 3, 8, 8)).astype(np.float32)
    body = {"inputs": [{"name": "input", "shape": [8, 3, 8, 8], "datatype": "FP32", "data": images.tolist()}]}
    content = json.dumps(body) + " " * 300_000
    wanted = served.ladder.run([images], width=1.0)[0].ravel()

    def ask(_: int) -> bool:
        response = httpx.post(f"http://{address}/v2/models/tiny/infer", content=content)
        return np.allclose(response.json()["outputs"][0]["data"], wanted, atol=1e-5)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(ask, range(12)))
