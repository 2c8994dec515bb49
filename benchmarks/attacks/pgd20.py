"""PGD-20 (Linf, step eps/4, uniform start) of classwise against four other packages.

Everybody gets the same images, 250 at a time, and every candidate is run again by the same rule. Three forms of
classwise: the whole evaluation, which passes over images that are wrong without attack; the attack alone, which drops
an image once it fools the model; and the attack with keep="last", whose passes are those of the other packages. All run
in a process each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

import torch
from side_by_side import (
    BATCH,
    PEERS,
    Case,
    Found,
    Passes,
    apart,
    by_classwise,
    counted,
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

from classwise.attacks.pgd import pgd
from classwise.evaluation.engine import channels_last
from classwise.models.searched import Searched
from classwise.noise import Noise
from classwise.runtime.memory import freed_memory_kept

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
    found = apart(args, contenders(), args.repeat)
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


def contenders() -> dict[str, Callable[[Case], Candidates | Found]]:
    """Return what is run; packages that are not installed are left out, and said to be."""
    runs: dict[str, Callable[[Case], Candidates | Found]] = {
        "classwise evaluate": partial(by_classwise, attack="pgd"),
        "classwise attack": partial(run, classwise),
        'classwise attack, keep="last"': partial(run, partial(classwise, keep="last")),
    }
    makes = {"torchattacks": torchattacks, "foolbox": foolbox, "art": art, "adv_lib": adv_lib}
    for package, module in PEERS.items():
        if find_spec(module) is None:
            print(f"{package} is left out: not installed")
        else:
            runs[package] = partial(run, makes[module])
    return runs


def run(make: Callable[[Case], Batchwise], case: Case) -> Candidates:
    """Attack all images batch by batch."""
    attack = make(case)
    with counted(case.model) as passes, torch.random.fork_rng():
        torch.manual_seed(case.seed)
        parts = torch.split(torch.arange(len(case.data)), BATCH)
        x_adv = torch.cat([attack(case.x[which], case.y[which], which).detach() for which in parts])
    return Candidates(x_adv, passes)


def classwise(case: Case, keep: Literal["success", "last"] = "success") -> Batchwise:
    """Return PGD of classwise, which passes images as the engine does."""
    attack, searched = replace(pgd(case.threat), keep=keep), Searched(case.model, case.x[:2])

    @freed_memory_kept()
    def perturbed(x: Tensor, y: Tensor, which: Tensor) -> Tensor:
        with channels_last(case.model, case.x[:2]):
            return attack(searched, x, y, noise=Noise(case.seed, case.data.index[which]))

    return perturbed


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
