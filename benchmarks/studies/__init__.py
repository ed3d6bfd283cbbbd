"""Studies of limits, lists and streams: tables on the terminal, with targets of their own."""
