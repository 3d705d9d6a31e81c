"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

REPOSITORY = Path(__file__).resolve().parent.parent

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("the", "a", "film", "river", "is", "was", "long", "warm", "who", "what", "where")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data beside the checkout; users of the project do not have it."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the real data in {folder}, which is not here")
    return folder


@pytest.fixture
def tiny_tokenizer() -> Tokenizer:
    """BERT's kind of tokenizer over a few words and all ASCII letters, digits and signs."""
    signs = string.ascii_lowercase + string.digits + string.punctuation
    pieces = [*SPECIALS, *WORDS, *signs, *(f"##{sign}" for sign in signs)]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.add_special_tokens(list(SPECIALS))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return tokenizer
