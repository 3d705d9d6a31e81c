"""Put the tokenizer into the deployment directory as the one file that the runtime reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from albert_deploy.runtime.errors import InputError
from albert_deploy.runtime.manifest import os_failure, writing

TOKENIZER = "tokenizer.json"
_CONFIG = "tokenizer_config.json"
_VOCABULARIES = ("spiece.model", "vocab.txt")
_COPIED = (TOKENIZER, _CONFIG, "special_tokens_map.json", "added_tokens.json", *_VOCABULARIES)
# transformers writes this number where a tokenizer sets no limit.
_NO_LIMIT = 10**20


def write_tokenizer(source: Path, out: Path, config: dict[str, Any]) -> dict[str, int]:
    """Copy a checkpoint's tokenizer, making ``tokenizer.json`` where only a vocabulary is there.

    Args:
        source: Folder of the checkpoint.
        out: Deployment directory.
        config: The checkpoint's configuration.

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
    limit = _check(out, config)
    return {
        "max_length": min(int(config["max_position_embeddings"]), limit),
        "pad_token_id": int(config.get("pad_token_id") or 0),
    }


def _convert(source: Path, out: Path, *, keep: list[str]) -> None:
    from transformers import AutoTokenizer

    made = out / ".tokenizer"
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
        tokenizer.save_pretrained(made)
        for path in sorted(made.iterdir()):
            if path.name not in keep:
                _copy(path, out / path.name)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"cannot make {TOKENIZER} from the vocabulary in {source}: {reason}"
        ) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    if not (out / TOKENIZER).is_file():
        raise InputError(f"transformers made no {TOKENIZER} from the vocabulary in {source}")


def _check(out: Path, config: dict[str, Any]) -> int:
    from albert_deploy.runtime.tasks import load_tokenizer

    tokenizer = load_tokenizer(out)
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= config["vocab_size"]:
        raise InputError(
            f"the tokenizer knows token {largest}, the model only {config['vocab_size']} tokens; "
            "it is the tokenizer of another model"
        )
    try:
        settings = json.loads((out / _CONFIG).read_text(encoding="utf-8"))
        limit = int(settings.get("model_max_length") or _NO_LIMIT)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"cannot read {_CONFIG}: {error}; save the tokenizer again") from error
    return limit


def _copy(source: Path, target: Path) -> None:
    try:
        with source.open("rb") as read, writing(target) as write:
            shutil.copyfileobj(read, write)
    except OSError as error:
        raise os_failure(error, target) from error
