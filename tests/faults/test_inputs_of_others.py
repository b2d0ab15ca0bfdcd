"""Single inputs that stopped a build or an import, or were silently read as something else."""

import base64
import io
import json
import os
import zipfile

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from k3m_jax.data.build.local import build
from k3m_jax.data.catalog.region_features import RegionReader, make_regions
from k3m_jax.data.input.tokenizer import Tokenizer, count_words
from k3m_jax.data.records import InvalidRecordError
from k3m_jax.data.store.pairs import read_pairs
from k3m_jax.data.store.shards import open_shards
from k3m_jax.evaluation.report import markdown_table, markdown_text
from k3m_jax.modalities.pixels import decode, shrink
from k3m_jax.pretrained.parts import check_parts
from k3m_jax.settings import UserError
from launch import cli
from tests.troubled import arguments

W, H, F, C = 640, 480, 16, 11
IDS = [f"p{i}" for i in range(6)]


def encoded(array):
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def write_regions(folder, row, head=""):
    """Regions of `IDS`; `row(item, boxes, features, class probabilities)` gives cells of a line."""
    rng, lines = np.random.default_rng(0), [head] if head else []
    for item in IDS:
        n = int(rng.integers(10, 60))
        x, y = rng.uniform(0, W * 0.6, n), rng.uniform(0, H * 0.6, n)
        right, below = x + rng.uniform(20, W * 0.4, n), y + rng.uniform(20, H * 0.4, n)
        boxes = np.stack([x, y, right, below], 1).astype("<f4")
        features = np.maximum(rng.normal(0.5, 0.7, (n, F)), 0).astype("<f4")
        probs = rng.dirichlet(np.ones(C) * 0.2, n).astype("<f4")
        lines.append("\t".join(map(str, row(item, boxes, features, probs))))
    (folder / "regions.tsv").write_text("\n".join([*lines, ""]), encoding="utf-8")
    return folder / "regions.tsv"


def standard(p, b, f, c):
    return p, W, H, len(b), encoded(b), encoded(f), encoded(c)


def named(p, b, f, c):
    return p, H, W, len(b), encoded(b), encoded(f), encoded(c)


HEAD = "image_id\timage_h\timage_w\tnum_boxes\tboxes\tfeatures\tcls_prob"
QUOTED = "\t".join(f'"{name}"' for name in HEAD.split("\t"))


@pytest.mark.parametrize("head", [HEAD, HEAD.upper(), "\ufeff" + HEAD, QUOTED])
def test_columns_in_another_order_in_a_header_spelt_otherwise(tmp_path, head):
    first = RegionReader(write_regions(tmp_path, standard), IDS, 3).read("p0", 36)
    other = RegionReader(write_regions(tmp_path, named, head), IDS, 3).read("p0", 36)
    np.testing.assert_array_equal(first.boxes, other.boxes)


def test_a_mark_before_the_first_row(tmp_path):
    path = write_regions(tmp_path, standard)
    path.write_text("\ufeff" + path.read_text())
    assert len(RegionReader(path, IDS, 3).read("p0", 36).boxes)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (lambda p, b, f, c: (p, H, W, *"abcd", len(b), encoded(b), encoded(f)), "10 columns"),
        (lambda p, b, f, c: (p, W, H, len(b), f"b'{encoded(b)}'", encoded(f)), "boxes begins"),
        (lambda p, b, f, c: (p, W, H, len(b), encoded(b.astype("<f8")), encoded(f)), "bytes, not"),
        (lambda p, b, f, c: (*standard(p, b, f, c), "x"), "8 columns"),
        (lambda p, b, f, c: (p, W, H, len(b), encoded(b / np.float32(W)), encoded(f)), "a pixel"),
        (lambda p, b, f, c: (p, W, H, len(b), encoded(b + np.float32(2000)), encoded(f)), "area"),
        (lambda p, b, f, c: (p, W, H, len(b), encoded(b), encoded(f.astype("<f2"))), "float16"),
        (
            lambda p, b, f, c: (
                *(p, W, H, len(b)),
                encoded(np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], 1)),
                encoded(f),
            ),
            "width and height",
        ),
    ],
)
def test_regions_that_mean_something_else_are_named(tmp_path, row, reason):
    with pytest.raises(UserError, match=f"those of 'p0': .*{reason}"):
        RegionReader(write_regions(tmp_path, row), IDS, 3)


@pytest.mark.parametrize("cell", [(), ("",)])
def test_regions_without_classes_can_be_read_again(tmp_path, cell):
    def row(p, b, f, c):
        return p, W, H, len(b), encoded(b), encoded(f), *cell

    path = write_regions(tmp_path, row)
    records = [{"id": p, "title": f"shirt {p}", "split": "train"} for p in IDS]
    (tmp_path / "products.jsonl").write_text("\n".join(map(json.dumps, records)))
    options = {"front_end": "regions", "region_features": str(path)}
    built = build(arguments(tmp_path, tmp_path / "data", **options))
    source = open_shards(built.folder).source("train")
    assert len(source) == len(IDS)
    for record in source:
        picture = record.contents["image"]
        assert picture.class_ids.shape == picture.class_probs.shape == (len(picture.boxes), 0)


@pytest.mark.parametrize("name", ["boxes", "features", "cls_prob", "image_w"])
@pytest.mark.parametrize("value", [np.float32(0), np.array([None]), np.array("x")])
def test_arrays_of_other_kinds(name, value):
    raw = {
        "image_w": np.array(W),
        "image_h": np.array(H),
        "boxes": np.array([[1, 1, 9, 9.0]]),
        "features": np.ones((1, F)),
        "cls_prob": np.ones((1, C)) / C,
    }
    with pytest.raises(InvalidRecordError):
        make_regions(raw | {name: value}, 36, 3)


def test_a_header_that_declares_more_than_there_is(tmp_path):
    out = io.BytesIO()
    np.save(out, np.zeros((1, 4)))
    header = out.getvalue().replace(b"(1, 4), }" + b" " * 12, b"(1099511627776, 4), }")
    with zipfile.ZipFile(tmp_path / "p0.npz", "w") as archive:
        for array in ("image_w", "image_h", "boxes", "features"):
            archive.writestr(f"{array}.npy", header)
    with pytest.raises(UserError, match="those of 'p0'"):
        RegionReader(tmp_path, ["p0"], 3)


def test_pairs_with_numbers_as_ids_and_half_a_character(tmp_path):
    lines = [
        '{"a": 0, "b": 1, "label": 1}',
        '{"a": "0", "b": "1", "label": 1, "kind": "\\ud83d"}',
        "[" * 100_000,
        '{"a": true, "b": "1", "label": 1}',
    ]
    (tmp_path / "align_pairs.jsonl").write_text("\n".join(lines))
    pairs, rejects = read_pairs(str(tmp_path))
    assert [(pair.a, pair.b) for _, pair in pairs] == [("0", "1")]
    assert [reject.reason for reject in rejects] == ["not_unicode", "bad_pair", "bad_pair"]


def test_a_pipe_a_device_and_a_split_without_a_usable_record(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    os.symlink("/dev/zero", tmp_path / "zero.jpg")
    records = [{"id": i, "title": f"shirt {i}", "split": "train"} for i in range(4)]
    records[1]["images"], records[2]["images"] = ["pipe.jpg"], ["zero.jpg"]
    records.append({"id": "long", "split": "v" * 300})
    (tmp_path / "products.jsonl").write_text("\n".join(map(json.dumps, records)))
    built = build(arguments(tmp_path, tmp_path / "data"))
    assert list(built.info.products) == ["train"]
    assert built.info.rejects["bad_split"] == 1


def test_one_endless_word_is_no_part_of_a_vocabulary():
    assert count_words(["red " + "x" * 400_000]) == {"red": 1}


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32", "float64"])
def test_grey_pictures_of_other_depths(dtype):
    grey = np.tile(np.linspace(0, 65535, 64), (64, 1))
    grey = (grey / 65535 if dtype.startswith("float") else grey).astype(dtype.replace("64", "32"))
    out = io.BytesIO()
    Image.fromarray(grey).save(out, "TIFF")
    assert abs(decode(shrink(out.getvalue(), 64, square=True)).mean() - 127) < 3


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "red"]


def test_a_cased_vocabulary_keeps_its_capitals(tmp_path):
    words = [*WORDS, *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "Red", "SHIRT", "café"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    tokenizer = Tokenizer.load(tmp_path)
    assert [tokenizer.token(i) for i in tokenizer.encode("Red SHIRT café")] == words[-3:]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("\n".join([*WORDS, "红"]).encode("gbk"), "UTF-8"),
        ("\n".join([*WORDS, "é"]).encode("latin-1"), "UTF-8"),
        ("\n".join(WORDS).encode("utf-16"), "UTF-8"),
        (b"", "empty"),
        ("\n".join(WORDS).replace("[SEP]", "x").encode(), r"\[SEP\]"),
    ],
)
def test_vocabularies_that_cannot_be_read(tmp_path, content, said):
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(UserError, match=f"vocab.txt .*{said}"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("names", ['{"cls_token": {"id": 3}}', "{}"])
def test_a_mark_and_names_of_another_form(tmp_path, names):
    (tmp_path / "vocab.txt").write_bytes(b"\xef\xbb\xbf" + "\n".join(WORDS).encode())
    (tmp_path / "special_tokens_map.json").write_text(names)
    assert Tokenizer.load(tmp_path).cls == 2


def test_a_title_that_spells_a_special_token(tmp_path):
    names = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [*((name, 0.0) for name in names), ("\u2581", -3.0)]
    pieces += [*((letter, -5.0) for letter in "abcdefghijklmnopqrstuvwxyz</>"), ("<mask>", 0.0)]
    backend = Backend(models.Unigram(pieces, unk_id=3))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    backend.add_special_tokens([*names, "<mask>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path)
    special = {tokenizer.pad, tokenizer.cls, tokenizer.sep, tokenizer.mask}
    assert not special & set(tokenizer.encode("<s>old</s> new <mask>"))


def test_weights_of_which_a_part_did_not_arrive(tmp_path):
    first, second = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    save_file({"a": np.ones(2)}, tmp_path / first)
    with pytest.raises(UserError, match=f"lacks {second}"):  # by their numbers
        check_parts(tmp_path, [first])
    index = {"weight_map": {"a": first, "b": second}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=f"lacks {second}"):
        check_parts(tmp_path, [first])
    check_parts(tmp_path, [first, second])
    check_parts(tmp_path, ["model.safetensors"])


@pytest.mark.parametrize("source", ["my shop", "2024", "shops[1]", "True", "a'b", "('x','y')"])
def test_a_single_source_by_any_name(source, capsys):
    arguments = ["--config=configs/quickstart.py", f"--config.data.sources={source}", "--workdir=x"]
    assert cli.run_command("launch.pretrain", [*arguments, "--print_config"]) == 0
    found = json.loads(capsys.readouterr().out)["data"]["sources"]
    assert found == (["x", "y"] if source.startswith("(") else [source])


def test_an_empty_folder_name_is_none(capsys):
    arguments = ["--config=configs/quickstart.py", "--workdir="]
    assert cli.run_command("launch.pretrain", arguments) == 2
    assert "--workdir is required" in capsys.readouterr().err


def test_markdown_of_names_that_others_chose():
    assert markdown_text("a|b\n# <b>") == r"a\|b \# \<b\>"
    assert len(markdown_table([("a", "b"), ("x|y\nz", "1")])) == 3
    assert markdown_table([("a", "b"), ("x|y\nz", "1")])[2] == r"| x\|y z | 1 |"
