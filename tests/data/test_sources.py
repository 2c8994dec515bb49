"""Loading by name."""

from __future__ import annotations

import pytest

from classwise import registry
from classwise.data import Facts, Images, dataset, default_threat, facts, load, sources
from classwise.errors import InputError
from classwise.threat import ThreatModel

NAMES = ["arrays", "cifar10", "cifar100", "digits", "folder", "imagenet", "mnist", "stl10", "svhn"]


def test_the_sets_of_the_plan_are_registered():
    assert set(NAMES) <= set(registry.names("data"))


@pytest.mark.parametrize("name", NAMES)
def test_every_set_has_a_summary_a_source_and_facts(name):
    entry = registry.entry("data", name)
    assert entry.summary
    assert entry.source
    assert facts(name).splits


@pytest.mark.parametrize(
    ("name", "threat"),
    [
        ("mnist", "Linf 0.3"),
        ("cifar10", "Linf 8/255"),
        ("cifar100", "Linf 8/255"),
        ("svhn", "Linf 8/255"),
        ("stl10", "Linf 8/255"),
        ("imagenet", "Linf 4/255"),
        ("digits", "Linf 0.15"),
    ],
)
def test_the_usual_threats_are_those_of_the_specification(name, threat):
    assert str(default_threat(name)) == threat
    assert facts(name).threat_source


@pytest.mark.parametrize("name", ["folder", "arrays", "folder(resize=64)"])
def test_own_data_has_no_usual_radius(name):
    with pytest.raises(InputError, match="--eps 8/255"):
        default_threat(name)


@pytest.mark.parametrize("ask", [load, default_threat, facts])
def test_an_unknown_name_offers_the_nearest(ask):
    with pytest.raises(InputError, match="did you mean 'cifar10'"):
        ask("cifar_10")


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_an_unknown_split_is_refused(name, tmp_path):
    with pytest.raises(InputError, match=f"{name} has no split 'valid'; choose from train, test"):
        load(name, tmp_path, split="valid")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "digits"])
def test_sets_that_lie_in_files_need_a_folder(name):
    with pytest.raises(InputError, match="name the folder that holds it"):
        load(name)


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere does not exist; .* or pass --download"):
        load("mnist", tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["imagenet", "folder", "arrays"])
def test_no_download_is_offered_where_there_is_none(name, tmp_path):
    with pytest.raises(InputError, match="does not exist") as caught:
        load(name, tmp_path / "nowhere")
    assert "--download" not in str(caught.value)


def test_a_setting_that_a_set_does_not_take_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no setting 'size'"):
        load("mnist(size=3)", tmp_path)


def test_one_function_adds_a_data_set(monkeypatch):
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    monkeypatch.setattr(sources, "_FACTS", dict(sources._FACTS))

    @dataset("blank", Facts(ThreatModel("L2", 0.5), "nobody", needs_directory=False), source="this test")
    def blank(directory, split, download, side=4):
        """Blank images."""
        import numpy as np

        return Images.from_arrays(np.zeros((2, side, side), np.uint8), [0, 1], name="blank", split=split)

    assert load("blank(side=8)").shape == (1, 8, 8)
    assert str(default_threat("blank")) == "L2 0.5"
    assert "blank" in registry.names("data")
