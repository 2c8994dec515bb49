"""Decision rules on logits: what they compute, that they begin with nothing, and how far they go."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.corrections.pools import leaning, pool_of, relabelled
from tests.strategies import SEEDS, examples
from torch import Tensor, nn

from classwise import registry
from classwise.corrections import Head, IVOffset, IVOffsets, IVScale, IVWeightNorm, Offset, Pool, Rule, weakest
from classwise.errors import InputError

RULES = registry.names("correction")
ORDER = torch.tensor([2, 0, 3, 1])


def some_theta(rule: Rule, pool: Pool, seed: int = 0) -> Tensor:
    """Return a random θ that the rule allows and that changes something."""
    size = rule.start(pool).shape
    return rule.limited(0.2 + torch.rand(size, generator=torch.Generator().manual_seed(seed)))


# Every rule.


@pytest.mark.parametrize("name", RULES)
def test_the_start_changes_no_prediction(name: str) -> None:
    pool, rule = leaning(), registry.build("correction", name)
    with torch.no_grad():
        corrected = rule.at(rule.start(pool), pool)(pool.logits)
    assert torch.equal(corrected.argmax(1), pool.logits.argmax(1))


@pytest.mark.parametrize("name", RULES)
def test_another_theta_changes_predictions(name: str) -> None:
    pool, rule = leaning(), registry.build("correction", name)
    corrected = rule.at(some_theta(rule, pool), pool)(pool.logits)
    assert (corrected.argmax(1) != pool.logits.argmax(1)).any()


@pytest.mark.parametrize("name", RULES)
def test_relabelling_the_classes_relabels_the_parameters(name: str) -> None:
    pool, rule = leaning(), registry.build("correction", name)
    accuracy = pool.accuracy(nn.Identity())
    assert len(accuracy.unique()) == len(accuracy), "a tie could be broken either way"
    theta = some_theta(rule, pool)
    plain = rule.at(theta, pool).state_dict()
    other = rule.at(theta[ORDER] if len(theta) > 1 else theta, relabelled(pool, ORDER)).state_dict()
    for key, value in plain.items():
        torch.testing.assert_close(other[key], value[ORDER] if value.ndim else value)


@pytest.mark.parametrize("name", RULES)
def test_a_correction_is_rebuilt_from_its_own_tensors(name: str) -> None:
    pool, rule = leaning(), registry.build("correction", name)
    correction = rule.at(some_theta(rule, pool), pool)
    rebuilt = rule.module(**correction.state_dict())
    assert torch.equal(rebuilt(pool.logits), correction(pool.logits))
    assert not list(correction.parameters()), "training a corrected model must not train its decision rule"


@pytest.mark.parametrize("name", RULES)
def test_the_correction_is_differentiable_in_theta(name: str) -> None:
    pool, rule = leaning(), registry.build("correction", name)
    theta = some_theta(rule, pool).requires_grad_()
    gradient = torch.autograd.grad(rule.at(theta, pool)(pool.logits)[:, 0].square().sum(), theta)[0]
    assert gradient.isfinite().all()
    assert gradient.any()


@pytest.mark.parametrize("name", RULES)
def test_the_nearest_theta_in_range_is_itself_in_range(name: str) -> None:
    pool, rule = leaning(), registry.build("correction", name)
    for scale in (-100.0, 0.3, 100.0):
        theta = rule.limited(scale * torch.randn(rule.start(pool).shape, generator=torch.Generator().manual_seed(1)))
        torch.testing.assert_close(rule.limited(theta), theta)
        assert rule.at(theta, pool)(pool.logits).isfinite().all()


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("settings", ["step=0", "step=-1", "step='a'", "step=1e999", "rounds=0", "rounds=1.5"])
def test_settings_outside_their_range_are_refused(name: str, settings: str) -> None:
    with pytest.raises(InputError, match=f"of {name} (is|are) .* must be"):
        registry.build("correction", f"{name}({settings})")


# Offsets.


@given(SEEDS, st.floats(-100, 100))
@examples(20)
def test_the_same_offset_for_all_classes_changes_no_prediction(seed: int, constant: float) -> None:
    logits = leaning(seed).logits.double()
    assert torch.equal(Offset(torch.full((4,), constant).double())(logits).argmax(1), logits.argmax(1))


@pytest.mark.parametrize("rule", [IVOffset(), IVOffsets()])
def test_offsets_sum_to_zero(rule: IVOffset | IVOffsets) -> None:
    pool = leaning()
    assert float(rule.at(some_theta(rule, pool), pool).offset.sum()) == pytest.approx(0, abs=1e-5)


def hand() -> Pool:
    """Return four clean images: class 0 wrong by 1, class 1 right by 3 and wrong by 2, class 2 right by 5.

    The gaps between the two largest logits are 1, 3, 2, 5; their lower median is 2.
    """
    logits = torch.tensor([[[0.0, 1, -9], [-9, 3, 0], [2, 0, -9], [0, -9, 5]]])
    return pool_of(logits, torch.tensor([0, 1, 1, 2]), uncorrected=1)


def test_iv_offset_raises_the_weakest_class_by_a_share_of_the_median_gap() -> None:
    """1.5 times the gap 2 is 3, of which 2/3 go to class 0 and -1/3 to each other."""
    offset = IVOffset().at(torch.tensor([1.5]), hand()).offset
    assert offset.tolist() == pytest.approx([2, -1, -1])


def test_iv_offset_never_lowers_its_class() -> None:
    assert IVOffset().limited(torch.tensor([-0.5])).tolist() == [0]


def test_iv_offset_stays_with_the_class_that_was_weakest_before_any_correction() -> None:
    """Class 1 is wrong in the first view; an attack on a corrected model adds one in which class 0 is wrong too."""
    before = torch.tensor([[2.0, 0, -9], [2, 0, -9], [0, -9, 5]])
    after = torch.tensor([[0.0, 2, -9], [0, 2, -9], [0, -9, 5]])
    pool = pool_of(torch.stack([before, after]), torch.tensor([0, 1, 2]), uncorrected=1)
    assert int(IVOffset().at(torch.tensor([1.0]), pool).offset.argmax()) == 1


def test_iv_offsets_are_shares_of_the_median_gap_around_their_mean() -> None:
    assert IVOffsets().at(torch.tensor([3.0, 0, 0]), hand()).offset.tolist() == pytest.approx([4, -2, -2])


# Scales.


def test_iv_scale_doubles_at_one_and_goes_no_further() -> None:
    rule = IVScale()
    assert rule.at(torch.tensor([1.0, 0, -1]), hand()).scale.tolist() == [2, 1, 0.5]
    assert rule.limited(torch.tensor([3.0, 0, -3])).tolist() == [1, 0, -1]


# Weight norms.


def test_iv_weightnorm_says_what_the_network_with_shorter_and_longer_weights_says() -> None:
    torch.manual_seed(0)
    layer, features = nn.Linear(5, 4), torch.randn(20, 5)
    with torch.no_grad():
        layer.weight *= torch.tensor([[0.2], [1.0], [3.0], [1.0]])
        norm = layer.weight.norm(dim=1)
        head = Head(norm, layer.bias.detach().clone())
        pool = pool_of(layer(features)[None], torch.arange(20) % 4, 1, head)
        corrected = IVWeightNorm().at(torch.tensor([0.5]), pool)(layer(features))
        layer.weight *= ((norm.mean() / norm) ** 0.5)[:, None]
        torch.testing.assert_close(corrected, layer(features))


def test_iv_weightnorm_ends_once_all_weights_are_equally_long() -> None:
    assert IVWeightNorm().limited(torch.tensor([1.7])).tolist() == [1]


def test_iv_weightnorm_refuses_a_model_without_a_linear_end() -> None:
    with pytest.raises(InputError, match="ends in a linear layer"):
        IVWeightNorm().start(hand())


# The pool.


def test_an_image_counts_as_right_only_if_it_is_right_in_every_candidate_and_leads_without_a_tie() -> None:
    views = torch.tensor([[[1.0, 0], [1, 0], [1, 0], [torch.inf, 0]], [[2.0, 0], [0, 1], [1, 1], [1, 0]]])
    pool = pool_of(views, torch.zeros(4, dtype=torch.long), uncorrected=1)
    assert pool.right(nn.Identity()).tolist() == [True, False, False, False]
    assert pool.before().right(nn.Identity()).tolist() == [True, True, True, False]


@given(SEEDS)
@examples(10)
def test_the_pool_of_some_images_says_of_them_what_the_whole_says(seed: int) -> None:
    pool = leaning(seed).added(torch.tensor([5, 3, 5]), torch.randn(3, 4))
    positions = torch.randperm(80, generator=torch.Generator().manual_seed(seed))[:30]
    part = pool.of(positions)
    assert torch.equal(part.clean, pool.clean[positions])
    assert torch.equal(part.right(nn.Identity()), pool.right(nn.Identity())[positions])
    assert torch.equal(part.before().right(nn.Identity()), pool.before().right(nn.Identity())[positions])


def test_a_class_without_images_is_not_the_weakest() -> None:
    assert weakest(torch.tensor([torch.nan, 0.5, 0.2])) == 2
