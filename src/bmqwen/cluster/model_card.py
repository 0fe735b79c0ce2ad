"""What the processes that take requests in need of a model; they get it from an engine and have no weights."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bmqwen.artifact.bundle import Bundle
from bmqwen.engine import params_of, precision_of
from bmqwen.generate.params import SamplingParams
from bmqwen.generate.template import ChatTemplate
from bmqwen.generate.tokenizer import Tokenizer
from bmqwen.serve.defaults import Limits
from bmqwen.serve.pool.wire import EngineFacts
from bmqwen.serve.service import Model

# Of a tokenizer and its chat template.
_ENDINGS = (".json", ".jinja", ".txt", ".model")
_LARGEST = 64 << 20


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A model as an engine has loaded it.

    Attributes:
        files: of the tokenizer, by their names.
    """

    name: str
    precision: str
    vocab_size: int
    defaults: SamplingParams
    facts: EngineFacts
    files: dict[str, bytes]

    @classmethod
    def of(cls, bundle: Bundle, facts: EngineFacts) -> "ModelCard":
        """Describe a bundle."""
        files = {
            path.name: path.read_bytes()
            for path in sorted(bundle.tokenizer_folder.iterdir())
            if path.suffix in _ENDINGS and path.stat().st_size < _LARGEST
        }
        return cls(
            bundle.model, precision_of(bundle), bundle.config.vocab_size, params_of(bundle), facts, files
        )

    def model(self, name: str, defaults: SamplingParams, limits: Limits) -> Model:
        """Return the model under a name, with what requests get that say nothing."""
        with tempfile.TemporaryDirectory() as folder:
            for file, content in self.files.items():
                Path(folder, Path(file).name).write_bytes(content)
            tokenizer = Tokenizer.from_folder(Path(folder))
            template = ChatTemplate.from_folder(Path(folder))
        created = int(time.time())
        return Model(name, self.precision, tokenizer, template, defaults, limits, created, self.vocab_size)
