#!/usr/bin/env bash
# The vendor's gen_bmodel.sh, by its options: bmqwen compiles the model to a folder beside it. No ONNX export comes first.
set -euo pipefail

usage="usage: gen_bmodel.sh --name qwen1.5-0.5b|qwen1.5-1.8b|qwen1.5-4b|qwen1.5-7b --seq_length N [--mode int4|int8|f16|bf16]
  [--num_device 1] [--addr_mode io_alone] [--target bm1684x] [--dynamic 0] [--dry_run]"
name='' seq_length='' mode=int8 num_device=1 addr_mode=io_alone target=bm1684x dynamic=0 run=()

refuse() {
  echo "gen_bmodel.sh: $1" >&2
  exit 2
}

while [[ $# -gt 0 ]]; do
  option=$1
  case $option in
    --dry_run) run=(echo) && shift && continue ;;
    -h | --help) echo "$usage" && exit 0 ;;
    --name | --seq_length | --mode | --num_device | --addr_mode | --target | --dynamic) ;;
    *) refuse "unknown option $option: --help lists them" ;;
  esac
  [[ $# -gt 1 ]] || refuse "$option needs a value"
  printf -v "${option#--}" %s "$2"
  shift 2
done

case $name in
  qwen1.5-0.5b | qwen1.5-1.8b | qwen1.5-4b | qwen1.5-7b) ;;
  '') refuse "--name is required: qwen1.5-0.5b, qwen1.5-1.8b, qwen1.5-4b or qwen1.5-7b" ;;
  *) refuse "unknown name $name: choose qwen1.5-0.5b, qwen1.5-1.8b, qwen1.5-4b or qwen1.5-7b; bmqwen compile takes others" ;;
esac
[[ $seq_length =~ ^[0-9]+$ ]] || refuse "--seq_length is required, a multiple of 8 such as 512"
case $mode in
  int4 | int8 | f16) options=(--quant "$mode") ;;
  bf16) options=(--quant f16 --bf16) ;;
  *) refuse "unknown mode $mode: choose int4, int8, f16 or bf16" ;;
esac
[[ $num_device == 1 ]] || refuse "--num_device $num_device: this script compiles for one chip; for several use bmqwen compile --parts $num_device"
[[ $target == bm1684x ]] || refuse "--target $target: bmqwen compiles for bm1684x only"
[[ $dynamic == 0 ]] || refuse "--dynamic $dynamic: there is no need, nets of several lengths are made; leave it out"
[[ $addr_mode == io_alone ]] || refuse "--addr_mode $addr_mode: bmqwen's nets are io_alone, which keeps the K/V cache in place"

# shellcheck source=scripts/bmqwen.sh
source "$(dirname "${BASH_SOURCE[0]}")/bmqwen.sh"
folder=models/BM1684X/${name}_${mode}_seq${seq_length}_1dev
exec ${run[@]+"${run[@]}"} "${bmqwen[@]}" compile "$name-chat" -o "$folder" "${options[@]}" --seq-len "$seq_length"
