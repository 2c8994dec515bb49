"""What the words for threats, radii and attacks mean."""

from __future__ import annotations

from collections.abc import Mapping

from classwise import registry
from classwise.attacks import Transfer, build_attacks, transfer
from classwise.attacks.base import Attack
from classwise.attacks.ensemble import Ensemble
from classwise.attacks.named import joined
from classwise.attacks.plan import AttackOrPlan, Plan
from classwise.data import ImageSet, default_threat
from classwise.data.sources import facts
from classwise.errors import InputError
from classwise.evaluation import critical_eps
from classwise.files.texts import portable
from classwise.models.checkpoint import weights_sha256
from classwise.resolve.models import fresh, model
from classwise.threat import ThreatModel, parse_eps, parse_norm


def threat(data: str, eps: str | float | None, norm: str | int | None) -> ThreatModel:
    """Return the threat model asked for, or the usual one of the data set.

    Raises:
        InputError: a norm without a radius, or a data set without a usual threat.
    """
    if eps is not None:
        return ThreatModel(parse_norm("Linf" if norm is None else norm), parse_eps(eps))
    if norm is not None:
        raise InputError("A norm needs a radius; give --eps too.")
    return default_threat(registry.parse(data)[0])


def widest(data: str, eps_max: str | float | None, norm: str | int | None) -> ThreatModel:
    """Return the largest set that critical eps are looked for in: as asked, or four times the usual radius of the data.

    Raises:
        InputError: a norm without a radius, a radius of 0, or a data set without a usual threat.
    """
    if eps_max is not None:
        return critical_eps.widest("Linf" if norm is None else norm, eps_max)
    usual = facts(data).threat
    if norm is not None or usual is None:
        raise InputError("Say how far to look: give --eps-max, such as --eps-max 32/255.")
    return ThreatModel(usual.norm, min(1.0, 4 * usual.eps) if usual.norm == "Linf" else 4 * usual.eps)


def radii(text: str) -> list[float]:
    """Read radii separated by commas, such as 2/255,4/255."""
    return [parse_eps(part.strip()) for part in text.split(",") if part.strip()]


def named_attacks(text: str, threat: ThreatModel, data: ImageSet, seed: int) -> Mapping[str, AttackOrPlan]:
    """Build attacks, suites and plans by name, and ``transfer(source='MODEL', attack='NAME')``, which takes a model."""
    found = joined(
        {portable(name): _transfer(name, threat, data, seed)}
        if name.partition("(")[0].strip() == "transfer"
        else build_attacks([name], threat)
        for name in registry.split(text)
    )
    return found or build_attacks(text, threat)  # which says what is wrong where nothing was named


def single(text: str, threat: ThreatModel, data: ImageSet, seed: int) -> Attack:
    """Build one attack that can be called on a batch: several become an ensemble; AutoAttack stands for the default.

    Raises:
        InputError: another plan than the default, since plans are run over a whole data set.
    """
    found = named_attacks("autoattack" if text == "fast" else text, threat, data, seed)
    called = [attack for attack in found.values() if not isinstance(attack, Plan)]
    if len(called) < len(found):
        raise InputError("A plan is run over all images; with --until, name attacks, such as autoattack or apgd-t.")
    return called[0] if len(called) == 1 else Ensemble(tuple(called))


def _transfer(text: str, threat: ThreatModel, data: ImageSet, seed: int) -> Transfer:
    settings = registry.parse(text)[1]
    chosen = {"attack": "pgd(keep='last')", **settings}
    if set(chosen) != {"attack", "source"} or not all(isinstance(value, str) for value in chosen.values()):
        raise InputError("A transfer takes a source and an attack, as in transfer(source='run:FOLDER', attack='fgsm').")
    if fresh(chosen["source"]):
        raise InputError(f"The source {chosen['source']!r} has fresh weights; give run:FOLDER or ARCH@FILE.")
    source = model(chosen["source"], data, seed)
    name = f"{chosen['source']} with weights {weights_sha256(source)[:12]}"
    return transfer(registry.build("attack", chosen["attack"], threat), source, name)
