"""A head on embeddings of a downstream task, measured next to trivial baselines.

It is the one that was fine-tuned or, in a probe, one that is fitted to the embeddings of training
items while the model stays as it is: several strengths of an L2 penalty are tried at once, and the
one with the least loss on validation examples is taken. Everything is fixed by the seed.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from k3m_jax import objectives, tasks
from k3m_jax.data.input.pipeline import Inputs, validate_sources
from k3m_jax.data.store.shards import ShardSet
from k3m_jax.data.store.value_vocabulary import UNKNOWN, ValueVocabulary
from k3m_jax.evaluation.embedding import Embedder
from k3m_jax.evaluation.report import Report, Row, Score
from k3m_jax.metrics import Bootstrap, Statistic, best_threshold
from k3m_jax.model.network import Params
from k3m_jax.objectives.base import safe_ratio
from k3m_jax.settings import Corruption, Settings, Task, UserError
from k3m_jax.tasks.base import DownstreamTask, TaskSplit
from k3m_jax.tasks.fitted_baselines import Classify
from k3m_jax.tasks.trivial_baselines import BASELINES, SeenSplit
from k3m_jax.training.optimizer import decay_mask
from k3m_jax.training.task_network import TaskNetwork, split_params

PENALTIES = (1e-6, 1e-4, 1e-2, 1e-1)  # half their sum of squares is added; not of biases
STEPS = 1000
BATCH = 128  # examples of a step
RATE = 1e-2  # of Adam, falling to 0 as a cosine

CLEAN = Corruption()
THRESHOLD = "threshold of the model's scores"  # a note of a report, which an export takes over
MODEL = "model"  # among the names of trivial baselines
Examples = Mapping[str, Any]  # of `DownstreamTask.inputs`
Scale = Callable[[np.ndarray], np.ndarray]  # vectors [N, D] -> what the head reads


class TaskEvaluator:
    """Loss and metrics of a task on the validation examples of a run that trains."""

    def __init__(self, network: TaskNetwork, mesh: Mesh, inputs: Inputs):
        """Raises UserError where the validation split has no example."""
        task, self._data = network.settings.task, network.settings.data
        kind, vocabulary = tasks.find(task.name), inputs.vocabulary
        self._embedder = Embedder(network.backbone, mesh, inputs.tokenizer)
        split = self._data.valid_split
        self._valid = TaskSplit(kind, task, inputs.shard_sets, split, vocabulary)
        self._scorer = lambda embedder: kind(network.head, embedder, vocabulary, [self._valid])

    def __call__(self, params: Params) -> dict[str, float]:
        """`loss` and the metrics; alignment's threshold is the best there is for these pairs."""
        model, head = split_params(params)
        embedder, valid = self._embedder.at(model), self._valid
        scorer = self._scorer(embedder)
        c = embedder(valid.sources(self._data.valid_corruption))
        scores = scorer.scores(head, valid, c)
        threshold = best_threshold(scores, valid.labels == 1) if scorer.needs_threshold else 0.0
        statistics = scorer.statistics(valid, scores, threshold)
        stacked, bootstrap = jax.tree.map(lambda x: x[None], head), Bootstrap(valid.products)
        return {
            "loss": float(mean_losses(scorer, stacked, scorer.inputs(valid, c))[0]),
            **{name: bootstrap.value(statistic) for name, statistic in statistics.items()},
        }


class TaskEvaluation:
    """A model and a head on one split, in any number of corruption settings."""

    def __init__(
        self,
        settings: Settings,
        inputs: Inputs,
        embedder: Embedder,
        checkpoint: int,
        split: str,
        *,
        head: Any = None,
        held_out: Sequence[ShardSet] = (),
        trivial_baselines: bool = True,
        classical: bool = False,
    ):
        """Fits the head of a probe, where `head` does not give a fine-tuned one's parameters.

        Baselines and a probe's head learn from the run's `data.train_split`, corrupted by
        `data.train_corruption`; thresholds and the penalty of the head are chosen on its
        `data.valid_split`, never corrupted. `settings` are resolved, with the task; `held_out` are
        data sets to measure on instead of the run's own. `classical` adds models of words, triples
        and pictures to the trivial baselines of classification.

        Raises UserError: a modality to show that there is not, a split without examples, pictures
        in `held_out` that are not like the run's, or embeddings that are not finite.
        """
        settings.validate_shown()
        # Or the model would take pictures that are not like the run's for absent.
        validate_sources(settings, (*inputs.shard_sets, *held_out))
        data, own, vocabulary = settings.data, inputs.shard_sets, inputs.vocabulary
        kind = tasks.find(settings.task.name)
        task = kind.resolve(settings.task, own, data.train_split)
        network = TaskNetwork(dataclasses.replace(settings, task=task))
        if held_out:
            # Their values are candidates too; how frequent a value is follows from training alone.
            more = [{p: dict.fromkeys(v, 0) for p, v in s.values.items()} for s in held_out]
            vocabulary = ValueVocabulary.merge([*(shards.values for shards in own), *more])
        few = {"labels_per_class": task.labels_per_class}
        self.train = TaskSplit(kind, task, own, data.train_split, vocabulary, **few)
        self.valid = self.measured = TaskSplit(kind, task, own, data.valid_split, vocabulary)
        if held_out or split != data.valid_split:
            self.measured = TaskSplit(kind, task, held_out or own, split, vocabulary)
        self.kind, self.checkpoint, self.embedder = "evaluation", checkpoint, embedder
        self.notes = {"training examples": len(self.train.labelled)}
        self.train_corruption, self.trivial_baselines = data.train_corruption, trivial_baselines
        self.classical = classical
        self.embedded: dict[Corruption, np.ndarray] = {}
        splits = self.train, self.valid, self.measured
        score = functools.partial(kind, network.head, embedder, vocabulary, splits)
        self.norm = ""  # of link prediction's energy, for zero-shot metrics; "" is none
        self.scale: Scale = np.asarray
        if head is not None:
            self.scorer, self.head = score(), head
            return
        train_c = embedder(self.train.sources(data.train_corruption))
        self.kind, self.scale = "probe", standardizer(train_c)
        self.scorer = score(lambda x: standardizer(x)(x))
        valid_c = embedder(self.valid.sources(CLEAN))
        self.head, self.notes["penalty of the head"] = fit(
            self.scorer,
            self.scorer.inputs(self.train, self.scale(train_c)),
            self.scorer.inputs(self.valid, self.scale(valid_c)),
            settings.seed,
        )
        # The energy of a model that has not learned link prediction means nothing.
        if any(o.name == "lpm" and o.weight for o in objectives.active(settings)):
            self.norm = settings.objectives.lpm.norm

    def report(self, corruption: Corruption) -> Report:
        """The measurement, with the measured items corrupted; UserError for scores not finite."""
        measured, c = self.measured, self._embeddings(corruption)
        statistics = {
            name: self.scorer.statistics(measured, scores, self._thresholds.get(name, 0.0))
            for name, scores in self._scores(measured, c, corruption).items()
        }
        model = statistics.pop(MODEL)
        if self.norm:
            model |= self.scorer.zero_shot_statistics(measured, c, self.norm)
        rows, count, products = [], len(measured.products), set(measured.products)
        bootstrap = Bootstrap(measured.products)
        for name, statistic in model.items():
            metric = name.rpartition(" ")[2]  # zero-shot metrics have the same baselines
            others = {key: _score(bootstrap, found[metric]) for key, found in statistics.items()}
            rows.append(Row(name, name, _score(bootstrap, statistic), others, count, "examples"))
        notes = {
            "examples": count,
            "products": len(products),
            "products that training has too": len(products & self.train.split_products),
            "intervals": "bootstrap over products",
            **self.notes,
            "training items are corrupted": str(self.train_corruption) or "no",
            **{f"left out, {reason}": count for reason, count in measured.left_out.items()},
        }
        if unknown := int((measured.labels == UNKNOWN).sum()):
            notes["examples of a class that training lacks, always wrong"] = unknown
        if math.isfinite(threshold := self._thresholds.get(MODEL, math.inf)):
            notes[THRESHOLD] = threshold
        if self.scorer.needs_threshold and measured is self.valid:
            notes["threshold"] = "chosen on these very pairs, so F1 is flattered"
        task, split = self.scorer.head.task, measured.split
        own, default = vars(task).items(), vars(Task())
        return Report(
            self.kind,
            task.name,
            split,
            str(corruption),
            self.checkpoint,
            rows,
            notes,
            options={key: value for key, value in own if value != default[key]},
        )

    def _embeddings(self, corruption: Corruption) -> np.ndarray:
        """Embeddings of the measured rows at any rate, from those of none and of all corrupted.

        A rate decides which items are corrupted, not how: a setting is embedded once.
        """
        if corruption.rate not in (0, 1):
            whole = self._embeddings(dataclasses.replace(corruption, rate=1.0))
            corrupted = self.measured.corrupted(corruption)[:, None]
            return np.where(corrupted, whole, self._embeddings(CLEAN))
        if corruption not in self.embedded:
            self.embedded[corruption] = self.embedder(self.measured.sources(corruption))
        return self.embedded[corruption]

    def _scores(
        self, split: TaskSplit, c: np.ndarray, corruption: Corruption
    ) -> dict[str, np.ndarray]:
        """Of the model on embeddings of all rows, and of the trivial baselines.

        Only finite ones: metrics would rank NaN somewhere, and it might look like an answer.
        """
        scores = self.scorer.scores(self.head, split, self.scale(c))
        if wrong := np.count_nonzero(~np.isfinite(scores)):
            raise UserError(
                f"split {split.split!r}: {wrong:,} of {scores.size:,} scores of the model at step "
                f"{self.checkpoint} are not finite: measure another --checkpoint, or train again "
                "with a lower optimizer.learning_rate"
            )
        if not self.trivial_baselines:
            return {MODEL: scores}
        seen = SeenSplit.read(split, corruption)
        trivial = self.scorer.trivial_baselines(self._seen, seen)
        found = {MODEL: scores} | dict(zip(BASELINES, trivial, strict=True))
        return found | self._classify(seen) if self._classify else found

    @functools.cached_property
    def _seen(self) -> SeenSplit:
        return SeenSplit.read(self.train, self.train_corruption)

    @functools.cached_property
    def _classify(self) -> Classify | None:
        return self.scorer.fit_classifiers(self._seen) if self.classical else None

    @functools.cached_property
    def _thresholds(self) -> dict[str, float]:
        """Of the model and of each baseline, where metrics need them."""
        if not self.scorer.needs_threshold:
            return {}
        scores = self._scores(self.valid, self.embedder(self.valid.sources(CLEAN)), CLEAN)
        return {name: best_threshold(x, self.valid.labels == 1) for name, x in scores.items()}


def standardizer(x: np.ndarray) -> Scale:
    """What gives the vectors x [N, D] mean 0 and variance 1: models differ in their scale.

    A dimension that does not vary stays at 0.
    """
    mean, spread = x.mean(0), x.std(0)
    spread = np.where(spread > 1e-6, spread, np.inf)
    return lambda vectors: (vectors - mean) / spread


def _score(bootstrap: Bootstrap, statistic: Statistic) -> Score:
    value = bootstrap.value(statistic)
    return Score(value if math.isfinite(value) else None, bootstrap.interval(statistic))


def fit(scorer: DownstreamTask, train: Examples, valid: Examples, seed: int) -> tuple[Any, float]:
    """The parameters and the penalty of the best head; raises UserError where none has a loss."""
    key = jax.random.key(seed)
    start = scorer.head.init_params(key)
    data = {name: jnp.asarray(x) for name, x in train.items()}
    data["weight"] = jnp.ones(len(data["c"]))
    params = _learn(scorer, start, jnp.array(PENALTIES, jnp.float32), data, key)
    losses = mean_losses(scorer, params, valid)
    if np.isnan(losses).all():
        raise UserError(
            "no head has a finite loss on the validation examples: the model's embeddings are not "
            "finite (measure another --checkpoint), or task.classes names none of their classes"
        )
    best = int(np.nanargmin(losses))
    return jax.tree.map(lambda x: x[best], params), PENALTIES[best]


def mean_losses(scorer: DownstreamTask, params: Any, inputs: Examples) -> np.ndarray:
    """The loss of each of the stacked heads `params` on examples, [heads]."""
    total, sums, count = jax.jit(jax.vmap(scorer.loss, (0, None))), [], len(inputs["c"])
    for first in range(0, count, BATCH):  # of one size, the last filled up with rows of weight 0
        rows = np.arange(first, first + BATCH)
        batch = {name: jnp.asarray(x[rows % count]) for name, x in inputs.items()}
        sums.append(total(params, batch | {"weight": jnp.asarray(rows < count, jnp.float32)}))
    return np.sum([s.total for s in sums], 0) / np.sum([s.weight for s in sums], 0)


@functools.partial(jax.jit, static_argnums=0)
def _learn(scorer: DownstreamTask, start: Any, penalties: Any, data: Examples, key: Any) -> Any:
    """The heads of all penalties, stacked."""
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, STEPS))
    decays = decay_mask(start)
    count = len(data["c"])

    def loss(params, batch, penalty):
        squares = jax.tree.map(lambda p, d: d * jnp.square(p).sum(), params, decays)
        return safe_ratio(*scorer.loss(params, batch)) + penalty / 2 * sum(jax.tree.leaves(squares))

    def learn(penalty):
        def step(state, key):
            params, opt_state = state
            rows = jax.random.randint(key, (min(BATCH, count),), 0, count)
            batch = {name: x[rows] for name, x in data.items()}
            gradient = jax.grad(loss)(params, batch, penalty)
            updates, opt_state = optimizer.update(gradient, opt_state)
            return (optax.apply_updates(params, updates), opt_state), None

        keys = jax.random.split(key, STEPS)
        return jax.lax.scan(step, (start, optimizer.init(start)), keys)[0][0]

    return jax.vmap(learn)(penalties)
