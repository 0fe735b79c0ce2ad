"""What a layer of the gated delta rule costs on the chip, in the ways that the compiler leaves to read several tokens.

    PYTHONPATH=src python benchmarks/gated_delta_nets.py --tokens 1,16,64

Each net is compiled with random weights, INT4 group 64; a layer's time is what a net of two has beyond a net of one, in
microseconds. The ways: `steps` is the chip's kernel for one token, one after the other, which changes the state where
it lies; `chunk` is the rule over all tokens at once in plain operations. bmqwen compiles the former for one token, the
latter for more. `none` leaves the rule out, which tells what it costs itself. `full` is a layer of attention after 512
tokens.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from bmqwen.artifact.steps import StepShape
from bmqwen.compiler.timing import read_profile
from bmqwen.compiler.toolchain import Toolchain, open_toolchain
from bmqwen.compiler.tpuc import Recipe, compile_net
from bmqwen.emit.mlir import MlirOps
from bmqwen.emit.mlir_delta import DeltaLayers
from bmqwen.emit.mlir_file import MlirFile, Value, WeightFile
from bmqwen.estimate.representative import RandomBlocks
from bmqwen.hub.known_config import published_config
from bmqwen.model.config import ModelConfig
from bmqwen.quant.precision import Precision

CONTEXT = 512
INT4 = Precision("int4", 64, "int4")
FULL, LINEAR = "full_attention", "linear_attention"


class WithoutRule(DeltaLayers):
    """Layers whose results are the values, whatever queries, keys and the state are."""

    def gated_delta(
        self,
        qkv: Value,
        decay: Value,  # noqa: ARG002
        beta: Value,  # noqa: ARG002
        a_log: str,  # noqa: ARG002
        dt_bias: str,  # noqa: ARG002
        layer: int,  # noqa: ARG002
    ) -> Value:
        """Emit no more than a slice."""
        return self._part(qkv, 2, 2 * self._sizes.key_dim, self._sizes.conv_dim)


class TokenByToken(DeltaLayers):
    """Layers by the chip's kernel for one token, which writes the state."""

    def gated_delta(
        self, qkv: Value, decay: Value, beta: Value, a_log: str, dt_bias: str, layer: int
    ) -> Value:
        """Emit the kernel for each token."""
        parts, gates = self._parts(qkv, layer), self._gates(decay, beta, a_log, dt_bias)
        made = []
        for token in range(self._tokens):
            q, k, v = (self._part(part, 1, token, token + 1) for part in parts)
            g, rates = (self._part(gate, 2, token, token + 1) for gate in gates)
            made.append(self._recurrence(q, k, v, g, rates, self._past[layer][1]))
        y = made[0] if len(made) == 1 else self._file.concat(made, 1, next(self._names))
        return self._reshaped(y, (1, self._tokens, self._sizes.value_dim))


class AllTokens(DeltaLayers):
    """Layers in plain operations, also for one token."""

    _kernel = False


# Columns of the table: kinds of layers, and how those with a state are emitted.
WAYS = {
    "full": (FULL, DeltaLayers),
    "none": (LINEAR, WithoutRule),
    "steps": (LINEAR, TokenByToken),
    "chunk": (LINEAR, AllTokens),
}


def layer_cycles(toolchain: Toolchain, config: ModelConfig, way: str, tokens: int) -> int:
    """Compile nets of one and of two layers, without embedding and head; returns the cycles between them."""
    (kind, delta_layers), cycles = WAYS[way], []
    for count in (1, 2):
        cut = replace(config, num_hidden_layers=count, layer_types=(kind,) * count, layers_after=1)
        with tempfile.TemporaryDirectory() as folder:
            mlir, file, weights = (
                Path(folder) / "net.mlir",
                MlirFile("net"),
                WeightFile(Path(folder) / "w.npz"),
            )
            shape = StepShape(tokens, CONTEXT)
            ops = MlirOps(file, cut, shape, CONTEXT, INT4, weights, RandomBlocks(cut))
            ops.delta_layers = delta_layers
            ops.hand_over(*cut.network.emit_layers(ops))
            weights.close()
            mlir.write_text(file.text("w.npz"))
            cycles.append(read_profile(compile_net(toolchain, mlir, Recipe("W4F16")).profile).cycles)
    return cycles[1] - cycles[0]


def main() -> None:
    """Print a table in Markdown, in microseconds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="qwen3.5-2b")
    parser.add_argument("--tokens", default="1,16,64")
    options = parser.parse_args()
    config = published_config(options.model)
    if config is None or config.linear is None:
        parser.error(f"{options.model} has no layers of the gated delta rule")
    toolchain = open_toolchain(report=print)
    print(f"| tokens | {' | '.join(WAYS)} |\n|---|" + "---|" * len(WAYS))
    for tokens in map(int, options.tokens.split(",")):
        cells = [f"{layer_cycles(toolchain, config, way, tokens) / 1000:,.0f}" for way in WAYS]
        print(f"| {tokens} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
