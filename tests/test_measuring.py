"""Where the products are that a run has learned from, and those that it is measured on."""

import pytest

from configs import quickstart
from k3m_jax.data.build.arguments import BuildArguments
from k3m_jax.data.build.local import build
from k3m_jax.data.input.pipeline import open_inputs
from k3m_jax.runs.measure import measure_run, relocate_data
from k3m_jax.settings import Settings, UserError
from k3m_jax.synthetic_shop.catalogue import make_catalogue
from k3m_jax.training.checkpoints import Meta


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With the shards of two catalogues, `first` and `second`."""
    folder = tmp_path_factory.mktemp("measuring")
    for seed, name in enumerate(("first", "second")):
        make_catalogue(folder / f"of-{name}", products=20, seed=seed, overlap=0.5, image_size=32)
        sizes = {"image_size": 32, "patch_size": 16, "codebook_size": 4, "vocabulary_size": 200}
        build(BuildArguments("jsonl", str(folder / f"of-{name}"), str(folder / name), **sizes))
    return folder


def a_run(folder, *names):
    """Settings and meta of one that has learned from some of the data sets."""
    config = quickstart.get_config("debug")
    config.data.sources = tuple(str(folder / name) for name in names)
    settings = Settings.from_config(config)
    inputs = open_inputs(settings.data)
    data = [shards.info.fingerprint for shards in inputs.shard_sets]
    return settings, Meta.of(settings, data, inputs.tokenizer.fingerprint)


def test_data_that_have_moved_are_named(folder, tmp_path):
    settings, meta = a_run(folder, "first", "second")
    now = [str(tmp_path / name) for name in ("first", "second")]
    for name in ("first", "second"):
        (tmp_path / name).symlink_to(folder / name)
    data = relocate_data(settings.data, meta, now, now[0])
    assert (data.sources, data.tokenizer) == (tuple(now), now[0])
    assert relocate_data(settings.data, meta, (), "") == settings.data


@pytest.mark.parametrize("now", [["second"], ["second", "first"], ["first"]])
def test_other_data_than_the_run_has_learned_from_are_refused(folder, now):
    settings, meta = a_run(folder, "first", "second")
    with pytest.raises(
        UserError, match=r"--trained_on=.*: the run has learned from other data sets"
    ):
        relocate_data(settings.data, meta, [str(folder / name) for name in now], "")


@pytest.mark.parametrize("sources", [(), ("second",)])
def test_data_that_are_gone_are_told_with_what_to_do(folder, tmp_path, sources):
    """Whatever the run is to be measured on."""
    settings, meta = a_run(folder, "first")
    (folder / "first").rename(tmp_path / "first")
    try:
        with pytest.raises(
            UserError, match=r"first: it does not exist \(seen from .*--trained_on of"
        ):
            measure_run(settings, meta, tmp_path, "best", [str(folder / name) for name in sources])
    finally:
        (tmp_path / "first").rename(folder / "first")


def test_a_pretrained_run_is_not_measured_on_products_held_out_alone(folder, tmp_path):
    settings, meta = a_run(folder, "first")
    lines = (folder / "of-second" / "products.jsonl").read_text().splitlines()
    held_out = tmp_path / "held-out"
    held_out.mkdir()
    (held_out / "images").symlink_to(folder / "of-second" / "images")
    kept = [line for line in lines if '"split": "test"' in line]
    assert 0 < len(kept) < len(lines)
    (held_out / "products.jsonl").write_text("\n".join(kept))
    with pytest.raises(UserError, match=r"--sources=.*held-out: no items of a split 'train'"):
        measure_run(settings, meta, tmp_path, "best", [str(held_out)])
