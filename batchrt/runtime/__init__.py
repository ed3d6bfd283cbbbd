"""How work runs. Knows callables and inputs, and nothing of runnables, HTTP or files."""
