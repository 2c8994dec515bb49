"""The questions that can be asked, by name, and who is asked: each subject, all subjects, or each training run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from classwise.analysis.consistency import consistency
from classwise.analysis.defences import defences
from classwise.analysis.disparity import disparity
from classwise.analysis.epochs import epochs
from classwise.analysis.evidence import Evidence, Subject
from classwise.analysis.finding import Finding
from classwise.analysis.flow import flow
from classwise.analysis.gain import gain
from classwise.analysis.groups import groups
from classwise.analysis.numbers import numbers
from classwise.analysis.seeds import seeds
from classwise.analysis.temperature import temperature
from classwise.analysis.weight_norm import weight_norm
from classwise.errors import InputError
from classwise.metrics.outcomes import Floats
from classwise.registry import unknown

Asked = Literal["subject", "subjects", "training", "network"]


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        analysis: its id in docs/analysis.md, A1 to A10.
        claims: ids of the claims it tests.
        about: the question in words.
        asked: what the function takes: each subject, all of them, each training run, or each subject with its network.
        function: returns a finding, or several.
    """

    analysis: str
    claims: tuple[str, ...]
    about: str
    asked: Asked
    function: Callable[..., Finding | tuple[Finding, ...]]


QUESTIONS: Mapping[str, Question] = {
    "epochs": Question("A1", ("H10",), "Do hard classes converge later?", "training", epochs),
    "numbers": Question("A2", (), "How robust is every class?", "subject", numbers),
    "disparity": Question("A3", ("H1", "H9"), "How far do the classes lie apart?", "subject", disparity),
    "flow": Question("A4", (), "Where do broken images go?", "subject", flow),
    "groups": Question("A5", (), "Do errors stay within superclasses?", "subject", groups),
    "weight_norm": Question("A7", ("H8",), "Do classes with longer weights stand firmer?", "network", weight_norm),
    "consistency": Question(
        "A8", ("H2",), "Is the order of classes the same under every attack?", "subject", consistency
    ),
    "defences": Question("A9", ("H3",), "Is it the same for every defence?", "subjects", defences),
    "seeds": Question("–", (), "How far do seeds differ, and test images?", "subjects", seeds),
    "gain": Question("A10", ("H4",), "Which classes do stronger attacks break?", "subject", gain),
    "temperature": Question(
        "–", ("H5",), "Does a temperature break more, and enlarge disparity?", "subject", temperature
    ),
}


def answer(
    evidence: Evidence, names: Sequence[str] = (), weights: Mapping[str, Floats] | None = None
) -> tuple[list[Finding], list[str]]:
    """Ask questions.

    Args:
        evidence: what to look at.
        names: of questions; all if empty.
        weights: rows of the last layer (C, F) by SHA-256 of the model, for questions about networks.

    Returns:
        findings in the order of the questions, and for each question that this evidence cannot answer a sentence why; a
        question that was named must have an answer.

    Raises:
        InputError: there is no such question, or a named one has no answer.
    """
    stranger = next((name for name in names if name not in QUESTIONS), None)
    if stranger is not None:
        raise InputError(unknown("question", stranger, QUESTIONS))
    findings, open_questions = list[Finding](), list[str]()
    for name in names or QUESTIONS:
        answered, reasons = _ask(QUESTIONS[name], evidence, weights or {})
        if names and not answered:
            raise InputError(f"The question {name!r} has no answer here: {' '.join(reasons)}")
        findings += answered
        open_questions += [f"{name}: {reason}" for reason in reasons]
    return findings, open_questions


def _ask(question: Question, evidence: Evidence, weights: Mapping[str, Floats]) -> tuple[list[Finding], list[str]]:
    answered, reasons = list[Finding](), list[str]()
    for given in _occasions(question, evidence, weights):
        try:
            answer = question.function(*given)
        except InputError as error:
            reasons.append(str(error))
        else:
            answered += answer if isinstance(answer, tuple) else [answer]
    if not answered and not reasons:
        reasons.append(_missing(question))
    return answered, reasons


def _occasions(question: Question, evidence: Evidence, weights: Mapping[str, Floats]) -> Iterator[tuple[Any, ...]]:
    if question.asked == "training":
        yield from ((training,) for training in evidence.trainings)
    elif question.asked == "subjects":
        yield from [(evidence.subjects,)] if len(evidence.subjects) > 1 else []
    elif question.asked == "network":
        yield from ((subject, weights[sha]) for subject in evidence.subjects if (sha := _sha(subject)) in weights)
    else:
        yield from ((subject,) for subject in evidence.subjects)


def _sha(subject: Subject) -> str:
    return str(subject.result.header["model"]["sha256"])


def _missing(question: Question) -> str:
    return {
        "training": "It takes the folder of a training run, with its log.",
        "subjects": "It takes evaluations of at least two models.",
        "network": "It takes the network that was evaluated; name it with --network.",
        "subject": "It takes the folder of an evaluation.",
    }[question.asked]
