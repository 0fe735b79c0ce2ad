"""Room for the files that SAIL keeps open: it opens the device anew for every input and output of every net."""

import resource
from pathlib import Path

from bmqwen.artifact.bmodel import read_description

# Of one opening: the device, and on a SoC its video scaler, memory and cipher (libsophon, bm_create_ctx).
FILES = 4
# For everything else that this process opens.
SPARE = 256


def make_room(bmodel: Path) -> None:
    """Let this process open as many files as loading a bmodel takes, as far as the system allows.

    A published bmodel of 24 layers opens its device 340 times, where 1,024 files are what a shell usually allows.

    Raises BundleError for a file that is no bmodel.
    """
    stages = [net.stages[0] for net in read_description(bmodel).nets.values() if net.stages]
    needed = FILES * sum(len(stage.inputs) + len(stage.outputs) for stage in stages) + SPARE
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY:
        needed = min(needed, most)
    if allowed != resource.RLIM_INFINITY and allowed < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, most))
