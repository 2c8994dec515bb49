"""A study file: what it says, what is refused and how, and that every committed one is what it should be."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from classwise import registry, resolve
from classwise.cli.main import main
from classwise.data import Images
from classwise.data.groups import GROUPS
from classwise.errors import InputError
from classwise.models.checkpoint import save_weights
from classwise.studies import parse
from classwise.studies.checks import check
from classwise.studies.shrink import shrunk, standing_in
from classwise.studies.spec import Entry, Evaluation, Given, Homing, Study
from classwise.studies.trials import Source, StudyContext, Trial, grid, prepared
from classwise.threat import ThreatModel

COMMITTED = sorted((Path(__file__).parents[2] / "studies").glob("*.toml"))
FAIR = [path for path in COMMITTED if path.name.startswith("fair-")]
GREY, COLOUR = (1, 28, 28), (3, 32, 32)
# Photographs of 64 and 224 pixels a side stand for themselves at 32: the network is made for any size.
SHAPES = {"digits": (1, 8, 8), "mnist": GREY}
DIGITS = tuple("0123456789")

TEXT = """
name = "tiny"
data = "digits"
model = "digits_cnn"
recipe = "digits"
[[method]]
method = "at"
"""

GIVEN = """[[given]]
name = "x"
model = "digits_cnn"
"""


def named(path: Path) -> str:
    return path.stem


def written(folder: Path, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text(text)
    return path


def made(*methods: Entry, **settings: Any) -> Study:
    defaults: dict[str, Any] = {"name": "tiny", "data": "digits", "model": ("digits_cnn",), "recipe": "digits"}
    return check(Study(**{**defaults, **settings, "method": methods or (Entry("at"),)}))


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Images]:
    """Put random images in the place of every data set, with its shape, classes and superclasses."""

    def load(name: str, directory: Any = None, split: str = "test", download: bool = False) -> Images:
        generator = torch.Generator().manual_seed(int(split == "train"))
        groups = GROUPS.get(name, {})
        classes = tuple(sorted(member for members in groups.values() for member in members)) or DIGITS
        count = max(300, 10 * len(classes))
        x = torch.randint(256, (count, *SHAPES.get(name, COLOUR)), generator=generator, dtype=torch.uint8)
        y = torch.arange(count) % len(classes)
        return Images.from_arrays(x, y, classes, name=name, split=split, groups=groups)

    monkeypatch.setattr("classwise.resolve.data.load", load)
    return load


def test_a_study_is_read_with_its_defaults(tmp_path: Path) -> None:
    assert parse.read(written(tmp_path, TEXT)) == made()
    assert made().seeds == (0,)
    assert made().evaluate == Evaluation("fast", ("best",), None, 1.0, 0)


def test_every_key_of_a_study_arrives(tmp_path: Path) -> None:
    text = """
name = "all"
data = "digits"
model = ["digits_cnn", "small_cnn"]
recipe = "digits(epochs=3)"
wrappers = "ema"
seeds = [4, 5]
limit = 200
eps = "1/10"
norm = "L2"
precision = "bf16-mixed"
analyse = "gain"
reference = "rslad"
[evaluate]
attacks = "pgd"
weights = "ema-last"
limit = 50
audit = 0
seed = 7
[[given]]
name = "theirs"
model = "$NETS/net.py:make"
data = "mnist"
eps = 0.2
norm = "L2"
limit = 30
[homing]
method = "base"
attacks = "pgd"
limit = 40
seeds = [5]
[[method]]
name = "base"
method = "trades(beta=3)"
[[method]]
method = "rslad"
start = "base@last"
teacher = "base@ema-best"
recipe = "fast"
wrappers = "swa,ema"
"""
    assert parse.read(written(tmp_path, text)) == Study(
        name="all",
        data="digits",
        model=("digits_cnn", "small_cnn"),
        recipe="digits(epochs=3)",
        method=(
            Entry("trades(beta=3)", "base"),
            Entry("rslad", "rslad", "fast", "swa,ema", "base@last", "base@ema-best"),
        ),
        given=(Given("theirs", "$NETS/net.py:make", "mnist", 0.2, "L2", 30),),
        homing=Homing("base", "pgd", 40, (5,)),
        analyse=("gain",),
        seeds=(4, 5),
        wrappers="ema",
        limit=200,
        eps="1/10",
        norm="L2",
        precision="bf16-mixed",
        evaluate=Evaluation("pgd", ("ema-last",), 50, 0, 7),
        reference="rslad",
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('[[method]]\nmethod = "at"', "", "method is missing, and given too"),
        ('[[method]]\nmethod = "at"', GIVEN, "model is for training, but there is no [[method]]"),
        ("[[method]]", '[[given]]\nname = "x"\n[[method]]', "given 1, model is missing"),
        ("[[method]]", '[[given]]\nmodel = "digits_cnn"\n[[method]]', "given 1, name is missing"),
        ("[[method]]", GIVEN.replace('"x"', '"at"') + "[[method]]", "given has 'at' twice"),
        ("[[method]]", GIVEN + "seed = 3\n[[method]]", "given 1: Unknown key 'seed'"),
        ("[[method]]", GIVEN + 'data = "digit"\n[[method]]', "did you mean 'digits'?"),
        ("[[method]]", GIVEN.replace('"digits_cnn"', "[]") + "[[method]]", "given 1, model is [], but must be a text"),
        ("[[method]]", "[given]\n[[method]]", "given is {}, but must be tables, [[given]]"),
        ("[[method]]", "[homing]\n[[method]]", "homing.method is missing; add it"),
        ("[[method]]", '[homing]\nmethod = "trades"\n[[method]]', "Unknown method 'trades'"),
        ("[[method]]", '[homing]\nmethod = "at"\nseeds = [1]\n[[method]]', "homing.seeds has 1, which is not among"),
        ("[[method]]", 'homing = "at"\n[[method]]', "homing is 'at', but must be a table, [homing]"),
        ('recipe = "digits"', 'recipe = "digits"\nanalyse = "dispairty"', "did you mean 'disparity'?"),
        ('recipe = "digits"', 'recipe = "digits"\nanalyse = ["gain", "gain"]', "analyse has 'gain' twice"),
        ('recipe = "digits"', 'recipe = "digits"\nanalyse = 3', "analyse is 3, but must be a text or a list"),
        ('model = "digits_cnn"\n', "", "model is missing"),
        ('method = "at"', 'recipe = "fast"', "method 1, method is missing"),
        ('method = "at"', 'method = "at"\nseed = 3', "method 1: Unknown key 'seed'"),
        ('recipe = "digits"', 'recipe = "digits"\nepoch = 3', "Unknown key 'epoch'"),
        (
            'recipe = "digits"',
            'recipe = "digits"\nseeds = [0, true]',
            "seeds is [0, True], but must be a list",
        ),
        ('recipe = "digits"', 'recipe = "digits"\nseeds = []', "seeds is [], but must be a list"),
        ('recipe = "digits"', 'recipe = "digits"\nseeds = [0, 0]', "seeds has 0 twice"),
        ('recipe = "digits"', 'recipe = "digits"\nlimit = 0', "limit is 0, but must be a whole number of at least 1"),
        ('recipe = "digits"', 'recipe = "digits"\nwrappers = 3', "wrappers is 3, but must be a text"),
        ('recipe = "digits"', 'recipe = "digits"\nreference = "att"', "Unknown method 'att': did you mean 'at'?"),
        ('recipe = "digits"', 'recipe = "digits"\nevaluate = 3', "evaluate is 3, but must be a table"),
        ("[[method]]", "[evaluate]\nlimits = 3\n[[method]]", "evaluate: Unknown key 'limits': did you mean 'limit'?"),
        ("[[method]]", "[method]", "method is {'method': 'at'}, but must be tables, [[method]]"),
        ('name = "tiny"', 'name = "a/b"', "names a folder"),
        ('data = "digits"', 'data = "digit"', "did you mean 'digits'?"),
        ('model = "digits_cnn"', 'model = "digits-cnn"', "did you mean 'digits_cnn'?"),
        ('recipe = "digits"', 'recipe = "digits(epochs=0)"', "method 'at': The recipe's epochs is 0"),
        ('recipe = "digits"', 'recipe = "digits"\nwrappers = "emma"', "method 'at': Unknown wrapper 'emma'"),
        ('method = "at"', 'method = "att"', "did you mean"),
        ('method = "at"', 'method = "at"\n[[method]]\nmethod = "at"', "method has 'at' twice; give one of them a name"),
        ('method = "at"', 'method = "at"\nteacher = "x"', "has no teacher"),
        ('method = "at"', 'method = "rslad"', "'rslad' learns from a teacher; add teacher"),
        ('method = "at"', "method = \"rslad(teacher='x')\"", "names a teacher in its settings"),
        ('method = "at"', 'method = "at"\nstart = "at"', "needs itself"),
        (
            'method = "at"',
            'method = "at"\n[[method]]\nmethod = "trades"\nstart = "at@ema-best"',
            "no weights 'ema-best'",
        ),
        ("[[method]]", '[evaluate]\nweights = "ema-best"\n[[method]]', "no method has that average"),
        ("[[method]]", '[evaluate]\nweights = "worst"\n[[method]]', "write best, last"),
        (
            "[[method]]",
            '[evaluate]\nattacks = "fsat"\n[[method]]',
            "evaluate.attacks: Unknown attack 'fsat': did you mean",
        ),
        ('recipe = "digits"', 'recipe = "digits"\neps = 8', "The Linf radius 8 is above 1"),
        (
            'method = "at"',
            'method = "frl-rw"',
            "'frl-rw' goes on with a robust network, and digits_cnn has fresh weights",
        ),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_key(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = written(tmp_path, TEXT.replace(old, new))
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        parse.read(path)
    assert str(caught.value).startswith(f"The study {path}: ")


def test_what_is_no_toml_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at line 4"):
        parse.read(written(tmp_path, '\nname = "tiny"\ndata = "digits"\nmodel = digits_cnn\n'))


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ('recipe = "digits"', 'recipe = "digits"\n# of training\n  limit  = 0  # none', 7),
        ('method = "at"', 'method = "at"\n[[method]]\nmethod = "trades"\nepochs = 3', 10),
        ('method = "at"', 'method = "at"\n[[given]]\nmodel = "x"', 8),  # the header, as the name is missing
        ("[[method]]", '[evaluate]\nweights = [\n    "best",\n    3,\n]\n[[method]]', 7),
    ],
)
def test_a_wrong_key_is_named_with_its_line(tmp_path: Path, old: str, new: str, line: int) -> None:
    path = written(tmp_path, TEXT.replace(old, new))
    with pytest.raises(InputError, match=f"^The study {re.escape(str(path))}: line {line}: "):
        parse.read(path)


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no file; give the TOML file of a study"):
        parse.read(tmp_path / "none.toml")


def test_methods_come_after_those_they_need_whatever_their_place_in_the_file() -> None:
    found = made(Entry("rslad", teacher="base"), Entry("frl-rw", start="rslad"), Entry("at", "base"))
    assert [entry.name for entry in found.ordered] == ["base", "rslad", "frl-rw"]


def test_the_reference_is_at_unless_another_is_named() -> None:
    assert made(Entry("trades"), Entry("at")).baseline == "at"
    assert made(Entry("trades"), Entry("at"), reference="trades").baseline == "trades"
    assert made(Entry("trades")).baseline == ""
    assert made(Entry("at", "plain")).baseline == ""


def test_a_circle_is_refused() -> None:
    with pytest.raises(InputError, match="circle"):
        made(Entry("rslad", "a", teacher="b"), Entry("rslad", "b", teacher="a"))


def test_only_weights_that_a_method_has_are_evaluated() -> None:
    methods = Entry("at"), Entry("cfa", wrappers="ema,fawa"), Entry("trades", wrappers="")
    found = made(*methods, wrappers="ema", evaluate=Evaluation(weights=("best", "ema-best", "fawa-last")))
    assert [found.weights_of(entry) for entry in methods] == [
        ("best", "ema-best"),
        ("best", "ema-best", "fawa-last"),
        ("best",),
    ]


def test_a_shrunk_study_has_the_same_methods_and_other_amounts() -> None:
    entries = Entry("at"), Entry("frl-rw", start="at", recipe="finetune-frl(lr=0.01)", wrappers="swa")
    full = made(*entries, model=("small_cnn", "preact_resnet18"), seeds=(3, 4), wrappers="ema")
    small = shrunk(full, 7)
    assert [replace(entry, recipe=None) for entry in small.method] == [replace(entry, recipe=None) for entry in entries]
    assert (small.name, small.seeds, small.limit, small.evaluate.limit) == ("tiny-shrunk", (3,), 70, 14)
    recipe = small.recipe_of(small.method[1])
    assert (recipe.epochs, recipe.steps, recipe.milestones, recipe.lr) == (2, 2, (), 0.01)


# Models that are given


def test_a_given_model_names_an_environment_variable_that_must_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETS", "/there")
    assert Given("x", "$NETS/net.py:make").text == "/there/net.py:make"
    monkeypatch.delenv("NETS")
    with pytest.raises(InputError, match="given 'x' names \\$NETS, which is not set"):
        _ = Given("x", "$NETS/net.py:make").text


@pytest.mark.parametrize(
    ("given", "eps"),
    [
        (Given("x", "digits_cnn"), 0.1),
        (Given("x", "digits_cnn", eps="1/4"), 0.25),
        (Given("x", "digits_cnn", data="mnist"), 0.3),
        (Given("x", "digits_cnn", data="mnist", eps=0.2), 0.2),
    ],
)
def test_a_given_model_has_the_radius_of_the_study_unless_it_has_data_or_a_radius_of_its_own(
    given: Given, eps: float
) -> None:
    assert made(given=(given,), eps=0.1).threat_of(given) == ThreatModel("Linf", eps)


def test_a_norm_alone_is_no_threat() -> None:
    with pytest.raises(InputError, match="A norm needs a radius"):
        made(given=(Given("x", "digits_cnn", norm="L2"),))


def test_homing_is_for_methods_with_fresh_weights_and_no_teacher() -> None:
    with pytest.raises(InputError, match=r"homing\.method is 'b', which takes another network, with all classes"):
        made(Entry("at"), Entry("trades", "b", start="at"), homing=Homing("b"))


def test_homing_is_shrunk_with_the_study() -> None:
    small = made(homing=Homing("at", "autoattack", 2000, (1,)), seeds=(0, 1))
    small = shrunk(small, 10)
    assert small.homing == Homing("at", small.evaluate.attacks, small.evaluate.limit)


def test_a_shrunk_study_evaluates_a_tiny_network_in_place_of_a_given_one() -> None:
    given = Given("x", "$NETS/net.py:make", "mnist", "1/4", limit=1000)
    small = shrunk(Study("tiny", "digits", given=(given,)), 1000)
    assert small.given == (replace(given, model="digits_cnn", limit=None),)
    assert (small.model, small.recipe, small.limit, small.evaluate.limit) == ((), "", None, 200)


def test_digits_stand_in_for_data_that_are_not_there(tmp_path: Path) -> None:
    full = made(
        data="svhn",
        given=(Given("x", "digits_cnn"), Given("y", "digits_cnn", "mnist"), Given("z", "a", "digits")),
    )
    small, absent = standing_in(full, tmp_path)
    assert absent == ["svhn", "mnist"]
    assert small.all_data == ["digits"]
    assert standing_in(made(), None) == (made(), [])


# Committed studies


def test_there_are_the_studies_that_the_documentation_names() -> None:
    text = (Path(__file__).parents[2] / "docs" / "studies.md").read_text()
    assert [path.name for path in COMMITTED if f"`{path.stem}`" not in text] == []
    assert len(FAIR) == 4


@pytest.mark.parametrize("path", FAIR, ids=named)
def test_a_fair_study_compares_every_registered_method(path: Path) -> None:
    found = parse.read(path)
    assert set(registry.names("method")) == {registry.parse(entry.method)[0] for entry in found.method}
    assert len(found.seeds) >= 3
    assert "ema-best" in found.evaluate.weights


@pytest.mark.parametrize("path", FAIR, ids=named)
def test_a_fair_study_gives_every_method_one_budget_and_one_split(path: Path) -> None:
    """FAAL repairs a finished network in two epochs more; each start counts. Teachers come on top, as the file says."""
    found = parse.read(path)
    by_name = {entry.name: entry for entry in found.method}
    whole = found.recipe_of(by_name["at"])

    def epochs(entry: Entry) -> int:
        before = epochs(by_name[found.named(entry.start)]) if entry.start else 0
        return before + found.recipe_of(entry).epochs

    starts = {found.named(entry.start) for entry in found.method} - {"", "at"}
    budget = {entry.name: epochs(entry) for entry in found.method if entry.name not in starts}
    assert budget.pop("faal") == whole.epochs + 2
    assert set(budget.values()) == {whole.epochs}
    recipes = [found.recipe_of(entry) for entry in found.method]
    for shared in ("holdout", "batch_size", "augment", "weight_decay", "steps", "step_size"):
        assert {getattr(recipe, shared) for recipe in recipes} == {getattr(whole, shared)}, shared


@pytest.mark.parametrize("path", FAIR, ids=named)
def test_no_warm_up_of_a_fair_study_outlasts_its_run(path: Path) -> None:
    found = parse.read(path)
    for entry in found.method:
        settings = registry.parse(entry.method)[1]
        last = [settings.get(key, 0) for key in ("warmup", "begin")] + list(settings.get("milestones", ()))
        assert max(last) < found.recipe_of(entry).epochs, entry.name


@pytest.mark.parametrize("path", COMMITTED, ids=named)
def test_every_run_of_a_committed_study_can_be_built(
    path: Path, stand_ins: Callable[..., Images], tmp_path: Path
) -> None:
    """Method, recipe, wrappers and start fit together on images like the study's; one network is every teacher."""
    where = StudyContext(tmp_path)
    found = parse.read(path)
    classes = len(stand_ins(found.data).classes)
    for trial in grid(shrunk(found, classes), where):
        if trial.recipe is None:
            continue
        network = resolve.model("digits_cnn", stand_ins(trial.data), 0)
        save_weights(network, tmp_path / "teacher.safetensors")
        source = Source("elsewhere", f"digits_cnn@{tmp_path / 'teacher.safetensors'}")
        alone = replace(trial, start=trial.start and source, teacher=trial.teacher and source)
        images, found = prepared(alone, where)
        assert isinstance(alone, Trial)
        assert len(images) == 10 * classes
        assert found.method.fine_tunes <= ("@" in found.run.model), trial.name


def test_a_committed_study_runs_shrunk(
    stand_ins: Callable[..., Images],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the plan to the table, by the command line; a second start finds everything done."""
    monkeypatch.setenv("COLUMNS", "200")
    path = next(path for path in COMMITTED if path.stem == "paper-mnist")
    words = ["study", str(path), "--shrink", "--out", str(tmp_path / "out")]
    assert main([*words, "--plan"]) == main([*words, "--status"]) == 0
    shown = capsys.readouterr().out
    assert "a short timing of at" in shown
    assert "4 runs: 4 open." in shown
    assert not (tmp_path / "out").exists()
    assert main(words) == 0
    table = (tmp_path / "out" / "table.md").read_text()
    assert "H1 is " in table
    assert "Not answered: The question 'temperature'" in table
    assert [name for name in ("at", "trades", "mart", "he") if f"| {name} | ema-best |" not in table] == []
    before = {each: each.stat().st_mtime_ns for each in (tmp_path / "out").rglob("outcomes.npz")}
    assert len([each for each in before if each.parts[-3].startswith(("at", "trades", "mart", "he"))]) == 12
    assert "at with and without each class" in table
    assert "H7 is " in table
    assert main(words) == main([*words, "--status"]) == 0
    assert "4 runs: 4 done." in capsys.readouterr().out
    assert {each: each.stat().st_mtime_ns for each in (tmp_path / "out").rglob("outcomes.npz")} == before


def test_a_run_that_fails_ends_the_command_with_its_reason_and_a_table_of_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = TEXT + '[[method]]\nname = "wild"\nmethod = "at"\nrecipe = "digits(lr=2e9)"\n'
    text += '[[method]]\nmethod = "rslad"\nteacher = "wild"\n'
    path, out = written(tmp_path, text), tmp_path / "out"
    assert main(["study", str(path), "--shrink", "--out", str(out)]) == 2
    said = capsys.readouterr()
    assert "1 of 3 runs failed, and 1 wait; wild on digits_cnn, seed 0: " in said.err
    assert "| at | best |" in (out / "table.md").read_text()
    assert main(["study", str(path), "--shrink", "--out", str(out), "--status"]) == 0
    assert "3 runs: 1 done, 1 failed, 1 open." in capsys.readouterr().out


def test_tables_of_what_is_finished_start_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = written(tmp_path, TEXT), tmp_path / "out"
    words = ["study", str(path), "--shrink", "--out", str(out)]
    assert main([*words, "--tables"]) == 0
    assert "0 of 1 evaluations finished" in (out / "table.md").read_text()
    assert main(words) == 0
    made = {name: (out / name).read_bytes() for name in ("table.md", "table.json", "study.html")}
    for name in made:
        (out / name).unlink()
    capsys.readouterr()
    assert main([*words, "--tables"]) == 0
    assert {name: (out / name).read_bytes() for name in made} == made
    assert "| at | best |" in made["table.md"].decode()
    assert "done" not in capsys.readouterr().out  # no run was looked at again


def test_a_committed_study_of_given_models_runs_shrunk_without_their_data_and_says_what_stands_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = next(path for path in COMMITTED if path.stem == "gain")
    assert main(["study", str(path), "--shrink", "--data-dir", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "cifar10 is not there: digits stand in for it in this shrunk study." in said
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| mnist-smallcnn-trades | digits, Linf 0.15 | given |" in table
    assert "training" not in table


@pytest.mark.slow
@pytest.mark.parametrize("path", COMMITTED, ids=named)
def test_every_committed_study_runs_shrunk(path: Path, stand_ins: Callable[..., Images], tmp_path: Path) -> None:
    assert main(["study", str(path), "--shrink", "--out", str(tmp_path / "out")]) == 0
