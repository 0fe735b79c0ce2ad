# shellcheck shell=bash disable=SC2034
# The command bmqwen: of the project's own environment, else of the one in use.
bmqwen=("$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.venv/bin/bmqwen")
[[ -x ${bmqwen[0]} ]] || bmqwen=(bmqwen)
