"""Bmodels on a chip, with any of the vendor's libraries: positions, masks, K/V rows, planning."""
