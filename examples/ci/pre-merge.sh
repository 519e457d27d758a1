#!/usr/bin/env bash
# Run before a merge: fails if cached images got worse, or cost more than they did.
#
#   examples/ci/pre-merge.sh [rfc.json] [arguments of rfc-compile check]
#
# REPORTS is the folder of the reports, BASELINE the JSON report of an earlier run. Keep
# that file in the repository; a new one is made by leaving BASELINE empty.
set -euo pipefail

reports=${REPORTS:-reports}
baseline=${BASELINE-rfc-baseline.json}

if [[ -n $baseline && -f $baseline ]]; then
    set -- "$@" --baseline "$baseline" --tolerance 5%
fi

exec rfc-compile check "$@" \
    --min-psnr 30 --max-nfc 20 --max-graph-breaks 0 --max-recompiles 0 \
    --json "$reports/check.json" \
    --junit "$reports/check.xml" \
    --markdown "$reports/check.md"
