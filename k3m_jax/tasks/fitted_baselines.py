"""What classical models make of the same items: words and triples, pictures, and both together.

They cost more than the trivial baselines, and are what a shop would try first. They learn from the
items that a head learns from, and see what the model sees.
"""

from collections.abc import Callable, Sequence

import numpy as np

from k3m_jax.tasks.trivial_baselines import SeenSplit

TEXT, PICTURE, BOTH = "text, linear SVM", "5 nearest pictures", "both, late fusion"
NEIGHBOURS = 5
SHARPNESS = 3.0  # of the margins, as the softmax makes probabilities of them
SMOOTHING = 0.02  # of the neighbours' votes, so that no class is impossible

Classify = Callable[[SeenSplit], dict[str, np.ndarray]]  # scores [N, classes] by name


def fit_classifiers(train: SeenSplit, classes: int) -> Classify:
    """Fits them to the examples of `train` that have a label."""
    known = train.split.labelled
    labels = train.split.labels[known]
    text = _fit_text([_terms(train, i) for i in known], labels, classes)
    picture = _fit_pictures(train.pixels[known], labels, classes)

    def classify(seen: SeenSplit) -> dict[str, np.ndarray]:
        by_text = text([_terms(seen, i) for i in range(len(seen.words))])
        by_picture = picture(seen.pixels)
        return {TEXT: by_text, PICTURE: by_picture, BOTH: by_text + by_picture}

    return classify


def _terms(seen: SeenSplit, item: int) -> tuple[str, ...]:
    """Words of the title and whole triples, which have a tab and so are no words."""
    return (*seen.words[item], *seen.triples[item])


def _fit_text(
    texts: Sequence[Sequence[str]], labels: np.ndarray, classes: int
) -> Callable[[Sequence[Sequence[str]]], np.ndarray]:
    """A linear one-against-the-rest SVM on TF-IDF; log-softmax of its margins [N, classes]."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # seconds to import
    from sklearn.svm import LinearSVC

    prior = np.log((np.bincount(labels, minlength=classes) + 1) / (len(labels) + classes))
    present = np.unique(labels)
    if len(present) < 2 or not any(texts):
        return lambda measured: np.tile(prior, (len(measured), 1))
    vectorizer = TfidfVectorizer(analyzer=lambda text: text, sublinear_tf=True)
    svm = LinearSVC(random_state=0).fit(vectorizer.fit_transform(texts), labels)

    def score(measured: Sequence[Sequence[str]]) -> np.ndarray:
        margins = svm.decision_function(vectorizer.transform(measured))
        if margins.ndim == 1:  # of two classes
            margins = np.stack([-margins, margins], 1)
        scores = np.full((len(margins), classes), margins.min() - 1)
        scores[:, present] = margins
        scores = SHARPNESS * scores
        scores -= scores.max(1, keepdims=True)
        scores -= np.log(np.exp(scores).sum(1, keepdims=True))
        nothing = [not text for text in measured]
        scores[nothing] = prior
        return scores

    return score


def _fit_pictures(
    pixels: np.ndarray, labels: np.ndarray, classes: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Log shares of the nearest pictures' votes [N, classes]; alike where there is no picture."""
    from sklearn.neighbors import NearestNeighbors

    pool = np.flatnonzero(~np.isnan(pixels[:, 0]))
    count = min(NEIGHBOURS, len(pool))
    nearest = NearestNeighbors(n_neighbors=count).fit(pixels[pool]) if count else None

    def score(measured: np.ndarray) -> np.ndarray:
        votes = np.zeros((len(measured), classes))
        seen = np.flatnonzero(~np.isnan(measured[:, 0]))
        if count and len(seen):
            distances, found = nearest.kneighbors(measured[seen])
            # Of classes with equally many votes that of the nearest.
            weight = 1 + 1e-3 / (1 + distances)
            rows = np.repeat(seen, count)
            np.add.at(votes, (rows, labels[pool[found]].ravel()), weight.ravel())
        shares = votes + SMOOTHING
        return np.log(shares / shares.sum(1, keepdims=True))

    return score
