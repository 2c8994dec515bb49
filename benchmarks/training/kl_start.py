"""Whether a KL attack's start should be clipped to [0, 1]: TRADES on MNIST both ways, five seeds.

The released TRADES starts at x + 0.001·N(0, 1) and clips only after the first step; ours starts at the nearest allowed
image. On MNIST most pixels are 0, so that the clip takes the noise off half of them. Both ways share everything else:
initial weights, order of the images, the noise itself.

Said before it was run. What is compared is the robust accuracy (PGD-20 with margin loss, one seed) of the networks on
the same test images, as paired differences over seeds, unclipped minus clipped, with Student's t. A difference of 1.7
times their standard deviation is found with probability 0.8 at a level of 0.05; seeds of such short trainings differ
by about a point, so that is about 2.5 points, and smaller effects on training stay unknown. The attack itself is
compared more finely: both starts against each clipped network, the same images, KL(p ‖ p_adv) reached and images
broken; over 3,000 pairs a difference of about 0.3 points in broken images would show. The clipped start stays, since
it keeps every image that a network sees in [0, 1], unless the unclipped one is better in the first comparison with
p below 0.05.
"""

from __future__ import annotations

import sys
import tempfile
from argparse import ArgumentParser
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from lightning_fabric import Fabric
from scipy import stats
from torch import Tensor, nn

from classwise import ThreatModel, build_attacks, evaluate, files, fit, load_data, load_model, losses
from classwise.attacks.base import predict
from classwise.attacks.pgd import PGD
from classwise.data.images import Images
from classwise.data.splits import stratified_sample
from classwise.methods import TRADES
from classwise.noise import Noise
from classwise.provenance import environment
from classwise.training.recipes import Recipe
from classwise.training.run import Run

THREAT = ThreatModel("Linf", 0.1)
RECIPE = Recipe(
    epochs=5,
    batch_size=50,
    lr=0.05,
    schedule="cyclic",
    weight_decay=0.0,
    augment="none",
    normalize=False,
    steps=10,
    step_size=0.025,
    eps_warmup=1,
    holdout=0.0,
)


class Unclipped(PGD):
    """The start of the released code: x + 0.001·N(0, 1), which may leave [0, 1]."""

    def starts(self, x: Tensor, noise: Noise, eps: Tensor | None = None) -> Tensor:
        """Return where each image starts (N, C, H, W); the noise is that of the clipped start."""
        return x + 0.001 * noise.fold("start").normal(x.shape[1:], x.device)


def main() -> None:
    """Run the benchmark."""
    parser = ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, help="folder of MNIST in its official format")
    parser.add_argument("--n", type=int, default=1000, help="training images (default 1000)")
    parser.add_argument("--test", type=int, default=600, help="test images (default 600)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    train, test = sample(args.data_dir, "train", args.n), sample(args.data_dir, "test", args.test)
    runs = []
    for seed in range(args.seeds):
        networks = {name: trained(name, train, seed) for name in ("clipped", "unclipped")}
        runs.append(
            {
                "seed": seed,
                **{name: accuracies(model, test) for name, model in networks.items()},
                "attack": attacks(networks["clipped"], test, seed),
            }
        )
        print(f"# {runs[-1]}", file=sys.stderr, flush=True)
    measured = runs[0]["clipped"]
    found = {what: paired([run["unclipped"][what] - run["clipped"][what] for run in runs]) for what in measured}
    found |= {
        f"attack_{what}": paired([run["attack"]["unclipped"][what] - run["attack"]["clipped"][what] for run in runs])
        for what in ("broken", "kl")
    }
    settings = {"model": "digits_cnn", "data": "mnist", "n": args.n, "test": args.test, "recipe": RECIPE.__dict__}
    about = {"method": "trades(beta=1)", "threat": str(THREAT), "attack": "margin-pgd", "environment": environment()}
    path = args.out / "kl-start.json"
    files.write_json(path, {**settings, **about, "runs": runs, "unclipped_minus_clipped": found})
    for what, figures in found.items():
        print(f"{what}: {figures}")
    print(path)


def sample(folder: Path | None, split: str, n: int) -> Images:
    """Load a stratified sample of MNIST."""
    data = load_data("mnist", folder, split)
    if not isinstance(data, Images):
        raise TypeError("MNIST does not fit into memory")
    return data.subset(stratified_sample(data.y, n, 0))


def trained(start: str, data: Images, seed: int) -> nn.Module:
    """Train one network with TRADES, whose attack starts as said."""
    model = load_model("digits_cnn", num_classes=len(data.classes), shape=data.shape, seed=seed)
    run = Run("digits_cnn", f"trades, {start} start", RECIPE, THREAT, seed)
    method = TRADES(len(data.classes), run.attack, beta=1.0)
    if start == "unclipped":
        method.attack = unclipped(method.attack)
    with tempfile.TemporaryDirectory() as folder:
        fit(Fabric(accelerator="cpu", devices=1), model, method, data, run, Path(folder) / "run")
    return model.eval()


def unclipped(attack: PGD) -> Unclipped:
    """Return an attack that differs in its start alone."""
    return Unclipped(**vars(attack))


def accuracies(model: nn.Module, test: Images) -> dict[str, float]:
    """Return clean, robust and worst-class robust accuracy in per cent."""
    result = evaluate(model, test, build_attacks("margin-pgd", THREAT), seed=0)
    return {
        "clean": 100 * result.clean.average.accuracy,
        "robust": 100 * result.average.accuracy,
        "worst": 100 * result.worst.accuracy,
    }


def attacks(model: nn.Module, test: Images, seed: int) -> dict[str, dict[str, float]]:
    """Return what the training attack reaches from both starts: images broken in per cent, and KL(p ‖ p_adv)."""
    attack = TRADES(len(test.classes), Run("digits_cnn", "", RECIPE, THREAT, seed).attack).attack
    noise, (x, y) = Noise(seed, test.index), (test.fetch(torch.arange(len(test))), test.y)
    found = {}
    for name, one in (("clipped", attack), ("unclipped", unclipped(attack))):
        x_adv = one(model, x, y, noise=noise)
        with torch.no_grad():
            logits, logits_adv = model(x), model(x_adv)
        broken = (predict(logits_adv, y) != y).double().mean()
        found[name] = {"broken": 100 * float(broken), "kl": float(losses.kl(logits_adv, logits).mean())}
    return found


def paired(differences: list[float]) -> dict[str, Any]:
    """Return mean, deviation, 95 % interval and p-value of differences of pairs, by Student's t."""
    deviation, count = stdev(differences), len(differences)
    half = float(stats.t.ppf(0.975, count - 1)) * deviation / count**0.5
    return {
        "mean": mean(differences),
        "deviation": deviation,
        "interval": [mean(differences) - half, mean(differences) + half],
        "p": float(stats.ttest_1samp(differences, 0.0).pvalue),
    }


if __name__ == "__main__":
    main()
