"""Durable jobs: rows whose outcomes are kept in a journal, so that a killed job goes on where it stopped."""
