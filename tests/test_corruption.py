"""The robustness protocol: which items are corrupted, how, and what stays the item's own."""

import collections
import pickle

import numpy as np
import pytest

from k3m_jax.data import corruption
from k3m_jax.data.corruption import RULES, Corrupter
from k3m_jax.data.input.pipeline import eval_batches, train_batches
from k3m_jax.data.records import ItemView
from k3m_jax.settings import Corruption, Data, UserError
from tests.products import having, inputs, memory_shards, products, record, settings_for

COUNT = 600
RECORDS = products(COUNT)
MODALITIES = ("title", "image", "knowledge")


def corrupted(setting, rate, records=RECORDS, seed=0):
    return list(map(Corrupter(records, Corruption(setting, rate), seed), map(ItemView.of, records)))


def plain(contents):
    """Contents as values that compare equal; the classes go with the picture."""
    picture = contents["image"]
    classes = 0 if picture.class_ids is None else len(picture.class_ids)
    return contents["title"], (picture.jpeg, classes), contents["knowledge"]


def visible(views):
    return [plain(view.visible) for view in views]


def changed(view):
    """Which modalities are not the item's own."""
    pairs = zip(MODALITIES, plain(view.visible), plain(view.record.contents), strict=True)
    return tuple(name for name, seen, own in pairs if seen != own)


@pytest.fixture(scope="module")
def wholly():
    """Every item under every setting, all corrupted."""
    return {setting: corrupted(setting, 1.0) for setting in RULES}


@pytest.mark.parametrize("setting", RULES)
def test_each_setting_corrupts_its_modalities_in_equal_parts(setting, wholly):
    kinds = RULES[setting].choices
    if RULES[setting].alone:
        kinds = [tuple(m for m in MODALITIES if m not in kind) for kind in kinds]
    found = collections.Counter(map(changed, wholly[setting]))
    # Titles are few here, so that another product's can be the same by chance.
    by_chance = {(), ("title",), ("image",)} if RULES[setting].noisy else set()
    assert set(kinds) <= set(found) <= set(kinds) | by_chance
    for kind in kinds:
        # 5 standard deviations of a fair draw, and 5 % for the titles that are the same.
        share = 1 / len(kinds)
        assert found[kind] / COUNT == pytest.approx(share, abs=5 * (0.25 / COUNT) ** 0.5 + 0.05)
    for view, original in zip(wholly[setting], RECORDS, strict=True):
        assert view.record is original
        if not RULES[setting].noisy:
            seen = dict(zip(MODALITIES, plain(view.visible), strict=True))
            empty = {"title": "", "image": (b"", 0), "knowledge": ()}
            assert all(seen[name] == empty[name] for name in changed(view))


def test_noise_is_of_one_other_product(wholly):
    owners = collections.defaultdict(set)
    for original in RECORDS:
        owners[original.title, original.picture].add(original.product)
    for view in wholly["TINR"]:
        noise = view.visible["title"], view.visible["image"].jpeg
        assert owners[noise] - {view.record.product}
        assert view.visible["knowledge"] == view.record.triples
    facts = {original.triples for original in RECORDS}
    assert all(view.visible["knowledge"] in facts for view in wholly["KNR"])


@pytest.mark.parametrize("setting", RULES)
def test_a_higher_rate_adds_to_what_a_lower_one_corrupts(setting, wholly):
    clean, whole = [plain(r.contents) for r in RECORDS], visible(wholly[setting])
    ids, before = [r.id for r in RECORDS], np.zeros(COUNT, bool)
    for rate in (0.0, 0.2, 0.5, 0.8, 1.0):
        chosen = corruption.corrupted(ids, Corruption(setting, rate), seed=0)
        assert (chosen >= before).all()
        assert chosen.mean() == pytest.approx(rate, abs=0.1)  # 5 standard deviations
        expected = [w if c else own for c, w, own in zip(chosen, whole, clean, strict=True)]
        assert visible(corrupted(setting, rate)) == expected
        before = chosen


@pytest.mark.parametrize("setting", RULES)
def test_what_is_corrupted_depends_on_the_item_and_not_on_the_order(setting):
    """The other product that noise is taken from may be another in another order."""
    items, backwards = (
        {view.record.id: changed(view) for view in corrupted(setting, 0.5, records)}
        for records in (RECORDS, RECORDS[::-1])
    )
    agree = np.mean([items[name] == backwards[name] for name in items])
    # The title of another product may be the same by chance.
    assert agree > 0.9 if RULES[setting].noisy else agree == 1


def test_it_depends_on_the_seed_and_pickles():
    found, views = visible(corrupted("MNR", 0.5)), list(map(ItemView.of, RECORDS))
    copy = pickle.loads(pickle.dumps(Corrupter(RECORDS, Corruption("MNR", 0.5), 0)))
    assert visible(map(copy, views)) == found
    assert visible(corrupted("MNR", 0.5, seed=1)) != found


def test_items_of_one_product_alone_have_no_noise():
    alone = [record(n, [("colour", "red")], product="one") for n in range(3)]
    with pytest.raises(UserError, match="TNR: id0 needs the title of another product"):
        corrupted("TNR", 1.0, alone)
    assert all(view.visible["title"] == "" for view in corrupted("TMR", 1.0, alone))


def test_rare_noise_is_found():
    untitled = [having(r, title="") for r in RECORDS[:400]]
    records = [*untitled, record(1000, [], title="the only one")]
    corrupt = Corrupter(records, Corruption("TNR", 1.0), 0)
    found = {corrupt(ItemView.of(item)).visible["title"] for item in untitled}
    assert found == {"the only one"}


@pytest.fixture(scope="module")
def given():
    return inputs(memory_shards(products(64), products(40, first=100)))


def held_out(given, chosen):
    settings = settings_for(given, data=Data(valid_corruption=chosen))
    return next(eval_batches(settings, given))


@pytest.mark.parametrize(
    ("setting", "empty"),
    [("TMR", "title_content"), ("IMR", "region_mask"), ("KMR", "triple_mask")],
)
def test_the_model_sees_nothing_of_what_is_missing(given, setting, empty):
    clean, batch = (held_out(given, c) for c in (Corruption(), Corruption(setting, 1.0)))
    assert clean[empty].any()
    assert not batch[empty].any()
    # The query is about the item, so that settings can be compared.
    for name in ("link_target", "link_known"):
        np.testing.assert_array_equal(batch[name], clean[name])


def test_triples_of_other_products_never_contain_the_answer(given):
    batch = held_out(given, Corruption("KNR", 1.0))
    rows = np.flatnonzero(batch["link_target"] >= 0)
    assert len(rows) > 10
    for row in rows:
        arrays = {name: array[row] for name, array in batch.items()}
        answer = _parts(arrays["link_tokens"][0], arrays, "link_property_spans", "link_value_spans")
        visible = _parts(arrays["knowledge_tokens"], arrays, "property_spans", "value_spans")
        assert answer[0] not in visible[: arrays["triple_mask"].sum()]


def _parts(tokens, arrays, *spans):
    """Tokens of the property and of the value of each triple."""
    pairs = zip(*(arrays[name] for name in spans), strict=True)
    return [[tokens[start:end].tolist() for start, end in pair] for pair in pairs]


def test_training_items_can_be_corrupted_too(given):
    settings = settings_for(given, data=Data(train_corruption=Corruption("IMR", 1.0)))
    batches = train_batches(settings, given)
    batch = next(batches)
    batches.close()
    assert not batch["region_mask"].any()
    assert batch["title_content"].any()


@pytest.mark.parametrize("text", ["TNR", "80", "XYZ80", "TNR101", "TNR-1", "TNR8.5", "tnr80", ""])
def test_what_is_no_setting_is_reported(text):
    with pytest.raises(UserError, match="as in TNR80"):
        Corruption.parse(text)


def test_settings_are_written_as_they_are_read():
    assert Corruption.parse("clean") == Corruption()
    assert Corruption.parse("TINR20") == Corruption("TINR", 0.2)
    assert str(Corruption.parse("KMR100")) == "KMR100"
    assert str(Corruption()) == ""
