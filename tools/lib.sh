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

# The musl target of this machine's architecture.
musl_target() { echo "$(uname -m)-unknown-linux-musl"; }

# engine_answers: a Docker engine answers, and we may talk to it.
engine_answers() { have docker && timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }
