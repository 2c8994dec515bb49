"""Losses: hand-computed values, gradients, identities, and behaviour at the limits of float32."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import SEEDS, examples, labelled_logits
from torch import Tensor

from classwise import losses
from classwise.attacks.temperature import GRID
from classwise.errors import InputError
from classwise.losses import Loss
from classwise.registry import names

TEMPERATURES = st.sampled_from([0.01, 0.1, 0.5, 1.0, 2.0, 10.0])
EVERY: dict[str, Loss] = {name: losses.named(name) for name in names("loss")} | {
    "soft_margin at 0.01": losses.named("soft_margin(temperature=0.01)"),
    "soft_margin at 10": losses.named("soft_margin(temperature=10)"),
    "tempered_cross_entropy at 10": losses.named("tempered_cross_entropy(temperature=10)"),
}


def gradient(loss: Loss, logits: Tensor, y: Tensor) -> Tensor:
    z = logits.clone().requires_grad_(True)
    return torch.autograd.grad(loss(z, y).sum(), z)[0]


def others(row: Tensor, y: int) -> list[float]:
    return [value for j, value in enumerate(row.tolist()) if j != y]


# By hand: three images with logits (ln 2, 0, ln 5) and (3, 1, 1).

LOGITS = torch.tensor([[math.log(2), 0.0, math.log(5)], [math.log(2), 0.0, math.log(5)], [3.0, 1.0, 1.0]])
Y = torch.tensor([0, 2, 0])


def test_cross_entropy_by_hand() -> None:
    """The exponentials are 2, 1, 5, so p₀ = 2/8 and p₂ = 5/8; for (3, 1, 1) it is −log e²/(e² + 2)."""
    expected = [math.log(4), math.log(8 / 5), math.log(1 + 2 * math.exp(-2))]
    assert losses.cross_entropy(LOGITS, Y).tolist() == pytest.approx(expected, rel=1e-6)


def test_margin_by_hand() -> None:
    assert losses.margin(LOGITS, Y).tolist() == pytest.approx([math.log(5 / 2), math.log(2 / 5), -2])


def test_dlr_by_hand() -> None:
    """Third largest logits are 0, 0 and 1: ln(5/2)/ln 5, −ln(5/2)/ln 5, −2/2."""
    ratio = math.log(5 / 2) / math.log(5)
    assert losses.dlr(LOGITS, Y).tolist() == pytest.approx([ratio, -ratio, -1])


def test_targeted_dlr_by_hand() -> None:
    """(z_t − z_y)/(z_(1) − (z_(3) + z_(4))/2) = (2 − 7)/(7 − (1 + 0)/2)."""
    logits = torch.tensor([[7.0, 2.0, 0.0, 1.0]])
    value = losses.dlr_targeted(logits, torch.tensor([0]), torch.tensor([1]))
    assert value.tolist() == pytest.approx([-5 / 6.5])


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_soft_margin_by_hand(temperature: float) -> None:
    """At T = 1, ln(1 + 5) − ln 2 = ln 3; at T = 1/2 the exponentials are squared: ½ ln(1 + 25) − ln 2."""
    value = losses.soft_margin(LOGITS, Y, temperature)[0].item()
    assert value == pytest.approx({1.0: math.log(3), 0.5: 0.5 * math.log(26) - math.log(2)}[temperature], rel=1e-6)


def test_soft_margin_above_temperature_1_is_shifted_by_hand() -> None:
    """T·ln((e^(1/T) + e^(1/T))/2) − 3 = 1 − 3 for the two wrong logits 1 and 1."""
    assert losses.soft_margin(LOGITS, Y, 10.0)[2].item() == pytest.approx(-2, rel=1e-5)


def test_tempered_cross_entropy_by_hand() -> None:
    """At T = 1/2 the exponentials 2, 1, 5 are squared: p₀ = 4/30."""
    value = losses.tempered_cross_entropy(LOGITS, Y, 0.5)[0].item()
    assert value == pytest.approx(math.log(30 / 4), rel=1e-6)


def test_kl_by_hand() -> None:
    """p = (1/4, 3/4) against p_adv = (1/2, 1/2): ¼ ln ½ + ¾ ln (3/2)."""
    logits, logits_adv = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[2.0, 2.0]])
    expected = math.log(0.5) / 4 + 0.75 * math.log(1.5)
    assert losses.kl(logits_adv, logits).tolist() == pytest.approx([expected], rel=1e-6)


@given(labelled_logits())
@examples(60)
def test_cross_entropy_and_margin_follow_their_formulas(drawn: tuple[Tensor, Tensor]) -> None:
    logits, y = drawn
    ce = [math.log(sum(math.exp(v - row[c]) for v in row)) for row, c in zip(logits.tolist(), y.tolist(), strict=True)]
    margin = [max(others(row, int(c))) - row[c].item() for row, c in zip(logits, y, strict=True)]
    assert losses.cross_entropy(logits, y).tolist() == pytest.approx(ce, rel=1e-9, abs=1e-12)
    assert losses.margin(logits, y).tolist() == pytest.approx(margin)


@given(labelled_logits(min_classes=3))
@examples(60)
def test_dlr_follows_its_formula(drawn: tuple[Tensor, Tensor]) -> None:
    logits, y = drawn
    for value, row, c in zip(losses.dlr(logits, y), logits, y, strict=True):
        ordered = sorted(row.tolist(), reverse=True)
        expected = -(row[c].item() - max(others(row, int(c)))) / (ordered[0] - ordered[2])
        assert value.item() == pytest.approx(expected, rel=1e-9)


@given(labelled_logits(min_classes=4), SEEDS)
@examples(60)
def test_targeted_dlr_follows_its_formula(drawn: tuple[Tensor, Tensor], seed: int) -> None:
    logits, y = drawn
    target = torch.randint(logits.shape[1], y.shape, generator=torch.Generator().manual_seed(seed))
    for value, row, c, t in zip(losses.dlr_targeted(logits, y, target), logits, y, target, strict=True):
        first, _, third, fourth = sorted(row.tolist(), reverse=True)[:4]
        expected = -(row[c].item() - row[t].item()) / (first - (third + fourth) / 2)
        assert value.item() == pytest.approx(expected, rel=1e-9)


# What all losses have in common.


@pytest.mark.parametrize("loss", EVERY.values(), ids=EVERY)
@given(drawn=labelled_logits(scale=2.0))
@examples(25)
def test_gradients_agree_with_finite_differences(loss: Loss, drawn: tuple[Tensor, Tensor]) -> None:
    logits, y = drawn
    gaps = logits.sort(1).values.diff(dim=1)
    if gaps.min() > 1e-4:  # the steps of the differences must not change the order
        assert torch.autograd.gradcheck(lambda z: loss(z, y), logits.requires_grad_(True), eps=1e-6, atol=1e-5)


@given(labelled_logits(min_classes=2, scale=2.0), SEEDS)
@examples(25)
def test_the_gradient_of_kl_agrees_with_finite_differences(drawn: tuple[Tensor, Tensor], seed: int) -> None:
    logits = drawn[0]
    logits_adv = logits + torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed)).double()
    assert torch.autograd.gradcheck(losses.kl, (logits_adv.requires_grad_(True), logits.requires_grad_(True)))


@pytest.mark.parametrize("loss", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("n", [0, 1, 5])
def test_a_loss_is_one_value_an_image(loss: Loss, n: int) -> None:
    logits = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    y = torch.arange(n) % 4
    values = loss(logits, y)
    assert values.shape == (n,)
    for i in range(n):
        torch.testing.assert_close(values[i : i + 1], loss(logits[i : i + 1], y[i : i + 1]))


@pytest.mark.parametrize("loss", EVERY.values(), ids=EVERY)
@given(drawn=labelled_logits(), shift=st.floats(-100, 100))
@examples(25)
def test_a_constant_added_to_all_logits_changes_nothing(loss: Loss, drawn: tuple[Tensor, Tensor], shift: float) -> None:
    logits, y = drawn
    torch.testing.assert_close(loss(logits + shift, y), loss(logits, y), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("loss", EVERY.values(), ids=EVERY)
@given(drawn=labelled_logits(min_classes=3), seed=SEEDS)
@examples(25)
def test_the_names_of_the_classes_do_not_matter(loss: Loss, drawn: tuple[Tensor, Tensor], seed: int) -> None:
    logits, y = drawn
    order = torch.randperm(logits.shape[1], generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(loss(logits[:, order], order.argsort()[y]), loss(logits, y))


@pytest.mark.parametrize("loss", EVERY.values(), ids=EVERY)
@given(drawn=labelled_logits(scale=3.0))
@examples(25)
def test_a_loss_falls_with_the_true_logit_and_rises_with_the_strongest_rival(
    loss: Loss, drawn: tuple[Tensor, Tensor]
) -> None:
    logits, y = drawn
    right = logits.scatter(1, y[:, None], logits.amax(1, keepdim=True) + 0.1)  # DLR is monotone on right images only
    slope = gradient(loss, right, y)
    rival = right.scatter(1, y[:, None], -math.inf).argmax(1)
    assert (slope.gather(1, y[:, None]) < 0).all()
    assert (slope.gather(1, rival[:, None]) > 0).all()


@given(labelled_logits())
@examples(60)
def test_margin_and_dlr_are_positive_exactly_where_the_image_is_wrong(drawn: tuple[Tensor, Tensor]) -> None:
    logits, y = drawn
    wrong = logits.argmax(1) != y
    for loss in (losses.margin, losses.dlr):
        assert torch.equal(loss(logits, y) > 0, wrong)


@pytest.mark.parametrize("loss", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("num_classes", [2, 3, 4, 100])
@given(seed=SEEDS, size=st.sampled_from([1.0, 100.0, 1e4]), ties=st.booleans())
@examples(20)
def test_no_value_or_gradient_is_lost_up_to_ten_thousand(
    loss: Loss, num_classes: int, seed: int, size: float, ties: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = size * (2 * torch.rand(6, num_classes, generator=generator) - 1)
    if ties:
        logits = size * logits.sign()
    y = torch.randint(num_classes, (6,), generator=generator)
    assert loss(logits, y).isfinite().all()
    assert gradient(loss, logits, y).isfinite().all()


@pytest.mark.parametrize("inverse", GRID)
@pytest.mark.parametrize("name", ["soft_margin", "tempered_cross_entropy"])
def test_no_temperature_of_the_grid_loses_a_number(name: str, inverse: float) -> None:
    loss = losses.named(f"{name}(temperature={1 / inverse})")
    values = torch.tensor([-1e4, -1.0, 0.0, 1.0, 1e4])
    logits, y = torch.cartesian_prod(values, values, values), torch.arange(125) % 3
    assert loss(logits, y).isfinite().all()
    assert gradient(loss, logits, y).isfinite().all()


# DLR.


@given(labelled_logits(min_classes=3), st.floats(1e-3, 1e3), st.floats(-100, 100))
@examples(60)
def test_dlr_is_free_of_scale_and_shift(drawn: tuple[Tensor, Tensor], factor: float, shift: float) -> None:
    logits, y = drawn
    torch.testing.assert_close(losses.dlr(factor * logits + shift, y), losses.dlr(logits, y), rtol=1e-6, atol=1e-6)


@given(labelled_logits(min_classes=4), st.floats(1e-3, 1e3), st.floats(-100, 100))
@examples(60)
def test_targeted_dlr_is_free_of_scale_and_shift(drawn: tuple[Tensor, Tensor], factor: float, shift: float) -> None:
    logits, y = drawn
    t = (y + 1) % logits.shape[1]
    scaled = losses.dlr_targeted(factor * logits + shift, y, t)
    torch.testing.assert_close(scaled, losses.dlr_targeted(logits, y, t), rtol=1e-6, atol=1e-6)


@given(labelled_logits(min_classes=3))
@examples(60)
def test_dlr_of_a_right_image_is_between_minus_1_and_0(drawn: tuple[Tensor, Tensor]) -> None:
    logits = drawn[0]
    value = losses.dlr(logits, logits.argmax(1))
    assert ((value >= -1) & (value <= 0)).all()


def test_dlr_of_two_classes_is_the_margin() -> None:
    logits, y = torch.tensor([[3.0, 1.0], [0.0, 5.0]]), torch.tensor([0, 0])
    assert losses.dlr(logits, y).tolist() == [-2, 5]


@pytest.mark.parametrize("num_classes", [2, 3])
def test_targeted_dlr_of_few_classes_is_the_difference(num_classes: int) -> None:
    logits = torch.tensor([[3.0, 1.0, -1.0]])[:, :num_classes]
    assert losses.dlr_targeted(logits, torch.tensor([0]), torch.tensor([1])).tolist() == [-2]


# Temperature: the identities of spec/paper.md 4.1.


def unshifted(logits: Tensor, y: Tensor, temperature: float) -> Tensor:
    """Return M_T as the paper's section writes it, class by class."""
    return torch.stack(
        [
            temperature * torch.logsumexp(torch.tensor(others(row, int(c)), dtype=torch.float64) / temperature, 0)
            - row[c]
            for row, c in zip(logits, y, strict=True)
        ]
    )


@given(labelled_logits(), TEMPERATURES)
@examples(60)
def test_the_soft_margin_is_its_formula_up_to_a_constant(drawn: tuple[Tensor, Tensor], temperature: float) -> None:
    logits, y = drawn
    constant = temperature * math.log(logits.shape[1] - 1) if temperature > 1 else 0
    ours = losses.soft_margin(logits, y, temperature)
    torch.testing.assert_close(ours, unshifted(logits, y, temperature) - constant, rtol=1e-9, atol=1e-9)


@given(labelled_logits(scale=2.0), st.sampled_from([0.1, 0.5, 1.0]))
@examples(60)
def test_identity_1_cross_entropy_is_softplus_of_the_soft_margin(
    drawn: tuple[Tensor, Tensor], temperature: float
) -> None:
    logits, y = drawn
    ratio = losses.soft_margin(logits, y, temperature) / temperature
    torch.testing.assert_close(losses.tempered_cross_entropy(logits, y, temperature), F.softplus(ratio, threshold=700))
    true = (logits / temperature).softmax(1).gather(1, y[:, None]).squeeze(1)
    torch.testing.assert_close(1 - true, ratio.sigmoid(), rtol=1e-7, atol=1e-14)


@given(labelled_logits(scale=2.0), TEMPERATURES)
@examples(60)
def test_identity_2_the_gradients_have_one_direction(drawn: tuple[Tensor, Tensor], temperature: float) -> None:
    """∇CE(z/T) = (1/T)(1 − p_y) ∇M_T."""
    logits, y = drawn
    plain = gradient(losses.named(f"tempered_cross_entropy(temperature={temperature})"), logits, y)
    safe = gradient(losses.named(f"soft_margin(temperature={temperature})"), logits, y)
    wrong = (logits / temperature).softmax(1).scatter(1, y[:, None], 0).sum(1, keepdim=True)  # 1 − p_y
    torch.testing.assert_close(plain, wrong / temperature * safe, rtol=1e-9, atol=1e-13)


@given(labelled_logits(), TEMPERATURES)
@examples(60)
def test_identity_4_the_soft_margin_is_near_the_margin(drawn: tuple[Tensor, Tensor], temperature: float) -> None:
    logits, y = drawn
    room = temperature * math.log(logits.shape[1] - 1)
    soft = losses.soft_margin(logits, y, temperature) + (room if temperature > 1 else 0)
    hard = losses.margin(logits, y)
    assert (soft >= hard - 1e-9).all()
    assert (soft <= hard + room + 1e-9).all()


@given(labelled_logits(scale=2.0), TEMPERATURES, st.floats(0.1, 10))
@examples(60)
def test_logits_and_temperature_scale_together(drawn: tuple[Tensor, Tensor], temperature: float, factor: float) -> None:
    logits, y = drawn
    safe, scaled = (
        gradient(losses.named(f"soft_margin(temperature={t!r})"), z, y)
        for t, z in ((temperature, logits), (factor * temperature, factor * logits))
    )
    torch.testing.assert_close(scaled, safe, rtol=1e-6, atol=1e-9)


def test_a_high_temperature_weighs_all_wrong_classes_alike() -> None:
    logits, y = torch.tensor([[5.0, 1.0, -2.0, 0.0, 3.0]]), torch.tensor([0])
    slope = gradient(losses.named("soft_margin(temperature=1e6)"), logits, y)
    torch.testing.assert_close(slope, torch.tensor([[-1.0, 0.25, 0.25, 0.25, 0.25]]), rtol=1e-4, atol=0)


def test_a_low_temperature_counts_the_strongest_rival_only() -> None:
    logits, y = torch.tensor([[5.0, 1.0, -2.0, 0.0, 3.0]]), torch.tensor([0])
    slope = gradient(losses.named("soft_margin(temperature=1e-4)"), logits, y)
    torch.testing.assert_close(slope, gradient(losses.margin, logits, y))


def test_two_classes_have_one_soft_margin_at_every_temperature() -> None:
    logits, y = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2
    for temperature in (0.01, 1.0, 100.0):
        torch.testing.assert_close(losses.soft_margin(logits, y, temperature), losses.margin(logits, y))


def test_the_plain_form_loses_the_true_class_in_float32_and_the_safe_form_does_not() -> None:
    """The example of spec/paper.md 4.2: a margin of 2 at 1/T = 10; 1 − e⁻²⁰ rounds to 1."""
    logits, y = torch.tensor([[2.0, 0.0, -0.1]]), torch.tensor([0])
    plain = gradient(losses.named("tempered_cross_entropy(temperature=0.1)"), logits, y)
    safe = gradient(losses.named("soft_margin(temperature=0.1)"), logits, y)
    assert plain[0, 0] == 0
    assert (plain[0, 1:] > 0).all()
    assert safe[0, 0] == -1
    torch.testing.assert_close(safe[0, 1:] / safe[0, 1], plain[0, 1:] / plain[0, 1])


def test_the_plain_form_loses_everything_beyond_104_temperatures() -> None:
    """e⁻¹⁰⁴ is below the smallest float32."""
    logits, y = torch.tensor([[10.6, 0.0, -0.1]]), torch.tensor([0])
    assert gradient(losses.named("tempered_cross_entropy(temperature=0.1)"), logits, y).tolist() == [[0, 0, 0]]
    assert gradient(losses.named("soft_margin(temperature=0.1)"), logits, y)[0, 0] == -1


@pytest.mark.parametrize("inverse", GRID)
def test_safe_and_plain_agree_in_sign_where_the_margin_is_below_ten_temperatures(inverse: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, y = torch.randn(20_000, 10, generator=generator), torch.randint(10, (20_000,), generator=generator)
    near = losses.margin(logits, y).abs() * inverse < 10
    plain = gradient(losses.named(f"tempered_cross_entropy(temperature={1 / inverse!r})"), logits, y)
    safe = gradient(losses.named(f"soft_margin(temperature={1 / inverse!r})"), logits, y)
    counted = near[:, None] & (safe.abs() > 1e-30)  # the weight of a rival that far behind underflows in one of them
    assert near.sum() > 500
    assert torch.equal(plain[counted].sign(), safe[counted].sign())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_soft_margin_is_computed_in_float32(dtype: torch.dtype) -> None:
    logits = torch.tensor([[2.0, 1.0, 0.5]], dtype=dtype)
    value = losses.soft_margin(logits, torch.tensor([0]), 0.001)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(-1)


# KL.


@given(labelled_logits(scale=3.0), SEEDS)
@examples(60)
def test_kl_is_that_of_torch_distributions(drawn: tuple[Tensor, Tensor], seed: int) -> None:
    logits = drawn[0]
    logits_adv = logits + torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed)).double()
    clean, adv = (torch.distributions.Categorical(logits=z) for z in (logits, logits_adv))
    value = losses.kl(logits_adv, logits)
    torch.testing.assert_close(value, torch.distributions.kl_divergence(clean, adv))
    assert (value >= -1e-12).all()


def test_kl_of_equal_logits_is_flat() -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = logits.clone().requires_grad_(True)
    value = losses.kl(z, logits)
    assert value.detach().abs().max() < 1e-12
    assert torch.autograd.grad(value.sum(), z)[0].abs().max() < 1e-12


@pytest.mark.parametrize(("adv", "clean"), list(itertools.product([-1e4, 0.0, 1e4], repeat=2)))
def test_kl_loses_no_number(adv: float, clean: float) -> None:
    z = torch.tensor([[adv, 0.0]], requires_grad=True)
    value = losses.kl(z, torch.tensor([[clean, 0.0]]))
    assert value.isfinite().all()
    assert torch.autograd.grad(value.sum(), z)[0].isfinite().all()


# By name.


def test_a_name_alone_is_the_function_itself() -> None:
    assert losses.named("margin") is losses.margin


def test_settings_are_handed_on() -> None:
    assert torch.equal(
        losses.named("soft_margin(temperature=1/4)")(LOGITS, Y), losses.soft_margin(LOGITS, Y, temperature=0.25)
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cross-entropy", "did you mean 'cross_entropy'"),
        ("margin(temperature=1)", "takes no setting temperature"),
        ("margin(y=1)", "takes no setting y"),
        ("soft_margin(temp=1)", "takes no setting temp"),
        ("soft_margin(temperature=0)", "must be above 0"),
        ("tempered_cross_entropy(temperature=-1)", "must be above 0"),
        ("margin(", "is not a name"),
    ],
)
def test_a_loss_that_does_not_exist_is_refused(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        losses.named(text)


# Towards a target.

TARGETED: dict[str, Callable[[Tensor, int], float]] = {
    "cross_entropy": lambda row, t: (row[t] - row.logsumexp(0)).item(),
    "margin": lambda row, t: row[t].item() - max(others(row, t)),
    "soft_margin": lambda row, t: (row[t] - torch.tensor(others(row, t), dtype=torch.float64).logsumexp(0)).item(),
}


@pytest.mark.parametrize("text", TARGETED)
@given(drawn=labelled_logits(min_classes=3, scale=2.0))
@examples(25)
def test_a_targeted_loss_is_minus_the_loss_of_the_target(text: str, drawn: tuple[Tensor, Tensor]) -> None:
    logits, y = drawn
    target = (y + 1) % logits.shape[1]
    values = losses.targeted(text, target)(logits, y)
    expected = [TARGETED[text](row, int(t)) for row, t in zip(logits, target, strict=True)]
    assert values.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("text", ["dlr", " dlr", "dlr()"])
def test_targeted_dlr_has_a_formula_of_its_own(text: str) -> None:
    logits, y, target = torch.tensor([[7.0, 2.0, 0.0, 1.0]]), torch.tensor([0]), torch.tensor([1])
    assert losses.targeted(text, target)(logits, y).tolist() == pytest.approx([-5 / 6.5])


@pytest.mark.parametrize("text", ["cross_entropy", "margin", "dlr", "soft_margin", "soft_margin(temperature=0.1)"])
@given(drawn=labelled_logits(min_classes=4, scale=1.0))
@examples(25)
def test_a_targeted_loss_rises_with_the_logit_of_the_target(text: str, drawn: tuple[Tensor, Tensor]) -> None:
    logits, y = drawn
    target = logits.argsort(1, descending=True)[:, 1]
    y = logits.argmax(1)
    slope = gradient(losses.targeted(text, target), logits, y)
    assert (slope.gather(1, target[:, None]) > 0).all()
    assert (slope.gather(1, y[:, None]) < 0).all()
