"""Who is called: OpenAI-compatible providers over HTTP."""
