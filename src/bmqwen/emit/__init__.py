"""The network, written once, and the emitters that turn it into ONNX or Top-MLIR."""
