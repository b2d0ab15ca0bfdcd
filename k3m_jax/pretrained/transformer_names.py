"""BERT's and ViLBERT's names of what their models repeat, and where each part lies in ours."""

import re
from collections.abc import Collection, Mapping

from k3m_jax.pretrained.name_map import Slot, layer_norm, linear
from k3m_jax.settings import UserError

WORDS = "embeddings.word_embeddings.weight"
POSITIONS = "embeddings.position_embeddings.weight"


def text_embedding(theirs: str, ours: str) -> dict[str, Slot]:
    """BERT's tables and the LayerNorm of their sum; `theirs` is the encoder's prefix."""
    return {
        f"{theirs}{WORDS}": Slot(f"{ours}/words"),
        f"{theirs}{POSITIONS}": Slot(f"{ours}/position_table"),
        f"{theirs}embeddings.token_type_embeddings.weight": Slot(f"{ours}/type_table"),
        **layer_norm(f"{theirs}embeddings.LayerNorm", f"{ours}/norm"),
    }


def image_embedding(theirs: str, ours: str) -> dict[str, Slot]:
    """ViLBERT's maps of features and boxes, and the LayerNorm of their sum."""
    return {
        **linear(f"{theirs}.image_embeddings", f"{ours}/feature_map"),
        **linear(f"{theirs}.image_location_embeddings", f"{ours}/box_map"),
        **layer_norm(f"{theirs}.LayerNorm", f"{ours}/norm"),
    }


def layer(theirs: str, ours: str) -> dict[str, Slot]:
    """A Transformer layer."""
    return {
        **linear(f"{theirs}.attention.self.query", f"{ours}/attention/query"),
        **linear(f"{theirs}.attention.self.key", f"{ours}/attention/key"),
        **linear(f"{theirs}.attention.self.value", f"{ours}/attention/value"),
        **linear(f"{theirs}.attention.output.dense", f"{ours}/attention/out", inputs=2),
        **layer_norm(f"{theirs}.attention.output.LayerNorm", f"{ours}/attention_norm"),
        **linear(f"{theirs}.intermediate.dense", f"{ours}/mlp_in"),
        **linear(f"{theirs}.output.dense", f"{ours}/mlp_out"),
        **layer_norm(f"{theirs}.output.LayerNorm", f"{ours}/mlp_norm"),
    }


def co_attention(theirs: str, ours: str) -> dict[str, Slot]:
    """A co-attention block: 1 and v are the image's side, 2 and t the text's."""
    slots = {}
    for side, own, other, letter in (("image", 1, 2, "v"), ("text", 2, 1, "t")):
        attention, half = f"{ours}/{side}/attention", f"{ours}/{side}"
        slots |= {
            **linear(f"{theirs}.biattention.query{own}", f"{attention}/query"),
            **linear(f"{theirs}.biattention.key{other}", f"{attention}/key"),
            **linear(f"{theirs}.biattention.value{other}", f"{attention}/value"),
            **linear(f"{theirs}.biOutput.dense{own}", f"{attention}/out", inputs=2),
            **layer_norm(f"{theirs}.biOutput.LayerNorm{own}", f"{half}/attention_norm"),
            **linear(f"{theirs}.{letter}_intermediate.dense", f"{half}/mlp_in"),
            **linear(f"{theirs}.{letter}_output.dense", f"{half}/mlp_out"),
            **layer_norm(f"{theirs}.{letter}_output.LayerNorm", f"{half}/mlp_norm"),
        }
    return slots


def masked_language_head(theirs: str, words: str) -> dict[str, Slot]:
    """BERT's MLM head; its decoder is tied to the word table, and left out of some files."""
    return {
        **linear(f"{theirs}.transform.dense", "mlm_head/transform"),
        **layer_norm(f"{theirs}.transform.LayerNorm", "mlm_head/norm"),
        f"{theirs}.decoder.weight": Slot(words),
        f"{theirs}.bias": Slot("mlm_head/bias"),
        f"{theirs}.decoder.bias": Slot("mlm_head/bias"),
    }


def stacked(slots: Mapping[str, Slot], index: int) -> dict[str, Slot]:
    """The slots of one layer where ours keeps all layers of a stack in one array."""
    return {name: slot._replace(index=index) for name, slot in slots.items()}


def encoder_prefix(names: Collection[str], kind: str) -> str:
    """What stands before the encoder's names in a file: "bert.", nothing, or another wrapper's.

    Raises:
      UserError: there is no word table; `kind` is named.
    """
    tables = [name for name in names if name == WORDS or name.endswith(f".{WORDS}")]
    if len(tables) != 1:
        raise UserError(f"{kind} has one …{WORDS}, and these weights have {len(tables)}")
    return tables[0].removesuffix(WORDS)


def as_spelled(slots: Mapping[str, Slot], names: Collection[str]) -> dict[str, Slot]:
    """The slots under the names of a file: old ones say gamma and beta of a LayerNorm."""

    def spelled(name: str) -> str:
        old = re.sub(r"(LayerNorm\d?)\.weight$", r"\1.gamma", name)
        old = re.sub(r"(LayerNorm\d?)\.bias$", r"\1.beta", old)
        return old if old in names else name

    return {spelled(name): slot for name, slot in slots.items()}
