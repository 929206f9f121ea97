# shellcheck shell=bash
# What the scripts say to people: progress with the seconds so far, and one sentence when they give up.

say() { printf '[%3d s] %s\n' "$SECONDS" "$*" >&2; }

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Runs a long command with its output in a log file and shows every 15 seconds where it is.
run_showing_progress() {
    local what=$1 log=$2 pid ticks=0
    shift 2
    say "$what"
    "$@" >"$log" 2>&1 </dev/null &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        sleep 1
        ((++ticks % 15)) || say "  ... $(grep -v '^ --->' "$log" | tail -n 1 | tr -d '\r' | cut -c 1-90)"
    done
    wait "$pid"
}
