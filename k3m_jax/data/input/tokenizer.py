"""Text to token ids, by any local Hugging Face tokenizer folder, and a vocabulary of one's own."""

import collections
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tokenizers
from etils import epath
from tokenizers.implementations import BertWordPieceTokenizer

from k3m_jax.settings import UserError

# The roles that a tokenizer must fill, and the names that are tried where its folder has none.
SPECIAL_TOKENS = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}
UNCASED = BertWordPieceTokenizer(lowercase=True)
LONGEST_WORD = 100  # characters
# A vocabulary of so large a share of tokens with capitals is cased.
CASED = 0.01
CACHED_TERMS = 1 << 16  # properties and values whose tokens are kept


class Tokenizer:
    """A tokenizer and the ids that matter to K3M. Pickles; safe to share between threads.

    `pad`, `unk`, `cls`, `sep` and `mask` are ids of special tokens; `ordinary_ids`, int32, all that
    can be content; `size` is V, the largest id plus 1.
    """

    def __init__(self, text: str, names: Mapping[str, Any], where: str):
        """Use `load`; `text` is a tokenizer.json, `names` may hold that of each special token.

        Raises UserError, which says `where`, for what is no tokenizer or lacks a special token.
        """
        try:
            self._backend = backend = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises nothing narrower
            raise UserError(f"{where} is not a tokenizer: {error}") from error
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True  # a title that says "[SEP]" says it as plain text
        self._where, self._special = where, {}
        self._vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
        for role, defaults in SPECIAL_TOKENS.items():
            token = names.get(f"{role}_token")
            token = token_name(token)
            token = token or next((x for x in defaults if x in self._vocabulary), defaults[0])
            if token not in self._vocabulary:
                problem = f"the tokenizer at {where} has no {token} token ({role}_token)"
                raise UserError(f"{problem}: take one made for masked language modelling")
            self._special[f"{role}_token"] = token
        ids = [self._vocabulary[token] for token in self._special.values()]
        self.pad, self.unk, self.cls, self.sep, self.mask = ids
        added = backend.get_added_tokens_decoder()
        special = {*ids, *(i for i, t in added.items() if t.special)}
        # A vocabulary of pieces may spell special tokens, and give their ids for a title that does.
        self._never = frozenset(special - {self.unk})
        self.ordinary_ids = np.array(sorted({*self._vocabulary.values()} - special), np.int32)
        self.size = max(self._vocabulary.values()) + 1
        # Tokens of a property or a value, never none. A catalog repeats its terms endlessly.
        self.encode_term = functools.lru_cache(CACHED_TERMS)(
            lambda text: tuple(self.encode(text)) or (self.unk,)
        )

    @classmethod
    def load(cls, folder: epath.PathLike) -> "Tokenizer":
        """Opens a folder with tokenizer.json, or with the vocab.txt of a WordPiece tokenizer.

        Raises UserError: there is no folder, no tokenizer in it, or none with the special tokens.
        """
        folder = epath.Path(folder)
        if not holds_tokenizer(folder):
            problem = (
                "holds no tokenizer.json or vocab.txt" if folder.exists() else "does not exist"
            )
            raise UserError(f"data.tokenizer: {folder} {problem}")
        config = _read_json(folder / "tokenizer_config.json")
        names = _read_json(folder / "special_tokens_map.json") | config
        path = folder / "tokenizer.json"
        if path.exists():
            text = _read_text(path)
        else:
            text = _wordpiece(folder / "vocab.txt", config, names)
        return cls(text, names, str(folder))

    def save(self, folder: epath.PathLike) -> None:
        """Writes the folder in the form that `load` and transformers' AutoTokenizer open."""
        folder = epath.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(self._backend.to_str())
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **self._special}
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without special tokens around them."""
        ids = self._backend.encode(text, add_special_tokens=False).ids
        if self._never.isdisjoint(ids):
            return ids
        return [self.unk if i in self._never else i for i in ids]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of tokens; special tokens are shown."""
        return self._backend.decode(list(map(int, ids)), skip_special_tokens=False)

    def token(self, index: int) -> str:
        """One token as the vocabulary spells it."""
        return self._backend.id_to_token(int(index)) or f"<{index}>"

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the vocabulary and of how texts are split; equal ones give equal ids."""
        parts = sorted(self._vocabulary.items()), json.loads(self._backend.to_str())
        whole = json.dumps(parts, sort_keys=True)
        return hashlib.sha256(whole.encode()).hexdigest()[:16]

    def difference(self, other: "Tokenizer") -> str:
        """The first token whose id differs in another tokenizer, in words; "" if none does."""
        ours, theirs = self._vocabulary, other._vocabulary
        if not (differing := {token for token, _ in ours.items() ^ theirs.items()}):
            return ""
        token = min(differing, key=lambda t: (ours.get(t, 1 << 31), t))
        here, there = (known.get(token, "absent") for known in (ours, theirs))
        return f"{token!r} is {here} in {self._where}, {there} in {other._where}"

    def __reduce__(self):
        # Not the cache, and `encode_special_tokens` is not part of the library's own pickle.
        return Tokenizer, (self._backend.to_str(), self._special, self._where)


def holds_tokenizer(folder: epath.PathLike) -> bool:
    """Whether `Tokenizer.load` finds a tokenizer there."""
    return any((epath.Path(folder) / name).exists() for name in ("tokenizer.json", "vocab.txt"))


def count_words(texts: Iterable[str]) -> collections.Counter[str]:
    """How often each word occurs in texts, split as an uncased WordPiece tokenizer does."""
    split, clean = UNCASED.pre_tokenizer.pre_tokenize_str, UNCASED.normalizer.normalize_str
    words = (word for text in texts for word, _ in split(clean(text)))
    # A WordPiece tokenizer makes [UNK] of longer ones, and takes the square of their length.
    return collections.Counter(word for word in words if len(word) <= LONGEST_WORD)


def train_wordpiece(words: Mapping[str, int], vocabulary_size: int, folder: epath.PathLike) -> None:
    """Trains an uncased WordPiece vocabulary of `count_words` and saves it as a tokenizer folder.

    It is smaller than `vocabulary_size` where fewer tokens occur twice. At most half of it are
    single characters; rarer ones become [UNK].

    The same words give the same vocabulary. The library's trainer alone breaks ties between
    characters, and numbers those inside words, in the order of a hash map: both are decided here.
    """
    trainer, characters = BertWordPieceTokenizer(lowercase=True), collections.Counter()
    for word, count in words.items():
        for character in word:
            characters[character] += count
    in_words = {c for word in words if len(word) > 1 for c in word}  # Chinese ones stand alone
    by_frequency = sorted(characters, key=lambda c: (-characters[c], c))
    alphabet = sorted(by_frequency[: max(1, vocabulary_size // 2)])
    special = [names[0] for names in SPECIAL_TOKENS.values()]
    trainer.train_from_iterator(
        (  # each word as often as it was counted, in no long text
            " ".join([word] * min(10_000, count - start))
            for word, count in sorted(words.items())
            for start in range(0, count, 10_000)
        ),
        vocab_size=vocabulary_size,
        min_frequency=2,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        special_tokens=[*special, *(f"##{c}" for c in alphabet if c in in_words)],
        show_progress=False,
    )
    # A fresh one of the same vocabulary, in which only the real special tokens are special.
    fresh = BertWordPieceTokenizer(trainer.get_vocab(), lowercase=True)
    Tokenizer(fresh.to_str(), {}, str(folder)).save(folder)


def token_name(token: Any) -> str | None:
    """A special token as a tokenizer's JSON names it: a text, or an AddedToken written out."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def _wordpiece(path: epath.Path, config: dict[str, Any], names: Mapping[str, Any]) -> str:
    """The tokenizer.json of BERT's tokenizer with a list of tokens.

    transformers' own classes silently read a vocabulary of five tokens from such a folder. Where
    nothing says whether it is cased, its tokens do.
    """
    # Not splitlines: some vocabularies hold line separators of Unicode as tokens.
    text = _read_text(path).replace("\r\n", "\n").removesuffix("\n")
    if not text:
        raise UserError(f"{path} is empty: a token a line is expected")
    lines = text.split("\n")
    vocabulary = {token: index for index, token in enumerate(lines)}
    special = {}
    for role, defaults in SPECIAL_TOKENS.items():
        special[f"{role}_token"] = token = token_name(names.get(f"{role}_token")) or defaults[0]
        if token not in vocabulary:
            raise UserError(f"{path} has no {token} token, one of {len(lines)} lines")
    ordinary = [token for token in lines if token not in special.values()]
    cased = sum(token != token.lower() for token in ordinary) > CASED * len(ordinary)
    tokenizer = BertWordPieceTokenizer(
        vocabulary,
        **special,
        lowercase=config.get("do_lower_case", not cased),
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
    )
    return tokenizer.to_str()


def _read_text(path: epath.Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error}): save it in that encoding") from error


def _read_json(path: epath.Path) -> dict[str, Any]:
    try:
        found = json.loads(_read_text(path)) if path.exists() else {}
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is {type(found).__name__}, not an object")
    return found
