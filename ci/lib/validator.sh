# shellcheck shell=bash
# roc-validator in an environment of its own, .venv/validator, from its own lock file: it takes no
# rich of 14 or later, which the project has. Needs messages.sh and venv.sh, and ensure_venv before.

# Makes or renews .venv/validator when the lock file has changed.
ensure_validator() {
    local root=$1 folder stamp
    folder=$root/.venv/validator
    stamp=$(sha256sum <"$root/ci/requirements-validator.lock")
    [[ $(cat "$folder/stamp" 2>/dev/null) == "$stamp" && -x $folder/bin/python ]] && return
    say "installing roc-validator into .venv/validator (once for each change of its lock file)"
    rm -rf "$folder"
    "$root/.venv/bin/python" -m venv "$folder"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes \
        --requirement "$root/ci/requirements-validator.lock" 2>"$folder/pip.log" ||
        fail "pip failed: $(tail -n 3 "$folder/pip.log")"
    printf '%s\n' "$stamp" >"$folder/stamp"
}
