"""Reads one client's bytes: requests come out whole and within limits, or refused."""

# ruff: noqa: D102 -- httptools says what its callbacks are

from __future__ import annotations

from typing import Protocol

import httptools

from albert_deploy.scripts.serving.front_request import Request
from albert_deploy.scripts.serving.front_routes import READ_HEADERS, Refusal, too_large
from albert_deploy.scripts.serving.front_state import FrontState


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
