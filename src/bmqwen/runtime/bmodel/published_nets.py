"""The nets of the vendor's published bmodels on a device: embedding, one net a layer, head."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bmqwen.artifact.bmodel import IO_ALONE
from bmqwen.chip.spec import SPECS
from bmqwen.errors import BundleError, DeviceError
from bmqwen.model.config import ModelConfig
from bmqwen.runtime.bmodel.backend import DeviceBackend, Launch, Memory, Network, Port, Stage
from bmqwen.runtime.bmodel.device_nets import CLOSED, DeviceNets
from bmqwen.util.float16 import from_half, to_half


class PublishedNets(DeviceNets):
    """Runs the nets in turn: a whole prompt through `block_i`, or one token through `block_cache_i`.

    Intermediate results stay on the device. Each net's inputs are, in this order: states, position_ids, and
    attention_mask where the net has one; `block_cache_i` also has keys and values. Their names do not matter.
    `context` is also the length of a prompt's nets.
    """

    def __init__(self, backend: DeviceBackend, config: ModelConfig) -> None:
        """Find the nets and lay out memory.

        Raises:
            BundleError: nets are missing, or do not fit `config`.
            DeviceError: another chip, or not enough memory.
        """
        super().__init__(backend)
        self._config = config
        if backend.chip not in SPECS:
            raise DeviceError(
                f"{backend} is a {backend.chip}, and only nets for {' or '.join(SPECS)} can be run"
            )
        layers = range(config.num_hidden_layers)
        blocks = [self._net(f"block_{i}").stages[0] for i in layers]
        steps = [self._net(f"block_cache_{i}") for i in layers]
        self._check(blocks[0], steps[0].stages[0])
        self.context = blocks[0].inputs[0].shape[1]
        self._row, self._row_type = (steps[0].stages[0].outputs[1].nbytes,), np.uint8
        state = blocks[0].inputs[0]
        # Memory of our own between the nets: where they keep theirs, the next one may compute.
        states = [backend.allocate(state) for _ in range(2)]
        cache = self._cache = [self._history(net, index) for net in steps for index in (-2, -1)]
        self._prompt = _Pass(self, self._stage("embedding"), blocks, states, cache, step=False)
        self._step = _Pass(
            self, self._stage("embedding_cache"), [s.stages[0] for s in steps], states, cache, step=True
        )
        self._last = states[config.num_hidden_layers % 2]
        self._state_bytes = state.nbytes // self.context
        self._head = self._stage("lm_head")
        self._result = self._head.outputs[0]
        self._choice: Launch | None = None
        self._token = self._result
        # Else the head gives the most likely token only.
        self._has_logits = int(np.prod(self._result.shape)) > 1
        if self._has_logits and "greedy_head" in self._backend.networks:
            greedy = self._stage("greedy_head")
            self._token = greedy.outputs[0]
            self._choice = backend.prepare(greedy, [self._result.memory], [self._token.memory])

    def run_prompt(self, tokens: Sequence[int]) -> None:
        """Compute a whole prompt from position 0 on."""
        count, arrays = len(tokens), self._prompt.arrays
        arrays[0][:] = 0
        arrays[0].flat[:count] = tokens
        arrays[1][:] = 0
        arrays[1].flat[:count] = np.arange(count)
        if len(arrays) > 2:
            arrays[2][:] = self._prompt.closed
            arrays[2][0, 0, :count, :count] = np.triu(
                np.full((count, count), self._prompt.closed, arrays[2].dtype), 1
            )
        self._run(self._prompt, 0)

    def run_token(self, token: int, position: int) -> None:
        """Compute one token after `position` cached ones."""
        arrays = self._step.arrays
        arrays[0][:] = token
        arrays[1][:] = position
        if len(arrays) > 2:
            arrays[2][..., :position] = 0
            arrays[2][..., position : self.context] = self._step.closed
            # The token's own key stands behind the whole history.
            arrays[2][..., self.context :] = 0
        self._run(self._step, position * self.row_bytes)

    def run_head(self, row: int) -> None:
        """Norm and head for one row of what was computed last (0 after a single token)."""
        state = self._last.view(row * self._state_bytes, self._state_bytes)
        self._start(self._backend.prepare(self._head, [state], [self._result.memory]))

    def token_id(self) -> int:
        """The most likely token after the row that the head was run for."""
        if self._has_logits and self._choice is None:
            return int(self.logits()[0].argmax())
        if self._choice is not None:
            self._start(self._choice)
        return int(self._value(self._token).flat[0])

    def logits(self) -> NDArray[np.float32]:
        """Logits float32 [1, vocab] of that row. Raises DeviceError where the head gives a token only."""
        if not self._has_logits:
            raise DeviceError(
                f"{self._backend.path.name} computes only the most likely token: it can neither sample nor tell "
                "probabilities"
            )
        return self._value(self._result).astype(np.float32).reshape(1, -1)

    def _run(self, work: "_Pass", offset: int) -> None:
        self._settle()
        self._write(work.block)
        for launch in work.launches:
            self._start(launch, offset)

    def _value(self, port: Port) -> NDArray[Any]:
        array = np.empty(port.shape, port.dtype)
        self._read(port.memory, array)
        return from_half(array, "bf16") if port.bfloat16 else array

    def _history(self, net: Network, index: int) -> Memory:
        """Zeroed memory for a layer's keys (-2) or values (-1)."""
        port = net.stages[0].inputs[index]
        # Only this mode keeps a net's inputs apart from what others compute; there they need no copying.
        memory = port.memory if net.address_mode == IO_ALONE else self._backend.allocate(port)
        memory.write(np.zeros(port.nbytes, np.uint8))
        return memory

    def _net(self, name: str) -> Network:
        net = self._backend.networks.get(name)
        if net is None:
            found = ", ".join(list(self._backend.networks)[:4])
            raise BundleError(
                f"{self._backend.path} has no net {name}: it is of another layout ({found}, ...)"
            )
        return net

    def _stage(self, name: str) -> Stage:
        return self._net(name).stages[0]

    def _check(self, block: Stage, step: Stage) -> None:
        """Raise BundleError unless the nets are of the model that the bundle describes."""
        c = self._config
        length = block.inputs[0].shape[1] if len(block.inputs[0].shape) == 3 else 0
        rows = (c.num_key_value_heads, c.head_dim)
        for stage, tokens, inputs in ((block, length, (2, 3)), (step, 1, (4, 5))):
            found = [port.shape for port in stage.outputs]
            wanted = [(1, tokens, c.hidden_size), (1, tokens, *rows), (1, tokens, *rows)]
            if found != wanted or len(stage.inputs) not in inputs:
                raise BundleError(
                    f"{self._backend.path}: net {stage.net} has the outputs {found}, which do not fit the model"
                )
        if f"block_{c.num_hidden_layers}" in self._backend.networks:
            raise BundleError(
                f"{self._backend.path} has more than the {c.num_hidden_layers} layers of the model"
            )


class _Pass:
    """Launches of one kind, in order; `arrays` are ids, positions and the mask if there is one."""

    def __init__(
        self,
        owner: PublishedNets,
        embedding: Stage,
        blocks: Sequence[Stage],
        states: Sequence[Memory],
        cache: Sequence[Memory],
        *,
        step: bool,
    ) -> None:
        backend, first = owner._backend, blocks[0]
        small = [embedding.inputs[0], *first.inputs[1 : -2 if step else None]]
        self.block = backend.inputs(small, None)
        self.arrays = [self.block.arrays[port.name] for port in small]
        shared = [self.block.memory[port.name] for port in small]
        self.launches = [backend.prepare(embedding, shared[:1], states[:1])]
        for i, stage in enumerate(blocks):
            source, target = states[i % 2], states[(i + 1) % 2]
            rows = cache[2 * i : 2 * i + 2]
            self.launches.append(
                backend.prepare(
                    stage,
                    [source, *shared[1:], *(rows if step else ())],
                    [target, *rows],
                    (1, 2) if step else (),
                )
            )
        mask = small[2] if len(small) > 2 else None
        self.closed: Any = CLOSED
        if mask is not None and mask.dtype.itemsize == 2:
            # A constant of the other half type would be a mask that does not close.
            self.closed = to_half(np.array(CLOSED), "bf16" if mask.bfloat16 else "f16").item()
