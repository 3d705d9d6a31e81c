"""Put the tokenizer into the deployment directory as the one file that the runtime reads."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

from albert_deploy.runtime.contract import INPUT_NAMES
from albert_deploy.runtime.errors import InputError, MachineError
from albert_deploy.runtime.manifest import os_failure, write_json, writing

TOKENIZER = "tokenizer.json"
_CONFIG = "tokenizer_config.json"
_SPIECE, _VOCAB = _VOCABULARIES = ("spiece.model", "vocab.txt")
_COPIED = (TOKENIZER, _CONFIG, "special_tokens_map.json", "added_tokens.json", *_VOCABULARIES)
# transformers writes this number where a tokenizer sets no limit.
_NO_LIMIT = 10**20
# How version 5 was called when it saved the tokenizer; nothing about the tokenizer.
_LOADING = ("backend", "is_local", "local_files_only")


def write_tokenizer(source: Path, out: Path, config: dict[str, Any]) -> dict[str, int]:
    """Copy a checkpoint's tokenizer, making ``tokenizer.json`` where only a vocabulary is there.

    Returns:
        ``max_length`` in tokens and ``pad_token_id``.

    Raises:
        InputError: No tokenizer, a broken one, or one of another model.
    """
    present = [name for name in _COPIED if (source / name).is_file()]
    if TOKENIZER not in present and not any(v in present for v in _VOCABULARIES):
        raise InputError(
            f"{source} has no tokenizer ({TOKENIZER}, {' or '.join(_VOCABULARIES)}); "
            "save the one it was trained with beside the weights"
        )
    for name in present:
        _copy(source / name, out / name)
    if TOKENIZER not in present or _CONFIG not in present:
        _convert(source, out, keep=present)
    _check_vocabulary(out, config)
    max_length = _write_settings(out / _CONFIG, int(config["max_position_embeddings"]))
    return {"max_length": max_length, "pad_token_id": int(config.get("pad_token_id") or 0)}


def _convert(source: Path, out: Path, *, keep: list[str]) -> None:
    from transformers import AutoTokenizer

    made = out / ".tokenizer"
    remedy = "save the fast tokenizer there with save_pretrained"
    pieces = _pieces(source / _SPIECE, remedy) if _SPIECE in keep and TOKENIZER not in keep else []
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
        tokenizer.save_pretrained(made)
        named = [v for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)]
        if pieces:
            _undo_extras(made, pieces, named)
        for path in sorted(made.iterdir()):
            if path.name not in keep:
                _copy(path, out / path.name)
    except Exception as error:  # a broken vocabulary makes tokenizers raise plain Exception
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise InputError(
            f"cannot make {TOKENIZER} from the vocabulary in {source}: {reason}; {remedy}"
        ) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    if not (out / TOKENIZER).is_file():
        raise InputError(
            f"transformers made no {TOKENIZER} from the vocabulary in {source}; {remedy}"
        )
    if TOKENIZER not in keep and not pieces:
        words = set((source / _VOCAB).read_text(encoding="utf-8").splitlines())
        # transformers would add them behind the vocabulary, with ids the model never saw.
        if missing := [token for token in named if token not in words]:
            raise InputError(f"{source / _VOCAB} lacks {', '.join(missing)}; {remedy}")


def _pieces(file: Path, remedy: str) -> list[tuple[str, float]]:
    """Read the pieces of a SentencePiece model with the scores that ALBERT gives them.

    ALBERT's own tokenizer splits the comma off a number (google-research/albert,
    ``tokenization.encode_pieces``); a piece such as ``2012,`` that costs 100 more never wins.
    """
    import sentencepiece

    try:
        # transformers reads the file with this, and where it fails tells of other packages.
        importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    except Exception as error:  # protobuf has errors of its own for versions that do not fit
        raise MachineError(
            f"sentencepiece cannot be used with the protobuf here: {' '.join(str(error).split())}; "
            f"run: pip install --upgrade protobuf, or {remedy}"
        ) from error
    try:
        model = sentencepiece.SentencePieceProcessor()
        model.LoadFromSerializedProto(file.read_bytes())
    except (OSError, RuntimeError) as error:
        raise InputError(f"{file} is damaged ({error}); copy it again, or {remedy}") from error
    return [
        (piece, model.get_score(i) - (100.0 if piece[-1:] == "," and piece[-2:-1].isdigit() else 0))
        for i, piece in enumerate(model.id_to_piece(i) for i in range(model.get_piece_size()))
    ]


def _undo_extras(made: Path, pieces: list[tuple[str, float]], named: list[str]) -> None:
    """Give a converted tokenizer the pieces as they were trained.

    transformers 5 makes special tokens of user-defined pieces (full stop, brackets, quotes),
    which swallow the space before them, and leaves the scores of numbers with a comma.
    """
    file = made / TOKENIZER
    content = json.loads(file.read_text(encoding="utf-8"))
    content["model"]["vocab"][: len(pieces)] = pieces
    content["added_tokens"] = [
        token | {"lstrip": token["content"] == "[MASK]"}
        for token in content["added_tokens"]
        if token["content"] in named or token["id"] >= len(pieces)
    ]
    write_json(file, content)


def _check_vocabulary(out: Path, config: dict[str, Any]) -> None:
    from albert_deploy.runtime.tasks.tokenize import load_tokenizer

    largest = max(load_tokenizer(out).get_vocab().values(), default=-1)
    if largest >= config["vocab_size"]:
        raise InputError(
            f"the tokenizer knows token {largest}, the model only {config['vocab_size']} tokens; "
            "it is the tokenizer of another model: give the one that this model was trained with"
        )


def _write_settings(file: Path, positions: int) -> int:
    """Write the settings so that transformers 4 and 5 and Transformers.js read the same.

    Without a ``model_max_length`` they would not cut long texts, which then overrun the model's
    positions; transformers 4 knows neither version 5's generic class nor a list of extra tokens.

    Returns:
        The longest input in tokens.
    """
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        limit = min(int(settings.get("model_max_length") or _NO_LIMIT), positions)
    except (OSError, ValueError, AttributeError, TypeError, OverflowError) as error:
        raise InputError(f"cannot read {_CONFIG}: {error}; save the tokenizer again") from error
    if limit < 1:
        raise InputError(f"{_CONFIG}: model_max_length is {limit}, wanted at least 1")
    if isinstance(settings.get("extra_special_tokens"), list):
        del settings["extra_special_tokens"]
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    kept = {key: value for key, value in settings.items() if key not in _LOADING}
    write_json(file, kept | {"model_max_length": limit, "model_input_names": list(INPUT_NAMES)})
    return limit


def _copy(source: Path, target: Path) -> None:
    try:
        with source.open("rb") as read, writing(target) as write:
            shutil.copyfileobj(read, write)
    except OSError as error:
        raise os_failure(error, target) from error
