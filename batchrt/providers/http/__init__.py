"""Requests and responses over HTTP: transport, endpoint, headers, errors."""
