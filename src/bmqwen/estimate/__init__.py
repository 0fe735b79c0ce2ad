"""How fast a model will be on the chip, and why: predicted from the compiler's timing.

May import compiler and what it may import.
"""
