"""One record to one example: tokenised, masked, its question drawn; not padded yet."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from k3m_jax.data.corruption import visible_triples
from k3m_jax.data.input import masking
from k3m_jax.data.input.batch import batch_groups, max_masked_tokens
from k3m_jax.data.input.tokenizer import Tokenizer
from k3m_jax.data.store import value_vocabulary
from k3m_jax.modalities.knowledge import (
    Candidates,
    KnowledgeText,
    candidates,
    knowledge_text,
    mask_values,
)
from k3m_jax.modalities.regions import Regions
from k3m_jax.settings import Settings


@dataclasses.dataclass(frozen=True)
class PretrainingExample:
    """What a row of a batch is made of. Lengths are its own: n regions, t tokens, m asked."""

    record: Mapping[str, Any]
    # int32 [t], [CLS] and [SEP] included, masked; [0] where absent. With `knowledge_text` the
    # triples stand behind it: [CLS] title [SEP] property value property value … [SEP].
    title: np.ndarray
    title_content: np.ndarray  # bool [t], not special
    mlm_positions: np.ndarray  # [m], ascending
    mlm_targets: np.ndarray  # [m]
    regions: Regions | None  # None where absent
    region_asked: np.ndarray  # bool [n]
    region_hidden: np.ndarray  # bool [n]
    knowledge: KnowledgeText  # `knowledge_text`: what of it stands behind the title
    value_positions: Sequence[int]  # `release`: what is masked of the knowledge text …
    value_targets: Sequence[int]  # … and what stood there
    question: value_vocabulary.Query | None
    candidates: Candidates | None  # the asked triple, then false ones that read otherwise: up to J
    facts: frozenset[int]  # the item's pairs in the table, those not shown included


class ExampleBuilder:
    """Makes examples; all chance is in the generator that it is given. Pickles.

    Args:
      settings: lengths, rates and counts.
      tokenizer: of titles and knowledge.
      table: of the data set.
      training: triples stand in an order drawn anew each time, not in the stored order.
    """

    def __init__(
        self,
        settings: Settings,
        tokenizer: Tokenizer,
        table: value_vocabulary.ValueVocabulary,
        *,
        training: bool,
    ):
        self._lengths, self._objectives = settings.lengths, settings.objectives
        self._tokenizer, self._table, self._training = tokenizer, table, training
        self._parts = batch_groups(settings)
        self._masks_values = "values" in self._parts and settings.objectives.mvm.weight > 0
        self._knowledge_text = settings.model.knowledge_text
        self._limit = max_masked_tokens(settings)

    def __call__(self, record: Mapping[str, Any], rng: np.random.Generator) -> PretrainingExample:
        """A record with `regions` (see `regions.ReadRegions`) -> its example."""
        # A stream for each, so that a title or picture that is missing changes nothing else.
        title_rng, region_rng, link_rng = map(np.random.default_rng, rng.integers(2**63, size=3))
        regions = record["regions"]
        boxes = regions.boxes if regions else np.zeros((0, 4), np.float32)
        asked, hidden = masking.mask_regions(
            boxes, self._objectives.mom.rate, region_rng, training=self._training
        )

        triples = list(zip(record["properties"], record["values"], strict=True))
        ids = [self._table.id(name, value) for name, value in triples]
        question, foreign = None, []
        if "links" in self._parts:
            count = self._objectives.lpm.negative_values
            own = -(-count // 2) if "asked" in record else count
            question = value_vocabulary.sample_query(
                _queryable(record, ids), self._table, own, link_rng
            )
            if question and "asked" in record:
                # Among a hundred candidates are values of other properties, too (docs/tasks.md).
                lacking = count - len(question.false)
                foreign = value_vocabulary.sample_other_property_values(
                    question.target, self._table, lacking, link_rng
                )
        shown = visible_triples(record) if self._knowledge_text or "triples" in self._parts else []
        if question:
            # Every copy of the asked pair goes, and whatever has the same tokens, or the answer
            # could be read off the knowledge text.
            answer = self._terms(self._table.pairs[question.target])
            shown = [triple for triple in shown if self._terms(triple) != answer]
        if self._training:
            shown = [shown[i] for i in link_rng.permutation(len(shown))]
        asks_for_values = self._masks_values and "asked" not in record
        knowledge, value_positions, value_targets = self._knowledge(shown, asks_for_values)
        behind = knowledge.tokens[1:-1] if self._knowledge_text else ()
        title, content, positions, targets = self._text(record["title"], behind, title_rng)
        return PretrainingExample(
            record=record,
            title=title,
            title_content=content,
            mlm_positions=positions,
            mlm_targets=targets,
            regions=regions,
            region_asked=asked,
            region_hidden=hidden,
            knowledge=knowledge,
            value_positions=value_positions,
            value_targets=value_targets,
            question=question,
            candidates=self._candidates(question, foreign) if question else None,
            facts=frozenset(ids) - {value_vocabulary.UNKNOWN},
        )

    def _knowledge(
        self, triples: Sequence[tuple[str, str]], masked: bool
    ) -> tuple[KnowledgeText, Sequence[int], Sequence[int]]:
        """The text of triples; where it is `masked`, what is in it and what stood there."""
        lengths = self._lengths
        text = knowledge_text(
            triples,
            self._tokenizer,
            lengths.knowledge,
            lengths.triples,
            marks="values" in self._parts,
        )
        return mask_values(text, self._tokenizer.mask) if masked else (text, (), ())

    def _terms(self, pair: tuple[str, str]) -> tuple[tuple[int, ...], ...]:
        return tuple(map(self._tokenizer.encode_term, pair))

    def _candidates(
        self, question: value_vocabulary.Query, foreign: Sequence[tuple[str, str]]
    ) -> Candidates:
        """The asked triple and those false ones that do not read like a true one.

        Values that begin alike can be equal once they are cut to length; accents, or characters
        that the vocabulary lacks, can make them so too.
        """
        others = [index for index in question.known if index != question.target]
        true = [question.target, *others]
        pairs = [self._table.pairs[index] for index in (*true, *question.false)]
        pairs += foreign
        texts = candidates(pairs, self._tokenizer, self._lengths.candidate)
        readings = [texts.reading(row) for row in range(len(pairs))]
        believed = set(readings[: len(true)])
        false = range(len(true), len(pairs))
        return texts.take([0, *(row for row in false if readings[row] not in believed)])

    def _text(
        self, title: str, behind: Sequence[int], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Tokens [t], which are content [t], the positions asked for [m], what stood there [m].

        A title and the content `behind` it end in [SEP] each; of what is absent there is nothing.
        """
        tokenizer = self._tokenizer
        parts = [tokenizer.encode(title)[: self._lengths.title - 2], behind]
        tokens, special = [tokenizer.cls], [True]
        for part in filter(len, parts):
            tokens += [*part, tokenizer.sep]
            special += [*(False for _ in part), True]
        if len(tokens) == 1:
            tokens, special = [], []
        whole, content = np.array(tokens, np.int32), ~np.array(special, bool)
        places = np.flatnonzero(content)
        masked, chosen = masking.mask_tokens(
            whole[places],
            self._objectives.mlm.rate,
            self._limit,
            tokenizer.mask,
            tokenizer.ordinary_ids,
            rng,
            training=self._training,
        )
        asked = places[chosen]
        targets = whole[asked]
        whole[places] = masked
        return whole, content, asked, targets


def _queryable(record: Mapping[str, Any], ids: Sequence[int]) -> Sequence[int]:
    """The triples that may be asked for: of the property that a task asks for, else all."""
    if "asked" not in record:
        return ids
    names = map(value_vocabulary.normalised, record["properties"])
    return [index for name, index in zip(names, ids, strict=True) if name == record["asked"]]
