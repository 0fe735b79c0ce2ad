"""Quantisation by what a model computes on calibration text: its layers in turn, in bounded memory, resumable.

May import generate, emit, quant, weights, model and util.
"""
