"""Critical eps of a model on a data set: known radii, what they must not depend on, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.evaluation.test_run import Bands, planted
from tests.models_for_tests import Cut, Smooth, labelled
from torch import nn

import classwise
from classwise.data import Images
from classwise.errors import InputError
from classwise.evaluation.critical_eps import critical_eps
from classwise.evaluation.run import EvaluationProgress

BRIEF = "narrowing(fab_steps=10, halvings=4, steps=10)"
LEADS = [[0.3, 0.2, 0.1], [0.04, 0.1, 0.02, 0.6]]
# Two rows of four pixels move against each other: for a lead g, Linf needs g/2 in each pixel, L2 √8 times as much.
# L1 needs g/2 in each of eight pixels, in whatever shares.
PER_LEAD = {"Linf": 1 / 2, "L2": math.sqrt(8) / 2, "L1": 4.0}


def wavy(n: int = 60) -> tuple[nn.Module, Images]:
    """Return a network computed in float64, and images it labels itself, but for every tenth."""
    model = Smooth(4, 36, factor=10.0)
    x, y = labelled(model, n, (1, 6, 6))
    y = torch.where(torch.arange(n) % 10 == 0, (y + 1) % 4, y)
    return model.eval(), Images((x * 255).round().to(torch.uint8), y, tuple("abcd"), torch.arange(n))


@pytest.mark.parametrize("norm", PER_LEAD)
def test_radii_on_a_planted_model_are_known(norm: Any) -> None:
    """FAB aims a thousandth beyond the boundary; what is above eps_max is censored, not estimated."""
    leads = np.array([round(255 * lead) / 255 for group in LEADS for lead in group])
    exact, eps_max = PER_LEAD[norm] * leads, 0.25 * PER_LEAD[norm] / PER_LEAD["Linf"]
    found = critical_eps(Bands(), planted(LEADS), norm=norm, eps_max=eps_max, attack=BRIEF)
    inside = exact <= eps_max
    assert found.distance[inside] == pytest.approx(exact[inside], rel=2e-3)
    assert np.isinf(found.distance[~inside]).all()
    assert (~inside).sum() == 1


def test_the_stored_distance_is_that_of_an_image_that_is_wrong_when_run_again(tmp_path: Path) -> None:
    """The outcomes hold the class that the model took the candidate for, in the evaluation's own pass."""
    model, data = wavy()
    found = critical_eps(model, data, eps_max=0.05, attack=BRIEF, directory=tmp_path)
    outcomes = classwise.Result.read(tmp_path).outcomes
    broken = np.isfinite(found.distance)
    assert (outcomes.adversarial_prediction()[broken] != found.y[broken]).all()
    assert (found.distance[found.clean != found.y] == 0).all()
    assert 0 < np.isinf(found.distance).sum() < (found.clean == found.y).sum()
    assert found.about["unconfirmed"] == 0


@pytest.mark.parametrize("norm", PER_LEAD)
def test_radii_do_not_depend_on_the_batch_size_or_the_order(norm: Any) -> None:
    """To rounding: kernels may sum a batch of another size in another order."""
    model, data = wavy(20)
    settings: dict[str, Any] = {"norm": norm, "eps_max": 0.1 * PER_LEAD[norm], "attack": BRIEF}
    whole = critical_eps(model, data, batch_size=64, **settings).distance
    for size in (1, 7):
        assert critical_eps(model, data, batch_size=size, **settings).distance == pytest.approx(whole, rel=1e-5)
    flipped = critical_eps(model, data.subset(torch.arange(len(data)).flip(0)), **settings).distance
    assert flipped[::-1] == pytest.approx(whole, rel=1e-5)


def test_counts_at_a_radius_are_at_most_those_of_pgd_at_that_radius() -> None:
    model, data = wavy()
    found = critical_eps(model, data, eps_max=0.1, attack="narrowing(halvings=4)")
    for eps in (0.01, 0.03):
        attacks = classwise.build_attacks("pgd,margin-pgd", classwise.ThreatModel("Linf", eps))
        counts = classwise.evaluate(model, data, attacks, examples=0).outcomes.counts()
        assert (found.right([eps])[:, 0] <= counts).all()


def test_a_larger_cap_censors_fewer_images() -> None:
    model, data = wavy()
    near, far = (critical_eps(model, data, eps_max=eps, attack=BRIEF).distance for eps in (0.02, 0.2))
    assert np.isinf(far).sum() < np.isinf(near).sum()
    assert (near[np.isfinite(near)] <= 0.02 * (1 + 1e-5)).all()


def test_an_interrupted_run_goes_on_and_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classwise.evaluation.records._SAVE_EVERY", 0.0)
    model, data = wavy(40)

    def stop(snapshot: EvaluationProgress) -> None:
        if snapshot.view == BRIEF and snapshot.done >= 14:
            raise KeyboardInterrupt

    settings: dict[str, Any] = {"eps_max": 0.1, "attack": BRIEF, "batch_size": 7}
    with pytest.raises(KeyboardInterrupt):
        critical_eps(model, data, directory=tmp_path / "out", watch=stop, **settings)
    calls: list[EvaluationProgress] = []
    resumed = critical_eps(model, data, directory=tmp_path / "out", watch=calls.append, **settings)
    assert next(call.done for call in calls if call.view == BRIEF) > 14
    assert (resumed.distance == critical_eps(model, data, **settings).distance).all()


def test_a_finished_folder_is_read_and_other_settings_are_refused(tmp_path: Path) -> None:
    model, data = wavy()
    first = critical_eps(model, data, eps_max=0.1, attack=BRIEF, directory=tmp_path)
    again = critical_eps(model, data, eps_max=0.1, attack=BRIEF, directory=tmp_path, radii=[0.05])
    assert (first.distance == again.distance).all()
    assert again.about["seconds"] == first.about["seconds"]
    with pytest.raises(InputError, match="other settings"):
        critical_eps(model, data, eps_max=0.2, attack=BRIEF, directory=tmp_path)


def test_a_model_that_hides_its_gradients_is_flagged() -> None:
    """What no gradient leads to is censored, and the flags of the evaluation say that this is not to be believed."""
    model, data = wavy()
    found = critical_eps(Cut(model), data, eps_max=0.1, attack=BRIEF)
    assert np.isinf(found.distance).any()
    assert "zero_gradient" in {flag["flag"] for flag in found.about["flags"]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps_max": 0.0}, "largest radius is 0"),
        ({"eps_max": -0.1}, "-0.1"),
        ({"eps_max": 8}, "8/255"),
        ({"eps_max": 0.1, "norm": "L3"}, "Linf, L2 or L1"),
        ({"eps_max": 0.1, "radii": [0.2]}, "not between 0"),
        ({"eps_max": 0.1, "attack": "fab"}, "needs narrowing"),
        ({"eps_max": 0.1, "attack": "narrowing(step=3)"}, "step"),
        ({"eps_max": 0.1, "batch_size": 0}, "batch size"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    model, data = wavy(4)
    with pytest.raises(InputError, match=message):
        critical_eps(model, data, directory=tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_no_images_are_refused() -> None:
    model, data = wavy(4)
    with pytest.raises(InputError, match="at least one image"):
        critical_eps(model, data.subset(torch.arange(0)), eps_max=0.1)
