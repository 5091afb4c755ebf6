r"""answers/: the decision table, and changes of spelling or of value whose effect is known.

`decisions.tsv` has one case per line, its cells separated by tabs:

    box         kind  right|wrong  content of the box    gold answer
    completion  kind  right|wrong  the whole completion  gold answer
    extract     kind  gives|none   the whole completion  the answer that is found in it

A line break within a cell is written as ⏎."""

import ast
import doctest
import importlib
import random
import re
from collections import defaultdict
from pathlib import Path

import pytest

import answers
from answers.equality import BadGold, Undecided, equal
from answers.extract import extract_answer
from answers.latex import FIRST_REWRITES, LAST_REWRITES, clean
from reward import grade

TABLE = Path(__file__).with_name("decisions.tsv")


def read_table() -> dict[tuple[str, str], list[tuple[str, str, str]]]:
    """(verdict, text, gold answer or found answer) of every case, by form and kind."""
    cases = defaultdict(list)
    for line in TABLE.read_text(encoding="utf-8").split("\n")[:-1]:
        form, kind, verdict, text, other = line.replace("⏎", "\n").split("\t")
        cases[form, kind].append((verdict, text, other))
    return cases


CASES = read_table()
BOXES = [case for (form, _), cases in CASES.items() if form == "box" for case in cases]


def verdict_of(form: str, text: str, gold: str) -> str:
    if form == "extract":
        return "none" if extract_answer(text) is None else "gives"
    completion = rf"So $\boxed{{{text}}}$." if form == "box" else text
    return "right" if grade(completion, gold) else "wrong"


@pytest.mark.parametrize("form, kind", CASES)
def test_decisions(form, kind):
    decided = [(verdict_of(form, text, other), text, other) for _, text, other in CASES[form, kind]]
    assert decided == CASES[form, kind]
    if form == "extract":
        found = [extract_answer(text) or "" for _, text, _ in CASES[form, kind]]
        assert found == [answer for _, _, answer in CASES[form, kind]]


def test_the_table_is_whole():
    assert sum(map(len, CASES.values())) > 2000
    assert {form for form, _ in CASES} == {"box", "completion", "extract"}
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    assert len(set(lines)) == len(lines)


# --- Rewrites ---

REWRITES = FIRST_REWRITES + LAST_REWRITES


@pytest.mark.parametrize("rewrite", REWRITES, ids=[rewrite.name for rewrite in REWRITES])
def test_example_of_a_rewrite(rewrite):
    assert rewrite(rewrite.before) == rewrite.after != rewrite.before
    assert clean(rewrite.before) == clean(rewrite.after)


def test_rewrites_have_names_of_their_own():
    assert len({rewrite.name for rewrite in REWRITES}) == len(REWRITES)


# --- What may not change a verdict ---


def settled(answer: str, gold: str) -> str:
    """The verdict as far as it is known without a worker, which takes microseconds."""
    try:
        return "right" if equal(answer, gold, by_value=False) else "wrong"
    except Undecided:
        return "undecided"


def by_value(answer: str, gold: str) -> bool:
    try:
        return equal(answer, gold, by_value=True)
    except BadGold:
        return False


RESPELL = {
    "spaces at both ends": lambda text: f"  {text} ",
    "dollar signs": lambda text: text if "$" in text else f"${text}$",
    "a period at the end": lambda text: text if re.search(r"[.!?,;}]$", text) else text + ".",
    "dfrac": lambda text: text.replace(r"\frac", r"\dfrac"),
    "tfrac": lambda text: text.replace(r"\frac", r"\tfrac"),
    "left and right": lambda text: re.sub(r"\((\w+, ?\w+)\)$", r"\\left(\1\\right)", text),
    "displaystyle": lambda text: rf"\displaystyle {text}",
    "a font": lambda text: text if re.search(r"[*_`]", text) else rf"\mathbf{{{text}}}",
    "thin spaces after commas": lambda text: re.sub(r", (?=\D)", r",\\, ", text),
}


@pytest.mark.parametrize("change", RESPELL)
def test_spelling_changes_no_verdict(change):
    """Every case of the table again, with its answer spelled in another way."""
    changed = []
    for _, text, gold in BOXES:
        respelled = RESPELL[change](text)
        # A label, a remark or a currency sign has its place at an end of the answer.
        if text.strip() and not re.search(r"^[A-Z]\w+[ :]|\\\$|\\text|[$€£¥₹]|^ ?\W+$", text):
            before, after = settled(text, gold), settled(respelled, gold)
            if before != after:
                changed.append((text, respelled, gold, before, after))
    assert changed == []


PLAIN = re.compile(r"-?\d+(?:\.\d+)?|-?\\frac\{\d+\}\{\d+\}|-?\d+/\d+|\d?\\sqrt\{?\d\}?")


@pytest.mark.parametrize("unit", [r" \text{ cm}", r" \text{ m/s}^2", r"^\circ", r" \text{ apples}"])
def test_one_unit_on_both_sides_changes_no_verdict(unit):
    pairs = [
        (verdict, text, gold)
        for verdict, text, gold in BOXES
        if PLAIN.fullmatch(text) and PLAIN.fullmatch(gold)
    ]
    assert len(pairs) > 40
    changed = [
        pair
        for pair in pairs
        if by_value(pair[1] + unit, pair[2] + unit) is not (pair[0] == "right")
    ]
    assert changed == []


def random_values(rng: random.Random, count: int) -> list[str]:
    """Different values in spellings that answers have."""
    numbers = rng.sample(range(-40, 40), count)
    spell = (
        lambda n: str(n),
        lambda n: f"{n}.5",
        lambda n: rf"\frac{{{n}}}{{41}}",
        lambda n: rf"{n}\sqrt{{2}}",
        lambda n: rf"{n}\pi",
        lambda n: f"{n}x",
    )
    return [rng.choice(spell)(n or 7 * 41) for n in numbers]


def test_order_of_a_list_does_not_count_and_of_a_tuple_does():
    rng = random.Random(1)
    for _ in range(60):
        values = random_values(rng, rng.randint(2, 5))
        shuffled = rng.sample(values, len(values))
        listed, other = ", ".join(values), ", ".join(shuffled)
        assert by_value(other, listed), (other, listed)
        assert by_value(rf"\{{{other}\}}", rf"\{{{listed}\}}"), (other, listed)
        assert by_value(f"({other})", f"({listed})") is (shuffled == values), (other, listed)


def with_digit(text: str, at: re.Match, digit: int) -> str:
    return f"{text[: at.start()]}{digit}{text[at.end() :]}"


def test_another_value_is_wrong_in_every_place():
    """A digit, a sign, a member, a bracket: each changed alone."""
    rng = random.Random(2)
    for _ in range(60):
        values = random_values(rng, 3)
        at = rng.randrange(3)
        digit = re.search(r"\d", values[at])
        another = with_digit(values[at], digit, (int(digit[0]) + 1) % 10 or 3)
        negated = values[at].removeprefix("-") if values[at][0] == "-" else f"-{values[at]}"
        for wrong in (another, negated):
            if wrong in values:
                continue
            members = [*values[:at], wrong, *values[at + 1 :]]
            for opening, closing in (("", ""), ("(", ")"), (r"\{", r"\}")):
                gold = f"{opening}{', '.join(values)}{closing}"
                assert not by_value(f"{opening}{', '.join(members)}{closing}", gold), (
                    members,
                    gold,
                )
                fewer = f"{opening}{', '.join(values[:-1])}{closing}"
                assert not by_value(fewer, gold), (fewer, gold)


def test_ends_of_an_interval_count():
    rng = random.Random(3)
    for _ in range(40):
        low, high = sorted(rng.sample(range(-30, 30), 2))
        opening, closing = rng.choice("(["), rng.choice(")]")
        gold = f"{opening}{low}, {high}{closing}"
        signs = {"(": "<", "[": r"\le", ")": "<", "]": r"\le"}
        assert by_value(f"{low} {signs[opening]} x {signs[closing]} {high}", gold)
        other_opening, other_closing = (
            "[" if opening == "(" else "(",
            "]" if closing == ")" else ")",
        )
        assert not by_value(f"{other_opening}{low}, {high}{closing}", gold)
        assert not by_value(f"{opening}{low}, {high}{other_closing}", gold)
        assert not by_value(f"{opening}{low}, {high + 1}{closing}", gold)


def test_every_digit_of_a_gold_answer_counts():
    """Golds of the table with one digit changed, against themselves."""
    rng = random.Random(4)
    golds = sorted({gold for _, _, gold in BOXES if re.search(r"\d", gold) and len(gold) < 40})
    wrong = []
    for gold in rng.sample(golds, 250):
        digit = rng.choice(list(re.finditer(r"\d", gold)))
        changed = with_digit(gold, digit, (int(digit[0]) + 4) % 10)
        if by_value(changed, gold):
            wrong.append((changed, gold))
    assert wrong == []


# --- The package ---

MODULES = sorted(Path(answers.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("module", MODULES, ids=[module.stem for module in MODULES])
def test_examples_in_docstrings(module):
    failed, _ = doctest.testmod(importlib.import_module(f"answers.{module.stem}"))
    assert failed == 0


def test_the_package_imports_nothing_else_of_the_project():
    ours = {path.stem for path in MODULES[0].parent.parent.glob("*.py")} | {"data", "run"}
    imported = {
        name.split(".")[0]
        for module in MODULES
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in [getattr(node, "module", None), *(alias.name for alias in node.names)]
        if name
    }
    assert not imported & ours
