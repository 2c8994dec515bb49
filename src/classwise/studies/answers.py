"""What the analyses of a study say: its questions, put to all evaluations that may be compared, and a sentence each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from classwise import analysis, files, registry, resolve
from classwise.analysis import Evidence, Finding
from classwise.analysis.finding import Verdict, markdown
from classwise.analysis.network import last_layer
from classwise.errors import InputError
from classwise.metrics.outcomes import Floats
from classwise.metrics.result import RESULT_FILE
from classwise.models.checkpoint import weights_sha256
from classwise.provenance import __version__
from classwise.report.sheet import escape_markdown
from classwise.studies.trials import GIVEN, StudyContext, Trial, log

STEM = "analyses"
"""Of the files that hold the findings in full, .json and .md."""
Evaluated = Sequence[tuple[Trial, str]]
"""Runs and which of their weights, as far as evaluated."""


@dataclass(frozen=True)
class Answers:
    """What evaluations say that may be compared: of one data set and threat, of one architecture and kind of weights.

    Attributes:
        about: which evaluations, in words.
        findings: in the order of the questions.
        unanswered: for each question that these evaluations cannot answer a sentence why.
    """

    about: str
    findings: tuple[Finding, ...]
    unanswered: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """Return the same for JSON."""
        findings = [finding.as_dict() for finding in self.findings]
        return {"about": self.about, "findings": findings, "unanswered": list(self.unanswered)}


def ask(questions: Sequence[str], trials: Sequence[Trial], where: StudyContext) -> list[Answers]:
    """Put questions to what is finished of a study.

    Models of different data, threats, architectures or kinds of weights are asked apart: seeds and methods are
    compared, and nothing else. A question without an answer, as about an attack that was not run, holds nothing up.
    """
    if not questions:
        return []
    return [_answers(about, evaluated, questions, where) for about, evaluated in _groups(trials, where.out).items()]


def write(answers: Sequence[Answers], out: Path) -> list[Path]:
    """Write the findings in full, with their numbers and tables, into the study's folder, and return their paths."""
    if not answers:
        return []
    record = {"classwise": __version__, "answers": [answer.record() for answer in answers]}
    files.write_json(out / f"{STEM}.json", record)
    parts = [f"# {escape_markdown(answer.about)}\n\n{markdown(answer.findings)}" for answer in answers]
    files.write_text(out / f"{STEM}.md", "\n".join(parts))
    return [out / f"{STEM}.json", out / f"{STEM}.md"]


def text(answers: Sequence[Answers]) -> str:
    """Return the number of each verdict and the sentences behind them in Markdown, "" if nothing was asked."""
    return "".join(_section(answer) for answer in answers)


def _groups(trials: Sequence[Trial], out: Path) -> dict[str, list[tuple[Trial, str]]]:
    groups: dict[str, list[tuple[Trial, str]]] = {}
    for trial in trials:
        for weights in trial.weights:
            if (trial.evaluation_folder(out, weights) / RESULT_FILE).exists():
                made = "given models" if weights == GIVEN else f"{registry.parse(trial.model)[0]}, {weights} weights"
                groups.setdefault(f"{made}, {trial.data}, {trial.threat}", []).append((trial, weights))
    return groups


def _answers(about: str, evaluated: Evaluated, questions: Sequence[str], where: StudyContext) -> Answers:
    evidence = _evidence(evaluated, where.out)
    rows, unanswered = _last_layers(evaluated, where) if "weight_norm" in questions else ({}, [])
    findings = list[Finding]()
    for question in questions:
        try:
            answered, reasons = analysis.answer(evidence, [question], rows)
        except InputError as error:
            unanswered.append(str(error))
        else:
            findings += answered
            unanswered += reasons
    return Answers(about, tuple(findings), tuple(unanswered))


def _evidence(evaluated: Evaluated, out: Path) -> Evidence:
    """Read evaluations, and beside the first kind of weights the logs of their runs; call them what the study does."""
    folders = {trial.evaluation_folder(out, weights): trial.title for trial, weights in evaluated}
    runs = {trial.folder(out): trial.title for trial, weights in evaluated if weights == trial.weights[0]}
    runs = {folder: title for folder, title in runs.items() if log(folder)}
    evidence = analysis.read([*folders, *runs])
    named = tuple(replace(subject, label=folders[subject.folders[0]]) for subject in evidence.subjects)
    titles = zip(evidence.trainings, runs.values(), strict=True)
    return Evidence(named, tuple(replace(training, label=title) for training, title in titles))


def _last_layers(evaluated: Evaluated, where: StudyContext) -> tuple[dict[str, Floats], list[str]]:
    """Return the rows of the last layers by the hash of the weights, and why some models have none."""
    rows, reasons = dict[str, Floats](), list[str]()
    try:
        images = resolve.images(evaluated[0][0].data, where.data_dir, "test", 1, 0)  # all are of one data set
    except InputError as error:
        return rows, [f"weight_norm: {error}"]
    for trial, weights in evaluated:
        try:
            network = resolve.model(trial.network(where.out, weights), images, trial.seed)
            rows[weights_sha256(network)] = last_layer(network)
        except InputError as error:  # such as weights that are not kept beside what was measured
            reasons.append(f"weight_norm: {trial.title}: {error}")
    return rows, reasons


def _section(answers: Answers) -> str:
    lines = [f"- {finding.subject}: {finding.sentence}" for finding in answers.findings]
    lines += [f"- Not answered: {reason}" for reason in answers.unanswered]
    body = "".join(f"{escape_markdown(line)}\n" for line in lines)
    return f"\n## {escape_markdown(answers.about)}\n\n{_counts(answers.findings)}{body}"


def _counts(findings: Sequence[Finding]) -> str:
    """Return how often each claim is supported, refuted or left undecided, "" without any."""
    counts: Mapping[tuple[str, str], int] = Counter(
        (finding.claim, finding.verdict) for finding in findings if finding.claim
    )
    kinds = [verdict for verdict in get_args(Verdict) if any(verdict == stated for _, stated in counts)]
    rows = [(claim, *(str(counts[claim, kind]) for kind in kinds)) for claim in _claims(findings)]
    head = [("claim", *kinds), ("---",) * (1 + len(kinds))]
    return "".join(f"| {' | '.join(row)} |\n" for row in (*head, *rows)) + "\n" if rows else ""


def _claims(findings: Sequence[Finding]) -> Iterator[str]:
    claims = {finding.claim for finding in findings if finding.claim}
    yield from sorted(claims, key=lambda claim: int(claim[1:]))
