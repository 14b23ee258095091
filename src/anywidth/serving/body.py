"""Read the body of a request within limits."""

from __future__ import annotations

import asyncio
import zlib

from starlette.requests import ClientDisconnect, Request

from anywidth.serving.limits import Limits
from anywidth.serving.refusal import Refusal

__all__ = ["read_body", "unpack"]

_WINDOWS = {"gzip": 31, "deflate": 15}
"""The window bits by which zlib knows the format of its input."""


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body, decompressed if necessary.

    Raises:
        Refusal: it is too large (status 413), too slow (408), compressed in an unknown format (415) or damaged (400).
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limits.body:
        raise _too_large(limits)
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.receive):
            async for part in request.stream():
                size += len(part)
                if size > limits.body:
                    raise _too_large(limits)
                parts.append(part)
    except TimeoutError:
        raise Refusal(408, f"the body did not arrive within {limits.receive:g} s", reason="slow") from None
    except ClientDisconnect:
        raise Refusal(400, "the connection was closed before the end of the body") from None
    body = b"".join(parts)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("identity", ""):
        return body
    if encoding not in _WINDOWS:
        raise Refusal(415, f"Content-Encoding is {encoding[:50]!r}; send gzip, deflate or none")
    return await asyncio.to_thread(unpack, body, encoding, limits)


def unpack(body: bytes, encoding: str, limits: Limits) -> bytes:
    """The content of a compressed body.

    Raises:
        Refusal: the content exceeds the limit (status 413) or is damaged (400).
    """
    unpacker = zlib.decompressobj(_WINDOWS[encoding])
    try:
        content = unpacker.decompress(body, limits.body + 1)
    except zlib.error as error:
        raise Refusal(400, f"the body is not valid {encoding}: {error}") from None
    if len(content) > limits.body:
        raise _too_large(limits)
    if not unpacker.eof or unpacker.unused_data:
        raise Refusal(400, f"the body is not a complete {encoding} stream")
    return content


def _too_large(limits: Limits) -> Refusal:
    return Refusal(413, f"the body has more than {limits.body} bytes", reason="body")
