"""Readable names: which module, which layer group and which iteration a node belongs to."""

from __future__ import annotations

import ast
import re
from collections import Counter
from typing import TYPE_CHECKING

from albert_deploy.runtime.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir
    import torch

SCOPES_KEY = "pkg.torch.onnx.name_scopes"
# The wrapper around the traced model, see ``to_onnx._Head``.
_WRAPPER = re.compile(r"^model\.?")
_LAYERS = {
    "albert": re.compile(
        r"encoder\.albert_layer_groups\.(?P<group>\d+)\.albert_layers\.(?P<layer>\d+)(?P<rest>.*)$"
    ),
    "bert": re.compile(r"encoder\.layer\.(?P<layer>\d+)(?P<rest>.*)$"),
}


def canonical_names(model: torch.nn.Module) -> dict[str, str]:
    """Map every name of a parameter to its first one, so that tied weights have one name."""
    first: dict[int, str] = {}
    names: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[name] = first.setdefault(id(parameter), name)
    return names


def name_initializers(model: ir.Model, canonical: Mapping[str, str]) -> int:
    """Name each initializer after its parameter in the checkpoint, without the wrapper.

    A weight that is stored the other way round keeps ``_transposed`` at its end.
    """
    from albert_deploy.export.graph.edit import rename_initializer

    count = 0
    for value in list(model.graph.initializers.values()):
        if value.name is None or not value.name.startswith("model."):
            continue
        name, turned, _ = _WRAPPER.sub("", value.name).partition("_transposed")
        new = canonical.get(name, name) + turned
        if new != value.name:
            rename_initializer(model, value, new)
            count += 1
    return count


def name_constants(model: ir.Model) -> int:
    """Name lifted scalars and index vectors after their contents."""
    from albert_deploy.export.graph.edit import rename_initializer

    count = 0
    taken = set(model.graph.initializers)
    for value in list(model.graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or value.name is None or not re.fullmatch(r"val_\d+", value.name):
            continue
        text = "_".join(f"{n:g}" for n in tensor.numpy().reshape(-1).tolist()[:4])
        stem = f"const_{tensor.dtype.name.lower()}_{text}_rank{len(tensor.shape)}"
        new = re.sub(r"[^0-9A-Za-z_.]", "m", stem)
        while new in taken:
            new += "_"
        taken.add(new)
        rename_initializer(model, value, new)
        count += 1
    return count


def name_nodes(model: ir.Model, family: str, *, uses: int, inner: int = 1) -> int:
    """Name nodes and inner values by module path and iteration of the layer.

    A node of ALBERT's shared layer becomes ``encoder/iteration_03/group_0/layer_0/ffn/MatMul``,
    one of BERT's layers ``encoder/iteration_03/layer_3/intermediate/dense/MatMul``; a value is
    named after the node that makes it.

    Args:
        model: Traced model whose nodes still carry the tracer's scopes.
        family: ``albert`` or ``bert``.
        uses: Expected number of layer uses.
        inner: Inner layers of a group, which share one iteration.

    Raises:
        ContractError: The graph has another number of layer uses.
    """
    pattern = _LAYERS[family]
    taken: Counter[str] = Counter()
    layer: tuple[str, str] | None = None
    first: tuple[str, str] | None = None
    seen = 0
    for node in model.graph:
        path = _module_path(node)
        match = pattern.search(path)
        if match is not None:
            here = (match.groupdict().get("group") or "", match["layer"])
            mark = (path, node.op_type)
            if here != layer or mark == first:
                layer, first = here, mark
                seen += 1
            place = f"encoder/iteration_{(seen - 1) // inner:02d}"
            if here[0]:
                place += f"/group_{here[0]}"
            path = f"{place}/layer_{here[1]}{match['rest']}"
        stem = "/".join(part for part in (path.replace(".", "/"), node.op_type) if part)
        taken[stem] += 1
        node.name = stem if taken[stem] == 1 else f"{stem}_{taken[stem] - 1}"
        for i, value in enumerate(node.outputs):
            if not value.is_graph_output():
                value.name = f"{node.name}/output_{i}"
    if seen != uses:
        raise ContractError(f"the traced graph has {seen} layer uses, the configuration {uses}")
    return len(model.graph)


def _module_path(node: ir.Node) -> str:
    scopes = node.metadata_props.get(SCOPES_KEY)
    if scopes is None:
        return ""
    path = ast.literal_eval(scopes)
    module = str(path[-2]) if len(path) > 1 else ""
    module = _WRAPPER.sub("", module)
    # "albert.encoder…" and "encoder…" (a bare AlbertModel) get the same names.
    return "" if module.startswith("_empty") else re.sub(r"^(albert|bert)\.?", "", module)


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
