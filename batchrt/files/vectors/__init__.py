"""Vectors in files: .npy, Parquet and JSONL."""
