"""What plain rounding to nearest costs: each group's grid from its least to its greatest value, nothing searched.

`python benchmarks/nearest.py` prints what `bmqwen evaluate` prints for bmqwen's own rounding, on the same texts, or on
those named: `--text benchmarks/texts/english.txt`.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import get_args

from bmqwen.emit.export import export_onnx
from bmqwen.evaluation.model_pair import FLOAT, ModelPair
from bmqwen.evaluation.text_score import TextScore, evaluate_text, held_out_texts, read_documents
from bmqwen.generate.tokenizer import Tokenizer
from bmqwen.hub.hub import Hub
from bmqwen.quant.grid_weights import GridWeights
from bmqwen.quant.precision import Format, Precision
from bmqwen.resolve import resolve_bundle
from bmqwen.runtime.cpu import CpuRuntime
from bmqwen.util.paths import cache_folder
from bmqwen.util.progress import Silent
from bmqwen.util.storage import storage_errors
from bmqwen.weights.checkpoint import open_checkpoint
from report import run_benchmark


@contextmanager
def open_nearest(model: str | None, precision: Precision) -> Iterator[ModelPair]:
    """A checkpoint rounded to nearest, beside its float model; takes the memory and disk of two float exports.

    Args:
        model: what `Hub.resolve` takes.
        precision: formats of the weights; GPTQ and AWQ grids stay as they are stored.

    Raises:
        BmqwenError: what `Hub.resolve`, `open_checkpoint`, `export_onnx` and `CpuRuntime` raise.
    """
    with ExitStack() as stack:
        source = stack.enter_context(open_checkpoint(Hub().resolve(model)))
        weights = GridWeights(source.weights, source.config, precision, search=False)
        place = cache_folder("benchmarks")
        with storage_errors(place):
            place.mkdir(parents=True, exist_ok=True)
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=place)))
        rounded = replace(source, weights=weights, config=weights.config)
        bundles = [
            export_onnx(rounded, scratch / "nearest", FLOAT),
            resolve_bundle(str(source.path.absolute()), FLOAT, offline=True, progress=Silent()),
        ]
        model_runtime, reference = (stack.enter_context(closing(CpuRuntime(bundle))) for bundle in bundles)
        yield ModelPair(
            name=source.name,
            precision=precision,
            arithmetic="float",
            model=model_runtime,
            reference=reference,
            reference_name=source.name,
            tokenizer=Tokenizer.from_folder(bundles[0].folder),
            identity=["to nearest", str(source.path)],
        )


def main() -> int:
    """The command. Returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="what to round; default: the demo model")
    parser.add_argument(
        "--text", type=Path, action="append", help="may be given several times; default: the texts that ship"
    )
    parser.add_argument("--quant", choices=get_args(Format), default="int4")
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--lm-head", choices=get_args(Format))
    options = parser.parse_args()

    def measure() -> None:
        precision = Precision.choose(options.quant, options.group_size, options.lm_head)
        texts = {str(path): read_documents(path) for path in options.text or ()} or held_out_texts()
        with open_nearest(options.model, precision) as pair:
            print(f"to nearest: {pair}")
            scores = []
            for name, documents in texts.items():
                scores.append(evaluate_text(pair, documents))
                print(f"\n{name}: {scores[-1]}", flush=True)
            if len(scores) > 1:
                print(f"\nall texts: {TextScore.together(scores)}")

    return run_benchmark("nearest", measure)


if __name__ == "__main__":
    sys.exit(main())
