"""Parameters of other people's models: their names, and where each lies in ours."""
