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

# The roles that a tokenizer must fill, and the names that are tried where its folder tells none.
SPECIAL_TOKENS = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}
CACHED_TERMS = 1 << 16  # properties and values whose tokens are remembered


class Tokenizer:
    """A tokenizer and the ids that matter to K3M. Pickles; safe to share between threads.

    Attributes:
      pad, unk, cls, sep, mask: ids of the special tokens.
      special_ids: all ids that are never content.
      ordinary_ids: all other ids, int32.
      size: V, the largest id plus 1.
    """

    def __init__(self, backend: tokenizers.Tokenizer, special: dict[str, str], where: str):
        """Use `load`. `special` has the token of each role of `SPECIAL_TOKENS`.

        Raises:
          UserError: a special token that the vocabulary lacks; `where` is named.
        """
        self._backend, self._special, self._where = backend, special, where
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True  # a title that says "[SEP]" says it as plain text
        self._vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
        ids = {}
        for role, token in special.items():
            if token not in self._vocabulary:
                raise UserError(
                    f"the tokenizer at {where} has no {token} token ({role}_token): K3M needs "
                    "[PAD], [UNK], [CLS], [SEP] and [MASK], take a tokenizer made for masked "
                    "language modelling"
                )
            ids[role] = self._vocabulary[token]
        self.pad, self.unk = ids["pad"], ids["unk"]
        self.cls, self.sep, self.mask = ids["cls"], ids["sep"], ids["mask"]
        added = backend.get_added_tokens_decoder()
        self.special_ids = frozenset(ids.values()) | {i for i, t in added.items() if t.special}
        self.ordinary_ids = np.array(
            sorted(set(self._vocabulary.values()) - self.special_ids), np.int32
        )
        self.size = max(self._vocabulary.values()) + 1
        self.encode_term = functools.lru_cache(CACHED_TERMS)(self._encode_term)

    @classmethod
    def load(cls, folder: epath.PathLike) -> "Tokenizer":
        """Opens a folder holding tokenizer.json, or the vocab.txt of a WordPiece tokenizer.

        Raises:
          UserError: there is no folder, no tokenizer in it, or none with the special tokens.
        """
        folder = epath.Path(folder)
        config = _read_json(folder / "tokenizer_config.json")
        names = _read_json(folder / "special_tokens_map.json") | config
        if (path := folder / "tokenizer.json").exists():
            try:
                backend = tokenizers.Tokenizer.from_str(path.read_text())
            except Exception as error:  # the library raises nothing narrower
                raise UserError(f"{path} is not a tokenizer: {error}") from error
        elif (path := folder / "vocab.txt").exists():
            backend = _wordpiece(path, config)
        else:
            problem = "holds no tokenizer" if folder.exists() else "does not exist"
            raise UserError(
                f"data.tokenizer: {folder} {problem}, a folder with tokenizer.json or vocab.txt is "
                "expected"
            )
        vocabulary = backend.get_vocab(with_added_tokens=True)
        special = {}
        for role, defaults in SPECIAL_TOKENS.items():
            told = names.get(f"{role}_token")
            if isinstance(told, dict):  # an AddedToken written out
                told = told["content"]
            present = [token for token in defaults if token in vocabulary]
            special[role] = told or (present or defaults)[0]
        return cls(backend, special, str(folder))

    def save(self, folder: epath.PathLike) -> None:
        """Writes the folder in the form that `load` and transformers' AutoTokenizer open."""
        folder = epath.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(self._backend.to_str())
        names = {f"{role}_token": token for role, token in self._special.items()}
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without special tokens around them."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def _encode_term(self, text: str) -> tuple[int, ...]:
        """Tokens of a property or a value, never none: [UNK] where the text comes to nothing.

        As `encode_term` it remembers what it was asked: a catalogue repeats its terms endlessly.
        """
        return tuple(self.encode(text)) or (self.unk,)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of tokens; special tokens are shown."""
        return self._backend.decode(list(map(int, ids)), skip_special_tokens=False)

    def token(self, index: int) -> str:
        """One token as the vocabulary spells it."""
        return self._backend.id_to_token(int(index)) or f"<{index}>"

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the vocabulary and of how texts are cut: where it is equal, so are all ids."""
        pipeline = json.loads(self._backend.to_str())
        whole = json.dumps([sorted(self._vocabulary.items()), pipeline], sort_keys=True)
        return hashlib.sha256(whole.encode()).hexdigest()[:16]

    def difference(self, other: "Tokenizer") -> str:
        """The first token that another tokenizer numbers otherwise, in words; "" if none is.

        How texts are cut may differ: only what an id means is compared.
        """
        ours, theirs = self._vocabulary, other._vocabulary
        for token in sorted(ours.keys() | theirs.keys(), key=lambda t: (ours.get(t, 1 << 31), t)):
            if ours.get(token) != theirs.get(token):
                here, there = (known.get(token, "absent") for known in (ours, theirs))
                return f"{token!r} is {here} in {self._where}, {there} in {other._where}"
        return ""

    def __reduce__(self):
        # Through text: the cache must not travel to worker processes, and settings such as
        # `encode_special_tokens` are not part of the library's own pickle.
        return _rebuild, (self._backend.to_str(), self._special, self._where)


def holds_tokenizer(folder: epath.PathLike) -> bool:
    """Whether there is something that `Tokenizer.load` opens."""
    return any((epath.Path(folder) / name).exists() for name in ("tokenizer.json", "vocab.txt"))


def count_words(texts: Iterable[str]) -> collections.Counter[str]:
    """How often each word stands in texts, cut as an uncased WordPiece tokenizer does."""
    uncased = _uncased()
    split, clean = uncased.pre_tokenizer.pre_tokenize_str, uncased.normalizer.normalize_str
    return collections.Counter(word for text in texts for word, _ in split(clean(text)))


def train_wordpiece(words: Mapping[str, int], vocabulary_size: int, folder: epath.PathLike) -> None:
    """Trains an uncased WordPiece vocabulary and saves it as a tokenizer folder.

    The same words give the same vocabulary. The library's trainer alone does not: it breaks ties
    between characters, and numbers the word-inner ones, in the order of a hash map. So both are
    settled here, and what is left to it (counting pairs, merging) has no choices.

    Args:
      words: how often each occurs in titles, properties and values, of `count_words`.
      vocabulary_size: tokens at most; fewer where the words give no more that occur twice. At most
        half of them are single characters; rarer characters become [UNK].
      folder: where to.
    """
    trainer = BertWordPieceTokenizer(lowercase=True)
    characters, in_words = collections.Counter(), set()  # Chinese ones each stand alone
    for word, count in words.items():
        for character in word:
            characters[character] += count
        if len(word) > 1:
            in_words.update(word)
    by_frequency = sorted(characters, key=lambda c: (-characters[c], c))
    alphabet = sorted(by_frequency[: max(1, vocabulary_size // 2)])
    special = [names[0] for names in SPECIAL_TOKENS.values()]
    trainer.train_from_iterator(
        _repeated(words),
        vocab_size=vocabulary_size,
        min_frequency=2,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        special_tokens=[*special, *(f"##{c}" for c in alphabet if c in in_words)],
        show_progress=False,
    )
    # A fresh one of the same vocabulary, in which only the real special tokens are special.
    backend = _backend(trainer.get_vocab(), lowercase=True)
    Tokenizer(backend, dict(zip(SPECIAL_TOKENS, special, strict=True)), str(folder)).save(folder)


def _repeated(words: Mapping[str, int], block: int = 10_000) -> Iterable[str]:
    """Texts in which each word stands as often as it was counted, none of them long."""
    for word, count in sorted(words.items()):
        for start in range(0, count, block):
            yield " ".join([word] * min(block, count - start))


@functools.cache
def _uncased() -> BertWordPieceTokenizer:
    return BertWordPieceTokenizer(lowercase=True)


def _wordpiece(path: epath.Path, config: dict[str, Any]) -> tokenizers.Tokenizer:
    """BERT's tokenizer from a list of tokens.

    transformers' own classes make a vocabulary of five tokens of such a folder, without a word.
    """
    # Not splitlines: some vocabularies hold line separators of Unicode as tokens.
    lines = path.read_bytes().decode("utf-8").replace("\r\n", "\n").removesuffix("\n").split("\n")
    vocabulary = {token: index for index, token in enumerate(lines)}
    return _backend(
        vocabulary,
        lowercase=config.get("do_lower_case", True),
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
    )


def _backend(vocabulary: dict[str, int], **options) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(BertWordPieceTokenizer(vocabulary, **options).to_str())


def _rebuild(backend: str, special: dict[str, str], where: str) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(backend), special, where)


def _read_json(path: epath.Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
