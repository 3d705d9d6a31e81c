"""Points: one for each product that the configuration implies, each with a name of its own."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from models import with_medium

from albert_deploy.export.graph.file import load
from albert_deploy.export.graph.naming import PROBABILITIES, QUERY_KEY, label_of
from albert_deploy.export.graph.uses import Use, activations, find_uses

ALBERT = ("query", "key", "value", "attention.dense", "ffn", "ffn_output")
BERT = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")
# What a graph multiplies besides its encoder's iterations, in the order of execution.
OUTSIDE = {
    "albert": ["embedding_hidden_mapping_in", "pooler", "classifier"],
    "grouped": ["embedding_hidden_mapping_in", "pooler", "classifier"],
    "bert": ["pooler.dense", "classifier"],
    "pretraining": [
        "embedding_hidden_mapping_in",
        "pooler",
        "predictions.dense",
        "predictions.decoder",
        "sop_classifier.classifier",
    ],
}


@pytest.fixture(params=with_medium(OUTSIDE, ["albert", "bert"]))
def graph(
    request: pytest.FixtureRequest, graph_of: Callable[[str], Path]
) -> tuple[str, ir.Model, dict[str, Any]]:
    """Name, model and configuration of the checkpoint."""
    path = graph_of(request.param)
    config = json.loads((path.parent.parent / "config.json").read_text(encoding="utf-8"))
    return request.param, load(path), config


Graph = tuple[str, ir.Model, dict[str, Any]]


def layer_uses(config: dict[str, Any]) -> int:
    return int(config["num_hidden_layers"]) * int(config.get("inner_group_num", 1))


def test_labels_are_unique_and_for_people(graph: Graph) -> None:
    uses = find_uses(graph[1])
    for names in ([p.label for p in uses], [p.node for p in uses]):
        assert not [name for name, count in Counter(names).items() if count > 1]
    for use in uses:
        assert "/" not in use.label
        assert "MatMul" not in use.label


def test_the_number_of_points_follows_from_the_configuration(graph: Graph) -> None:
    name, model, config = graph
    uses = find_uses(model)
    assert len(uses) == layer_uses(config) * (6 + 2) + len(OUTSIDE[name])
    assert len(uses) == sum(node.op_type == "MatMul" for node in model.graph)
    assert [p.label for p in uses if p.iteration is None] == OUTSIDE[name]


def test_every_use_has_six_linears_and_two_products(graph: Graph) -> None:
    _, model, config = graph
    linears = BERT if config["model_type"] == "bert" else ALBERT
    by_use: dict[str, list[Use]] = {}
    for use in find_uses(model):
        if use.iteration is not None:
            by_use.setdefault(use.label.rpartition(", ")[0], []).append(use)
    assert len(by_use) == layer_uses(config)
    for uses in by_use.values():
        assert {p.operator for p in uses if p.weight} == set(linears)
        assert [p.operator for p in uses if not p.weight] == [QUERY_KEY, PROBABILITIES]
        assert all(len(p.inputs) == (1 if p.weight else 2) for p in uses)
    numbers = {p.iteration for p in find_uses(model)} - {None}
    assert numbers == set(range(config["num_hidden_layers"]))


def test_a_shared_weight_has_one_point_per_use(graph: Graph) -> None:
    _, model, config = graph
    layers = (
        int(config["num_hidden_layers"])
        if config["model_type"] == "bert"
        else int(config["num_hidden_groups"]) * int(config["inner_group_num"])
    )
    counts = Counter(p.weight for p in find_uses(model) if p.weight and p.iteration is not None)
    assert len(counts) == 6 * layers
    assert set(counts.values()) == {layer_uses(config) // layers}


@pytest.mark.medium
def test_inner_layers_are_told_apart(graph_of: Callable[[str], Path]) -> None:
    labels = [p.label for p in find_uses(load(graph_of("grouped")))]
    assert "encoder iteration 3, ffn_output" in labels
    assert "encoder iteration 3 inner layer 1, ffn_output" in labels


def test_points_read_values_that_the_graph_computes(graph: Graph) -> None:
    model = graph[1]
    computed = {v.name: v.producer() for node in model.graph for v in node.outputs}
    for use in find_uses(model):
        for name in use.inputs:
            producer = computed[name]
            assert producer is not None
            # Moved values are quantized before they are moved.
            assert producer.op_type not in {"Reshape", "Transpose"}


def test_each_activation_has_a_label_that_names_its_readers(graph: Graph) -> None:
    uses = find_uses(graph[1])
    labels = activations(uses)
    assert set(labels) == {name for use in uses for name in use.inputs}
    assert not [label for label, count in Counter(labels.values()).items() if count > 1]
    for use in uses:
        for name in use.inputs:
            assert use.operator in labels[name]


def test_an_activation_that_feeds_three_products_is_one(graph_of: Callable[[str], Path]) -> None:
    labels = activations(find_uses(load(graph_of("albert")))).values()
    assert "encoder iteration 1, query + key + value, input" in labels
    assert "encoder iteration 1, query x key, input 1" in labels
    assert "encoder iteration 1, query x key, input 2" in labels
    assert "encoder iteration 2, ffn_output, input" in labels


@pytest.mark.parametrize(
    ("node", "label"),
    [
        ("encoder/iteration_11/group_0/layer_0/ffn_output/MatMul", "iteration 11, ffn_output"),
        ("encoder/iteration_00/group_1/layer_0/attention/query/MatMul", "iteration 0, query"),
        ("encoder/iteration_02/group_1/layer_3/ffn/MatMul", "iteration 2 inner layer 3, ffn"),
        ("encoder/iteration_02/layer_2/attention/self/MatMul", "iteration 2, query x key"),
        (
            "encoder/iteration_02/group_0/layer_0/attention/MatMul_1",
            "iteration 2, probabilities x value",
        ),
    ],
)
def test_label_of_a_node_of_the_encoder(node: str, label: str) -> None:
    assert label_of(node) == f"encoder {label}"
