#!/bin/sh
# Trains a model on the events of the last days and publishes it, unless it is worse than the model in service.
#
#   MODELS=models DAYS=14 ./retrain.sh       then restart the workers, which run with FORECLICK_MODEL=models/current
#
# Exit code 0: models/current is the new model. Anything else: models/current is unchanged.
set -eu
models=${MODELS:-models}
days=${DAYS:-14}
min_cases=${MIN_CASES:-1000}
new=$(date -u +%Y-%m-%dT%H%M%SZ)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$models"

train() { # the folder to write, then options; NAME and SIGN_KEY as the workers demand them of a model
    out=$1 && shift
    foreclick train "$work/past.stream" --out "$out" --name "${NAME:-gru}" ${SIGN_KEY:+--sign-key "$SIGN_KEY"} "$@"
}
judge() { # the figures of a model on the last 24 hours
    foreclick evaluate "$1" "$work/past.stream" --since 24h --json >"$2"
}

foreclick record "$work/past.stream" --since "${days}d"

# The gate: a trial model, which has not seen the last 24 hours, against the model in service.
train "$work/trial" --until 24h
judge "$work/trial" "$work/trial.json"
if [ -e "$models/current" ]; then judge "$models/current" "$work/current.json"; else echo null >"$work/current.json"; fi
python3 - "$work/trial.json" "$work/current.json" "$min_cases" <<'END'
import json, sys

trial, current = (json.load(open(name)) for name in sys.argv[1:3])
wrong = []
if trial["next_item"]["cases"] < int(sys.argv[3]):
    wrong.append(f"only {trial['next_item']['cases']} cases to judge")
mrr, popular = trial["next_item"]["mrr@20"], trial["baselines"]["popularity"]["mrr@20"]
if mrr < popular:
    wrong.append(f"MRR@20 {mrr:.3f}, below the {popular:.3f} of the most popular items")
for part, figure in (("next_item", "mrr@20"), ("purchase", "roc_auc")):
    if current and trial[part][figure] and current[part][figure]:
        new, old = trial[part][figure], current[part][figure]
        print(f"{figure}: {new:.3f}, in service {old:.3f}")
        if new < 0.95 * old:
            wrong.append(f"{figure} {new:.3f}, more than 5 % below the {old:.3f} of the model in service")
sys.exit("not published: " + "; ".join(wrong) if wrong else 0)
END

# It passed: train on everything, the last 24 hours too, and let the link point to the result in one step.
train "$models/$new"
ln -sfn "$new" "$models/next"
mv -T "$models/next" "$models/current"
echo "published $models/$new"
