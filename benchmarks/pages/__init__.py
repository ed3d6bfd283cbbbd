"""The page of results: tables and charts, made of the JSON alone."""
