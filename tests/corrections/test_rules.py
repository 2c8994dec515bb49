"""Decision rules on logits: what they compute, that they begin with nothing, and where they go."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import SEEDS, examples
from torch import Tensor, nn

from classwise import registry
from classwise.corrections import Head, IVOffset, IVOffsets, IVScale, IVWeightNorm, Offset, Pool, Scale, weakest
from classwise.corrections.scale import swept
from classwise.errors import InputError

RULES = registry.names("correction")
ORDER = torch.tensor([2, 0, 3, 1])


def pool(seed: int = 0, views: int = 3, images: int = 80, classes: int = 4) -> Pool:
    """Return random logits that lean to the right class, more so for later classes, in classes of unlike size."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.multinomial(torch.arange(1.0, classes + 1), images, replacement=True, generator=generator)
    logits = torch.randn(views, images, classes, generator=generator)
    logits += (1.0 + 0.5 * y[:, None]) * nn.functional.one_hot(y, classes)
    head = Head(torch.arange(1.0, classes + 1), torch.randn(classes, generator=generator))
    return Pool(logits, y, uncorrected=2, head=head)


def relabelled(found: Pool, order: Tensor) -> Pool:
    """Return the pool in which class ``order[k]`` is called k."""
    assert found.head is not None
    head = Head(*(value[order] for value in found.head))
    return Pool(found.logits[:, :, order], order.argsort()[found.y], found.uncorrected, head)


def way(name: str, found: Pool, rounds: int) -> list[Any]:
    rule = registry.build("correction", name)
    corrections = [rule.begin(found)]
    while len(corrections) <= rounds and (following := rule.follow(corrections[-1], found)) is not None:
        corrections.append(following)
    return corrections


# Every rule.


@pytest.mark.parametrize("name", RULES)
def test_the_first_correction_changes_no_prediction(name: str) -> None:
    found = pool()
    with torch.no_grad():
        corrected = way(name, found, 0)[0](found.logits)
    assert torch.equal(corrected.argmax(2), found.logits.argmax(2))


@pytest.mark.parametrize("name", RULES)
def test_later_corrections_change_predictions(name: str) -> None:
    found = pool()
    assert any((each(found.logits).argmax(2) != found.logits.argmax(2)).any() for each in way(name, found, 10))


@pytest.mark.parametrize("name", RULES)
def test_relabelling_the_classes_relabels_the_parameters(name: str) -> None:
    found = pool()
    accuracy = found.accuracy(nn.Identity())
    assert len(accuracy.unique()) == len(accuracy), "a tie could be broken either way"
    ways = zip(way(name, found, 4), way(name, relabelled(found, ORDER), 4), strict=True)
    for plain, other in ways:
        for key, value in plain.state_dict().items():
            torch.testing.assert_close(other.state_dict()[key], value[ORDER] if value.ndim else value)


@pytest.mark.parametrize("name", RULES)
def test_a_correction_is_rebuilt_from_its_own_tensors(name: str) -> None:
    found = pool()
    last = way(name, found, 2)[-1]
    rebuilt = registry.build("correction", name).module(**last.state_dict())
    assert torch.equal(rebuilt(found.logits), last(found.logits))
    assert not list(last.parameters()), "training a corrected model must not train its decision rule"


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("settings", ["step=0", "step=-1", "step='a'", "step=1e999", "rounds=0", "rounds=1.5"])
def test_settings_outside_their_range_are_refused(name: str, settings: str) -> None:
    with pytest.raises(InputError, match=f"of {name} (is|are) .* must be"):
        registry.build("correction", f"{name}({settings})")


# Offsets.


@given(SEEDS, st.floats(-100, 100))
@examples(20)
def test_the_same_offset_for_all_classes_changes_no_prediction(seed: int, constant: float) -> None:
    logits = pool(seed).logits.double()
    assert torch.equal(Offset(torch.full((4,), constant).double())(logits).argmax(2), logits.argmax(2))


@pytest.mark.parametrize("rule", [IVOffset(), IVOffsets()])
def test_offsets_sum_to_zero(rule: IVOffset | IVOffsets) -> None:
    found = pool()
    correction = rule.begin(found)
    for _ in range(10):
        correction = rule.follow(correction, found)
        assert float(correction.offset.sum()) == pytest.approx(0, abs=1e-5)


def hand() -> Pool:
    """Return four clean images: class 0 wrong by 1, class 1 right by 3 and wrong by 2, class 2 right by 5.

    The gaps between the two largest logits are 1, 3, 2, 5; their lower median is 2.
    """
    logits = torch.tensor([[[0.0, 1, -9], [-9, 3, 0], [2, 0, -9], [0, -9, 5]]])
    return Pool(logits, torch.tensor([0, 1, 1, 2]), uncorrected=1)


def test_a_step_of_iv_offset_is_a_share_of_the_median_gap_and_goes_to_the_weakest_class() -> None:
    """A step of 3/2 times the gap 2 is 3, of which 2/3 go to class 0 and -1/3 to each other; a second one as well."""
    rule, found = IVOffset(step=1.5), hand()
    first = rule.follow(rule.begin(found), found)
    assert first.offset.tolist() == pytest.approx([2, -1, -1])
    assert rule.follow(first, found).offset.tolist() == pytest.approx([4, -2, -2])


def test_iv_offset_stays_with_the_class_that_was_weakest_before_any_correction() -> None:
    """Class 1 is wrong in the first view; an attack on a corrected model adds one in which class 0 is wrong too."""
    before = torch.tensor([[2.0, 0, -9], [2, 0, -9], [0, -9, 5]])
    after = torch.tensor([[0.0, 2, -9], [0, 2, -9], [0, -9, 5]])
    found = Pool(torch.stack([before, after]), torch.tensor([0, 1, 2]), uncorrected=1)
    correction = IVOffset().follow(IVOffset().begin(found), found)
    assert int(correction.offset.argmax()) == 1


def test_iv_offsets_goes_on_with_the_class_that_is_weakest_by_then() -> None:
    """After the first step class 0 leads by 2, class 1 by 3 and by -2 - 3, class 2 by 5 - 3: class 1 has 1/2 right."""
    rule, found = IVOffsets(step=1.5), hand()
    first = rule.follow(rule.begin(found), found)
    assert found.accuracy(first).tolist() == [1, 0.5, 1]
    assert rule.follow(first, found).offset.tolist() == pytest.approx([1, 1, -2])


# Scales.


@given(SEEDS)
@examples(10)
def test_a_sweep_never_lowers_the_worst_class_and_stays_in_its_range(seed: int) -> None:
    found, scale = pool(seed), torch.ones(4)
    for _ in range(3):
        after = swept(scale, found, 1.5)
        assert found.accuracy(Scale(after)).min() >= found.accuracy(Scale(scale)).min()
        assert ((after >= 0.5) & (after <= 2)).all()
        scale = after


def test_iv_scale_ends_where_no_change_helps() -> None:
    """Every image is right whatever the scale, so that nothing can be gained."""
    logits = 5 * torch.eye(3)[None]
    found = Pool(logits, torch.arange(3), uncorrected=1)
    assert IVScale().follow(IVScale().begin(found), found) is None


# Weight norms.


def test_iv_weightnorm_says_what_the_network_with_shorter_and_longer_weights_says() -> None:
    torch.manual_seed(0)
    layer, features = nn.Linear(5, 4), torch.randn(20, 5)
    with torch.no_grad():
        layer.weight *= torch.tensor([[0.2], [1.0], [3.0], [1.0]])
        norm = layer.weight.norm(dim=1)
        found = Pool(layer(features)[None], torch.arange(20) % 4, 1, Head(norm, layer.bias.detach().clone()))
        rule = IVWeightNorm(step=0.5)
        half = rule.follow(rule.begin(found), found)
        assert half is not None
        said = half(layer(features))
        layer.weight *= ((norm.mean() / norm) ** 0.5)[:, None]
        torch.testing.assert_close(said, layer(features))


def test_iv_weightnorm_ends_once_all_weights_are_equally_long() -> None:
    assert [float(each.tau) for each in way("iv-weightnorm(step=0.4)", pool(), 9)] == pytest.approx([0, 0.4, 0.8, 1])


def test_iv_weightnorm_refuses_a_model_without_a_linear_end() -> None:
    with pytest.raises(InputError, match="ends in a linear layer"):
        IVWeightNorm().begin(hand())


# The pool.


def test_an_image_counts_as_right_only_if_it_is_right_in_every_view_and_leads_without_a_tie() -> None:
    views = torch.tensor([[[1.0, 0], [1, 0], [1, 0], [torch.inf, 0]], [[2.0, 0], [0, 1], [1, 1], [1, 0]]])
    found = Pool(views, torch.zeros(4, dtype=torch.long), uncorrected=1)
    assert found.right(nn.Identity()).tolist() == [True, False, False, False]
    assert found.before().right(nn.Identity()).tolist() == [True, True, True, False]


def test_a_class_without_images_is_not_the_weakest() -> None:
    assert weakest(torch.tensor([torch.nan, 0.5, 0.2])) == 2
