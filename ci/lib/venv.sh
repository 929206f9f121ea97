# shellcheck shell=bash
# The project's own Python environment, in .venv, from the lock file alone. Needs messages.sh.

find_python() {
    local name
    for name in python3.13 python3.12 python3.11 python3 python3.14; do
        if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then
            printf '%s\n' "$name"
            return
        fi
    done
    fail "no Python from 3.11 to 3.14 was found; install one (Debian: apt-get install python3 python3-venv)."
}

# Debian keeps venv in a package of its own.
ensure_venv_module() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null && return
    if [[ $EUID != 0 ]] || ! command -v apt-get >/dev/null; then
        fail "$1 has no venv module; install it (Debian: apt-get install python3-venv)."
    fi
    say "installing python3-venv"
    { apt-get update && apt-get install --yes python3-venv; } >/dev/null 2>&1 ||
        fail "python3-venv could not be installed; run apt-get install python3-venv to see why."
}

# Makes or renews .venv when the lock file has changed; sets venv.
ensure_venv() {
    local root=$1 python stamp
    venv=$root/.venv
    # The folder stands in the environment's own scripts, so a moved checkout needs a new one.
    stamp=$({ printf '%s\n' "$root" && cat "$root/ci/requirements-dev.lock"; } | sha256sum)
    [[ $(cat "$venv/stamp" 2>/dev/null) == "$stamp" && -x $venv/bin/python ]] && return
    python=$(find_python)
    ensure_venv_module "$python"
    say "installing Python packages into .venv (once for each change of the lock file)"
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
        --requirement "$root/ci/requirements-dev.lock" 2>"$venv/pip.log" ||
        fail "pip failed: $(tail -n 3 "$venv/pip.log")"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
        --no-build-isolation --editable "$root" 2>"$venv/pip.log" ||
        fail "the project could not be installed: $(tail -n 3 "$venv/pip.log")"
    printf '%s\n' "$stamp" >"$venv/stamp"
}
