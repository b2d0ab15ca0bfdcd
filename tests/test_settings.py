import dataclasses
import math
import typing

import ml_collections
import pytest
from conftest import ROOT
from tiny import TINY, released

from k3m_jax.settings import Settings, UserError, default_config
from k3m_jax.settings.schema import groups_of
from launch.document_settings import document


def changed(**values):
    """The defaults with dotted keys changed: `changed(**{"seed": 3})`."""
    config = default_config()
    with config.unlocked():
        config.update_from_flattened_dict(values)
    return config


def test_defaults_survive_the_way_through_a_config():
    assert Settings.from_config(default_config()) == Settings()
    assert Settings.from_config(dataclasses.asdict(TINY)) == TINY


def test_a_config_can_be_a_plain_dict_and_partial():
    settings = Settings.from_config({"model": {"dropout": 0}})
    assert settings == dataclasses.replace(
        Settings(), model=dataclasses.replace(Settings().model, dropout=0.0)
    )
    assert isinstance(settings.model.dropout, float)


def test_settings_are_frozen_and_hashable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TINY.seed = 3
    assert hash(TINY) == hash(Settings.from_config(dataclasses.asdict(TINY)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"sead": 1}, r"unknown setting sead; did you mean seed\?"),
        (
            {"model": {"text": {"layer": 1}}},
            r"model\.text\.layer; did you mean model\.text\.layers",
        ),
        ({"model": {"zebra": 1}}, r"unknown setting model\.zebra$"),
        ({"model": 3}, r"model: a group of settings is expected, not 3"),
        ({"seed": "1"}, r"seed: int is expected, not '1'"),
        ({"seed": True}, r"seed: int is expected, not True"),
        ({"seed": 1.0}, r"seed: int is expected, not 1\.0"),
        ({"model": {"remat": 1}}, r"model\.remat: bool is expected, not 1"),
        ({"model": {"fusion": {"mode": "herd"}}}, r"model\.fusion\.mode: 'herd' is not one of"),
        ({"data": {"sources": "one"}}, r"data\.sources: a tuple is expected, not 'one'"),
        ({"data": {"sources": [1]}}, r"data\.sources\[0\]: str is expected, not 1"),
    ],
)
def test_what_the_schema_does_not_know_is_named(config, message):
    with pytest.raises(UserError, match=message):
        Settings.from_config(config)


@pytest.mark.parametrize(
    ("values", "keys"),
    [
        ({"model.text.heads": 5}, ["model.text.heads", "model.text.width"]),
        ({"model.interactor.width": 100}, ["model.interactor.heads", "model.interactor.width"]),
        ({"image.regions": 35}, ["image.regions"]),
        ({"training.accumulation": 512}, ["training.accumulation", "training.batch"]),
        ({"training.batch": 100}, ["training.batch", "objectives.group"]),
        ({"evaluation.batch": 100}, ["evaluation.batch", "objectives.group"]),
        ({"data.weights": (1.0,)}, ["data.weights", "data.sources"]),
        ({"lengths.title": 513}, ["model.positions", "lengths."]),
        ({"model.dropout": 1.5}, ["model.dropout"]),
        ({"objectives.mlm.rate": -0.1}, ["objectives.mlm.rate"]),
        ({"lengths.title": 2}, ["lengths.title"]),
        ({"training.steps": 0}, ["training.steps"]),
        ({"model.fusion.temperature_end": 2.0}, ["model.fusion.temperature_end"]),
        ({"training.accumulation": 0}, ["training.accumulation"]),
        ({"objectives.group": 0}, ["objectives.group"]),
        ({"model.text.heads": 0}, ["model.text.heads"]),
        ({"image.regions": -1}, ["image.regions"]),
        ({"evaluation.batch": 0}, ["evaluation.batch"]),
        ({"optimizer.learning_rate": math.nan}, ["optimizer.learning_rate"]),
        ({"objectives.lpm.negative_values": -1}, ["objectives.lpm.negative_values"]),
        ({"data.sources": ("a",), "data.weights": (0.0,)}, ["data.weights"]),
        ({"distributed.process": 1}, ["distributed.coordinator", "distributed.process"]),
        ({"task.shown": ("picture",)}, ["task.shown"]),
    ],
)
def test_contradictions_name_their_keys(values, keys):
    with pytest.raises(UserError) as error:
        Settings.from_config(changed(**values))
    for key in keys:
        assert key in str(error.value)
    assert "\n" not in str(error.value)


def test_presets_refuse_what_they_do_not_have():
    with pytest.raises(UserError, match=r"model\.preset: 'realease' .*'release'"):
        Settings.from_config({"model": {"preset": "realease"}})
    with pytest.raises(UserError, match=r"model\.interactor\.text_layers"):
        Settings.from_config(changed(**{"model.interactor.text_layers": (1,) * 6}))
    with pytest.raises(UserError, match=r"model\.knowledge_text"):
        Settings.from_config(changed(**{"model.knowledge_text": True}))
    settings = released(TINY)
    questions = dataclasses.replace(settings.task, name="questions")
    with pytest.raises(UserError, match=r"task\.name: model\.preset 'release'"):
        dataclasses.replace(settings, task=questions).validate()


def test_every_number_has_a_range():
    settings = [setting for *_, settings in groups_of(Settings()) for setting in settings]
    bare = [
        setting.name
        for setting in settings
        if setting.kind in (int, float) or {int, float} & set(typing.get_args(setting.kind)[:1])
        if typing.get_origin(setting.kind) is not typing.Annotated
    ]
    assert bare == []


def test_sizes_of_the_data_set_are_filled_in():
    settings = Settings().resolved(vocabulary=100, classes=7)
    assert (settings.model.vocabulary, settings.image.classes) == (100, 7)
    assert settings.resolved(vocabulary=100, classes=7) == settings


@pytest.mark.parametrize(
    ("sizes", "key"),
    [
        ({"vocabulary": 61, "classes": 7}, "model.vocabulary"),
        ({"vocabulary": 60, "classes": 8}, "image.classes"),
    ],
)
def test_sizes_that_contradict_the_data_set_are_named(sizes, key):
    with pytest.raises(UserError, match=key):
        TINY.resolved(**sizes)


def test_a_typing_error_in_a_configuration_file_is_named():
    config = default_config()
    config.optimizer.learning_rat = 1.0  # a ConfigDict takes it
    with pytest.raises(UserError, match=r"did you mean optimizer\.learning_rate"):
        Settings.from_config(config)


def test_the_page_of_settings_is_up_to_date():
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert document(page) == page, "run python -m launch.document_settings"


def test_every_setting_is_described():
    for name, description, settings in groups_of(Settings()):
        assert description or not name
        for setting in settings:
            assert setting.description, setting.name


def test_no_setting_hides_behind_a_method_of_config_dict():
    """`--config.evaluation.items=3` would set `ConfigDict.items`."""
    keys = [setting.name for *_, settings in groups_of(Settings()) for setting in settings]
    names = {name for key in keys for name in key.split(".")}
    assert not names & set(dir(ml_collections.ConfigDict))
