# shellcheck shell=bash
# What the scripts in tools/ share: where things are, one way to speak, one way to fail.
#
# Exit statuses, the same in every script: 0 done; 1 an answer was wrong; 2 misuse; 3 no engine; 4 not permitted; 5 something is
# missing and cannot be installed; 6 a build failed; 7 a port is taken; 8 pinfold did not become ready; 130 interrupted.
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
state=${PINFOLD_STATE:-$repo/.pinfold}
# shellcheck disable=SC2034 # used by those who read this file
venv=$state/venv
mkdir -p "$state/logs" "$state/tmp"
# A registry that does not answer for a moment is asked again, more often than pip, npm and cargo do by themselves.
export PIP_RETRIES=${PIP_RETRIES:-7} PIP_DEFAULT_TIMEOUT=${PIP_DEFAULT_TIMEOUT:-60} npm_config_fetch_retries=${npm_config_fetch_retries:-4} CARGO_NET_RETRY=${CARGO_NET_RETRY:-8}

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
fail() { local status=$1; shift; say "$*"; exit "$status"; }
have() { command -v "$1" >/dev/null 2>&1; }

# as_root COMMAND...: runs it with root's rights, or fails in one sentence.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif have sudo && sudo -n true 2>/dev/null; then sudo -n -- "$@"
    else fail 4 "this needs root: $* (run as root, or with a sudo that asks no password)"
    fi
}

# twice COMMAND...: runs it once more if it fails. For downloads: one that breaks off in its middle is not taken up again by those who make it.
twice() { "$@" || { sleep 3; "$@"; }; }

# The musl target of this machine's architecture.
musl_target() { echo "$(uname -m)-unknown-linux-musl"; }

# engine_answers: a Docker engine answers, and we may talk to it.
engine_answers() { have docker && timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# with_progress NAME LOG COMMAND...: runs the command with its output in LOG, and shows how long it has been at what: one line that
# moves on a terminal, a line every twenty seconds elsewhere, none when it is done within two. The command is a process group of its
# own, so that end_child can end it whole; what a Ctrl-C reaches is this script, which has to trap it.
child=
with_progress() {
    local name=$1 log=$2 started=$SECONDS shown=-18 now status=0
    shift 2
    : >"$log"
    set -m
    "$@" >"$log" 2>&1 </dev/null &
    child=$!
    set +m
    while kill -0 "$child" 2>/dev/null; do
        now=$((SECONDS - started))
        if ((now >= 2)) && [ -t 2 ]; then
            printf '\r%s: %4d s  %-60s' "$name" "$now" "$(stage_of "$log")" >&2
            shown=$now
        elif ((now - shown >= 20)); then
            printf '%s: %4d s  %s\n' "$name" "$now" "$(stage_of "$log")" >&2
            shown=$now
        fi
        sleep 0.1
    done
    wait "$child" || status=$?
    child=
    ((shown < 0)) || ! [ -t 2 ] || printf '\r%-85s\r' '' >&2
    return "$status"
}
# What a log says is being done: our own stages, mmdebstrap's, cargo's, the engine's.
stage_of() { grep -aoE '^(stage: .*| *(Compiling|Blocking) .*|I: [a-z].*|Step [0-9/]+)' "$1" 2>/dev/null | tail -1 | sed 's/^stage: //; s/^ *//' | cut -c1-60; }
# end_child: ends it, and whatever it started: who cleans up after it must not have it write meanwhile.
end_child() {
    [ -n "$child" ] || return 0
    kill -TERM -- "-$child" 2>/dev/null || true
    wait "$child" 2>/dev/null || true
    for _ in $(seq 100); do kill -0 -- "-$child" 2>/dev/null || break; sleep 0.1; done
    child=
}
