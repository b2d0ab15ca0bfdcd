import json
import pickle

import pytest

from k3m_jax.data.input.tokenizer import Tokenizer, count_words, train_wordpiece
from k3m_jax.settings import UserError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = [*SPECIAL, "red", "Red", "##dish", "[", "]", "mask"]
TEXTS = [f"red shirt number {i % 20} of cotton 颜色 红{chr(0x4E00 + i % 30)}" for i in range(200)]


def vocabulary_folder(folder, tokens=VOCABULARY, **config):
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train_wordpiece(count_words(iter(TEXTS)), 120, folder)
    return folder


def test_a_vocabulary_alone_is_a_tokenizer(tmp_path):
    t = Tokenizer.load(vocabulary_folder(tmp_path, do_lower_case=True))
    assert (t.pad, t.unk, t.cls, t.sep, t.mask) == (0, 1, 2, 3, 4)
    assert t.encode("REDDISH red sea") == [5, 7, 5, 1]
    assert t.decode(t.encode("reddish")) == "reddish"
    assert t.size == len(VOCABULARY)
    assert t.ordinary_ids.tolist() == [5, 6, 7, 8, 9, 10]


def test_the_folder_says_whether_case_matters(tmp_path):
    t = Tokenizer.load(vocabulary_folder(tmp_path, do_lower_case=False))
    assert t.encode("Red red") == [6, 5]


def test_a_line_separator_of_unicode_is_a_token_like_others(tmp_path):
    t = Tokenizer.load(vocabulary_folder(tmp_path, [*VOCABULARY, "\u2028", "blue"]))
    assert t.encode("blue") == [len(VOCABULARY) + 1]


def test_special_tokens_in_a_text_are_plain_text(tmp_path):
    t = Tokenizer.load(vocabulary_folder(tmp_path, do_lower_case=True))
    again = pickle.loads(pickle.dumps(t))
    for tokenizer in (t, again):
        assert tokenizer.encode("red [MASK]") == [5, 8, 10, 9]


def test_size_counts_tokens_that_were_added_far_off(tmp_path):
    folder = vocabulary_folder(tmp_path)
    Tokenizer.load(folder).save(folder / "saved")
    path = folder / "saved/tokenizer.json"
    stored = json.loads(path.read_text())
    stored["added_tokens"].append({**stored["added_tokens"][0], "id": 40, "content": "[ITEM]"})
    path.write_text(json.dumps(stored))
    t = Tokenizer.load(folder / "saved")
    # The library numbers it itself, right after the vocabulary or where the file says.
    added = t._backend.token_to_id("[ITEM]")
    assert t.size == added + 1 > len(VOCABULARY)
    assert added not in t.ordinary_ids


def test_terms_are_never_empty(tmp_path):
    t = Tokenizer.load(vocabulary_folder(tmp_path))
    assert t.encode("") == []
    assert t.encode_term("") == t.encode_term(" \t") == (t.unk,)
    assert t.encode_term("red") == (5,)


def test_saved_and_loaded_it_is_the_same(trained, tmp_path):
    t = Tokenizer.load(trained)
    t.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.fingerprint == t.fingerprint
    assert again.encode(TEXTS[0]) == t.encode(TEXTS[0])


def test_transformers_opens_what_is_saved(trained):
    from transformers import AutoTokenizer

    theirs, ours = AutoTokenizer.from_pretrained(str(trained)), Tokenizer.load(trained)
    assert theirs(TEXTS[0])["input_ids"] == [ours.cls, *ours.encode(TEXTS[0]), ours.sep]
    assert theirs.mask_token_id == ours.mask
    assert len(theirs) == ours.size


def test_training_gives_the_same_vocabulary_each_time(trained, tmp_path):
    train_wordpiece(count_words(TEXTS), 120, tmp_path)
    assert (tmp_path / "tokenizer.json").read_text() == (trained / "tokenizer.json").read_text()


def test_a_trained_vocabulary_is_small_and_has_frequent_words_whole(trained):
    t = Tokenizer.load(trained)
    assert t.size <= 120
    assert len(t.encode("cotton shirt")) == 2
    assert t.unk not in t.encode("颜色 toc")  # known characters, an unknown word
    assert t.encode("☃") == [t.unk]
    assert len(t.ordinary_ids) == t.size - 5


def test_another_vocabulary_has_another_fingerprint(trained, tmp_path):
    train_wordpiece(count_words(TEXTS), 60, tmp_path)
    assert Tokenizer.load(trained).fingerprint != Tokenizer.load(tmp_path).fingerprint


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: f / "nowhere", "does not exist"),
        (lambda f: f, "holds no tokenizer"),
        (
            lambda f: vocabulary_folder(f, SPECIAL[:-1]),
            r"no \[MASK\] token",
        ),
        (lambda f: (f / "tokenizer.json").write_text("{}") and f, "is not a tokenizer"),
        (
            lambda f: (f / "tokenizer_config.json").write_text("{") and vocabulary_folder(f),
            "is not JSON",
        ),
    ],
)
def test_a_folder_without_a_tokenizer_is_refused_in_one_line(make, message, tmp_path):
    with pytest.raises(UserError, match=message) as error:
        Tokenizer.load(make(tmp_path))
    assert "\n" not in str(error.value)


def test_berts_chinese_vocabulary(shared):
    t = Tokenizer.load(shared / "data/bert-base-chinese")
    assert t.size == 21128
    assert [t.token(i) for i in t.encode("你好 Cotton")] == ["你", "好", "co", "##tton"]
    assert (t.pad, t.unk, t.cls, t.sep, t.mask) == (0, 100, 101, 102, 103)


def test_another_way_to_cut_the_same_vocabulary_has_another_fingerprint(tmp_path):
    for name, lower in (("lower", True), ("cased", False)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vocab.txt").write_text(
            "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "A"])
        )
        (tmp_path / name / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
    lower, cased = (Tokenizer.load(tmp_path / name) for name in ("lower", "cased"))
    assert lower.encode("A") != cased.encode("A")
    assert lower.fingerprint != cased.fingerprint
