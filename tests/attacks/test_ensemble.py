"""The ensemble: later attacks see survivors only, and an image keeps the worst that any attack made of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from classwise.attacks import PGD, Attack, Ensemble, Square, build, predict
from classwise.errors import InputError
from classwise.noise import Noise
from classwise.threat import ThreatModel

LINF = ThreatModel("Linf", 0.1)


class Brightness(nn.Module):
    """Class 1 where the mean is above 1/2, the further above the surer."""

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1).mean(1) - 0.5
        return torch.stack([-score, score], 1)


@dataclass(frozen=True)
class Shift:
    """Adds one number to every pixel, and remembers which images it was given."""

    threat: ThreatModel
    by: float
    given: list[list[int]] = field(default_factory=list, compare=False)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, noise: Noise) -> Tensor:
        self.given.append(noise.index.tolist())
        return x + self.by


def images(*means: float) -> Tensor:
    return torch.tensor(means)[:, None, None, None].expand(-1, 1, 2, 2).clone()


def run(attacks: list[Attack], x: Tensor) -> tuple[Tensor, Tensor]:
    y = (x.flatten(1).mean(1) > 0.5).long()
    x_adv = Ensemble(tuple(attacks))(Brightness(), x, y, noise=Noise(0, torch.arange(len(x))))
    return x_adv, predict(Brightness()(x_adv), y) != y


def test_each_attack_sees_the_survivors_of_those_before() -> None:
    shifts = [Shift(LINF, by) for by in (0.03, -0.03, 0.06, 0.09)]
    _, fooled = run([*shifts], images(0.48, 0.52, 0.45, 0.2))
    assert fooled.tolist() == [True, True, True, False]
    assert [shift.given for shift in shifts] == [[[0, 1, 2, 3]], [[1, 2, 3]], [[2, 3]], [[3]]]


def test_it_stops_where_nothing_survives() -> None:
    shifts = [Shift(LINF, 0.05), Shift(LINF, 0.06)]
    run([*shifts], images(0.48, 0.47))
    assert shifts[1].given == []


def test_a_survivor_keeps_the_candidate_with_the_largest_margin() -> None:
    x = images(0.2, 0.9)
    x_adv, _ = run([Shift(LINF, by) for by in (0.01, 0.05, -0.04)], x)
    torch.testing.assert_close(x_adv, images(0.25, 0.86))


def test_a_candidate_outside_the_threat_set_does_not_count() -> None:
    x = images(0.45)
    x_adv, fooled = run([Shift(LINF, 0.2), Shift(LINF, 0.01)], x)
    assert not fooled.any()
    torch.testing.assert_close(x_adv, x + 0.01)


def test_logits_that_are_not_finite_count_as_fooled() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 2), torch.nan)

    second, x = Shift(LINF, 0.02), images(0.4)
    Ensemble((Shift(LINF, 0.01), second))(Broken(), x, torch.tensor([0]), noise=Noise(0, torch.arange(1)))
    assert second.given == []


def test_different_threats_or_no_attack_are_refused() -> None:
    for attacks in ((), (PGD(LINF), PGD(ThreatModel("Linf", 0.2)))):
        with pytest.raises(InputError, match="one threat model"):
            Ensemble(attacks)


def test_it_is_built_by_name_and_its_repr_builds_it_again() -> None:
    (built,) = build("ensemble(attacks='fgsm,square(queries=9)')", LINF).values()
    assert isinstance(built, Ensemble)
    assert built.attacks[1] == Square(LINF, queries=9)
    assert built.threat == LINF
    assert eval(repr(built)) == built
    assert hash(eval(repr(built))) == hash(built)


# With real attacks.


def network(num_classes: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, num_classes))


def batch(model: nn.Module, n: int) -> tuple[Tensor, Tensor, Noise]:
    x = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return x, model.eval()(x).argmax(1), Noise(0, torch.arange(n))


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("num_classes", [2, 3, 4, 5, 10, 100])
def test_candidates_are_in_the_threat_set_and_nothing_else_changes(norm: str, num_classes: int) -> None:
    model = network(num_classes)
    x, y, noise = batch(model, 12)
    (attack,) = build("ensemble(attacks='pgd,square(queries=20)')", ThreatModel(norm, 0.2)).values()  # type: ignore[arg-type]
    state = torch.get_rng_state()
    x_adv = attack(model.train(), x, y, noise=noise)
    assert attack.threat.contains(x_adv, x).all()
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(attack(model, x, y, noise=noise), x_adv)
    part = torch.tensor([7, 2, 3])
    split = attack(model, x[part], y[part], noise=noise.select(part))
    torch.testing.assert_close(split, x_adv[part], rtol=0, atol=1e-4)


def test_a_radius_of_zero_changes_nothing() -> None:
    model = network(3)
    x, y, noise = batch(model, 4)
    (attack,) = build("ensemble", ThreatModel("Linf", 0)).values()
    assert torch.equal(attack(model, x, y, noise=noise), x)


def test_it_breaks_what_any_member_breaks_alone_if_members_are_deterministic() -> None:
    model = network(4)
    x, y, noise = batch(model, 200)
    threat = ThreatModel("Linf", 0.06)
    members = [PGD(threat, steps=2, start="clean", loss=loss, keep="success") for loss in ("cross_entropy", "margin")]
    alone = [predict(model.eval()(m(model, x, y, noise=noise)).detach(), y) != y for m in members]
    both = predict(model(Ensemble(tuple(members))(model, x, y, noise=noise)).detach(), y) != y
    assert torch.equal(both, alone[0] | alone[1])
    assert alone[0].any()
    assert not both.all()
