"""What the pack costs, each figure by a command that prints it."""
