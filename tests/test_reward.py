"""The grader's rules: what is right, what is wrong, what is found in a completion, and what hostile text can't do."""

import json
import os
import random
import sys
import threading
import time

import psutil
import pytest
from conftest import REAL_DATA
from slow_comparison import slow

import reward
from reward import Grader, extract_answer, grade

# (gold, answer)
RIGHT = [
    ("1024", "2^{10}"),
    ("4.5\\times 10^{33}", "4.5e33"),
    ("1/3", "0.\\overline{3}"),
    ("[5,\\infty)", "x\\ge 5"),
    ("50\\%", "0.5"),
    ("0.5", "50\\%"),
    ("5\\text{ cm}", "5"),
    ("5", "5 \\text{ cm}"),
    ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\pi/2)"),
    ("\\frac{1}{2}", "0.5"),
    ("\\frac{1}{2}", "\\frac12"),
    ("1234", "1,234"),
    ("1234", "1{,}234"),
    ("x=5", "5"),
    ("5", "x=5"),
    ("1,2", "2, 1"),
    ("\\{1,2\\}", "1,2"),
    ("1,2", "x=1 \\text{ or } x=2"),
    ("\\pm 2", "-2, 2"),
    ("(-\\infty,1)\\cup(2,\\infty)", "x<1 \\text{ or } x>2"),
    ("3\\sqrt{2}", "\\sqrt{18}"),
    ("\\text{Evelyn}", "Evelyn"),
    ("(B)", "\\text{B}"),
    ("B", "(B)"),
    ("y=2x+3", "2x+3"),
    ("90", "90^\\circ"),
    ("90^\\circ", "90"),
    ("\\$5", "5"),
    ("5", "\\$5"),
    ("\\frac{3}{2}", "1\\frac{1}{2}"),
    ("1\\frac12", "1.5"),
    ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
    ("11\\sqrt2", "11\\sqrt{2}"),
    ("x^2+2x+1", "(x+1)^2"),
    ("2x+3", "3+2x"),
    ("p - q", "-q+p"),
    ("\\frac{\\sqrt{3}}{3}", "\\frac{1}{\\sqrt{3}}"),
    ("6 - 5i", "-5i+6"),
    ("\\frac 59", "5/9"),
    ("(1,2)", "(1, 2)"),
    ("[1,2)", "1\\le x<2"),
    ("x \\in [-2,7]", "[-2,7]"),
    ("$42$", "42"),
    ("5.0", "5"),
    ("-\\frac{1}{2}", "\\frac{-1}{2}"),
    ("2516_8", "2516_8"),
    ("10:30", "10:30"),
    ("\\text{no solution}", "No solution"),
    ("x>3", "3<x"),
    ("\\log_2 3", "\\frac{\\ln 3}{\\ln 2}"),
    ("5!", "120"),
    ("\\infty", "∞"),
    ("1:2", "1:2"),
    ("12\\pi", "12π"),
    ("3x^2", "3x²"),
    ("\\frac{14}{3}", "14/3"),
    ("10\\%", "10"),
    ("2\\text{ hours}", "2 hours"),
    ("15\\mbox{ cm}^2", "15"),
    ("15\\mbox{ cm}^2", "15 \\text{ cm}^2"),
    ("864 \\mbox{ inches}^2", "864"),
    ("5", "5.0"),
    ("\\frac{3}{4}", "75\\%"),
    ("12\\text{ minutes}", "12\\text{ min}"),
    ("-3", "−3"),
    ("0.5", "\\frac{1}{2}"),
    ("\\{1,2,3\\}", "\\{3, 1, 2\\}"),
    ("x\\ge 5", "[5,\\infty)"),
    ("(1,2)\\cup(3,4)", "(3,4)\\cup(1,2)"),
    ("8.7e8", "8.7 \\times 10^{8}"),
    ("1\\,234", "1234"),
    ("3,-3", "\\pm 3"),
    ("-1<x<3", "(-1,3)"),
    ("2\\sqrt{3}+1", "1+2\\sqrt3"),
    ("10000000", "10^7"),
    ("\\frac{\\pi}{4}", "\\frac14\\pi"),
    ("5", "５"),
]
WRONG = [
    ("3", "\\neq 3"),
    ("(1,2)", "(2,1)"),
    ("(1,2)", "[1,2]"),
    ("[5,\\infty)", "x>5"),
    ("5\\text{ cm}", "5 \\text{ m}"),
    ("\\frac13", "0.33"),
    ("\\frac13", "0.333333"),
    ("\\pi", "3.14"),
    ("5", "-5"),
    ("1,2", "1,2,3"),
    ("1,2", "1"),
    ("1", "1 \\text{ or } 2"),
    ("(1,234)", "1234"),
    ("\\infty", "-\\infty"),
    ("x>3", "x\\ge 3"),
    ("2x+3", "2x-3"),
    ("5", "5x"),
    ("2516_8", "2516_9"),
    ("1011_2", "1011_3"),
    ("5", "5,6"),
    ("\\text{even}", "odd"),
    ("A", "B"),
    ("\\{1,2\\}", "(1,2)"),
    ("3", "3?"),
    ("x<3", "x>3"),
    ("\\sqrt2", "1.414214"),
    ("5\\text{ cm}^2", "5\\text{ cm}"),
    ("\\$5", "5 \\text{ cents}"),
    ("1:2", "2:1"),
    ("12", "1.2"),
    ("y=2x+3", "y=2x+4"),
    ("2x - y + 3 = 0", "2x-y-3=0"),
    ("(0,1)", "[0,1)"),
    ("10:30", "10:31"),
    ("x=5", "y=6"),
    ("p-q", "q-p"),
    ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix}2\\\\1\\end{pmatrix}"),
    ("5", "5 or 6"),
    ("3", "3, maybe 4"),
    ("1024", "2^{11}"),
    ("x\\le 5", "[5,\\infty)"),
    ("\\frac{1}{6}", "0.1\\overline{7}"),
    ("12\\text{ minutes}", "12\\text{ hours}"),
    ("100", "10"),
    ("(1,2)", "(1,2,3)"),
    ("(1,2)\\cup(3,4)", "(1,2)"),
    ("\\pm 3", "3"),
    ("-1<x<3", "[-1,3)"),
    ("e", "3"),
    ("2^{10}", "1025"),
    ("50\\%", "5"),
    ("7", "7x"),
    ("0", "\\emptyset"),
    ("4", "(4,4)"),
]


@pytest.mark.parametrize("gold, answer", RIGHT)
def test_equal_values_in_other_forms_are_right(gold, answer):
    assert grade(f"So it is \\boxed{{{answer}}}.", gold)


@pytest.mark.parametrize("gold, answer", WRONG)
def test_other_values_are_wrong(gold, answer):
    assert not grade(f"So it is \\boxed{{{answer}}}.", gold)


@pytest.mark.parametrize(
    "completion, answer",
    [
        (r"so \boxed{5}", "5"),
        (r"\boxed{\frac{1}{2}} is it", r"\frac{1}{2}"),
        (r"\boxed{4}. Wait, I forgot one: \boxed{5}.", "5"),
        (r"First \boxed{1}. Then the second part gives 2, hence in all \boxed{3}", "3"),
        (r"\boxed{5} and again \boxed{5}", "5"),
        (r"\fbox{7}", "7"),
        (r"\boxed 8", "8"),
        ("#### 1,234", "1,234"),
        ("The answer is 42.", "42"),
        ("The final answer is: $x+1$.", "$x+1$"),
        ("Final answer: **17**", "17"),
        ("the answer is not 5", None),
        (r"it is not \boxed{5}", None),
        ("nothing here", None),
        ("", None),
        (r"\boxed{}", None),
        (r"\boxed{ }", None),
        (r"\boxed{5", None),
        (r"<think>\boxed{3}</think> so \boxed{4}", "4"),
        (r"<think>the answer is \boxed{3}", None),
        (r"\boxed{3}</think> \boxed{4}", "4"),
        (r"<think>\boxed{3}</think> I do not know", None),
    ],
)
def test_extraction(completion, answer):
    assert extract_answer(completion) == answer


@pytest.mark.parametrize(
    "completion",
    [r"\boxed{1} or \boxed{2}", r"either \boxed{2} or \boxed{1}", r"\boxed{1}, \boxed{2}", r"\boxed{1 \text{ or } 2}",
     r"\boxed{1, 2, or 3}", "The answer is 1 or 2", r"\boxed{1} \boxed{2} \boxed{3}", r"\boxed{1;2}"],
)  # fmt: skip
def test_hedges_are_wrong(completion):
    assert not grade(completion, "1") and not grade(completion, "2")


def test_gold_in_dollars():
    assert grade(r"\boxed{x^2}", "$x^2$") and grade(r"\boxed{5}", r"\$5")


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="the real problem sets are not here")
def test_every_gold_answer_equals_itself_and_few_others():
    golds = [
        json.loads(line)["answer"]
        for name in ("math500", "minerva", "olympiadbench", "amc", "aime24")
        for line in (REAL_DATA / f"{name}.jsonl").read_text().splitlines()
    ]
    rng = random.Random(0)
    others = [rng.sample(golds, 2) for _ in range(300)]
    with Grader(timeout=10.0) as grader:
        assert all(grader.grade_batch([f"\\boxed{{{gold}}}" for gold in golds], golds))
        assert grader.stats["timeouts"] == grader.stats["kills"] == 0
        grades = grader.grade_batch([f"\\boxed{{{a}}}" for a, _ in others], [b for _, b in others])
    assert [pair for pair, g in zip(others, grades) if g and pair[0] != pair[1]] == []


HOSTILE = [
    r"\boxed{9^{9^{9^{9^{9}}}}}",
    r"\boxed{10^{10^{10}}!}",
    r"\boxed{(10^{9})!}",
    r"\boxed{\sum_{n=1}^{10^{12}} \sin(n^n)}",
    r"\boxed{__import__('os').system('touch INJECTED')}",
    r"\boxed{eval(open('INJECTED','w'))}",
    r"\boxed{\text{$(touch INJECTED)}}",
    "\\boxed{" * 20_000,
    "{" * 1_000_000,
    r"\boxed{" + "(" * 5_000 + ")" * 5_000 + "}",
    r"\boxed{" + "1+" * 100_000 + "1}",
    r"\boxed{" + "9" * 100_000 + "}",
    r"\boxed{1e999999999}",
    r"\boxed{\frac{1}{0}}",
    r"\boxed{\x00\ud800}",
    "<think>" * 100_000,
    "the answer is " * 50_000,
    r"\boxed{" + ",".join(map(str, range(60))) + "}",
    r"\boxed{\begin{matrix} & & \\ }",
]


def test_hostile_completions_neither_hang_nor_run_nor_spoil_the_grader(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = time.monotonic()
    with Grader(workers=2, timeout=1.0) as grader:
        grades = grader.grade_batch(HOSTILE, [r"\frac{\pi}{7}"] * len(HOSTILE))
        assert not any(grades) and grader.stats["timeouts"] + grader.stats["kills"] > 0
        # an ordinary pair that needs a worker is still graded right, in time
        assert grader.grade_batch([r"\boxed{\sqrt{18}}", r"\boxed{4}"], [r"3\sqrt{2}", "5"]) == [1.0, 0.0]
    assert time.monotonic() - start < 40
    assert list(tmp_path.iterdir()) == []


def batch(grader, answers, monkeypatch):
    monkeypatch.setattr(reward, "_equal", slow)
    monkeypatch.setattr(reward, "_clean", str)
    monkeypatch.setattr(reward, "_settle", lambda answer, gold: None)
    return grader.grade_batch([f"\\boxed{{{a}}}" for a in answers], ["x"] * len(answers))


def test_limits_kill_and_count(monkeypatch):
    with Grader(workers=2, timeout=1.0, memory_mb=300) as grader:
        # Six pairs of 0.5 s on two workers take longer than the limit in all: only each one's own time counts.
        assert batch(grader, [f"sleep 0.5{i}" for i in range(6)], monkeypatch) == [1.0] * 6
        assert batch(grader, ["sleep 30", "eat 50", "eat 2000", "die", "ok"], monkeypatch) == [0, 1, 0, 0, 1]
        assert grader.stats["timeouts"] == 1 and grader.stats["kills"] == 3  # the dead one was tried twice
        assert batch(grader, ["fine"], monkeypatch) == [1.0]


def test_a_worker_killed_from_outside_loses_nothing(monkeypatch):
    with Grader(workers=2, timeout=20.0) as grader:
        batch(grader, ["warm"], monkeypatch)

        def kill():
            time.sleep(0.7)
            workers = [p for p in psutil.Process().children(recursive=True) if not p.children() and "forkserver" in
                       " ".join(p.cmdline())]  # fmt: skip
            workers[0].kill()

        killer = threading.Thread(target=kill)
        killer.start()
        assert batch(grader, [f"sleep 0.5{i}" for i in range(8)], monkeypatch) == [1.0] * 8
        killer.join()


def test_distinct_pairs_are_graded_once_and_in_order():
    completions = [r"\boxed{\sqrt{18}}", r"\boxed{7}", "no answer", r"\boxed{\sqrt{18}}"] * 50
    with Grader() as grader:
        assert grader.grade_batch(completions, [r"3\sqrt{2}"] * 200) == [1.0, 0.0, 0.0, 1.0] * 50
        assert grader.stats["pairs"] == 2
        assert grader.grade_batch([], []) == []


def test_grading_works_from_any_thread():
    found = {}
    with Grader() as grader:

        def work(i):
            found[i] = grader.grade_batch([rf"\boxed{{\sqrt{{{i * i * 2}}}}}"], [rf"{i}\sqrt{{2}}"])

        threads = [threading.Thread(target=work, args=(i,)) for i in range(2, 6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {i: [1.0] for i in range(2, 6)}


def test_no_worker_outlives_the_grader():
    with Grader() as grader:
        grader.grade_batch([r"\boxed{\sqrt{18}}"], [r"3\sqrt{2}"])
        workers = [process.pid for process in grader.pool._pool_manager.worker_manager.workers.values()]
        assert len(workers) == 2
    assert not any(psutil.pid_exists(pid) for pid in workers)


def test_the_module_needs_no_torch():
    import subprocess

    code = "import reward, sys; assert reward.grade(r'\\boxed{1/2}', '0.5'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=os.path.dirname(reward.__file__))
