"""The routes of the mock provider: request bodies in, replies out."""
