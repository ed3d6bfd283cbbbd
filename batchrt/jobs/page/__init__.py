"""The page of a job: its journal as pictures and tables, in one HTML file."""
