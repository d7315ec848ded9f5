#!/usr/bin/env bash
# All that needs a GPU, in one call of at most eight minutes and without network:
#
#   benchmarks/on_gpu.sh OUT [--device cuda|cpu] [--data DIR]
#
# OUT gets, each as it goes, so that a call that is cut off still tells:
#   parts.jsonl       each part, with its exit code and its seconds
#   environment.json  the machine, its versions, and which attention kernels run on it
#   tests.jsonl       each test of tests/test_cuda.py
#   bench.json        the rows of the benchmarks
#   profile.json      where the time of a training step goes
#   training.json     the results of examples/clinc150.yaml
#   log.txt           what all of them print
# --device cpu runs all of it at tiny sizes, to see that it runs. --data is a directory of data sets: `clinc150` is
# trained on, and if `ud_en_ewt` and `python_docs_en_ko` are there, the benchmarks have the lengths of their rows.
# Needs what `pip install .[test]` installs, in whatever versions are there; PYTHON names the interpreter.
set -uo pipefail

usage() {
  echo "usage: benchmarks/on_gpu.sh OUT [--device cuda|cpu] [--data DIR]${1:+: $1}" >&2
  exit 2
}

out=${1:-} device=cuda data=
[[ -n $out && $out != -* ]] || usage "OUT is missing"
shift
while (($#)); do
  (($# > 1)) || usage "$1 needs a value"
  case $1 in
    --device) device=$2 ;;
    --data) data=$2 ;;
    *) usage "unknown option $1" ;;
  esac
  shift 2
done
[[ $device == cuda || $device == cpu ]] || usage "--device $device; valid: cuda, cpu"
[[ -z $data || -d $data ]] || usage "--data: $data is no directory"

root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
mkdir -p "$out" && out=$(cd "$out" && pwd)
[[ -z $data ]] || data=$(cd "$data" && pwd)
cd "$root" || exit 1
rm -f "$out"/{parts.jsonl,environment.json,tests.jsonl,bench.json,profile.json,training.json,log.txt}

# The folder is the package, whatever its name is.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ln -s "$root" "$work/seqblend"
export PYTHONPATH="$work${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TOKENIZERS_PARALLELISM=false KINETO_LOG_LEVEL=99

deadline=480 failed=0
SECONDS=0

# part NAME LIMIT COMMAND…: run a part for at most LIMIT seconds, or what is left of the eight minutes.
part() {
  local name=$1 limit=$2 start=$SECONDS code=0
  shift 2
  ((limit <= deadline - SECONDS)) || limit=$((deadline - SECONDS))
  if ((limit > 0)); then
    echo "== $name: $*" | tee -a "$out/log.txt"
    timeout --signal=INT --kill-after=10 "$limit" "$@" >>"$out/log.txt" 2>&1 || code=$?
  else
    code=124
  fi
  printf '{"part": "%s", "exit_code": %d, "seconds": %d, "limit": %d}\n' \
    "$name" "$code" $((SECONDS - start)) "$limit" | tee -a "$out/parts.jsonl"
  ((code == 0)) || failed=1
}

part environment 45 "$python" -m seqblend.benchmarks.environment --device "$device" --json "$out/environment.json"

if [[ $device == cuda ]]; then
  marker=cuda processes=8 sizes=()
else
  marker="not cuda" processes=2 sizes=(--quick)
  export OMP_NUM_THREADS=1
fi
part tests 170 "$python" -m pytest tests/test_cuda.py -m "$marker" --quiet --numprocesses "$processes" \
  --maxschedchunk 1 --timeout 160 -p no:cacheprovider --outcomes "$out/tests.jsonl"

lengths=()
[[ -z $data || ! -d $data/ud_en_ewt || ! -d $data/python_docs_en_ko ]] || lengths=(--data "$data")
# The benchmarks whose figures matter most come first.
part benchmarks 160 "$python" -m seqblend.benchmarks encoder-train encoder-infer seq2seq-train causal-train generate \
  growth bias-train --device "$device" "${sizes[@]}" "${lengths[@]}" --json "$out/bench.json"
part profile 60 "$python" -m seqblend.benchmarks.profiling --device "$device" "${lengths[@]}" --json "$out/profile.json"

if [[ -f $data/clinc150/train.jsonl ]]; then
  files=()
  for name in train validation test validation_unknown test_unknown; do
    file=$data/clinc150/${name/%_unknown/_oos}.jsonl
    [[ -f $file ]] || continue
    if [[ $device == cpu && $name != train ]]; then
      head -n 300 "$file" >"$work/$name.jsonl"
      file=$work/$name.jsonl
    fi
    files+=("--${name}_file" "$file")
  done
  options=(--bf16 true)
  [[ $device == cuda ]] || options=(--use_cpu true --max_steps 4)
  part training 150 "$python" -m seqblend train examples/clinc150.yaml "${files[@]}" "${options[@]}" \
    --output_dir "$work/training"
  [[ ! -f $work/training/all_results.json ]] || cp "$work/training/all_results.json" "$out/training.json"
else
  echo '{"skipped": "no clinc150/train.jsonl in --data"}' | tee "$out/training.json"
fi
exit "$failed"
