"""Group grids: the one definition of a quantised weight, for the CPU and for the chip."""
