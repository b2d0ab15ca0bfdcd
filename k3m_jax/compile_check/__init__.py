"""What a step costs on a machine that is not here."""
