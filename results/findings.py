"""Print the tables of docs/findings.md from the result folders beside this file: ``python results/findings.py``."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from classwise.analysis import Evidence, Finding, answer, read

HERE = Path(__file__).parent
QUESTIONS = ("disparity", "consistency", "gain", "temperature", "defences", "epochs")
CLAIMS = ("H1", "H2", "H3", "H4", "H5", "H7", "H9", "H10")
SETS = {
    "CIFAR-10, 2/255, n 5,000": ("findings/cifar10-resnet2b-adv-2-many",),
    "CIFAR-10, 8/255, n 1,000": tuple(
        f"cifar10-resnet2b-adv-8{more}" for more in ("", "-equal-steps", "-autoattack", "-fast")
    ),
    "MNIST, 0.3, n 1,000": ("mnist-smallcnn-trades-0.3", "mnist-smallcnn-trades-0.3-equal-steps"),
    "CIFAR-10, 8/255, ours": ("cifar10-small-resnet-at",),
    "MNIST, 0.3, ours": ("mnist-small-cnn-at", "mnist-small-cnn-trades"),
    "CIFAR-10, 8/255, study": ("studies/paper-cifar10-small/*-seed?-*", "studies/paper-cifar10-small/*/ema-best-*"),
    "MNIST, 0.3, study": ("studies/paper-mnist-small/*-seed?-*", "studies/paper-mnist-small/*/ema-best-*"),
}
"""Name of a set -> patterns of folders beside this file."""
HOMING = {"MNIST, 0.3, ours": "homing-mnist-*.json"}
DIGITS = "digits, 0.15, n 901"


def asked(evidence: Evidence, questions: tuple[str, ...]) -> list[Finding]:
    """Ask those of the questions that the evidence can answer."""
    return [finding for finding in answer(evidence)[0] if finding.question in questions and finding.claim]


def digits() -> list[tuple[str, str, str]]:
    """Return (claim, verdict, sentence) of all findings on the networks for digits and of the homing studies."""
    folders = sorted((HERE / "findings" / "digits").glob("*/*"))
    return [*told(asked(read(folders), QUESTIONS)), *homing("homing-[0-9].json")]


def homing(pattern: str) -> list[tuple[str, str, str]]:
    """Return (claim, verdict, sentence) of the homing studies in the files that a pattern names."""
    studies = [json.loads(path.read_text()) for path in sorted((HERE / "findings").glob(pattern))]
    found = [finding for study in studies for finding in study["findings"]]
    return [(each["claim"], each["verdict"], each["sentence"]) for each in found]


def told(found: list[Finding]) -> list[tuple[str, str, str]]:
    """Return (claim, verdict, sentence) of findings."""
    return [(finding.claim, finding.verdict, finding.sentence) for finding in found]


def counted(verdicts: list[str]) -> str:
    """Write the verdicts of one claim on one set: the verdict, or how many of each."""
    if not verdicts:
        return "–"
    counts = Counter(verdicts)
    if len(verdicts) == 1:
        return verdicts[0]
    return ", ".join(
        f"{counts[verdict]} {verdict}"
        for verdict in ("supported", "refuted", "undecided", "not applicable")
        if counts[verdict]
    )


def sentences(found: list[tuple[str, str, str]]) -> list[str]:
    """Return the sentences of claims that one finding decides."""
    claims = Counter(claim for claim, _, _ in found)
    return [sentence for claim, _, sentence in found if claims[claim] == 1]


def on(name: str) -> list[tuple[str, str, str]]:
    """Return (claim, verdict, sentence) of all findings on one of the sets."""
    folders = [folder for pattern in SETS[name] for folder in sorted(HERE.glob(pattern))]
    found = told(asked(read(folders), QUESTIONS))
    return found + (homing(HOMING[name]) if name in HOMING else [])


def main() -> str:
    """Return the table of verdicts, and the sentences behind those that are alone on their claim, in Markdown."""
    said = {**{name: on(name) for name in SETS}, DIGITS: digits()}
    lines = [("claim", *said), ("---",) * (1 + len(said))]
    for claim in CLAIMS:
        lines.append((claim, *(counted([v for c, v, _ in found if c == claim]) for found in said.values())))
    parts = ["".join(f"| {' | '.join(line)} |\n" for line in lines)]
    parts += [f"{name}:\n\n" + "".join(f"- {text}\n" for text in sentences(found)) for name, found in said.items()]
    return "\n".join(parts)


if __name__ == "__main__":
    print(main(), end="")
