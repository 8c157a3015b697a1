#!/bin/sh
# Make the namespace and the secret `logins` from the environment; a name without a value stops before anything is made.
set -eu
cd "$(dirname "$0")/base"
for name in $(grep -v '^#' environment.names); do
  eval "value=\${$name:-}"
  [ -n "$value" ] || { echo "error: set $name (docs/servers.md)" >&2; exit 2; }
done
kubectl apply --filename namespace.yaml
kubectl create secret generic logins --namespace genforge --from-env-file environment.names --dry-run=client \
  --output yaml | kubectl apply --filename -
