"""All published rows, each with what is predicted for it."""

from typing import Literal

from bmqwen.chip.spec import Host
from bmqwen.estimate.estimate import Estimate, Question, estimate_model
from bmqwen.estimate.published import PUBLISHED, Published
from bmqwen.estimate.sophon_demo import GROUP, DemoEstimate, estimate_demo
from bmqwen.hub.known_config import known_config
from bmqwen.quant.precision import Precision
from bmqwen.util.progress import Progress

RecipeName = Literal["ours", "sophon-demo"]


def predict_published(
    recipe: RecipeName, host: Host, question: Question, *, jobs: int | None = None, progress: Progress
) -> list[tuple[Published, Estimate | DemoEstimate]]:
    """The published rows in their order, those of another recipe left out for `sophon-demo`.

    Raises what `estimate_model` and `estimate_demo` raise.
    """
    found: list[tuple[Published, Estimate | DemoEstimate]] = []
    for row in PUBLISHED:
        name, config = known_config(row.model, progress=progress)
        if recipe == "ours":
            precision = Precision(row.form, GROUP, row.form)
            ours = estimate_model(
                name, config, precision, row.context, host, question, jobs=jobs, progress=progress
            )
            found.append((row, ours))
        elif row.recipe:
            found.append(
                (row, estimate_demo(name, config, row.form, row.context, host, jobs=jobs, progress=progress))
            )
    return found
