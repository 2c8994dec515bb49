"""Make every committed text anew that follows from stored outcomes: ``python results/again.py DATA``, from the root.

After a change of statistics: `result.json` of every stored evaluation, then tables and answers of every study whose
runs are stored. Nothing is trained, attacked or evaluated; DATA and $CLASSWISE_SHARED (results/run.sh) are read for the
names of runs. What the docs quote is printed by table.py, findings.py and studies.py, and compared by tests. Left as it
was: studies whose tables alone are stored (fair-*), what a study says of trainings without a class (A6), and
correlations with weights (A7), as neither networks nor weights are stored; the verdict on these follows from r and p.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from classwise.analysis import QUESTIONS, Finding
from classwise.analysis.finding import decide
from classwise.analysis.weight_norm import ERROR
from classwise.files.writing import write_json
from classwise.metrics import Result
from classwise.studies import answers as study_answers
from classwise.studies import parse, table
from classwise.studies.answers import Answers
from classwise.studies.trials import Where, grid

HERE = Path(__file__).parent
STUDIES = ("tpgd", "gain", "attacks-consistency", "imagenet-cc", "paper-mnist-small", "paper-cifar10-small")
_NORM = re.compile(r"- (?P<subject>.*?): (?P<sentence>H8 is (?P<verdict>\w+) on this evidence: .*)")
_MEASURED = re.compile(r"r = (?P<r>[+-][\d.]+) .*permutation p = (?P<p>[\d.]+)")


def documents() -> None:
    """Write result.json anew beside the outcomes that it follows from."""
    for path in sorted(HERE.glob("**/result.json")):
        write_json(path, Result.read(path.parent).document)


def tables(name: str, data: Path) -> None:
    """Write tables and answers of a study."""
    file, folder = HERE.parent / "studies" / f"{name}.toml", HERE / "studies" / name
    found, before = parse.read(file), (folder / "table.md").read_text()
    where = Where(folder, data / name if name == "imagenet-cc" else data)
    trials = grid(found, where)
    asked = [question for question in found.analyse if question != "weight_norm"]
    answers = [_with_norms(each, before) for each in study_answers.ask(asked, trials, where)]
    _, mark, homing = before.partition("\n## at with and without each class")
    table.write(found, trials, table.rows(found, trials, folder), folder, study_answers.text(answers) + mark + homing)
    if (folder / f"{study_answers.STEM}.json").exists():
        study_answers.write(answers, folder)


def _with_norms(answers: Answers, before: str) -> Answers:
    """Put back what the weights said, which are not stored, in the order of the questions."""
    order, findings = list(QUESTIONS), [*answers.findings, *_norms(before)]
    return replace(answers, findings=tuple(sorted(findings, key=lambda each: order.index(each.question))))


def _norms(before: str) -> Iterator[Finding]:
    for line in before.splitlines():
        if match := _NORM.fullmatch(line.replace("\\", "")):
            verdict, measured = match["verdict"], _MEASURED.search(line)
            if measured:
                sure, r = float(measured["p"]) < ERROR, float(measured["r"])
                verdict = decide(sure and r > 0, sure and r < 0)
            sentence = match["sentence"].replace(f"H8 is {match['verdict']}", f"H8 is {verdict}")
            yield Finding("weight_norm", "H8", match["subject"], verdict, sentence, (), {})


if __name__ == "__main__":
    documents()
    for each in STUDIES:
        tables(each, Path(sys.argv[1]))
