"""Tokenizers that really tokenize, with vocabularies of a few hundred tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

VOCABULARY = 512

_COMMON_WORDS = (
    "the of and to in is that it was for on are with as at be this have from or one had by word "
    "but not what all were we when your can said there use an each which she do how their if will "
    "up other about out many then them these so some her would make like him into time has look "
    "two more write go see number no way could people my than first water been call who oil its "
    "now find long down day did get come made may part model layer token weight proxy registry"
)


def _bpe() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Byte-level BPE: 256 byte symbols, then each common word letter by letter."""
    symbols = _byte_symbols()
    tokens = {"<s>": 0, "</s>": 1}
    for symbol in symbols:
        tokens.setdefault(symbol, len(tokens))
    merges: list[tuple[str, str]] = []
    for word in _COMMON_WORDS.split():
        left = symbols[ord(" ")]
        for letter in word:
            if (left, letter) not in merges and len(tokens) < VOCABULARY:
                merges.append((left, letter))
                tokens[left + letter] = len(tokens)
            left += letter
            if left not in tokens:
                break  # the vocabulary is full
    return tokens, merges


def _byte_symbols() -> list[str]:
    """A printable character for each byte: itself where it is one, else one beyond Latin-1."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    beyond = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(beyond)) for byte in range(256)]


def gguf_tokens() -> tuple[list[str], list[str]]:
    """Tokens by number, filled up to ``VOCABULARY``, and merges: the BPE as GGUF holds it."""
    vocabulary, merges = _bpe()
    tokens = [*vocabulary, *(f"<unused{n}>" for n in range(VOCABULARY - len(vocabulary)))]
    return tokens, [" ".join(merge) for merge in merges]


def bpe_tokenizer() -> dict[str, object]:
    """``tokenizer.json`` of a byte-level BPE, as a Llama has one."""
    vocabulary, merges = _bpe()
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    byte_level["use_regex"] = True
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(_special_tokens(["<s>", "</s>"])),
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": [" ".join(merge) for merge in merges],
        },
    }


def word_tokenizer() -> dict[str, object]:
    """``tokenizer.json`` of a WordPiece, as a BERT has one."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(code) for code in range(0x21, 0x7F) if not chr(code).isupper()]
    endings = [f"##{letter}" for letter in letters if letter.isalnum()]
    tokens = list(dict.fromkeys([*special, *letters, *endings, *_COMMON_WORDS.split()]))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": list(_special_tokens(special)),
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {token: number for number, token in enumerate(tokens)},
        },
    }


def _special_tokens(tokens: Sequence[str]) -> Iterator[dict[str, object]]:
    for number, token in enumerate(tokens):
        yield {
            "id": number,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
