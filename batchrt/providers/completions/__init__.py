"""Completion models."""
