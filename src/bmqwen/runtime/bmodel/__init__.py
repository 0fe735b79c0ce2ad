"""Bmodels on a chip, whichever of the vendor's libraries opens it: positions, masks, K/V rows, planning."""
