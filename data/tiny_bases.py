"""Where the tiny bases lie: the models that the built-in tasks train from, one for each task.

data/make_tiny_base.py makes them.
"""

from pathlib import Path

DATA = Path(__file__).parent
# Task -> the folder of its base; for one of reasoning-gym's tasks, its name after a colon.
TINY_BASES = {
    "arithmetic": DATA / "tiny_base",
    "countdown": DATA / "tiny_countdown",
    "sudoku4": DATA / "tiny_sudoku4",
    "maze": DATA / "tiny_maze",
    "chain": DATA / "tiny_chain",
    "exam": DATA / "tiny_exam",
    "reasoning_gym:spell_backward": DATA / "tiny_spell_backward",
}
# A line like any other: a base finds its place by the line break before it.
PROMPT_TEMPLATE = "\n{problem}\n"
