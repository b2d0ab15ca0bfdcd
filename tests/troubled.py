"""A small catalog full of trouble, and region features of some of its items."""

import base64
import dataclasses
import io
import json

import numpy as np
from PIL import Image

from k3m_jax.data.build.local import BuildArguments

F, C = 8, 5
GOOD = 24


def jpeg(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((90, 60)).save(out, "JPEG")
    return out.getvalue()


def write_catalog(folder):
    """24 usable records, 3 of them without one part each, among 7 that are not."""
    (folder / "images").mkdir(parents=True)
    records = []
    for i in range(GOOD):
        (folder / "images" / f"{i}.jpg").write_bytes(jpeg(i))
        records.append(
            {
                "id": f"item-{i}",
                "product": f"p{i // 2}",
                "title": f"shirt #{i}: größe 😀; L",
                "triples": [["color", f"c{i % 3}"], ["color", "all:of;them#"], ["only", f"v{i}"]],
                "category": "Tops",
                "images": [f"images/{i}.jpg"],
                "split": ("train", "train", "train", "valid")[i // 2 % 4],
            }
        )
    records[0]["title"] = ""
    records[7]["title"] = "valid: Ω"
    records[1]["triples"] = []
    records[2]["images"] = []
    records[3]["images"] = ["images/lost.jpg"]
    records[4]["triples"] += [["", "x"], ["color", "all:of;them#"]]
    (folder / "images" / "cut.jpg").write_bytes(jpeg(0)[:700])
    bad = [
        '{"id": "unfinished',
        json.dumps({"title": "no id"}),
        json.dumps({"id": "item-0", "title": "again"}),
        json.dumps({"id": "types", "triples": "color: red"}),
        json.dumps(
            {"id": "escape", "title": "Ж", "images": ["../../secret.jpg"], "split": "train"}
        ),
        json.dumps({"id": "cut", "images": ["images/cut.jpg"], "split": "valid"}),
        json.dumps({"id": "half", "title": "\ud83d"}),
    ]
    lines = [json.dumps(r) for r in records]
    lines[7:7] = bad
    (folder / "products.jsonl").write_text("\n".join(lines) + "\n")
    return {
        "not_json": 1,
        "missing_id": 1,
        "repeated_id": 1,
        "wrong_type": 1,
        "outside_folder": 1,
        "bad_picture": 1,
        "not_unicode": 1,
    }


def arguments(catalog, output, **changes):
    defaults = BuildArguments(
        "jsonl",
        str(catalog),
        str(output),
        image_size=32,
        patch_size=8,
        codebook_size=12,
        vocabulary_size=0,
        strict=True,
    )
    return dataclasses.replace(defaults, **changes)


def everything(shards):
    return {r.id: (s, r) for s in shards.info.products for r in shards.source(s)}


def write_regions(path, ids):
    rng = np.random.default_rng(0)
    rows = []
    for i, item in enumerate(ids):
        n = 40 if i == 0 else 2 + i
        boxes = np.tile(np.array([10, 5, 60, 50], np.float32), (n, 1))
        arrays = boxes, rng.random((n, F), np.float32), rng.dirichlet(np.ones(C), n)
        cells = [base64.b64encode(a.astype(np.float32).tobytes()).decode() for a in arrays]
        if item == "item-12":
            cells[1] = cells[1][:-8]
        rows.append("\t".join([item, "90", "60", str(n), *cells]))
    path.write_text("\n".join(rows) + "\n")
