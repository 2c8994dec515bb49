"""Print the tables of docs/findings.md from the result folders beside this file: ``python results/findings.py``."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from classwise.analysis import Evidence, Finding, answer, read

HERE = Path(__file__).parent
QUESTIONS = ("disparity", "consistency", "gain", "temperature")
CLAIMS = ("H1", "H2", "H3", "H4", "H5", "H7", "H9", "H10")
SETS = {
    "CIFAR-10, 2/255, n 5,000": ("findings/cifar10-resnet2b-adv-2-many",),
    "CIFAR-10, 8/255, n 1,000": tuple(
        f"cifar10-resnet2b-adv-8{more}" for more in ("", "-equal-steps", "-autoattack", "-fast")
    ),
    "MNIST, 0.3, n 1,000": ("mnist-smallcnn-trades-0.3", "mnist-smallcnn-trades-0.3-equal-steps"),
}
DIGITS = "digits, 0.15, n 901"


def asked(evidence: Evidence, questions: tuple[str, ...]) -> list[Finding]:
    """Ask those of the questions that the evidence can answer."""
    return [finding for finding in answer(evidence)[0] if finding.question in questions and finding.claim]


def digits() -> list[tuple[str, str, str]]:
    """Return (claim, verdict, sentence) of all findings on the networks for digits and of the homing studies."""
    folders = sorted((HERE / "findings" / "digits").glob("*/*"))
    found = asked(read(folders), (*QUESTIONS, "defences", "epochs"))
    studies = [json.loads(path.read_text()) for path in sorted((HERE / "findings").glob("homing-*.json"))]
    homing = [finding for study in studies for finding in study["findings"]]
    told = [(finding.claim, finding.verdict, finding.sentence) for finding in found]
    return told + [(each["claim"], each["verdict"], each["sentence"]) for each in homing]


def counted(verdicts: list[str]) -> str:
    """Write the verdicts of one claim on one set: the verdict, or how many of each."""
    if not verdicts:
        return "–"
    counts = Counter(verdicts)
    if len(verdicts) == 1:
        return verdicts[0]
    return ", ".join(
        f"{counts[verdict]} {verdict}" for verdict in ("supported", "refuted", "undecided") if counts[verdict]
    )


def sentences(found: list[tuple[str, str, str]]) -> list[str]:
    """Return the sentences of claims that one finding decides."""
    claims = Counter(claim for claim, _, _ in found)
    return [sentence for claim, _, sentence in found if claims[claim] == 1]


def on(folders: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """Return (claim, verdict, sentence) of all findings on one network."""
    return [(f.claim, f.verdict, f.sentence) for f in asked(read([HERE / each for each in folders]), QUESTIONS)]


def main() -> str:
    """Return the table of verdicts, and the sentences behind those on single networks, in Markdown."""
    told = {**{name: on(folders) for name, folders in SETS.items()}, DIGITS: digits()}
    lines = [("claim", *told), ("---",) * (1 + len(told))]
    for claim in CLAIMS:
        lines.append((claim, *(counted([v for c, v, _ in found if c == claim]) for found in told.values())))
    parts = ["".join(f"| {' | '.join(line)} |\n" for line in lines)]
    parts += [f"{name}:\n\n" + "".join(f"- {text}\n" for text in sentences(found)) for name, found in told.items()]
    return "\n".join(parts)


if __name__ == "__main__":
    print(main(), end="")
