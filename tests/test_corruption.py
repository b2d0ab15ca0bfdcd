"""The robustness protocol: who is corrupted, how, and what it is never allowed to touch."""

import collections
import pickle

import numpy as np
import pytest

from k3m_jax.data import corruption
from k3m_jax.data.corruption import RULES, CorruptedSource
from k3m_jax.data.input.pipeline import eval_batches, train_batches
from k3m_jax.settings import Corruption, Data, UserError
from tests.products import inputs, memory_shards, products, record, settings_for

COUNT = 600
RECORDS = products(COUNT)
TITLE, IMAGE, KNOWLEDGE = "title", "picture", "told"


def seen(item):
    """What the model may read of an item; all else stays, and the classes go with the picture."""
    return item[TITLE], item[IMAGE], len(item["class_ids"]), tuple(item[KNOWLEDGE])


def corrupted(setting, rate, records=RECORDS, seed=0):
    return list(CorruptedSource(records, Corruption(setting, rate), seed))


def told(item):
    return list(zip(item["properties"], item["values"], strict=True))


def changed(item, original):
    """Which modalities are not the item's own."""
    clean = {**original, "told": told(original)}
    return tuple(key for key in (TITLE, IMAGE, KNOWLEDGE) if item[key] != clean[key])


@pytest.fixture(scope="module")
def wholly():
    """Every item of every setting, corrupted."""
    return {setting: corrupted(setting, 1.0) for setting in RULES}


@pytest.mark.parametrize(
    ("setting", "kinds"),
    {
        "TMR": [(TITLE,)],
        "IMR": [(IMAGE,)],
        "MMR": [(TITLE,), (IMAGE,)],
        "TNR": [(TITLE,)],
        "INR": [(IMAGE,)],
        "TINR": [(TITLE, IMAGE)],
        "MNR": [(TITLE,), (IMAGE,), (TITLE, IMAGE)],
        "KMR": [(KNOWLEDGE,)],
        "KNR": [(KNOWLEDGE,)],
    }.items(),
)
def test_each_setting_spoils_its_modalities_in_equal_parts(setting, kinds, wholly):
    found = collections.Counter(map(changed, wholly[setting], RECORDS))
    # Titles are few here, so that another product's can be the same by chance.
    by_chance = {(), (TITLE,), (IMAGE,)} if "N" in setting else set()
    assert set(kinds) <= set(found) <= set(kinds) | by_chance
    for kind in kinds:
        # 5 standard deviations of a fair draw, and 5 % for the titles that are the same.
        share = 1 / len(kinds)
        assert found[kind] / COUNT == pytest.approx(share, abs=5 * (0.25 / COUNT) ** 0.5 + 0.05)


@pytest.mark.parametrize("setting", [name for name in RULES if name.endswith("MR")])
def test_what_is_missing_is_empty(setting, wholly):
    for item, original in zip(wholly[setting], RECORDS, strict=True):
        for key in changed(item, original):
            assert len(item[key]) == 0
            if key == IMAGE:
                assert len(item["class_ids"]) == 0


def test_noise_is_of_one_other_product(wholly):
    owners = collections.defaultdict(set)
    for original in RECORDS:
        owners[original["title"], original["picture"]].add(original["product"])
    for item, original in zip(wholly["TINR"], RECORDS, strict=True):
        assert owners[item["title"], item["picture"]] - {original["product"]}
        assert item["told"] == told(original)
    facts = {tuple(told(original)) for original in RECORDS}
    assert all(tuple(item["told"]) in facts for item in wholly["KNR"])


@pytest.mark.parametrize("setting", RULES)
def test_the_item_stays_what_it_is(setting, wholly):
    for item, original in zip(wholly[setting], RECORDS, strict=True):
        for key in ("id", "product", "category", "source", "properties", "values"):
            assert item[key] == original[key]


@pytest.mark.parametrize("setting", RULES)
def test_a_higher_rate_adds_to_what_a_lower_one_spoils(setting):
    rates = (0.0, 0.2, 0.5, 0.8, 1.0)
    levels = [corrupted(setting, rate) for rate in rates]
    for low, high, clean in zip(levels, levels[1:], [levels[0]] * 4, strict=False):
        for few, more, item in zip(
            *(map(seen, level) for level in (low, high, clean)), strict=True
        ):
            assert few in (item, more)
    assert [*map(seen, levels[0])] == [seen({**r, "told": told(r)}) for r in RECORDS]
    corrupt = [
        np.mean([seen(item) != seen(clean) for item, clean in zip(level, levels[0], strict=True)])
        for level in levels
    ]
    # 5 standard deviations, and 5 % for noise that is the same by chance.
    assert corrupt == pytest.approx(rates, abs=0.15)


@pytest.mark.parametrize("setting", RULES)
def test_what_is_spoilt_depends_on_the_item_and_not_on_the_order(setting):
    """Of noise the other product is another one, where the source has another order."""

    def corrupt(records):
        originals = {record["id"]: record for record in records}
        found = corrupted(setting, 0.5, records)
        return {item["id"]: changed(item, originals[item["id"]]) for item in found}

    items, backwards = corrupt(RECORDS), corrupt(RECORDS[::-1])
    if "N" in setting:  # a title may be another product's and the same by chance
        agree = np.mean([items[name] == backwards[name] for name in items])
        assert agree > 0.9
    else:
        assert items == backwards


def test_it_depends_on_the_seed_and_survives_pickling():
    items = {item["id"]: seen(item) for item in corrupted("MMR", 0.5)}
    assert [*map(seen, corrupted("MMR", 0.5, seed=1))] != [*items.values()]
    source = CorruptedSource(RECORDS, Corruption("MNR", 0.5), 0)
    assert [*map(seen, pickle.loads(pickle.dumps(source)))] == [*map(seen, source)]


def test_items_of_one_product_alone_have_no_donor():
    alone = [record(n, [("colour", "red")], product="one") for n in range(3)]
    with pytest.raises(UserError, match="TNR: id0 needs the title of another product"):
        corrupted("TNR", 1.0, alone)
    assert all(item["title"] == "" for item in corrupted("TMR", 1.0, alone))


def test_a_rare_donor_is_found():
    untitled = [record(n, [("colour", "red")], title="") for n in range(400)]
    records = [*untitled, record(400, [], title="the only one")]
    source = CorruptedSource(records, Corruption("TNR", 1.0), 0)
    assert {source[index]["title"] for index in range(400)} == {"the only one"}


@pytest.fixture(scope="module")
def given():
    return inputs(memory_shards(products(64), products(40, first=100)))


def held_out(given, corruption=None, **groups):
    data = Data(valid_corruption=corruption or Corruption())
    settings = settings_for(given, data=data, **groups)
    return next(eval_batches(settings, *given))


@pytest.mark.parametrize(
    ("setting", "empty"),
    [("TMR", "title_content"), ("IMR", "region_mask"), ("KMR", "triple_mask")],
)
def test_the_model_sees_nothing_of_what_is_missing(given, setting, empty):
    clean, batch = held_out(given), held_out(given, Corruption(setting, 1.0))
    assert clean[empty].any()
    assert not batch[empty].any()
    # What is asked is about the item, so that settings can be compared.
    np.testing.assert_array_equal(batch["link_target"], clean["link_target"])
    np.testing.assert_array_equal(batch["link_known"], clean["link_known"])


def test_other_products_triples_never_tell_the_answer(given):
    batch = held_out(given, Corruption("KNR", 1.0))
    asked = 0
    for row in np.flatnonzero(batch["link_target"] >= 0):
        asked += 1
        answer = _terms(batch, row, "link_tokens", 0)
        shown = [
            _terms(batch, row, "knowledge_tokens", x)
            for x in range(batch["triple_mask"][row].sum())
        ]
        assert answer not in shown
    assert asked > 10


def _terms(batch, row, tokens, index):
    if tokens == "link_tokens":
        text = batch[tokens][row, index]
        spans = batch["link_property_spans"][row, index], batch["link_value_spans"][row, index]
    else:
        text = batch[tokens][row]
        spans = batch["property_spans"][row, index], batch["value_spans"][row, index]
    return [text[start:end].tolist() for start, end in spans]


def test_training_items_can_be_corrupted_too(given):
    settings = settings_for(given, data=Data(train_corruption=Corruption("IMR", 1.0)))
    batches = train_batches(settings, *given)
    batch = next(batches)
    batches.close()
    assert not batch["region_mask"].any()
    assert batch["title_content"].any()


@pytest.mark.parametrize("text", ["TNR", "80", "XYZ80", "TNR101", "TNR-1", "TNR8.5", "tnr80", ""])
def test_what_is_no_setting_is_told(text):
    with pytest.raises(UserError, match="as in TNR80"):
        Corruption.parse(text)


def test_settings_are_written_as_they_are_read():
    assert Corruption.parse("clean") == Corruption()
    assert Corruption.parse("TINR20") == Corruption("TINR", 0.2)
    assert str(Corruption.parse("KMR100")) == "KMR100"
    assert str(Corruption()) == ""


@pytest.mark.parametrize("setting", RULES)
def test_who_is_spoilt_at_a_rate_is_told_by_ids_alone(setting, wholly):
    ids = [item["id"] for item in RECORDS]
    for rate in (0.0, 0.3, 1.0):
        chosen = corruption.corrupted(ids, Corruption(setting, rate), seed=0)
        expected = [
            whole if taken else {**own, "told": told(own)}
            for taken, whole, own in zip(chosen, wholly[setting], RECORDS, strict=True)
        ]
        for found, wanted in zip(corrupted(setting, rate), expected, strict=True):
            assert seen(found) == seen(wanted)
        assert abs(chosen.mean() - rate) < 0.06
