from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, recall_score
from tests.metrics.strategies import QUICK, make, outcomes
from torchmetrics.functional.classification import multiclass_accuracy

from classwise.errors import InputError
from classwise.metrics import INVALID, Outcomes

# Six images: robust; broken by pgd; by square; by both, pgd first; wrong when clean; invalid under square.
Y = [0, 0, 0, 1, 1, 1]
CLEAN = [0, 0, 0, 1, 2, 1]
PGD = [0, 1, 0, 2, 2, 1]
SQUARE = [0, 0, 2, 0, 2, INVALID]


@pytest.fixture
def six() -> Outcomes:
    return make(Y, CLEAN, num_classes=4, pgd=PGD, square=SQUARE)


def same(first: Outcomes, second: Outcomes) -> bool:
    groups = ("predictions", "margins", "distances")
    arrays = all(np.array_equal(getattr(first, name), getattr(second, name)) for name in ("index", "y", "clean"))
    return (
        first.classes == second.classes
        and arrays
        and all(list(getattr(first, name)) == list(getattr(second, name)) for name in groups)
        and all(
            np.array_equal(getattr(first, name)[key], getattr(second, name)[key])
            for name in groups
            for key in getattr(first, name)
        )
    )


def write_archive(path: Path, source: Outcomes, **changes: object) -> None:
    source.save(path)
    with np.load(path) as archive:
        arrays = {**archive, **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def test_an_image_is_right_in_the_worst_case_only_if_it_survives_everything(six: Outcomes) -> None:
    assert six.correct().tolist() == [True, False, False, False, False, False]
    assert six.correct("pgd").tolist() == [True, False, True, False, False, True]
    assert six.correct("clean").tolist() == [True, True, True, True, False, True]


def test_without_attacks_the_worst_case_is_the_clean_view() -> None:
    made = make(Y, CLEAN, num_classes=3)
    assert made.counts().tolist() == made.counts("clean").tolist() == [3, 2, 0]


def test_each_image_is_charged_to_the_first_thing_that_broke_it(six: Outcomes) -> None:
    assert six.broken_by().tolist() == ["", "pgd", "square", "pgd", "clean", "square"]


def test_the_worst_case_prediction_is_that_of_the_first_breaking_attack(six: Outcomes) -> None:
    assert six.adversarial_prediction().tolist() == [0, 1, 2, 2, 2, INVALID]


def test_the_order_of_attacks_decides_the_prediction_but_not_the_verdict(six: Outcomes) -> None:
    other = make(Y, CLEAN, num_classes=4, square=SQUARE, pgd=PGD)
    assert other.adversarial_prediction().tolist() == [0, 1, 2, 0, 2, INVALID]
    assert other.counts().tolist() == six.counts().tolist()


def test_counts_and_accuracy_are_by_class_and_an_absent_class_is_nan(six: Outcomes) -> None:
    assert six.n.tolist() == [3, 3, 0, 0]
    assert six.counts("pgd").tolist() == [2, 1, 0, 0]
    np.testing.assert_array_equal(six.accuracy("pgd"), [2 / 3, 1 / 3, np.nan, np.nan])


def test_flow_counts_right_clean_images_with_survivors_on_the_diagonal(six: Outcomes) -> None:
    assert six.flow().tolist() == [[1, 1, 1, 0], [0, 0, 1, 0], [0] * 4, [0] * 4]


def test_confusion_also_counts_images_that_are_wrong_when_clean(six: Outcomes) -> None:
    assert six.confusion().tolist() == [[1, 1, 1, 0], [0, 0, 2, 0], [0] * 4, [0] * 4]


def test_no_images_give_nan_everywhere() -> None:
    empty = make([], [], num_classes=2, pgd=[])
    assert len(empty) == 0
    assert np.isnan(empty.accuracy()).all()
    assert empty.broken_by().tolist() == []


def test_arrays_are_copied_and_cannot_be_written() -> None:
    y = np.array(Y)
    made = make(y, CLEAN, num_classes=3)
    y[0] = 1
    assert made.y[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        made.y[0] = 1


def test_tensors_and_lists_are_taken_as_arrays() -> None:
    assert make(torch.tensor(Y), torch.tensor(CLEAN), num_classes=3).counts().dtype == np.int64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": [0, 0, 0, 1, 1, 4]}, r"labels hold 4; each must be 0 … 3"),
        ({"y": [0, 0, 0, 1, 1, -1]}, r"labels hold -1"),
        ({"y": [0.0] * 6}, r"labels have shape \(6,\) and type float64"),
        ({"clean": [0, 0, 0, 1, 2, -2]}, r"clean predictions hold -2; each must be -1 … 3"),
        ({"clean": [0, 0]}, r"clean predictions have shape \(2,\)"),
        ({"index": [0, 1, 2, 3, 4, -5]}, r"index hold -5; each must be at least 0"),
        ({"predictions": {"pgd": [9] * 6}}, r"predictions under 'pgd' hold 9"),
        ({"predictions": {"pgd": [[0] * 6]}}, r"predictions under 'pgd' have shape \(1, 6\)"),
        ({"predictions": {"pgd": [0, 0, 0, 1, 1, 1]}}, r"differ from the clean ones"),
        ({"predictions": {"clean": PGD}}, r"cannot be called 'clean'"),
        ({"predictions": {"worst_case": PGD}}, r"cannot be called 'worst_case'"),
        ({"predictions": {"": PGD}}, r"'' is not a name for an attack"),
        ({"margins": {"clean": [1.0]}}, r"margins of 'clean' have shape \(1,\)"),
        ({"margins": {"fab": [1.0] * 6}}, r"'fab', which is not among the attacks"),
        ({"distances": {"clean": [1.0] * 6}}, r"'clean', which is not among the attacks"),
        ({"classes": ()}, r"at least one name"),
        ({"classes": "abcd"}, r"tuple of at least one name"),
        ({"classes": ("a", "b", "c", "d\0")}, r"not a name for a class"),
        ({"classes": ("a", "b", "c", "\udcff")}, r"not a name for a class"),
        ({"classes": ("a", "b", "c", "")}, r"not a name for a class"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(six: Outcomes, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(six, **change)


def test_margins_and_distances_are_kept_in_float32(six: Outcomes) -> None:
    kept = replace(six, margins={"clean": np.arange(6.0)}, distances={"pgd": [0] * 6})
    assert kept.margins["clean"].dtype == kept.distances["pgd"].dtype == np.float32


def test_an_unknown_view_is_refused_with_the_known_ones(six: Outcomes) -> None:
    with pytest.raises(InputError, match="no view 'worst'; choose one of clean, pgd, square, worst_case"):
        six.accuracy("worst")


def test_classes_may_be_called_like_views_and_attacks(tmp_path: Path) -> None:
    named = replace(make(Y, CLEAN, pgd=PGD, num_classes=3), classes=("clean", "worst_case", "pgd"))
    named.save(tmp_path / "o.npz")
    assert Outcomes.load(tmp_path / "o.npz").classes == ("clean", "worst_case", "pgd")


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(outcomes())
def test_saving_and_loading_changes_nothing(tmp_path: Path, drawn: Outcomes) -> None:
    drawn.save(tmp_path / "o.npz")
    assert same(drawn, Outcomes.load(tmp_path / "o.npz"))


def test_the_archive_has_the_documented_keys_and_opens_without_pickle(six: Outcomes, tmp_path: Path) -> None:
    margins = {"clean": [0.0] * 6, "pgd": [0.0] * 6}
    replace(six, margins=margins, distances={"pgd": [0.0] * 6}).save(tmp_path / "o.npz")
    with np.load(tmp_path / "o.npz", allow_pickle=False) as archive:
        assert archive["attacks"].tolist() == ["pgd", "square"]
        assert archive["broken_by"].tolist() == six.broken_by().tolist()
        assert set(archive.files) == {
            *("classes", "index", "y", "clean", "broken_by", "attacks", "prediction.pgd", "prediction.square"),
            *("margin.clean", "margin.pgd", "distance.pgd"),
        }


def test_the_same_outcomes_give_the_same_bytes(six: Outcomes, tmp_path: Path) -> None:
    six.save(tmp_path / "first.npz")
    six.save(tmp_path / "second.npz")
    assert (tmp_path / "first.npz").read_bytes() == (tmp_path / "second.npz").read_bytes()


def test_a_missing_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        Outcomes.load(tmp_path / "none.npz")


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive", b"\x93NUMPY\x01\x00"])
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "o.npz").write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        Outcomes.load(tmp_path / "o.npz")


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_archive_is_refused_or_reads_the_same(tmp_path: Path, data: st.DataObject) -> None:
    source = make(Y, CLEAN, num_classes=4, pgd=PGD)
    source.save(tmp_path / "o.npz")
    content = bytearray((tmp_path / "o.npz").read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[position:]
    else:
        content[position] ^= data.draw(st.integers(1, 255))
    (tmp_path / "o.npz").write_bytes(bytes(content))
    try:
        loaded = Outcomes.load(tmp_path / "o.npz")
    except InputError:
        return
    assert same(source, loaded)


def test_pickled_objects_in_an_archive_are_not_loaded(six: Outcomes, tmp_path: Path) -> None:
    write_archive(tmp_path / "o.npz", six, y=np.array([{}] * 6, dtype=object))
    with pytest.raises(InputError, match="damaged"):
        Outcomes.load(tmp_path / "o.npz")


def test_an_archive_that_lacks_an_array_is_refused(six: Outcomes, tmp_path: Path) -> None:
    write_archive(tmp_path / "o.npz", six, **{"prediction.square": None})
    with pytest.raises(InputError, match="damaged"):
        Outcomes.load(tmp_path / "o.npz")


def test_an_archive_that_contradicts_itself_says_how(six: Outcomes, tmp_path: Path) -> None:
    write_archive(tmp_path / "o.npz", six, y=np.array([7] * 6))
    with pytest.raises(InputError, match=r"labels hold 7.*Evaluate the model again"):
        Outcomes.load(tmp_path / "o.npz")


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("y.npy", "not an array")
    (tmp_path / "o.npz").write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match="damaged"):
        Outcomes.load(tmp_path / "o.npz")


def test_select_takes_positions_in_order_and_masks(six: Outcomes) -> None:
    assert six.select([4, 0]).index.tolist() == [4, 0]
    assert six.select(six.y == 1).predictions["pgd"].tolist() == [2, 2, 1]
    assert len(six.select([])) == 0


@QUICK
@given(outcomes(min_images=1), st.integers(1, 4))
def test_merging_shards_gives_the_whole(drawn: Outcomes, ranks: int) -> None:
    shards = [drawn.select(np.arange(rank, len(drawn), ranks)) for rank in range(ranks)]
    assert same(Outcomes.merge(shards), drawn.select(np.argsort(drawn.index)))


def test_merging_refuses_an_image_that_two_shards_hold(six: Outcomes) -> None:
    with pytest.raises(InputError, match="Image 2 occurs in more than one part"):
        Outcomes.merge([six.select([0, 1, 2]), six.select([2, 3])])


def test_merging_refuses_other_attacks_and_nothing(six: Outcomes) -> None:
    with pytest.raises(InputError, match="differ in classes, attacks or records"):
        Outcomes.merge([six, make(Y, CLEAN, num_classes=4, pgd=PGD)])
    with pytest.raises(InputError, match="no outcomes to merge"):
        Outcomes.merge([])


@QUICK
@given(outcomes())
def test_no_attack_and_no_further_attack_raises_a_count(drawn: Outcomes) -> None:
    for name in drawn.attacks:
        assert (drawn.counts("worst_case") <= drawn.counts(name)).all()
        assert (drawn.counts(name) <= drawn.counts("clean")).all()


@QUICK
@given(outcomes(min_images=1))
def test_broken_by_names_every_image_that_is_not_robust(drawn: Outcomes) -> None:
    assert ((drawn.broken_by() == "") == drawn.correct()).all()


@QUICK
@given(outcomes(min_images=1), st.randoms(use_true_random=False))
def test_relabelling_classes_permutes_counts_and_flow(drawn: Outcomes, random: object) -> None:
    new = np.random.default_rng(random.randrange(2**32)).permutation(drawn.num_classes)  # type: ignore[attr-defined]
    names = np.array([*new, INVALID])  # position −1, an invalid prediction, maps to itself
    renamed = replace(
        drawn,
        classes=tuple(drawn.classes[c] for c in np.argsort(new)),
        y=names[drawn.y],
        clean=names[drawn.clean],
        predictions={name: names[values] for name, values in drawn.predictions.items()},
    )
    for view in drawn.views:
        assert (renamed.counts(view)[new] == drawn.counts(view)).all()
        assert (renamed.flow(view)[np.ix_(new, new)] == drawn.flow(view)).all()


@QUICK
@given(outcomes(min_images=1), st.integers(2, 4))
def test_duplicating_every_image_leaves_rates_unchanged(drawn: Outcomes, times: int) -> None:
    many = drawn.select(np.tile(np.arange(len(drawn)), times))
    for view in drawn.views:
        np.testing.assert_array_equal(many.accuracy(view), drawn.accuracy(view))


@QUICK
@given(outcomes(min_images=1))
def test_loss_of_a_class_is_its_flow_plus_its_invalid_images(drawn: Outcomes) -> None:
    for view in drawn.views:
        invalid = (drawn.clean == drawn.y) & (drawn.adversarial_prediction(view) == INVALID)
        flow = drawn.flow(view)
        lost = drawn.counts("clean") - drawn.counts(view)
        assert (flow.diagonal() == drawn.counts(view)).all()
        left = flow.sum(1) - flow.diagonal() + np.bincount(drawn.y[invalid], minlength=drawn.num_classes)
        assert (left == lost).all()


def test_accuracy_agrees_with_scikit_learn_and_torchmetrics() -> None:
    random = np.random.default_rng(0)
    y, prediction = random.integers(0, 5, 300), random.integers(0, 5, 300)
    accuracy = make(y, prediction).accuracy("clean")
    np.testing.assert_allclose(accuracy, recall_score(y, prediction, average=None), rtol=0, atol=1e-15)
    peer = multiclass_accuracy(torch.tensor(prediction), torch.tensor(y), num_classes=5, average=None)
    np.testing.assert_allclose(accuracy, peer.numpy(), rtol=0, atol=1e-6)


def test_confusion_agrees_with_scikit_learn() -> None:
    random = np.random.default_rng(1)
    y, prediction = random.integers(0, 5, 300), random.integers(0, 5, 300)
    assert (make(y, prediction).confusion("clean") == confusion_matrix(y, prediction)).all()
