"""Charts of an estimate, as a file."""

from pathlib import Path

from bmqwen.errors import InputError
from bmqwen.estimate.chart_html import html
from bmqwen.estimate.chart_page import page_of
from bmqwen.estimate.chart_svg import svg
from bmqwen.estimate.estimate import Estimate
from bmqwen.estimate.sophon_demo import DemoEstimate
from bmqwen.util.storage import write_file

KINDS = {".html": html, ".svg": svg}


def check_chart(path: Path) -> None:
    """Raise InputError, before the work, unless the file's name says what it is to be and its folder exists."""
    if path.suffix.lower() not in KINDS:
        raise InputError(f"{path} names no kind of chart: choose a name that ends in .html or .svg")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path} cannot be written: there is no folder {path.absolute().parent}")


def write_chart(estimate: Estimate | DemoEstimate, path: Path) -> None:
    """Draw it. Raises InputError for an estimate without timelines, StorageError where it cannot be written."""
    check_chart(path)
    write_file(path, KINDS[path.suffix.lower()](page_of(estimate)).encode())
