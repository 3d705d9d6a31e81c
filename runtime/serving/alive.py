"""Ask a served model something, whatever its task: fails where its workers are dead.

``python3 -m albert_deploy.runtime.serving.alive [URL] [NAME]`` is a liveness probe. A Triton whose
Python worker was killed says that it is ready, and fails every request.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from typing import Any

_USUAL = ("http://127.0.0.1:8000", "albert")
_TIMEOUT_S = 20.0
# Refusals of a server that works: the question is no text for this task, or its queue is full.
_ALIVE = frozenset({400, 429, 503})
_DEAD_WORDS = ("not healthy", "not found", "not ready", "unknown model")


def alive(url: str, name: str, *, timeout_s: float = _TIMEOUT_S) -> str | None:
    """Ask a model one short question over HTTP.

    Args:
        url: Of the server.
        name: Of the model.
        timeout_s: How long each of two requests may take, in seconds.

    Returns:
        None where it answers or refuses with reason, else what is wrong.
    """
    place = f"{url}/v2/models/{name}"
    try:
        inputs = _asked(place, None, timeout_s)["inputs"]
        tensors = [
            {"name": one["name"], "shape": [1, 1], "datatype": "BYTES", "data": ["a"]}
            for one in inputs
            if not one.get("optional")
        ]
        _asked(f"{place}/infer", {"inputs": tensors}, timeout_s)
    except urllib.error.HTTPError as error:
        with error:
            body = error.read(4096).decode(errors="replace")
        if error.code in _ALIVE and not any(word in body for word in _DEAD_WORDS):
            return None
        return f"{error.code}: {body}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return repr(error)
    return None


def _asked(place: str, value: Any, timeout_s: float) -> Any:
    data = None if value is None else json.dumps(value).encode()
    with urllib.request.urlopen(urllib.request.Request(place, data), timeout=timeout_s) as answer:
        return json.load(answer)


def main(arguments: list[str]) -> int:
    """Print what is wrong and return 1, or return 0."""
    url, name = (*arguments, *_USUAL[len(arguments) :])[:2]
    wrong = alive(url.rstrip("/"), name)
    if wrong is not None:
        print(f"{name} at {url} does not answer: {wrong}", file=sys.stderr)
    return 0 if wrong is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
