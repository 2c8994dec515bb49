"""The engine: verdicts, and everything they must not depend on."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from classwise.attacks import PGD, build
from classwise.data import Images
from classwise.errors import InputError
from classwise.evaluation import Snapshot, evaluate
from classwise.metrics.result import Result
from classwise.noise import Noise
from classwise.threat import ThreatModel

THREAT = ThreatModel("Linf", 0.1)


class Bands(nn.Module):
    """Scores class c by the mean of the c-th row of pixels, so the margin of every image is known exactly."""

    def forward(self, x: Tensor) -> Tensor:
        return 10 * x[:, 0].mean(2)


def planted(margins: list[list[float]], width: int = 4) -> Images:
    """Return images of C rows where row y is brighter than all others by a margin (in 8-bit steps of 1/255)."""
    num_classes = len(margins)
    labels = torch.tensor([c for c, group in enumerate(margins) for _ in group])
    x = torch.full((len(labels), 1, num_classes, width), 100, dtype=torch.uint8)
    for i, margin in enumerate(m for group in margins for m in group):
        x[i, 0, labels[i]] += round(margin * 255)
    return Images(x, labels, tuple(f"class {c}" for c in range(num_classes)), torch.arange(len(labels)))


def blurry(n: int = 120, num_classes: int = 4) -> tuple[nn.Module, Images]:
    """Return a small random network, and images it labels itself, many of them near its boundaries."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.Tanh(), nn.Linear(16, num_classes))
    x = (Noise(3, torch.arange(n)).uniform((1, 6, 6)) * 255).to(torch.uint8)
    with torch.no_grad():
        y = model(x.float() / 255).argmax(1)
    y[::10] = (y[::10] + 1) % num_classes
    return model.eval(), Images(x, y, tuple(str(c) for c in range(num_classes)), torch.arange(n))


@pytest.mark.parametrize("eps", [0.02, 0.07, 0.12])
def test_counts_on_a_planted_unfair_model_are_exact(eps: float) -> None:
    # Rows move against each other by eps each, so an image breaks once twice eps reaches its margin.
    margins = [[0.3] * 5, [0.2, 0.2, 0.1], [0.05, 0.1, 0.2, 0.3]]
    result = evaluate(Bands(), planted(margins), build("pgd", ThreatModel("Linf", eps)))
    expected = [sum(round(m * 255) / 255 > 2 * eps for m in group) for group in margins]
    assert result.outcomes.counts().tolist() == expected


def test_a_robust_count_never_rises_with_the_radius() -> None:
    model, data = blurry()
    robust = [
        evaluate(model, data, build("pgd", ThreatModel("Linf", eps))).outcomes.counts() for eps in (0, 0.01, 0.03, 0.1)
    ]
    assert all((stronger <= weaker).all() for weaker, stronger in itertools.pairwise(robust))
    assert robust[0].sum() > robust[-1].sum()


def test_a_radius_of_zero_changes_no_prediction() -> None:
    model, data = blurry()
    outcomes = evaluate(model, data, build("fgsm,pgd,margin-pgd", ThreatModel("Linf", 0))).outcomes
    assert (outcomes.correct() == outcomes.correct("clean")).all()


@pytest.mark.parametrize("batch_size", [1, 3, 7, 250])
def test_verdicts_do_not_depend_on_the_batch_size(batch_size: int) -> None:
    model, data = blurry()
    attacks = build("pgd,temperature-pgd(inverse_temperatures=[1,10])", ThreatModel("Linf", 0.02))
    whole = evaluate(model, data, attacks, batch_size=64).outcomes
    other = evaluate(model, data, attacks, batch_size=batch_size).outcomes
    assert 0 < whole.correct().sum() < whole.correct("clean").sum()
    for name in attacks:
        assert (whole.predictions[name] == other.predictions[name]).all()


def test_verdicts_follow_the_image_when_the_order_changes() -> None:
    model, data = blurry()
    attacks = build("pgd", ThreatModel("Linf", 0.02))
    order = torch.arange(len(data)).flip(0)
    straight = evaluate(model, data, attacks).outcomes.predictions["pgd"]
    flipped = evaluate(model, data.subset(order), attacks).outcomes.predictions["pgd"]
    assert (straight[order.numpy()] == flipped).all()


def test_verdicts_of_a_subset_are_those_of_the_whole() -> None:
    model, data = blurry()
    attacks = build("pgd", ThreatModel("Linf", 0.02))
    some = torch.arange(5, 100, 3)
    whole = evaluate(model, data, attacks).outcomes.predictions["pgd"]
    part = evaluate(model, data.subset(some), attacks).outcomes.predictions["pgd"]
    assert (whole[some.numpy()] == part).all()


def test_verdicts_of_an_attack_do_not_depend_on_its_companions() -> None:
    model, data = blurry()
    threat = ThreatModel("Linf", 0.02)
    alone = evaluate(model, data, build("pgd", threat)).outcomes.predictions["pgd"]
    together = evaluate(model, data, build("margin-pgd,fgsm,pgd", threat)).outcomes.predictions["pgd"]
    assert (alone == together).all()


def test_permuting_the_classes_permutes_the_counts() -> None:
    model, data = blurry()
    permutation = torch.tensor([2, 0, 3, 1])  # old class c becomes permutation[c]
    inverse = permutation.argsort()
    renamed = Images(data.x, permutation[data.y], data.classes, data.index)
    attacks = build("pgd", ThreatModel("Linf", 0.02))
    before = evaluate(model, data, attacks).outcomes.counts()
    after = evaluate(Reordered(model, inverse), renamed, attacks).outcomes.counts()
    assert (after[permutation.numpy()] == before).all()


class Reordered(nn.Module):
    """Puts the logits of a model in another order."""

    def __init__(self, model: nn.Module, order: Tensor) -> None:
        super().__init__()
        self.model, self.order = model, order

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)[:, self.order]


class Crash(Exception):
    """Stands for a power cut."""


def test_a_crashed_evaluation_goes_on_and_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classwise.records._SAVE_EVERY", 0.0)
    model, data = blurry()
    attacks = build("pgd,margin-pgd", ThreatModel("Linf", 0.02))
    whole = evaluate(model, data, attacks, batch_size=20).outcomes

    def crash(seen: Snapshot) -> None:
        if seen.view == "margin-pgd" and seen.done > 60:
            raise Crash

    with pytest.raises(Crash):
        evaluate(model, data, attacks, batch_size=20, directory=tmp_path, watch=crash)
    assert not (tmp_path / "result.json").exists()
    attacked: list[Snapshot] = []
    resumed = evaluate(model, data, attacks, batch_size=7, directory=tmp_path, watch=attacked.append).outcomes
    assert {seen.view for seen in attacked} == {"margin-pgd"}, "a finished attack was run again"
    assert min(seen.done for seen in attacked) > 60, "finished images were attacked again"
    for name in attacks:
        assert (whole.predictions[name] == resumed.predictions[name]).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outcomes.npz", "result.json"]


def test_a_finished_evaluation_is_not_done_again(tmp_path: Path) -> None:
    model, data = blurry()
    attacks = build("pgd", THREAT)
    first = evaluate(model, data, attacks, directory=tmp_path)
    again = evaluate(model, data, attacks, directory=tmp_path, watch=lambda seen: pytest.fail("attacked again"))
    assert (again.outcomes.correct() == first.outcomes.correct()).all()


@pytest.mark.parametrize("change", ["seed", "eps", "attack", "model", "data"])
def test_the_folder_of_another_evaluation_is_refused_and_left_alone(tmp_path: Path, change: str) -> None:
    model, data = blurry()
    evaluate(model, data, build("pgd", THREAT), directory=tmp_path)
    before = (tmp_path / "result.json").read_bytes()
    attacks = build("fgsm" if change == "attack" else "pgd", ThreatModel("Linf", 0.2 if change == "eps" else 0.1))
    if change == "model":
        with torch.no_grad():
            next(model.parameters()).add_(1e-3)
    if change == "data":
        data = data.subset(torch.arange(50))
    with pytest.raises(InputError, match="other settings"):
        evaluate(model, data, attacks, seed=int(change == "seed"), directory=tmp_path)
    assert (tmp_path / "result.json").read_bytes() == before


def test_the_partial_file_of_another_evaluation_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("classwise.records._SAVE_EVERY", 0.0)
    model, data = blurry()

    def crash(seen: Snapshot) -> None:
        if seen.done > 60:
            raise Crash

    with pytest.raises(Crash):
        evaluate(model, data, build("pgd", THREAT), batch_size=20, directory=tmp_path, watch=crash)
    with pytest.raises(InputError, match="unfinished evaluation with other settings"):
        evaluate(model, data, build("pgd", THREAT), batch_size=20, seed=1, directory=tmp_path)


def test_a_damaged_partial_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "partial-0-of-1.npz").write_bytes(b"PK nonsense")
    model, data = blurry()
    with pytest.raises(InputError, match="damaged"):
        evaluate(model, data, build("pgd", THREAT), directory=tmp_path)


class Claim:
    """An attack that returns what it is told to, whether allowed or not."""

    threat = THREAT

    def __init__(self, delta: float) -> None:
        self.delta = delta

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *, noise: Noise) -> Tensor:
        return x + self.delta * torch.where(
            torch.arange(x.shape[2])[None, None, :, None] == y[:, None, None, None], -1, 1
        )


def test_candidates_outside_the_ball_do_not_count_and_are_flagged() -> None:
    data = planted([[0.25] * 3, [0.25] * 3])
    result = evaluate(Bands().eval(), data, {"claim": Claim(0.2)})
    assert result.outcomes.counts().tolist() == [3, 3]
    assert [(flag["flag"], flag["value"]) for flag in result.header["flags"]] == [("outside_threat", 6.0)]


def test_candidates_on_the_border_of_the_ball_count() -> None:
    result = evaluate(Bands(), planted([[0.19] * 3, [0.19] * 3]), {"claim": Claim(0.1)})
    assert result.outcomes.counts().tolist() == [0, 0]


def test_candidates_outside_the_pixel_range_do_not_count() -> None:
    dark = planted([[0.05], [0.05]])
    dark.x.sub_(100)
    result = evaluate(Bands(), dark, {"claim": Claim(0.1)})
    assert result.outcomes.counts().tolist() == [1, 1]


class Constant(nn.Module):
    """Gives the same logit to every class: every prediction is a tie."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).sum(1, keepdim=True) * torch.zeros(1, 2) + 3


def test_a_tie_counts_as_wrong() -> None:
    assert evaluate(Constant(), planted([[0.1], [0.1]]), build("pgd", THREAT)).outcomes.counts("clean").sum() == 0


class Cracked(nn.Module):
    """Returns NaN where the first row is bright enough."""

    def forward(self, x: Tensor) -> Tensor:
        logits = 10 * x[:, 0].mean(2)
        return torch.where(x[:, :, 0].mean(2) > 0.55, torch.nan, logits)


def test_logits_that_are_not_finite_make_an_image_broken_and_raise_a_flag() -> None:
    result = evaluate(Cracked().eval(), planted([[0.3], [0.3]]), build("pgd", ThreatModel("Linf", 0.01)))
    assert result.outcomes.counts("clean").tolist() == [0, 1]
    assert result.outcomes.clean.tolist() == [-1, 1]
    assert [(f["flag"], f["classes"]) for f in result.header["flags"]] == [("non_finite", ["class 0"])]


def test_the_model_is_evaluated_in_eval_mode_and_put_back() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.9), Bands())
    model[2].eval()
    model.train()
    model[2].training = False
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = evaluate(model, planted([[0.3] * 4, [0.3] * 4]), build("pgd", ThreatModel("Linf", 0.05)))
    assert result.outcomes.counts("clean").tolist() == [4, 4]
    assert [module.training for module in model] == [True, True, False]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert "train_mode" in {flag["flag"] for flag in result.header["flags"]}


def test_gradients_are_found_under_no_grad() -> None:
    with torch.no_grad():
        outcomes = evaluate(Bands(), planted([[0.1], [0.1]]), build("pgd", THREAT)).outcomes
    assert outcomes.counts().sum() == 0


def test_global_random_state_is_left_alone() -> None:
    model, data = blurry()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    evaluate(model, data, build("pgd", THREAT))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_flow_sums_to_the_loss_of_each_class() -> None:
    model, data = blurry()
    outcomes = evaluate(model, data, build("pgd,margin-pgd", ThreatModel("Linf", 0.02))).outcomes
    flow = outcomes.flow()
    assert (flow.sum(1) == outcomes.counts("clean")).all()
    assert (flow.diagonal() == outcomes.counts()).all()


def test_the_margin_of_a_verdict_tells_its_sign() -> None:
    model, data = blurry()
    outcomes = evaluate(model, data, build("pgd", ThreatModel("Linf", 0.02))).outcomes
    assert ((outcomes.margins["pgd"] >= 0) == ~outcomes.correct("pgd")).all()
    assert (outcomes.distances["pgd"] <= 0.02 * (1 + 1e-6) + 1e-7).all()


def test_the_header_says_how_it_was_done(tmp_path: Path) -> None:
    model, data = blurry()
    attacks = build("pgd(steps=7)", THREAT)
    evaluate(model, data, attacks, seed=4, directory=tmp_path, name="mine", command="classwise evaluate mine")
    document = Result.read(tmp_path).document
    assert document["threat"] == {"norm": "Linf", "eps": 0.1, "eps_text": "0.1"}
    assert document["seed"] == 4
    assert document["model"]["name"] == "mine"
    assert document["command"] == "classwise evaluate mine"
    assert eval(document["attacks"]["pgd(steps=7)"]["settings"]) == attacks["pgd(steps=7)"]
    assert document["environment"]["torch"] == torch.__version__


def test_progress_counts_what_has_been_seen() -> None:
    model, data = blurry()
    seen: list[Snapshot] = []
    result = evaluate(model, data, build("pgd", THREAT), batch_size=50, watch=seen.append)
    right = int(result.outcomes.counts("clean").sum())
    assert [(s.view, s.done) for s in seen[:3]] == [("clean", 50), ("clean", 100), ("clean", 120)]
    assert [(s.view, s.done) for s in seen[3:]] == [("pgd", 50), ("pgd", 100), ("pgd", right)]
    assert {s.total for s in seen[3:]} == {right}
    assert seen[-1].correct.tolist() == result.outcomes.counts("pgd").tolist()
    assert seen[-1].seen.tolist() == result.outcomes.n.tolist()


class Probabilities(Bands):
    """Returns a softmax."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


class Nothing(nn.Module):
    """Returns NaN."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0].mean(2) * torch.nan


class Wide(nn.Module):
    """Takes another image size."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (Probabilities(), "returns probabilities"),
        (Nothing(), "NaN or infinity for every image"),
        (Wide(), "cannot take float32 images of 1x2x4"),
        (nn.Flatten(), "8 logits and the data set has 2 classes"),
        (nn.Identity(), "must return logits of shape"),
    ],
)
def test_a_model_that_cannot_be_evaluated_is_refused(model: nn.Module, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        evaluate(model, planted([[0.1], [0.1]]), build("pgd", THREAT), directory=tmp_path)
    assert not list(tmp_path.iterdir())


def test_attacks_with_different_threats_are_refused() -> None:
    attacks = {"a": PGD(THREAT, keep="success"), "b": PGD(ThreatModel("Linf", 0.2), keep="success")}
    with pytest.raises(InputError, match="same threat"):
        evaluate(Bands(), planted([[0.1], [0.1]]), attacks)


def test_an_empty_set_is_refused() -> None:
    data = planted([[0.1], [0.1]])
    with pytest.raises(InputError, match="at least one image"):
        evaluate(Bands(), data.subset(torch.arange(0)), build("pgd", THREAT))


def _rank(rank: int, ranks: int, port: int, folder: str) -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks)
    )
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import TorchElasticEnvironment

    os.environ.update(TORCHELASTIC_RUN_ID="test", GROUP_RANK="0", LOCAL_WORLD_SIZE=str(ranks))
    fabric = Fabric(accelerator="cpu", devices=ranks, strategy="ddp", plugins=[TorchElasticEnvironment()])
    fabric.launch()
    model, data = blurry()
    evaluate(model, data, build("pgd", ThreatModel("Linf", 0.02)), batch_size=16, fabric=fabric, directory=folder)
    fabric.barrier()
    torch.distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def test_two_processes_give_the_verdicts_of_one(tmp_path: Path) -> None:
    port = _free_port()
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_rank, args=(r, 2, port, str(tmp_path))) for r in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0]
    model, data = blurry()
    one: Any = evaluate(model, data, build("pgd", ThreatModel("Linf", 0.02))).outcomes
    two = Result.read(tmp_path).outcomes
    assert (one.predictions["pgd"] == two.predictions["pgd"]).all()
    assert (one.clean == two.clean).all()
    assert np.allclose(one.margins["pgd"], two.margins["pgd"], atol=1e-5)
