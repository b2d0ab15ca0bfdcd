"""What a task hides of every item, because it gives the answer away: words of titles, triples."""

import dataclasses
import re
from collections.abc import Collection, Iterable

from etils import epath

from k3m_jax.data.records import ItemView
from k3m_jax.data.store.value_vocabulary import normalised
from k3m_jax.settings import Task, UserError

FILE = "@"  # begins the name of a file of words


def words_of(entries: Iterable[str]) -> tuple[str, ...]:
    """The words of a setting: `@FILE` stands for those of a text file. Raises UserError."""
    found = []
    for entry in entries:
        if not entry.startswith(FILE):
            found.append(entry)
            continue
        try:
            found += epath.Path(entry[len(FILE) :]).read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"task.hidden_words: {entry} is no file of words: {error}") from error
    return tuple(dict.fromkeys(found))


def spellings(words: Iterable[str]) -> frozenset[str]:
    """As `without` compares them: each word in lower case, and without its ending."""
    return frozenset(form for word in words for form in (word.casefold(), stem(word)))


def stem(word: str) -> str:
    """In lower case, without hyphens, possessive 's and a final s: T-Shirts and tshirt are one."""
    word = re.sub(r"[^\w']", "", word.casefold().replace("’", "'"))
    return word.removesuffix("'s").replace("'", "").removesuffix("s")


def without(title: str, words: Collection[str]) -> str:
    """A title without the words of these `spellings`; what is left stays as it is written.

    "V-neck" is one word and, if that is not hidden, two: each may be hidden by itself.
    """
    if not words:
        return title
    found = []
    for word in title.split():
        if stem(word) in words:
            continue
        parts = re.split(r"([^\w'’]+)", word)
        kept = [part for part in parts[::2] if part and stem(part) not in words]
        if len(kept) == sum(map(bool, parts[::2])):
            found.append(word)
        else:
            found += kept
    return " ".join(found)


def hidden_words(task: Task) -> frozenset[str]:
    """The `spellings` of words that titles do not show; of a resolved task."""
    of_classes = " ".join(task.classes).split() if task.hide_classes else ()
    return spellings((*task.hidden_words, *of_classes))


def hide(view: ItemView, words: frozenset[str], properties: frozenset[str]) -> ItemView:
    """A view without these words in its title and, if any are named, other properties."""
    if not (words or properties):
        return view
    triples = view.visible["knowledge"]
    if properties:
        triples = tuple(pair for pair in triples if normalised(pair[0]) in properties)
    title = without(view.visible["title"], words)
    return dataclasses.replace(view, visible={**view.visible, "title": title, "knowledge": triples})
