"""Precisions: which formats weights are stored in, and the one definition of a quantised weight for CPU and chip.

A format is an entry of `formats.make_format`, and a case of each emitter in `emit/` where it is of a new kind. A
calibrated method is a `Weights` that brings its own grids (`weights.weights.GridSource`): every format keeps those.
"""

from typing import Literal

# What `--quant` and `--lm-head` take; light to import, since the commands' options name it.
Format = Literal["f32", "f16", "int8", "int4"]
ChipFormat = Literal["f16", "int8", "int4"]
