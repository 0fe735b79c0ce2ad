"""Emitters: they turn a network into ONNX (two dialects), Top-MLIR, or numpy arrays.

May import artifact, quant, weights, model, chip and util.
"""
