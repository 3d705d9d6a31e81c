"""What the front offers over HTTP: paths, methods and headers, and the answers of its own."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus

_NAME = rb"(?!\.{1,2}(?:/|\Z))[A-Za-z0-9_.-]{1,255}"
_MODEL = rb"/v2/models/" + _NAME + rb"(?:/versions/[0-9]{1,18})?"
_PLAIN = re.compile(rb"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9_.-]+)+")
_INFER = re.compile(_MODEL + rb"/(?:infer|generate)")
_MODEL_READY = re.compile(_MODEL + rb"/ready")
_LOOK = re.compile(_MODEL + rb"(?:/stats|/config)?")
_ADMIN = re.compile(
    rb"/v2/(?:repository|logging|trace|systemsharedmemory|cudasharedmemory)(?:/.*)?"
    rb"|/v2/models/.*/(?:trace/setting|load|unload)"
)


class Route(Enum):
    """What a path asks for."""

    INFER = "infer"
    LOOK = "look"
    READY = "ready"
    LIVE = "live"
    METRICS = "metrics"


_FIXED = {
    b"/v2": Route.LOOK,
    b"/v2/health/live": Route.LIVE,
    b"/v2/health/ready": Route.READY,
    b"/metrics": Route.METRICS,
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that is not let through: status, the name it is counted under, and why."""

    status: int
    reason: str
    message: str
    more: bytes = b""


def route(method: bytes, path: bytes) -> Route | Refusal:
    """What a request line asks for, or why it is refused; nothing in a path is normalised."""
    if _INFER.fullmatch(path):
        return Route.INFER if method == b"POST" else _method(method, b"POST")
    found = _FIXED.get(path)
    if found is None:
        if _MODEL_READY.fullmatch(path):
            found = Route.READY
        elif _LOOK.fullmatch(path):
            found = Route.LOOK
    if found is not None:
        return found if method == b"GET" else _method(method, b"GET")
    if not _PLAIN.fullmatch(path):
        return Refusal(
            400, "path", "the path is not plain: letters, digits, _ . - and / alone, no query"
        )
    if _ADMIN.fullmatch(path):
        return Refusal(403, "admin", "this server is not administered by its clients")
    return Refusal(404, "not_offered", f"{path.decode()} is not offered here")


def _method(method: bytes, allowed: bytes) -> Refusal:
    message = f"method {method.decode('latin-1')} is not offered here, {allowed.decode()} is"
    return Refusal(405, "method", message, b"Allow: " + allowed + b"\r\n")


# Headers that the front reads; all others end here.
READ_HEADERS = frozenset(
    {
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"content-encoding",
        b"content-type",
        b"accept",
        b"expect",
        b"inference-header-content-length",
    }
)


def check_headers(
    headers: dict[bytes, bytes], version: str, takes_body: bool, max_body_bytes: int
) -> Refusal | None:
    """Why a request with these headers (names in lower case) is refused, if it is."""
    length = headers.get(b"content-length")
    coding = headers.get(b"transfer-encoding")
    bad: str | None = None
    if version not in {"1.0", "1.1"}:
        bad = f"HTTP/{version} is not spoken here, HTTP/1.1 is"
    elif version == "1.1" and b"host" not in headers:
        bad = "the Host header is missing"
    elif coding is not None and length is not None:
        bad = "both Content-Length and Transfer-Encoding are given"
    elif coding is not None and (coding.lower() != b"chunked" or version == "1.0"):
        bad = "the one Transfer-Encoding taken is chunked, in HTTP/1.1"
    elif length is not None and (not length.isdigit() or len(length) > 18):
        bad = "Content-Length is not a plain number"
    elif not takes_body and (coding is not None or (length is not None and int(length))):
        bad = "this request takes no body"
    if bad is not None:
        return Refusal(400, "malformed", bad)
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        return Refusal(415, "encoding", "compressed bodies are not taken: send it as it is")
    if headers.get(b"expect", b"100-continue").lower() != b"100-continue":
        return Refusal(417, "malformed", "the one expectation met is 100-continue")
    if takes_body and length is None and coding is None:
        return Refusal(411, "malformed", "Content-Length is missing")
    if length is not None and int(length) > max_body_bytes:
        return too_large(max_body_bytes)
    return None


def too_large(max_body_bytes: int) -> Refusal:
    """A body over the limit."""
    return Refusal(413, "too_large", f"the body is larger than {max_body_bytes} bytes")


_PHRASES = {s.value: s.phrase.encode() for s in HTTPStatus}


def answer_bytes(
    status: int, headers: bytes, body: bytes | bytearray, *, close: bool, old: bool = False
) -> bytes:
    """One answer as it goes over the wire.

    Args:
        status: The HTTP status.
        headers: Whole header lines, each with its line end.
        body: Whole body.
        close: The connection ends after it.
        old: The client speaks HTTP/1.0 and wants the connection kept.
    """
    kept = b"Connection: close\r\n" if close else b"Connection: keep-alive\r\n" if old else b""
    phrase = _PHRASES.get(status, b"Unknown")
    head = b"HTTP/1.1 %d %b\r\n%b%b" % (status, phrase, headers, kept)
    return b"%bContent-Length: %d\r\n\r\n" % (head, len(body)) + body


def error_body(message: str) -> bytes:
    """The body of every error of the front's own."""
    return json.dumps({"error": message}).encode()


JSON_TYPE = b"Content-Type: application/json\r\n"


def grown(body: bytes | bytearray, part: bytes) -> bytes | bytearray:
    """Return a body with its next piece; one that comes in one piece is not copied."""
    if not body:
        return part
    whole = body if isinstance(body, bytearray) else bytearray(body)
    whole += part
    return whole
