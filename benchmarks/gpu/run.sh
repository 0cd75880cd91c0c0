#!/bin/sh
# For a CUDA machine without network that has PyTorch and transformers: installs the wheels beside it, and measures.
#
#   pip wheel --no-deps -w benchmarks/gpu/wheels deepspeed==VERSION ...    (before, on a machine with network)
#   sh benchmarks/gpu/run.sh FILE.json
set -eu
cd "$(dirname "$0")/../.."
for wheel in benchmarks/gpu/wheels/*.whl; do
  [ -e "$wheel" ] && python3 -m pip install --quiet --no-index --no-deps "$wheel"
done
# torch's own AdamW is used, so that no operation of DeepSpeed has to be compiled.
export DS_SKIP_CUDA_CHECK=1
exec python3 -m benchmarks.gpu.learner --out "$1"
