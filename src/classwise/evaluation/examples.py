"""Images to look at: candidates that broke an image, made once more after the evaluation, which keeps no pixels.

The random numbers of an image depend on nothing but seed, image, attack and stage, so that the same attack finds the
same candidate again, whatever images it is run with. It is judged again by the verdict rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from classwise.attacks.base import predict
from classwise.attacks.named import members
from classwise.attacks.plan import AttackOrPlan, Plan, Stage
from classwise.evaluation.engine import Engine, Path
from classwise.metrics.examples import Examples, worth_showing
from classwise.metrics.outcomes import Outcomes
from classwise.runtime.inference import forward

SHOWN = 6
"""Images that an evaluation stores unless told otherwise."""


def recraft(
    engine: Engine, outcomes: Outcomes, attacks: Mapping[str, AttackOrPlan], limit: int, identity: str
) -> Examples | None:
    """Make the candidates that broke the images most worth showing once more; None where none can be shown.

    An image is left out where its candidate is not taken for the same class again, as with a randomised model or where
    rounding differs between batches; at most twice as many images are tried as asked for.

    Args:
        engine: of the evaluation.
        outcomes: what it found.
        attacks: that it ran, by name.
        limit: number of images.
        identity: of the evaluation.
    """
    candidates = dict[int, Tensor]()
    for position in worth_showing(outcomes)[: 2 * limit].tolist():
        candidate = _candidate(engine, outcomes, attacks, position) if len(candidates) < limit else None
        if candidate is not None:
            candidates[position] = candidate
    if not candidates:
        return None
    positions = torch.tensor(list(candidates))
    clean = (engine.data.fetch(positions) * 255).round().to(torch.uint8)
    index = engine.data.index[positions].numpy()
    return Examples(identity, index, clean.numpy(), torch.cat(list(candidates.values())).numpy())


def _candidate(engine: Engine, outcomes: Outcomes, attacks: Mapping[str, AttackOrPlan], position: int) -> Tensor | None:
    """Return the candidate (1, C, H, W) that broke an image, or None if it does not do so again."""
    where, view = torch.tensor([position]), str(outcomes.broken_by()[position])
    x, y = engine.data.fetch(where).to(engine.device), engine.data.y[where].to(engine.device)
    named = str(outcomes.stages[view][position]) if view in outcomes.stages else view
    for stage, path in _turns(view, attacks[view]):
        # A stage of the audit is called after its member, with what it was run for in front.
        if named in (stage.name, f"audit: {stage.name}", f"full: {stage.name}"):
            x_adv = engine.candidates(stage, path, where, x, y)
            inside, predicted = stage.attack.threat.contains(x_adv, x), predict(forward(engine.model, x_adv), y)
            if inside and int(predicted) == outcomes.adversarial_prediction()[position]:
                return x_adv.detach().float().cpu()
    return None


def _turns(view: str, contender: AttackOrPlan) -> Iterator[tuple[Stage, Path]]:
    """Yield what may have broken an image in a view, with the stream of its random numbers."""
    plan = contender if isinstance(contender, Plan) else Plan(members(view, contender))
    yield from ((stage, plan.path(view, place)) for place, stage in enumerate(plan.stages))
    yield from ((stage, stage.path) for stage in plan.full)
