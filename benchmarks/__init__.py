"""The benchmarks: contenders that do the same work, measured in turns, and the page of their results."""
