"""Settings go through a model's configuration file and come back as they were."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.serving.settings import Settings, parameters, read_settings

OTHERS: dict[str, Any] = {
    "variant": "int8",
    "engine": "openvino",
    "threads": 3,
    "batch_size": 7,
    "max_text_bytes": 99,
    "max_choices": 5,
    "max_rows": 11,
    "lengths": (16, 64, 512),
}


def handed(folder: Path, given: dict[str, str]) -> dict[str, str]:
    """What Triton hands to ``initialize``, as far as it is read."""
    told = {key: {"string_value": value} for key, value in given.items()}
    config = {"name": "albert", "parameters": told, "max_batch_size": 32}
    return {"model_config": json.dumps(config), "model_repository": str(folder), "model_name": "a"}


@pytest.mark.parametrize("name", OTHERS)
def test_each_setting_comes_back(name: str, tmp_path: Path) -> None:
    usual = Settings(directory=tmp_path)
    settings = replace(usual, **{name: OTHERS[name]})
    assert settings != usual
    texts = parameters(settings)
    assert texts.keys() == {"directory", name}
    assert read_settings(handed(tmp_path / "models" / "albert", texts)) == settings


def test_all_settings_come_back(tmp_path: Path) -> None:
    assert OTHERS.keys() == {field.name for field in fields(Settings)} - {"directory"}
    settings = Settings(directory=tmp_path, **OTHERS)
    assert read_settings(handed(tmp_path, parameters(settings))) == settings
    assert parameters(Settings(directory=tmp_path)) == {"directory": str(tmp_path)}


def test_a_relative_directory_is_that_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "bundle" / "models" / "albert"
    found = read_settings(handed(folder, {"directory": "../.."}))
    assert found == Settings(directory=tmp_path / "bundle")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"directory": ".", "thread": "1"}, "has a parameter thread; use: directory, variant"),
        ({"directory": ".", "threads": "many"}, "has threads = 'many'; wanted whole numbers"),
        ({"directory": ".", "threads": ""}, "has threads = ''; wanted whole numbers"),
        ({"directory": ".", "batch_size": "1.5"}, "has batch_size = '1.5'; wanted whole numbers"),
        ({"directory": ".", "lengths": "16,long"}, "has lengths = '16,long'; wanted whole numbers"),
        ({"directory": ".", "batch_size": "0"}, "batch_size is 0; use at least 1"),
        ({"directory": ".", "max_text_bytes": "-1"}, "max_text_bytes is -1; use at least 1"),
        ({"directory": ".", "max_choices": "0"}, "max_choices is 0; use at least 1"),
        ({"directory": ".", "max_rows": "0"}, "max_rows is 0; use at least 1"),
        ({"variant": "fp32"}, "has no parameter directory"),
        ({}, "has no parameter directory"),
    ],
)
def test_a_bad_parameter_is_named(given: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_settings(handed(tmp_path, given))


def test_a_configuration_without_parameters_says_what_is_missing(tmp_path: Path) -> None:
    handed_over = {"model_config": "{}", "model_repository": str(tmp_path)}
    with pytest.raises(InputError, match="has no parameter directory"):
        read_settings(handed_over)
