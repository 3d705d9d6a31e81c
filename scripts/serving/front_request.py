"""One HTTP request as it is read, checked and written anew for Triton."""

from __future__ import annotations

import httptools

from albert_deploy.scripts.serving.front_routes import (
    Refusal,
    Route,
    check_headers,
    grown,
    route,
)
from albert_deploy.scripts.serving.front_state import FrontState

_SMALL_BYTES = 64 << 10
_SENT_ON = {
    b"content-type": b"Content-Type",
    b"accept": b"Accept",
    b"inference-header-content-length": b"Inference-Header-Content-Length",
}


class Request:
    """What is known of a request so far.

    Attributes:
        refusal: Why it is not let through, once that is known.
        close: The connection ends with its answer.
        old: Its client speaks HTTP/1.0 and wants the connection kept.
        told_to_wait: Its client waits for 100 Continue, and earlier answers come first.
        reserved: Bytes it holds of `FrontState.buffered_bytes`.
    """

    __slots__ = (
        "body",
        "close",
        "expects",
        "has_body",
        "head_bytes",
        "head_done",
        "headers",
        "method",
        "old",
        "path",
        "refusal",
        "reserved",
        "route",
        "told_to_wait",
    )

    def __init__(self) -> None:
        self.method = b""
        self.path = b""
        self.headers: dict[bytes, bytes] = {}
        self.head_bytes = 0
        self.head_done = False
        self.has_body = False
        self.expects = False
        self.told_to_wait = False
        self.body: bytes | bytearray = b""
        self.route: Route | None = None
        self.refusal: Refusal | None = None
        self.close = False
        self.old = False
        self.reserved = 0

    def add_header(self, name: bytes, value: bytes) -> None:
        """Take one header that the front reads, `name` in lower case."""
        if name not in self.headers:
            self.headers[name] = value
        elif name == b"accept":
            self.headers[name] += b", " + value
        else:
            self.refusal = Refusal(400, "malformed", f"{name.decode()} is given twice")

    def check(self, parser: httptools.HttpRequestParser, state: FrontState) -> None:
        """The head is whole: find what it asks for, or why it is refused."""
        self.head_done = True
        version, headers, config = parser.get_http_version(), self.headers, state.config
        self.old = version == "1.0" and parser.should_keep_alive()
        length = headers.get(b"content-length", b"0")
        self.has_body = b"transfer-encoding" in headers or length.strip(b"0") != b""
        found = route(self.method, self.path)
        takes_body = found is Route.INFER or isinstance(found, Refusal)
        bad = self.refusal or check_headers(headers, version, takes_body, config.max_body_bytes)
        if bad is not None and (bad.status == 400 or not isinstance(found, Refusal)):
            self.refusal = bad
        elif isinstance(found, Refusal):
            self.refusal = found
        elif parser.should_upgrade() and self.has_body:
            self.refusal = Refusal(400, "malformed", "a request with a body cannot be an upgrade")
        else:
            self.route = found
            self._reserve(state, length)
        self.close |= self.has_body and self.refusal is not None
        self.expects = b"expect" in headers and self.has_body and version == "1.1"

    def _reserve(self, state: FrontState, length: bytes) -> None:
        chunked = b"transfer-encoding" in self.headers
        size = state.config.max_body_bytes if chunked else int(length)
        if size <= _SMALL_BYTES:
            return
        if state.buffered_bytes + size > state.config.max_buffered_bytes:
            self.refusal = Refusal(503, "memory", "too many large requests are on their way")
        else:
            self.reserved = size
            state.buffered_bytes += size

    def release(self, state: FrontState) -> None:
        """Give back what it held of the room for bodies."""
        state.buffered_bytes -= self.reserved
        self.reserved = 0
        self.body = b""

    def add_body(self, part: bytes) -> int:
        """Take a piece of the body; returns the bytes so far."""
        self.body = grown(self.body, part)
        return len(self.body)

    def wire(self, host: bytes) -> bytes:
        """The request as Triton gets it: our own head, whole body with its length."""
        lines = [b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (self.method, self.path, host)]
        headers = self.headers
        lines += [b"%b: %b\r\n" % (_SENT_ON[k], headers[k]) for k in _SENT_ON if k in headers]
        if self.route is Route.INFER:
            lines.append(b"Content-Length: %d\r\n" % len(self.body))
        lines.append(b"\r\n")
        return b"".join(lines) + self.body

    def bad_json_length(self) -> bool:
        """Whether Inference-Header-Content-Length is no number within the body."""
        text = self.headers.get(b"inference-header-content-length")
        if text is None:
            return False
        return not text.isdigit() or len(text) > 18 or int(text) > len(self.body)
