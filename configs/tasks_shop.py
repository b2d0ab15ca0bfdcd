"""Tasks that tell how much a vector says of a shop's items, for `launch.probe --tasks=FILE:WORDS`.

WORDS is a text file of the words that name classes ("boot", "tshirt"): titles do not show them, or
they would answer for the model.
"""

import ml_collections

# The names of other properties tell the class: only shoes have a heel.
NEUTRAL = ("brand", "gender", "age group", "colour", "second colour", "usage")
LABELS = (100, 20, 5)  # of each class
ATTRIBUTES = ("pattern", "sleeve length", "neck", "fabric", "fit")
HARD = ("same style, other colour", "same brand and kind, similar title")
ALL = ("title", "image", "knowledge")


def get_config(words: str = "") -> ml_collections.ConfigDict:
    classes = {
        "name": "classification",
        "min_items": 50,
        "hidden_words": (f"@{words}",) if words else (),
        "shown_properties": NEUTRAL,
    }
    tasks = {"classes": classes}
    tasks |= {f"classes_{count}": classes | {"labels_per_class": count} for count in LABELS}
    tasks |= {
        label.replace(" ", "_"): {"name": "classification", "label": label} for label in ATTRIBUTES
    }
    tasks["colour"] = {
        "name": "classification",
        "label": "colour",
        "hide_classes": True,
        "hidden_properties": ("second colour",),
    }
    tasks["alignment_hard"] = {
        "name": "alignment",
        "pair_kinds": HARD,
        "first_shown": ALL,
        "second_shown": ALL,
    }
    return ml_collections.ConfigDict(tasks)
