"""Vocabulary of the sample checkpoints: a unigram model under ALBERT's conventions."""

import io
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from albert_deploy.scripts.samples.paragraphs import generate_pages
from albert_deploy.scripts.samples.reviews import generate_reviews

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIALS: Final = ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]")
SCORE_DIGITS: Final = 6
PIECES: Final = 2_000
FROM_REVIEWS: Final = 20_000
FROM_QUESTIONS: Final = 12_000


def vocabulary_texts() -> list[str]:
    """Generate the text both vocabularies are learned from; either grammar alone is too small."""
    reviews = generate_reviews(FROM_REVIEWS, seed=1, held_out=False)
    pages = generate_pages(FROM_QUESTIONS, seed=11, held_out=False, most_answers=1, long_share=0.05)
    questions = [question.text for page in pages for question in page.questions]
    return [*(r.text for r in reviews), *(page.paragraph.text for page in pages), *questions]


def learn_pieces(texts: Iterable[str], size: int) -> list[tuple[str, float]]:
    """Learn `size` pieces with their log probabilities, the five special tokens first.

    Args:
        texts: Training sentences, in a fixed order.
        size: Number of pieces, specials included.

    Returns:
        Pieces with scores in id order; scores of specials are 0.

    Raises:
        ValueError: If the texts do not hold enough distinct material for `size` pieces.
    """
    import sentencepiece

    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(text.lower() for text in texts),
            model_writer=written,
            model_type="unigram",
            vocab_size=size,
            pad_id=0,
            unk_id=1,
            bos_id=-1,
            eos_id=-1,
            pad_piece=SPECIALS[0],
            unk_piece=SPECIALS[1],
            control_symbols=list(SPECIALS[2:]),
            character_coverage=1.0,
            num_threads=1,
            shuffle_input_sentence=False,
            input_sentence_size=0,
            split_digits=True,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(f"cannot learn {size} pieces from these texts: {error}") from error
    model = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    pieces = [(model.id_to_piece(i), model.get_score(i)) for i in range(model.get_piece_size())]
    found = tuple(piece for piece, _ in pieces[: len(SPECIALS)])
    if found != SPECIALS:
        raise ValueError(f"the vocabulary starts with {found}, not with {SPECIALS}")
    # Rounding keeps the shortest decimal form in the file, whatever the libm behind training.
    return [
        (piece, 0.0 if i < len(SPECIALS) else round(score, SCORE_DIGITS))
        for i, (piece, score) in enumerate(pieces)
    ]


def build_tokenizer(pieces: list[tuple[str, float]]) -> "Tokenizer":
    """Assemble ALBERT's pipeline around a list of pieces; offsets refer to the raw text."""
    from tokenizers import (
        AddedToken,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )

    if any(not math.isfinite(score) for _, score in pieces):
        raise ValueError("a piece has a score that is not finite")
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=1, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace("``", '"'),
            normalizers.Replace("''", '"'),
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, SPECIALS.index(token)) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.add_special_tokens(
        [AddedToken(t, normalized=False, special=True, lstrip=t == "[MASK]") for t in SPECIALS]
    )
    return tokenizer


def write_tokenizer(folder: Path, pieces: list[tuple[str, float]], max_length: int) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` into an existing folder."""
    tokenizer = build_tokenizer(pieces)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")
    settings = {
        "add_prefix_space": True,
        "added_tokens_decoder": {
            str(i): {
                "content": token,
                "lstrip": token == "[MASK]",
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": True,
            }
            for i, token in enumerate(SPECIALS)
        },
        "bos_token": "[CLS]",
        "clean_up_tokenization_spaces": False,
        "cls_token": "[CLS]",
        "do_lower_case": True,
        "eos_token": "[SEP]",
        "keep_accents": False,
        "mask_token": "[MASK]",
        # Transformers 5 leaves the type ids of ALBERT out unless told otherwise.
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "model_max_length": max_length,
        "pad_token": "<pad>",
        "remove_space": True,
        "sep_token": "[SEP]",
        "tokenizer_class": "AlbertTokenizer",
        "trim_offsets": True,
        "unk_token": "<unk>",
    }
    text = json.dumps(settings, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
