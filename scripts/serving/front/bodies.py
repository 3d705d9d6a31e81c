"""JSON bodies are read here before Triton reads them, whose parser has no limits.

A body nested 40,000 deep ends Triton's process, and 150,000 keys keep it busy for a minute.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

MOST_TENSORS, MOST_PARAMETERS, MOST_VALUES, DEEPEST = 16, 64, 200_000, 4
_TOP = frozenset({"id", "inputs", "outputs", "parameters"})
_INPUT = frozenset({"name", "shape", "datatype", "data", "parameters"})
_OUTPUT = frozenset({"name", "parameters"})
# What else Triton knows of these maps memory, or crashes it on tensors of text (classification).
_OF_INPUTS, _OF_OUTPUTS = frozenset({"binary_data_size"}), frozenset({"binary_data"})


class _UnsoundError(Exception):
    """Why a body is refused."""


def bad_body(body: bytes | bytearray, *, generate: bool) -> str | None:
    """Return why the JSON of a request is refused; None where it is sound.

    Args:
        body: The JSON alone, without binary tensors behind it.
        generate: It is for ``generate``, an object of fields, and not for ``infer``.
    """
    try:
        value = json.loads(bytes(body).decode(), parse_constant=_no_number, parse_float=_finite)
        _want(isinstance(value, dict), f"the body is {_kind(value)}; wanted an object")
        (_check_fields if generate else _check_request)(value)
    except RecursionError:
        return "the body is nested too deep"
    except UnicodeDecodeError as error:
        return f"the body is no UTF-8 at byte {error.start + 1}"
    except UnicodeEncodeError:
        return "the body has a lone surrogate, which is no text"
    except ValueError as error:
        return f"the body is no JSON: {error}" if body.strip() else "the body is empty"
    except _UnsoundError as error:
        return str(error)
    return None


def _want(held: bool, message: str) -> None:
    if not held:
        raise _UnsoundError(message)


def _check_fields(value: dict[str, Any]) -> None:
    _want(len(value) <= MOST_PARAMETERS, f"more than {MOST_PARAMETERS} keys")
    for name, one in value.items():
        if name != "parameters":
            _check_values(one, name[:80], 2)
    _check_parameters(value.get("parameters", {}))


def _check_request(value: dict[str, Any]) -> None:
    _check_known(value, _TOP, "the request")
    name = value.get("id", "")
    _want(isinstance(name, str), f"id is {_kind(name)}; wanted a text")
    name.encode()
    inputs = value.get("inputs")
    _want(isinstance(inputs, list), f"inputs is {_kind(inputs)}; wanted a list of tensors")
    for key, known, own in (("inputs", _INPUT, _OF_INPUTS), ("outputs", _OUTPUT, _OF_OUTPUTS)):
        tensors = value.get(key, [])
        fine = isinstance(tensors, list) and len(tensors) <= MOST_TENSORS
        _want(fine, f"{key} is no list of at most {MOST_TENSORS} tensors")
        for tensor in tensors:
            _want(isinstance(tensor, dict), f"{key} has {_kind(tensor)}; wanted objects")
            _check_known(tensor, known, key)
            _check_known(_check_parameters(tensor.get("parameters", {})), own, "its parameters")
            name = tensor.get("name")
            _want(isinstance(name, str), f"a tensor's name is {_kind(name)}; wanted a text")
            name.encode()
            if key == "inputs":
                _check_input(tensor, name[:80])
    _check_parameters(value.get("parameters", {}))


def _check_input(tensor: dict[str, Any], name: str) -> None:
    _want(isinstance(tensor.get("datatype"), str), f"{name} has no datatype, such as BYTES")
    shape: Any = tensor.get("shape")
    fine = isinstance(shape, list) and len(shape) <= DEEPEST
    fine = fine and all(type(size) is int and 0 <= size < 2**31 for size in shape)
    _want(fine, f"{name} has no shape of at most {DEEPEST} whole numbers")
    _want(math.prod(shape) <= MOST_VALUES, f"{name} has more than {MOST_VALUES:,} values")
    if "data" in tensor:
        texts = tensor["datatype"] == "BYTES"
        _check_values(tensor["data"], name, DEEPEST, (str,) if texts else (int, float))


def _check_parameters(value: Any) -> dict[str, Any]:
    fine = isinstance(value, dict) and len(value) <= MOST_PARAMETERS
    _want(fine, f"parameters is no object of at most {MOST_PARAMETERS} keys")
    for name, one in value.items():
        fine = isinstance(one, (str, int, float))
        _want(fine, f"parameter {name[:80]} is {_kind(one)}; wanted a number, a truth or a text")
        f"{name}{one}".encode()
    return dict(value)


def _check_values(
    value: object, name: str, depth: int, kinds: tuple[type, ...] = (str, int, float)
) -> None:
    """Fail where values, nested at most ``depth`` deep, are no data of a tensor."""
    name.encode()
    level, count = [value], 0
    for _ in range(depth + 1):
        count += len(level)
        _want(count <= MOST_VALUES, f"{name} has more than {MOST_VALUES:,} values")
        for one in level:
            wanted = "numbers or truths" if str not in kinds else "texts"
            _want(isinstance(one, (*kinds, list)), f"{name} has {_kind(one)}; wanted {wanted}")
            if isinstance(one, str):
                one.encode()
        level = [one for each in level if isinstance(each, list) for one in each]
    _want(not level, f"{name} is nested more than {depth} deep")


def _check_known(value: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    for key in value:
        fine, shown = key in known, key[:80].encode("utf-8", "replace").decode()
        _want(fine, f"{where}: {shown!r} is not offered here; use: {', '.join(sorted(known))}")


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a truth"
    kinds: dict[type[object], str] = {list: "a list", dict: "an object", str: "a text"}
    return kinds.get(type(value), "a number")


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _finite(word: str) -> float:
    value = float(word)
    if not math.isfinite(value):
        raise ValueError(f"{word[:40]} is too large a number")
    return value
