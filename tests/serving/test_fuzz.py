"""Whatever is sent, the answer is a 200 or a 4xx with a reason, and the server goes on."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

INFER = "/v2/models/tiny/infer"
fixtures = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80)

texts = st.text(max_size=20)
scalars = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | texts
anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12)  # fmt: skip
shapes = st.just([1, 3, 8, 8]) | st.lists(st.integers(-2, 2**70), max_size=6) | anything
numbers = st.just([0.5] * 192) | st.lists(st.floats(allow_nan=True) | st.integers(), max_size=10) | anything
parameters = st.dictionaries(
    st.sampled_from(["width", "budget", "binary_data_output", "binary_data_size", "binary_data", "classification", "timeout"]),
    st.sampled_from([0.5, 1, True, "macs<=1e9", "latency<=1ms", "macs<=1e999", 768]) | anything,
    max_size=3,
)  # fmt: skip
tensors = st.fixed_dictionaries(
    {
        "name": st.just("input") | texts,
        "shape": shapes,
        "datatype": st.sampled_from(["FP32", "INT64", "BYTES"]) | texts,
    },
    optional={"data": numbers, "parameters": parameters},
)
requests = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, min_size=1, max_size=2) | anything},
    optional={
        "id": texts | anything,
        "parameters": parameters | anything,
        "outputs": st.lists(st.fixed_dictionaries({"name": st.just("output") | texts}, optional={"parameters": parameters}), max_size=2) | anything,
    },
)  # fmt: skip


def check(response: Any) -> None:
    assert response.status_code == 200 or 400 <= response.status_code < 500, response.text
    if response.status_code != 200:
        reason = response.json()["error"]
        assert reason
        assert "\n" not in reason.strip()


@fixtures
@given(request=requests)
def test_any_json_request(client, request):
    check(client.post(INFER, content=json.dumps(request)))


@fixtures
@given(content=st.binary(max_size=300))
def test_any_bytes(client, content):
    for path in (INFER, "/predict"):
        check(client.post(path, content=content))


@fixtures
@given(request=requests, tail=st.binary(max_size=800), length=st.integers(-5, 400) | texts | st.none(), data=st.data())
def test_any_binary_request(client, request, tail, length, data):
    head = json.dumps(request).encode()
    value = str(len(head) if length is None else length)
    check(client.post(INFER, content=head + tail, headers={"Inference-Header-Content-Length": value.encode()}))


@fixtures
@given(values=st.lists(st.floats(width=32), min_size=6, max_size=6))
def test_any_numbers(client, values):
    """Finite ones are answered in finite numbers, and all others refused."""
    content = np.tile(np.array(values, np.float32), 32).tobytes()
    tensor = {
        "name": "input",
        "shape": [1, 3, 8, 8],
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(content)},
    }
    head = json.dumps({"inputs": [tensor]}).encode()
    response = client.post(INFER, content=head + content, headers={"Inference-Header-Content-Length": str(len(head))})
    check(response)
    if response.status_code == 200:
        assert np.isfinite(values).all()
        assert np.isfinite(response.json()["outputs"][0]["data"]).all()


def an_image() -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (12, 12, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


PICTURE = an_image()


@fixtures
@given(place=st.integers(0, len(PICTURE) - 1), byte=st.integers(0, 255), cut=st.integers(0, len(PICTURE)))
def test_damaged_images(client, place, byte, cut):
    check(client.post("/predict", content=PICTURE[:place] + bytes([byte]) + PICTURE[place + 1 :]))
    check(client.post("/predict", content=PICTURE[:cut]))


@fixtures
@given(query=st.dictionaries(st.sampled_from(["width", "budget", "x"]), texts | st.sampled_from(["0.5", "macs<=1e9"])))
def test_any_query(client, query):
    check(client.post("/predict", params=query, content=PICTURE))


@fixtures
@given(
    name=st.sampled_from(["authorization", "content-type", "content-encoding", "accept", "x"]),
    value=st.binary(max_size=50),
)
def test_any_header(client, name, value):
    tensor = {"name": "input", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": [0.0] * 192}
    check(client.post(INFER, content=json.dumps({"inputs": [tensor]}), headers={name: value}))
