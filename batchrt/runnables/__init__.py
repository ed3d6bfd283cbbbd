"""What runs: the algebra of runnables. Knows nothing of HTTP or files."""
