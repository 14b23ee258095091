"""The endpoints of a server: the Open Inference Protocol (V2, REST), images, metrics and a web page."""

from __future__ import annotations

import asyncio
import hmac
import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from starlette.exceptions import HTTPException

from anywidth.serving.body import read_body
from anywidth.serving.datatypes import tensor_metadata
from anywidth.serving.infer_request import read_request
from anywidth.serving.infer_response import to_json, write_response
from anywidth.serving.refusal import Refusal
from anywidth.serving.service import Service

__all__ = ["create_app"]

_VERSION = "1"
_LARGE = 256 * 2**10
"""Bodies with more bytes than this are parsed in another thread, so that they do not delay other requests."""
_HEAVY = 2
"""Large bodies and images parsed at the same time: each may briefly need many times its size in memory."""
_PAGE = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'"


def create_app(service: Service, *, token: str | None = None) -> FastAPI:
    """The ASGI application of a service.

    Args:
        service: Answers the requests; it is drained when the application ends.
        token: If given, all endpoints except health and the page require the header `Authorization: Bearer TOKEN`.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.batcher.drain, service.limits.answer)

    # Async, because a plain function would run in another thread for every request.
    async def authorised(request: Request) -> None:
        given = request.headers.get("authorization", "")
        if token is not None and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            raise Refusal(401, "send the header Authorization: Bearer TOKEN", reason="token")

    async def refused(_: Request, error: Exception) -> Response:
        return _refused(service, error)

    app = FastAPI(title="anywidth", openapi_url=None, lifespan=lifespan)
    app.add_exception_handler(Refusal, refused)
    app.add_exception_handler(HTTPException, refused)
    app.include_router(_health(service))
    guarded = [Depends(authorised)]
    app.include_router(_protocol(service), dependencies=guarded)
    app.include_router(_images(service), dependencies=guarded)
    for path, (file, kind) in _PAGE.items():
        app.add_api_route(path, _static(file, kind), include_in_schema=False)
    return app


def _refused(service: Service, error: Exception) -> Response:
    if isinstance(error, HTTPException):  # raised by the router: unknown endpoint, or wrong method
        error = Refusal(error.status_code, f"{error.detail}; see /v2 and the Open Inference Protocol", reason="address")
    assert isinstance(error, Refusal)
    service.metrics.refused.labels(error.reason).inc()
    headers = {} if error.retry_after is None else {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
    headers |= {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
    return _json({"error": error.message}, error.status, headers)


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(content), status, headers, media_type="application/json")


def _health(service: Service) -> APIRouter:
    router = APIRouter()

    @router.get("/v2/health/live")
    async def live() -> Response:
        return Response()

    @router.get("/v2/health/ready")
    @router.get(f"/v2/models/{service.served.name}/ready")
    @router.get(f"/v2/models/{service.served.name}/versions/{_VERSION}/ready")
    async def ready() -> Response:
        if not service.batcher.open:
            raise Refusal(503, "the server is shutting down", reason="closed", retry_after=1)
        return Response()

    return router


def _protocol(service: Service) -> APIRouter:
    router, served, heavy = APIRouter(), service.served, asyncio.Semaphore(_HEAVY)
    model = f"/v2/models/{served.name}"

    @router.get("/v2")
    async def server_metadata() -> Response:
        from anywidth import __version__

        return _json({"name": "anywidth", "version": __version__, "extensions": ["binary_tensor_data"]})

    @router.get(model)
    @router.get(f"{model}/versions/{_VERSION}")
    async def model_metadata() -> Response:
        return _json(
            {
                "name": served.name,
                "versions": [_VERSION],
                "platform": f"anywidth_{served.ladder.runtime}",
                "inputs": [tensor_metadata(spec) for spec in served.ladder.inputs],
                "outputs": [tensor_metadata(spec) for spec in served.ladder.outputs],
            }
        )

    @router.post(f"{model}/infer")
    @router.post(f"{model}/versions/{_VERSION}/infer")
    async def infer(request: Request) -> Response:
        body = await read_body(request, service.limits)
        length = request.headers.get("inference-header-content-length")

        def read() -> Any:
            return read_request(body, length, served.ladder.inputs, served.ladder.outputs, rows=service.limits.rows)

        if len(body) > _LARGE:
            async with heavy:
                asked = await asyncio.to_thread(read)
        else:
            asked = read()
        answer = await service.answer(asked.inputs, width=asked.width, budget=asked.budget)
        content, headers = write_response(
            served.name, _VERSION, asked, answer, served.ladder.outputs, service.cost(answer)
        )
        return Response(content, headers=headers)

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @router.get("/spectrum")
    async def spectrum() -> Response:
        governor = service.governor
        return _json(
            {
                "name": served.name,
                "target_ms": 1e3 * governor.settings.target,
                "images": served.reader is not None,
                "widths": [
                    {
                        "width": point.width,
                        "macs": point.macs,
                        "params": point.params,
                        "accuracy": point.accuracy,
                        "ms": round(1e3 * governor.seconds(point.width, 1), 3),
                    }
                    for point in served.points
                    if point.width in governor.widths
                ],
            }
        )

    return router


def _images(service: Service) -> APIRouter:
    router, served, heavy = APIRouter(), service.served, asyncio.Semaphore(_HEAVY)

    @router.post("/predict")
    async def predict(request: Request) -> Response:
        if served.reader is None:
            raise Refusal(
                404,
                "this network takes tensors only, no image files; use the Open Inference Protocol",
                reason="address",
            )
        width = _number(request.query_params.get("width"))
        body = await read_body(request, service.limits)
        async with heavy:
            image = await asyncio.to_thread(served.reader.read, body)
        answer = await service.answer([image], width=width, budget=request.query_params.get("budget"))
        scores = answer.outputs[0][0].astype(np.float64)
        if not np.isfinite(scores).all():
            raise Refusal(400, "the network returns non-finite numbers for this image", reason="model")
        shares = np.exp(scores - scores.max())
        shares /= shares.sum()
        best = np.argsort(-shares, kind="stable")[:5]
        names = served.classes or [str(number) for number in range(len(scores))]
        found = [{"class": names[place], "probability": round(float(shares[place]), 6)} for place in best]
        return _json({"predictions": found, **service.cost(answer)})

    return router


def _number(text: str | None) -> float | None:
    try:
        number = None if text is None else float(text)
    except ValueError:
        number = math.nan
    if number is not None and not math.isfinite(number):
        raise Refusal(400, f"width is {json.dumps(text)[:50]}; give a number such as 0.5")
    return number


def _static(file: str, kind: str) -> Any:
    content = resources.files("anywidth.serving").joinpath("page", file).read_bytes()

    async def page() -> Response:
        return Response(
            content,
            headers={"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"},
            media_type=f"{kind}; charset=utf-8",
        )

    return page
