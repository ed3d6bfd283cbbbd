"""The harness: processes, clocks, the mock provider, and rounds in turns."""
