import dataclasses
import math
import re
import typing

import ml_collections
import pytest
from conftest import ROOT
from tiny import TINY, released

from k3m_jax.settings import Settings, UserError, default_config


def changed(**values):
    """The defaults with dotted keys changed: `changed(**{"seed": 3})`."""
    config = default_config()
    with config.unlocked():
        config.update_from_flattened_dict(values)
    return config


def test_defaults_survive_the_way_through_a_config():
    assert Settings.from_config(default_config()) == Settings()
    assert Settings.from_config(TINY.to_config()) == TINY


def test_a_config_can_be_a_plain_dict_and_partial():
    settings = Settings.from_config({"model": {"dropout": 0}})
    assert settings == dataclasses.replace(
        Settings(), model=dataclasses.replace(Settings().model, dropout=0.0)
    )
    assert isinstance(settings.model.dropout, float)


def test_settings_are_frozen_and_hashable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TINY.seed = 3
    assert hash(TINY) == hash(Settings.from_config(TINY.to_config()))


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
        ({"mesh.fsdp": -1}, ["mesh"]),
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
    ],
)
def test_contradictions_name_their_keys(values, keys):
    with pytest.raises(UserError) as error:
        Settings.from_config(changed(**values))
    for key in keys:
        assert key in str(error.value)
    assert "\n" not in str(error.value)


def test_the_release_answers_no_questions():
    settings = released(TINY)
    asked = dataclasses.replace(settings, task=dataclasses.replace(settings.task, name="questions"))
    with pytest.raises(UserError, match=r"task\.name: model\.preset 'release'"):
        asked.check()


def hints(kind, prefix=""):
    """(key, type) of every setting, ranges included."""
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        if dataclasses.is_dataclass(hint):
            yield from hints(hint, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", hint


def test_every_number_has_a_range():
    bare = [
        key
        for key, hint in hints(Settings)
        if hint in (int, float) or {int, float} & set(typing.get_args(hint)[:1])
        if typing.get_origin(hint) is not typing.Annotated
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


def test_the_manual_has_every_setting_and_its_default():
    manual = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z0-9_.]+)` \| (.*?) \| .+ \|$", manual, re.MULTILINE))
    defaults = dict(leaves(dataclasses.asdict(Settings())))
    assert rows.keys() == defaults.keys()
    for key, value in defaults.items():
        shown = rows[key].strip("`")
        assert shown in (str(value), f'"{value}"'), f"{key}: docs/configuration.md says {shown}"


def test_no_setting_hides_behind_a_method_of_config_dict():
    """`--config.evaluation.items=3` would ask for `ConfigDict.items`."""
    names = {part for key, _ in leaves(dataclasses.asdict(Settings())) for part in key.split(".")}
    assert not names & set(dir(ml_collections.ConfigDict))


def leaves(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
