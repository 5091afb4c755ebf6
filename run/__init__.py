"""What any training script needs and knows no tree. It imports nothing of the project."""
