"""What is too large, too slow or malformed is refused with a reason, and the server goes on."""

from __future__ import annotations

import gzip
import io
import json
import socket
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from anywidth.core.errors import ExportError
from anywidth.serving import Limits
from served_tiny import LIMITS

INFER = "/v2/models/tiny/infer"
HEAD = "Inference-Header-Content-Length"


def body(**changes):
    tensor = {"name": "input", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": [0.0] * 192}
    return {"inputs": [{**tensor, **changes}]}


def png(width: int, height: int, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (width, height)).save(file, "PNG")
    return file.getvalue()


def declared_png(width: int, height: int) -> bytes:
    """A PNG whose head says a size that its data do not have."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot read the request"),
        (b"{", "cannot read the request"),
        (b"[]", "cannot read the request"),
        (b"\xff\xfe", "cannot read the request"),
        (b"[" * 100_000, "cannot read the request"),
        (b'{"inputs": []}', "input 'input' is missing"),
        (json.dumps(body(name="x")), "there is no input 'x'; the network has input"),
        (json.dumps(body(datatype="FP64")), "input 'input' is FP32, not 'FP64'"),
        (json.dumps(body(datatype="BYTES")), "input 'input' is FP32, not 'BYTES'"),
        (json.dumps(body(shape=[1, 3, 8])), "has shape [1, 3, 8], but the network takes (rows, 3, 8, 8)"),
        (json.dumps(body(shape=[1, 3, 8, 9])), "has shape [1, 3, 8, 9]"),
        (json.dumps(body(shape=[0, 3, 8, 8], data=[])), "has 0 rows; give 1 to 8"),
        (json.dumps(body(shape=[9, 3, 8, 8])), "has 9 rows; give 1 to 8"),
        (json.dumps(body(shape=[10**18, 3, 8, 8])), "rows; give 1 to 8"),
        (json.dumps(body(shape=[10**400, 3, 8, 8])), "cannot read the request|rows; give 1 to 8"),
        (json.dumps(body()).replace("[1, 3", "[1" + "0" * 6000 + ", 3").encode(), "cannot read the request|rows; give 1 to 8"),
        (json.dumps(body(shape=[-1, 3, 8, 8])), "cannot read the request at inputs.0.shape.0"),
        (json.dumps(body(shape=[1.5, 3, 8, 8])), "cannot read the request at inputs.0.shape.0"),
        (json.dumps(body(shape=[True, 3, 8, 8])), "cannot read the request at inputs.0.shape.0"),
        (json.dumps(body(shape=[1] * 10_000)), "but the network takes (rows, 3, 8, 8)"),
        (json.dumps(body(data=[0.0] * 191)), "has 191 numbers of shape (191,), not [1, 3, 8, 8]"),
        (json.dumps(body(data=[[0.0] * 96] * 2)), "has 192 numbers of shape (2, 96)"),
        (json.dumps(body(data=["a"] * 192)), "are not a rectangular array of FP32 numbers"),
        (json.dumps(body(data=[[0.0], [0.0, 1.0]])), "are not a rectangular array"),
        (json.dumps(body(data=[{}] * 192)), "are not a rectangular array"),
        (json.dumps(body(data=[None] * 192)), "are not a rectangular array"),
        (json.dumps(body(data=[True] * 192)), "are not a rectangular array"),
        (json.dumps(body(data=[float("nan")] * 192)), "not finite FP32|cannot read the request"),
        (json.dumps(body(data=[float("-inf")] * 192)), "not finite FP32|cannot read the request"),
        (json.dumps(body(data=[1e39] * 192)), "not finite FP32 numbers"),
        (json.dumps(body(data=[10**30] * 192)), "are not a rectangular array|not finite"),
        (json.dumps(body(data=[3e38] * 192)), "is not finite for this input"),
        (json.dumps({"inputs": body()["inputs"] * 2}), "input 'input' is given twice"),
        (json.dumps({**body(), "parameters": {"width": "wide"}}), "cannot read the request at parameters.width"),
        (json.dumps({**body(), "parameters": {"width": 0.3}}), "width 0.3 is not offered; there are 0.25, 0.5, 1"),
        (json.dumps({**body(), "parameters": {"width": 0.4999999}}), "width 0.4999999 is not offered; there are 0.25, 0.5, 1"),
        (json.dumps({**body(), "parameters": {"width": 1, "budget": "macs<=1e9"}}), "a width or a budget, not both"),
        (json.dumps({**body(), "parameters": {"budget": "time<=3"}}), "cannot read a budget from 'time<=3'"),
        (json.dumps({**body(), "outputs": [{"name": "y"}]}), "there is no output 'y'"),
        (json.dumps({**body(), "outputs": [{"name": "output"}] * 2}), "output 'output' is requested twice"),
        (json.dumps({**body(), "outputs": [{"name": "output", "parameters": {"classification": 3}}]}), "classification outputs are not supported"),
        (json.dumps({**body(), "id": 7}), "cannot read the request at id"),
        (json.dumps(body(parameters={"binary_data_size": 768})), "has both data and a binary_data_size"),
        (json.dumps(body(data=None)), "has neither data nor a binary_data_size"),
    ],
)  # fmt: skip
def test_malformed_requests_are_refused_with_a_reason(client, content, message):
    response = client.post(INFER, content=content)
    assert response.status_code == 400
    error = response.json()["error"]
    assert any(part in error for part in message.split("|")), error
    assert len(error) < 600
    assert client.post(INFER, json=body()).status_code == 200


@pytest.mark.parametrize(
    ("size", "sent", "length", "message"),
    [
        (768, 768, "-1", "Inference-Header-Content-Length is '-1'"),
        (768, 768, "10" * 50, "Inference-Header-Content-Length is"),
        (768, 768, "٣", "Inference-Header-Content-Length is"),
        (768, 768, "5", "cannot read the request"),
        (768, 700, None, "binary_data_size is 768, and 700 bytes are there"),
        (768, 800, None, "32 bytes are left after the tensors"),
        (764, 764, None, "takes 768 bytes; binary_data_size is 764"),
        (10**15, 768, None, "takes 768 bytes"),
        (-1, 768, None, "cannot read the request at inputs.0.parameters.binary_data_size"),
    ],
)
def test_wrong_sizes_of_binary_tensors(client, size, sent, length, message):
    head = json.dumps(body(data=None, parameters={"binary_data_size": size})).encode()
    headers = {HEAD: (str(len(head)) if length is None else length).encode()}
    response = client.post(INFER, content=head + bytes(sent), headers=headers)
    assert response.status_code == 400
    assert message in response.json()["error"]


def test_infinite_binary_numbers_are_refused(client):
    tensor = np.full((1, 3, 8, 8), np.nan, np.float32).tobytes()
    head = json.dumps(body(data=None, parameters={"binary_data_size": len(tensor)})).encode()
    response = client.post(INFER, content=head + tensor, headers={HEAD: str(len(head))})
    assert (response.status_code, "not finite FP32" in response.json()["error"]) == (400, True)


def test_large_bodies_and_bombs_are_refused(client):
    assert client.post(INFER, content=b" " * (LIMITS.body + 1)).status_code == 413
    response = client.post(INFER, content=(b" " * 1000 for _ in range(1000)))  # no length is declared
    assert (response.status_code, response.json()["error"]) == (413, "the body has more than 200000 bytes")
    bomb = gzip.compress(bytes(50_000_000))
    assert len(bomb) < LIMITS.body
    for encoding, content in (("gzip", bomb), ("deflate", zlib.compress(bytes(50_000_000)))):
        assert client.post(INFER, content=content, headers={"Content-Encoding": encoding}).status_code == 413
    for content in (b"no", gzip.compress(b"{}" * 100)[:15], gzip.compress(b"{}") + b"more"):
        response = client.post(INFER, content=content, headers={"Content-Encoding": "gzip"})
        assert (response.status_code, "gzip" in response.json()["error"]) == (400, True)
    assert client.post(INFER, content=b"", headers={"Content-Encoding": "br"}).status_code == 415


def test_images(client, served):
    found = client.post("/predict?width=0.5", content=png(40, 30))
    assert found.status_code == 200
    answer = found.json()
    assert answer["width"] == 0.5
    assert answer["accuracy"] == 90.5
    assert answer["macs"] == served.point(0.5).macs
    assert sum(entry["probability"] for entry in answer["predictions"]) == pytest.approx(1, abs=1e-4)
    assert {entry["class"] for entry in answer["predictions"]} == set("abcd")
    for mode in ("1", "L", "P", "RGBA", "I;16"):
        assert client.post("/predict", content=png(9, 9, mode)).status_code == 200


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 400, "cannot read the image"),
        (b"GIF89a", 400, "cannot read the image"),
        (png(20, 20)[:50], 400, "cannot read the image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 400, "cannot read the image"),
        (png(1000, 101), 413, "the image has 1000 x 101 pixels, above 100000"),
        (declared_png(60_000, 60_000), 413, "pixels"),
        (declared_png(300, 300), 400, "cannot read the image"),
        (declared_png(0, 5), 400, "cannot read the image"),
    ],
    ids=["empty", "head", "cut", "svg", "large", "bomb", "short", "none"],
)
def test_wrong_images(client, content, status, message):
    response = client.post("/predict", content=content)
    assert response.status_code == status
    assert message in response.json()["error"]


@pytest.mark.parametrize("width", ["wide", "nan", "inf", "0.3", "1e999", ""])
def test_wrong_widths_of_images(client, width):
    assert client.post("/predict", params={"width": width}, content=png(8, 8)).status_code == 400


def test_addresses_and_methods_that_do_not_exist(client):
    for method, path, status in (
        ("GET", "/nothing", 404),
        ("GET", INFER, 405),
        ("POST", "/v2", 405),
        ("PUT", "/", 405),
    ):
        response = client.request(method, path)
        assert response.status_code == status
        assert "error" in response.json()


def talk(address: str, *parts: bytes, in_turn: bool = False) -> bytes:
    """What a server says to bytes, until it closes; in turn, if each part is sent after an answer to that before."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        said = b""
        for number, part in enumerate(parts):
            while in_turn and said.count(b"\r\n\r\n") < number:
                said += connection.recv(65536)
            connection.sendall(part)
        while chunk := connection.recv(65536):
            said += chunk
        return said


def test_slow_clients_are_let_go(served, start):
    from anywidth.serving.app import create_app
    from anywidth.serving.service import Service
    from served_tiny import make_governor

    limits = Limits(receive=0.4)
    address = start(create_app(Service(served, make_governor(), limits)), limits)
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode()
    for parts, message in (((b"",), b"did not arrive within 0.4 s"), ((head[:30],), b"the request did not arrive"), ((head, b"{"), b"the body did not arrive within 0.4 s")):  # fmt: skip
        said = talk(address, *parts)
        assert said.startswith(b"HTTP/1.1 408"), said
        assert message in said
    live = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n"
    second = talk(address, live + b"\r\n", live, in_turn=True)  # a whole request, and the half of another
    assert second.startswith(b"HTTP/1.1 200 OK")
    assert b"HTTP/1.1 408" in second
    assert b" 200 OK" in talk(address, live + b"Connection: close\r\n\r\n")


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999999999999999\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 2_000_000 + b"\r\n\r\n",
        b"POST "
        + INFER.encode()
        + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\nzz\r\n",
    ],
    ids=["nonsense", "negative", "huge", "header", "chunk"],
)
def test_broken_http_is_a_4xx_and_the_server_goes_on(address, sent):
    try:
        assert talk(address, sent).startswith(b"HTTP/1.1 4")
    except ConnectionResetError:  # it closed before it had read all that was sent
        assert len(sent) > 65536
    assert b" 200 OK" in talk(address, b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")


def test_clients_that_go_away_do_not_disturb(address):
    host, port = address.split(":")
    content = json.dumps(body()).encode()
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    for sent in (head, head + content[:50], head + content):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(sent)
    assert b" 200 OK" in talk(address, b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")


def test_limits_that_make_no_sense_are_errors():
    with pytest.raises(ExportError, match="the limit rows is 0; give a number above 0"):
        Limits(rows=0)
