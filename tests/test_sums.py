"""What is summed up over a catalogue is the same in parts as at once, whatever their order."""

import pickle

from k3m_jax.data.build import catalog_scan
from k3m_jax.data.build.catalog_scan import CatalogScan, ParsedLine
from k3m_jax.data.build.record_builder import BuiltRecord
from k3m_jax.data.build.statistics import DatasetStatistics
from k3m_jax.data.catalog.readers import RawLine
from k3m_jax.data.input.tokenizer import count_words
from k3m_jax.data.records import RejectedLine, Splitting, make_product
from tests.products import detected, products


def summed(make, things, parts):
    whole = make()
    for part in range(parts):
        total = make()
        for thing in things[part::parts]:
            total.add(thing)
        whole.merge(pickle.loads(pickle.dumps(total)))
    return whole


def test_surveys(monkeypatch):
    monkeypatch.setattr(catalog_scan, "SAMPLED", 5)
    lines = [
        RejectedLine("f", i, "not_json", "")
        if i % 10 == 3
        else ParsedLine(
            RawLine("f", i, b""), make_product(id=f"p{i}", split="test" if i == 7 else None)
        )
        for i in range(60)
    ]
    once, parts = (summed(lambda: CatalogScan(Splitting(0.2)), lines, n) for n in (1, 4))
    assert once.splits == parts.splits == {"train", "valid", "test"}
    assert once.usable == parts.usable == 54
    assert set(once.rejects) == set(parts.rejects)
    assert len(once.sample()) == 5
    assert once.sample() == parts.sample()


def test_tallies():
    outcomes = [
        BuiltRecord("valid" if i % 5 == 0 else "train", item, ("empty_triple",) * (i % 2))
        for i, item in enumerate(products(40))
    ]
    outcomes += [
        BuiltRecord("train", item | detected(i, boxes=i % 4), ())
        for i, item in enumerate(products(9, first=50))
    ]
    outcomes.insert(3, RejectedLine("f", 4, "bad_picture", ""))
    once, parts = (summed(lambda: DatasetStatistics(True), outcomes, n) for n in (1, 7))
    once.rejects.sort(key=str)
    for name in ("products", "missing", "repaired", "values", "fingerprint", "regions", "classes"):
        assert getattr(once, name) == getattr(parts, name), name
    assert once.rejects == parts.rejects
    # A Counter takes an absent key for 0: held-out values must be there, also where they merge.
    assert {p: set(v) for p, v in once.values.items()} == {
        p: set(v) for p, v in parts.values.items()
    }
    texts = [
        text
        for outcome in outcomes
        if isinstance(outcome, BuiltRecord) and outcome.split == "train"
        for text in (
            outcome.record["title"],
            *outcome.record["properties"],
            *outcome.record["values"],
        )
    ]
    assert once.words() == parts.words() == count_words(texts)
