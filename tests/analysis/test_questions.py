from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.analysis.strategies import planted, subject
from tests.analysis.test_epochs import FINAL, rising, training

from classwise.analysis import QUESTIONS, Evidence, answer
from classwise.analysis.finding import markdown
from classwise.errors import InputError

ROOT = Path(__file__).parents[2]
RATES = [0.2, 0.4, 0.6, 0.8]
ATTACKS = {"pgd": RATES, "temperature-pgd": [r - 0.05 for r in RATES], "autoattack": [r - 0.1 for r in RATES]}
SUBJECT = subject(planted(ATTACKS, 60, shared=False))
OTHER = subject(planted(ATTACKS, 60, shared=False, seed=1), "b", model={"name": "small_cnn", "sha256": "b" * 64})
# Two models of one name, as seeds of one method that is not read from a run.
EVIDENCE = Evidence((SUBJECT, OTHER), (training(rising(FINAL)),))
WEIGHTS = {"0" * 64: np.diag([1.0, 2.0, 3.0, 4.0])}


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_question_answers_with_a_verdict_tables_and_json(name: str) -> None:
    findings, unanswered = answer(EVIDENCE, [name], WEIGHTS)
    assert findings
    assert unanswered == []
    for finding in findings:
        assert finding.question == name
        assert finding.sheets
        assert finding.sentence.endswith(".")
        claims = QUESTIONS[name].claims
        assert finding.claim in claims if claims else finding.verdict == "described"
        json.dumps(finding.as_dict(), allow_nan=False)
    assert markdown(findings).count("\n## ") == len(findings) - 1


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_same_evidence_always_gives_the_same_answer(name: str) -> None:
    first, again = (json.dumps([f.as_dict() for f in answer(EVIDENCE, [name], WEIGHTS)[0]]) for _ in range(2))
    assert first == again


def test_all_questions_are_asked_and_those_without_evidence_say_what_they_take() -> None:
    findings, unanswered = answer(Evidence((SUBJECT,), ()))
    assert {finding.question for finding in findings} == set(QUESTIONS) - {"epochs", "defences", "seeds", "weight_norm"}
    assert [reason.partition(":")[0] for reason in unanswered] == ["epochs", "weight_norm", "defences", "seeds"]
    assert "name it with --network" in unanswered[1]


def test_a_question_that_was_named_must_have_an_answer() -> None:
    with pytest.raises(InputError, match="'epochs' has no answer here: It takes the folder of a training run"):
        answer(Evidence((SUBJECT,), ()), ["epochs"])
    with pytest.raises(InputError, match="question 'flwo': did you mean 'flow'"):
        answer(EVIDENCE, ["flwo"])


def test_every_question_and_claim_is_in_the_docs() -> None:
    text = (ROOT / "docs" / "analysis.md").read_text()
    assert [name for name in QUESTIONS if f"`{name}`" not in text] == []
    assert [claim for question in QUESTIONS.values() for claim in question.claims if claim not in text] == []


def test_analyses_of_files_need_no_torch() -> None:
    script = "import sys, classwise.analysis, classwise.analysis.comparison; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
