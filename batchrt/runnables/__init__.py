"""The algebra of runnables: steps, their composition and entry points. No HTTP and no files here."""
