"""How the mock fails and how long it takes, the same in every run with the same seed."""
