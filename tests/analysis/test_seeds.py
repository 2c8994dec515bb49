from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.analysis.test_consistency import defended

from classwise.analysis.seeds import seeds
from classwise.errors import InputError

RATES = ([0.2, 0.5, 0.8], [0.3, 0.4, 0.8], [0.6, 0.1, 0.8])


def test_mean_and_sample_std_over_seeds_and_the_weakest_of_each(tmp_path: Path) -> None:
    """Sixty images a class: worst 0.2, 0.3 and 0.1, of classes 0, 0 and 1."""
    models = [defended(tmp_path, "at", seed, rates) for seed, rates in enumerate(RATES)]
    found = seeds([*models, defended(tmp_path, "mart", 9, RATES[0])])
    np.testing.assert_allclose(found.values["at"]["worst"], [0.2, 0.3, 0.1], atol=1e-9)
    row = {column.title: cell for column, cell in zip(found.sheets[0].columns, found.sheets[0].rows[1], strict=True)}
    assert row["of"].text == "worst"
    assert row["mean"].values[0] == pytest.approx(0.2)
    assert row["std"].values[0] == pytest.approx(0.1)
    assert row["weakest of each seed"].text == "class 0, class 0, class 1"
    assert "varies most for at (std 10.00 points)" in found.sentence
    assert found.sheets[0].rows[4][4].text == "–"  # one seed of mart has no std


def test_the_interval_of_one_seed_is_that_of_its_test_images(tmp_path: Path) -> None:
    models = [defended(tmp_path, "at", seed, RATES[0]) for seed in range(2)]
    found = seeds(models)
    _, low, high = found.sheets[0].rows[1][5].values
    assert low < 0.2 < high
    assert "2 seeds are fewer than the 3" in found.sentence


def test_one_model_a_method_has_no_seeds_to_compare(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No training method has evaluations of two seeds"):
        seeds([defended(tmp_path, method, seed, RATES[0]) for seed, method in enumerate(("at", "mart"))])
