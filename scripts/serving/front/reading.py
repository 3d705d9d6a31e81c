"""Reads one client's bytes: requests come out whole and within limits, or refused."""

from __future__ import annotations

from typing import Protocol

import httptools

from albert_deploy.scripts.serving.front.bodies import bad_body
from albert_deploy.scripts.serving.front.routes import (
    READ_HEADERS,
    Refusal,
    Route,
    check_headers,
    grown,
    route,
    too_large,
)
from albert_deploy.scripts.serving.front.state import FrontState

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

    def bad(self) -> str | None:
        """Return why the whole body is none that Triton may read; None where it may."""
        if self.route is not Route.INFER:
            return None
        text = self.headers.get(b"inference-header-content-length")
        body = self.body
        if text is not None:
            if not text.isdigit() or len(text) > 18 or int(text) > len(body):
                return "Inference-Header-Content-Length is no number within the body"
            body = body[: int(text)]
        return bad_body(body, generate=self.path.endswith(b"/generate"))


# ruff: noqa: D102 -- httptools says what its callbacks are


class Sink(Protocol):
    """Who takes the requests."""

    def enqueue(self, request: Request) -> None:
        """Take the next request, whole or refused."""

    def begun(self) -> None:
        """A request begins to arrive."""

    def expected(self, request: Request) -> None:
        """A client waits for 100 Continue before it sends the body."""


class RequestReader:
    """The parser of one connection and the request that arrives on it now.

    Attributes:
        reading: The request whose bytes come in now.
        deaf: Nothing more is parsed: a last answer is queued or sent.
    """

    def __init__(self, state: FrontState, sink: Sink) -> None:
        self.state = state
        self.sink = sink
        self.parser = httptools.HttpRequestParser(self)
        self.reading: Request | None = None
        self.deaf = False
        self._head_bytes = 0

    def feed(self, data: memoryview) -> None:
        """Parse what arrived."""
        size, before = len(data), self.reading
        while not self.deaf:
            try:
                self.parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as upgrade:
                # Offers to change the protocol are passed over; what follows is HTTP/1.1 again.
                data = data[int(upgrade.args[0]) :]
            except httptools.HttpParserError as error:
                if not self.deaf:
                    self.refuse(Refusal(400, "malformed", f"this is not HTTP: {error}"))
        reading = self.reading
        if reading is not None and not reading.head_done:  # one header may arrive without an end
            self._head_bytes = self._head_bytes + size if reading is before else 0
            if self._head_bytes > self.state.config.max_header_bytes:
                self._refuse_head()

    def refuse(self, refusal: Refusal) -> None:
        """Refuse and end: what follows on this connection is not read."""
        request, self.reading = self.reading or Request(), None
        request.release(self.state)
        request.refusal, request.close, self.deaf = refusal, True, True
        self.sink.enqueue(request)

    def _refuse_head(self) -> None:
        limit = self.state.config.max_header_bytes
        self.refuse(Refusal(431, "too_large", f"the headers are larger than {limit} bytes"))

    def on_message_begin(self) -> None:
        if not self.deaf:
            self.reading = Request()
            self.sink.begun()

    def on_url(self, part: bytes) -> None:
        if self.reading is not None:
            self.reading.path += part
            self.reading.head_bytes += len(part)

    def on_header(self, name: bytes, value: bytes) -> None:
        request = self.reading
        if request is None or request.head_done:  # trailers change nothing
            return
        request.head_bytes += len(name) + len(value) + 4
        name = name.lower()
        if name in READ_HEADERS:
            request.add_header(name, value)

    def on_headers_complete(self) -> None:
        request = self.reading
        if request is None:
            return
        if request.head_bytes > self.state.config.max_header_bytes:
            self._refuse_head()
            return
        request.method = self.parser.get_method()
        request.check(self.parser, self.state)
        if request.refusal is not None:
            if request.has_body:
                self.refuse(request.refusal)  # and the body is not read
        elif request.expects:
            self.sink.expected(request)

    def on_body(self, part: bytes) -> None:
        request = self.reading
        if request is not None and request.add_body(part) > self.state.config.max_body_bytes:
            self.refuse(too_large(self.state.config.max_body_bytes))

    def on_message_complete(self) -> None:
        request, self.reading = self.reading, None
        if request is None:
            return
        request.close |= not self.parser.should_keep_alive()
        self.deaf |= request.close
        self.sink.enqueue(request)
