#!/usr/bin/env bash
# The vendor's download.sh: fetches published bmodels with their tokenizer; bmqwen keeps them in its cache and resumes.
set -euo pipefail

usage="usage: download.sh [qwen1.5|qwen1.5-1.8b|qwen1.5-4b|qwen1.5-7b ...] [--mode int4|int8] [--dry_run]
  without a name: 1.8B int4 and int8, 4B int4, 7B int4; qwen1.5: 7B int4 at 512 and 2048 tokens"
names=() mode=int4 run=()

refuse() {
  echo "download.sh: $1" >&2
  exit 2
}

while [[ $# -gt 0 ]]; do
  case $1 in
    --mode)
      [[ ${2:-} == int4 || ${2:-} == int8 ]] || refuse "--mode is int4 or int8: others were not published"
      mode=$2
      shift
      ;;
    --dry_run) run=(echo) ;;
    -h | --help) echo "$usage" && exit 0 ;;
    qwen1.5 | qwen1.5-1.8b | qwen1.5-4b | qwen1.5-7b) names+=("$1") ;;
    bm1688 | cv186x | qwen | qwen2) refuse "$1 is for other chips or models: bmqwen runs Qwen1.5, Qwen2 and Qwen2.5 on bm1684x" ;;
    *) refuse "unknown $1: --help lists what there is" ;;
  esac
  shift
done

files=()
for name in ${names[@]+"${names[@]}"}; do
  if [[ $name == qwen1.5 ]]; then
    files+=(qwen1.5-7b_int4_seq512_1dev qwen1.5-7b_int4_seq2048_1dev)
  else
    [[ $mode == int4 || $name == qwen1.5-1.8b ]] || refuse "$name was published in int4 only"
    files+=("${name}_${mode}_1dev")
  fi
done
if [[ ${#names[@]} -eq 0 ]]; then
  files=(qwen1.5-1.8b_int4_1dev qwen1.5-1.8b_int8_1dev qwen1.5-4b_int4_1dev qwen1.5-7b_int4_1dev)
fi

# shellcheck source=scripts/bmqwen.sh
source "$(dirname "${BASH_SOURCE[0]}")/bmqwen.sh"
for file in "${files[@]}"; do
  ${run[@]+"${run[@]}"} "${bmqwen[@]}" pull "$file" --source sophgo
done
