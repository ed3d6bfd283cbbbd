"""The scenarios: kinds of work that contenders are compared on."""
