"""PGD-20 (Linf, step eps/4, uniform start) of classwise against four other packages.

Everybody gets the same images, 250 at a time, and every candidate is run again by the same rule. Three forms of
classwise: the whole evaluation, which passes over images that are wrong without attack; the attack alone, which drops
an image once it fools the model; and the attack with keep="last", whose passes are those of the other packages.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from side_by_side import (
    BATCH,
    Case,
    Found,
    Passes,
    by_classwise,
    counted,
    interleaved,
    open_case,
    options,
    ratios,
    save,
    spread,
    table,
    title,
    verdict,
)
from torch import Tensor

from classwise.attacks.pgd import PGD, pgd
from classwise.engine import channels_last
from classwise.noise import Noise

STEPS = 20
Batchwise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Takes images, classes and positions in the data set, returns candidates."""


@dataclass
class Candidates:
    """What an attack returned, not judged yet."""

    x_adv: Tensor
    passes: Passes


def main() -> None:
    """Run the benchmark."""
    args = options(__doc__ or "", repeat=5).parse_args()
    case = open_case(args)
    found = interleaved(contenders(case), args.repeat)
    peers = {name: timed for name, timed in found.items() if not name.startswith("classwise")}
    fastest = min(peers, key=lambda name: peers[name].median)
    rows, content = [], dict[str, Any]()
    for name, timed in found.items():
        robust, passes = judged(case, timed.value)
        faster = ratios(peers[fastest], timed)
        counts = {"robust": robust, "forward_images": passes.forward, "backward_images": passes.backward}
        content[name] = {**timed.record(), "faster_than_fastest_peer": faster, **counts}
        # ART calls the layers of a copy, out of a hook's sight.
        rows.append((name, robust, timed, spread(faster, ".2f"), passes if passes.forward else "not counted"))
    path = save(args, case, "pgd20", {"fastest_peer": fastest, "steps": STEPS, "contenders": content})
    head = ("contender", "robust", "CPU s", f"faster than {fastest} by", "forward + forward-and-backward images")
    print(title(case, path))
    print(table(head, rows))


def judged(case: Case, found: Candidates | Found) -> tuple[int, Passes]:
    """Return how many images are robust, by the same rule for every contender, and its passes."""
    if isinstance(found, Found):
        return int(found.robust.sum()), found.passes
    everyone = torch.arange(len(case.data))
    clean, _ = verdict(case, case.x, everyone)
    right, _ = verdict(case, found.x_adv, everyone)
    return int((clean & right).sum()), found.passes


def contenders(case: Case) -> dict[str, Callable[[], Candidates | Found]]:
    """Return what is run; packages that are not installed are left out, and said to be."""
    runs: dict[str, Callable[[], Candidates | Found]] = {
        "classwise evaluate": partial(by_classwise, case, "pgd"),
        "classwise attack": partial(run, case, partial(ours, case, pgd(case.threat))),
        'classwise attack, keep="last"': partial(
            run, case, partial(ours, case, replace(pgd(case.threat), keep="last"))
        ),
    }
    for name, make in {"torchattacks": torchattacks, "foolbox": foolbox, "ART": art, "adv-lib": adv_lib}.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                runs[name] = partial(run, case, make(case))
        except ImportError as error:
            print(f"{name} is left out: {error}")
    return runs


def run(case: Case, attack: Batchwise) -> Candidates:
    """Attack all images batch by batch."""
    with counted(case.model) as passes, torch.random.fork_rng():
        torch.manual_seed(case.seed)
        parts = torch.split(torch.arange(len(case.data)), BATCH)
        x_adv = torch.cat([attack(case.x[which], case.y[which], which).detach() for which in parts])
    return Candidates(x_adv, passes)


def ours(case: Case, attack: PGD, x: Tensor, y: Tensor, which: Tensor) -> Tensor:
    """Attack a batch with classwise, its weights laid out as the engine does."""
    with channels_last(case.model):
        return attack(case.model, x, y, noise=Noise(case.seed, case.data.index[which]))


def torchattacks(case: Case) -> Batchwise:
    """Return PGD of torchattacks."""
    import torchattacks

    eps = case.threat.eps
    attack = torchattacks.PGD(case.model, eps=eps, alpha=eps / 4, steps=STEPS, random_start=True)
    return lambda x, y, which: attack(x, y)


def foolbox(case: Case) -> Batchwise:
    """Return PGD of foolbox."""
    import foolbox

    eps = case.threat.eps
    model = foolbox.PyTorchModel(case.model, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(abs_stepsize=eps / 4, steps=STEPS, random_start=True)
    return lambda x, y, which: attack.run(model, x, foolbox.criteria.Misclassification(y), epsilon=eps)


def art(case: Case) -> Batchwise:
    """Return PGD of the Adversarial Robustness Toolbox, which works on NumPy arrays."""
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    settings = {"input_shape": case.data.shape, "nb_classes": len(case.data.classes), "clip_values": (0.0, 1.0)}
    model = PyTorchClassifier(case.model, loss=torch.nn.CrossEntropyLoss(), device_type="cpu", **settings)
    steps = {"eps": case.threat.eps, "eps_step": case.threat.eps / 4, "max_iter": STEPS}
    attack = ProjectedGradientDescentPyTorch(model, **steps, num_random_init=1, batch_size=BATCH, verbose=False)
    return lambda x, y, which: torch.from_numpy(attack.generate(x.numpy(), y.numpy()))


def adv_lib(case: Case) -> Batchwise:
    """Return PGD of adv-lib, which does not score its last step."""
    from adv_lib.attacks import pgd_linf

    eps = case.threat.eps
    return lambda x, y, which: pgd_linf(case.model, x, y, eps, steps=STEPS, absolute_step_size=eps / 4)


if __name__ == "__main__":
    main()
