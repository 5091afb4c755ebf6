"""Text -> answer, and whether two answers are equal. It imports nothing of the project."""
