"""Text -> answer, and whether two answers are equal. It imports nothing else of the project.

In the order of their work: extract finds the answer in a completion; characters, commands and latex
give it one spelling; parse says what kind it is, and units reads what follows a number; equality
compares two answers; value asks math-verify where nothing simpler decides.
"""
