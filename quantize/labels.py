"""What people call a product of an exported graph, from the name of its node alone."""

from __future__ import annotations

import re

ITERATION = re.compile(r"^encoder/iteration_(\d+)/(?:group_\d+/layer_(\d+)|layer_\d+)/(.*)$")
QUERY_KEY, PROBABILITIES = "query x key", "probabilities x value"
# The two products of attention, by the number that the exporter appends to their names.
_PRODUCTS = {
    "attention/MatMul": QUERY_KEY,
    "attention/MatMul_1": PROBABILITIES,
    "attention/self/MatMul": QUERY_KEY,
    "attention/self/MatMul_1": PROBABILITIES,
}


def label_of(node: str) -> str:
    """Return people's name for a node of an exported graph."""
    match = ITERATION.match(node)
    path = match[3] if match else node
    name = _PRODUCTS.get(path) or path.rpartition("/")[0].removeprefix("encoder/")
    name = re.sub(r"^attention/(?:self/)?(query|key|value)$", r"\1", name)
    name = name.replace("/", ".")
    if match is None:
        return name
    inner = f" inner layer {int(match[2])}" if match[2] and int(match[2]) else ""
    return f"encoder iteration {int(match[1])}{inner}, {name}"
