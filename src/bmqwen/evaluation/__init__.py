"""How far a model in some precision, or compiled, is from the float model."""
