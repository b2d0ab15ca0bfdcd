"""The one table of how logical axes are spread over the mesh.

Parameters and activations name their dimensions where they are made (`model/`); which devices hold
which part of them is decided here and nowhere else. A name that the table lacks is an error, so
that a renamed axis can't silently be replicated.
"""

from typing import NamedTuple


class Rule(NamedTuple):
    """One line of the table."""

    logical: str  # name of a dimension
    mesh: str | tuple[str, ...] | None  # mesh axes that cut it; None: every device holds all of it
    setting: str = ""  # the key that gives the dimension its size, for error messages


BATCH_AXES = ("data", "fsdp")

# Where two dimensions of one array ask for the same mesh axis, the upper line gets it.
RULES = (
    # Rows of a batch: each device of the data and fsdp axes computes its own.
    Rule("batch", BATCH_AXES, "training.batch"),
    # Widths of the streams: cut where parameters rest, gathered layer by layer where they compute.
    Rule("embed", "fsdp", "model.text.width"),
    Rule("image_embed", "fsdp", "model.image.width"),
    # What a tensor-parallel layer computes in parts.
    Rule("heads", "tensor", "the heads of model.text, model.image and model.interactor"),
    Rule("mlp", "tensor", "the mlp sizes of model.text, model.image and model.interactor"),
    Rule("vocab", "tensor", "the tokenizer's vocabulary"),
    Rule("structure_heads", "tensor", "model.structure.heads"),
    # Whole on every device: small, or never the only dimension of a large array.
    Rule("layers", None),  # of a scanned stack: every step of the scan needs one layer of each part
    Rule("kv", None),  # within an attention head
    Rule("norm", None),  # biases and scales along a stream's width
    Rule("width", None),  # a width that is not cut: activations, outputs of square maps
    Rule("length", None),  # positions of an activation
    Rule("joint", None),  # all heads of the interactor together
    Rule("features", None),  # F
    Rule("box", None),
    Rule("classes", None),  # C
    Rule("positions", None),
    Rule("types", None),
    Rule("streams", None),  # what the fusion chooses from
    Rule("scores", None),
    Rule("parts", None),  # c, p and v in the structure aggregation
)
