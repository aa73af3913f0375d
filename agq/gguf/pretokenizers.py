"""What the word `tokenizer.ggml.pre` of a GGUF file means: how a text is cut before byte-level BPE merges.

The patterns are those of the models' own tokenizer.json, in the order in which they cut. What no pattern matches stays
a piece of its own. Which word names which of them is llama.cpp's convention (src/llama-vocab.cpp).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agq.tokenizer.parts import byte_level

_CONTRACTIONS = r"'s|'t|'re|'ve|'m|'ll|'d"
_ANY_CASE = f"(?i:{_CONTRACTIONS})"
_GPT2 = rf"{_CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"
_BREAKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_DIGIT = r"\p{N}"
# Words after at most one other character, numbers of at most so many digits, then signs and spaces.
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_CL100K = rf"{_ANY_CASE}|{_WORDS}|\p{{N}}{{1,3}}|{_SIGNS}|{_BREAKS}"
_QWEN2 = rf"{_ANY_CASE}|{_WORDS}|\p{{N}}|{_SIGNS}|{_BREAKS}"
_MARKED = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+"
_QWEN35 = rf"{_ANY_CASE}|{_MARKED}|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_BREAKS}"
# Words that a capital letter begins: XMLFile is XMLF, ile or XML, File.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_OTHER = r"[^\r\n\p{L}\p{N}]?"
_PATHS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_TEKKEN = rf"{_OTHER}{_UPPER}*{_LOWER}+|{_OTHER}{_UPPER}+{_LOWER}*|\p{{N}}|{_PATHS}|{_BREAKS}"
_O200K = (
    rf"{_OTHER}{_UPPER}*{_LOWER}+{_ANY_CASE}?|{_OTHER}{_UPPER}+{_LOWER}*{_ANY_CASE}?|\p{{N}}{{1,3}}|{_PATHS}|{_BREAKS}"
)
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
_DEEPSEEK_CODER = ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", _DIGIT)
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
    + _BREAKS,
)
_FALCON = (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")
_OLD_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")
_SEED = rf"{_ANY_CASE}|{_WORDS}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_BREAKS}"


@dataclass(frozen=True)
class PreTokenizer:
    """How texts are cut.

    Attributes:
        patterns: regular expressions; each cuts what the ones before it left into matches and what lies between.
        whole: a piece that is a token as it stands is not merged (`ignore_merges` of `tokenizers`).
        bos: BOS begins a text where the file does not say.
        nfc: texts are brought to Unicode's NFC first, as the models' own tokenizers do (llama.cpp does not).
    """

    patterns: tuple[str, ...]
    whole: bool = False
    bos: bool = False
    nfc: bool = False

    def normalizer(self) -> dict[str, Any] | None:
        """The `normalizer` of tokenizer.json."""
        return {"type": "NFC"} if self.nfc else None

    def steps(self) -> dict[str, Any]:
        """The `pre_tokenizer` of tokenizer.json, bytes as letters at its end."""
        found: list[dict[str, Any]] = [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
            for pattern in self.patterns
        ]
        found.append(byte_level(False, use_regex=False))
        return {"type": "Sequence", "pretokenizers": found}


_ROWS: tuple[tuple[str, PreTokenizer], ...] = (
    ("default", PreTokenizer(_OLD_DEFAULT)),
    (
        "gpt-2 phi-2 mpt olmo jais trillion granite-docling exaone4 gigachat a.x-4.0 mellum",
        PreTokenizer((_GPT2,)),
    ),
    ("smollm starcoder refact command-r codeshell exaone minerva-7b mellum2", PreTokenizer((_DIGIT, _GPT2))),
    ("llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2", PreTokenizer((_CL100K,), True, True)),
    ("dbrx smaug-bpe glm4 chatglm-bpe", PreTokenizer((_CL100K,))),
    ("qwen2 deepseek-r1-qwen kormo megrez", PreTokenizer((_QWEN2,), nfc=True)),
    ("stablelm2 hunyuan solar-open grok-2", PreTokenizer((_QWEN2,))),
    ("qwen35", PreTokenizer((_QWEN35,), nfc=True)),
    ("seed-coder", PreTokenizer((_SEED,))),
    ("tekken", PreTokenizer((_TEKKEN,), True, True)),
    ("gpt-4o llama4 kanana2 minimax-m2", PreTokenizer((_O200K,))),
    ("deepseek-coder", PreTokenizer(_DEEPSEEK_CODER)),
    ("deepseek-v3 hunyuan-dense", PreTokenizer(_DEEPSEEK3)),
    ("falcon", PreTokenizer(_FALCON)),
    ("bloom poro-chat gpt3-finnish", PreTokenizer((_BLOOM,))),
    ("viking", PreTokenizer((_BLOOM, _DIGIT))),
)
PRE_TOKENIZERS = {name: row for names, row in _ROWS for name in names.split()}
DEFAULT = "default"
