# shellcheck shell=bash disable=SC2154 # ci, cache, project and services are set by ci/cluster
# A Docker engine that answers and a compose plugin, brought up on a machine that has neither.

engine_log=/var/log/dockerd.log
debian_keyring=/usr/share/keyrings/debian-archive-keyring.gpg

engine_answers() { timeout 20 docker info >/dev/null 2>&1; }

has_apt() { command -v apt-get >/dev/null; }

ensure_engine() {
    engine_answers && return
    ((EUID == 0)) || fail "no Docker engine answers this user. Start one and join the group docker," \
        "or run this command as root, which starts one itself."
    if ! command -v dockerd >/dev/null || ! command -v docker >/dev/null; then
        install_engine
    fi
    start_engine
}

install_engine() {
    local packages=(docker.io)
    has_apt || fail "there is no Docker engine, and only Debian's and Ubuntu's can be installed from here." \
        "Install Docker 20.10 or later and run this command again."
    run_showing_progress "installing the Docker engine" "$cache/engine.log" apt-get update -qq ||
        fail "apt-get update failed, so no Docker engine can be installed; its words are in $cache/engine.log."
    # Debian 13 keeps the client in a package of its own.
    [[ -z $(apt-cache policy docker-cli) ]] || packages+=(docker-cli)
    DEBIAN_FRONTEND=noninteractive run_showing_progress "installing ${packages[*]}" "$cache/engine.log" \
        apt-get install -y -qq --no-install-recommends "${packages[@]}" ||
        fail "apt-get install ${packages[*]} failed; its words are in $cache/engine.log."
}

start_engine() {
    local pid="" deadline
    if [[ -d /run/systemd/system ]]; then
        say "starting the Docker engine through systemd"
        systemctl start docker || fail "systemctl start docker failed; journalctl -u docker says why."
    else
        [[ ! -s /var/run/docker.pid ]] || pid=$(</var/run/docker.pid)
        # A killed engine leaves its pid file, and the next one refuses to start when the number is in use.
        if [[ -z $pid || $(cat "/proc/$pid/comm" 2>/dev/null || true) != dockerd ]]; then
            rm -f /var/run/docker.pid
            say "starting the Docker engine (log: $engine_log)"
            setsid nohup dockerd >>"$engine_log" 2>&1 </dev/null 9>&- &
        fi
    fi
    deadline=$((SECONDS + 60))
    until engine_answers; do
        ((SECONDS < deadline)) || {
            tail -n 15 "$engine_log" >&2 2>/dev/null || true
            fail "the Docker engine does not answer within 60 s; see $engine_log."
        }
        sleep 0.5
    done
}

compose_works() {
    local version
    version=$(docker compose version --short 2>/dev/null) || return 1
    version=${version#v}
    ((${version%%.*} >= 2))
}

ensure_compose() {
    compose_works && return
    if ((EUID == 0)) && has_apt; then
        install_compose_package
        compose_works && return
    fi
    has_apt || fail "the compose plugin (version 2) of Docker is missing. Install it and run this command again."
    fetch_compose_plugin
    compose_works || fail "the compose plugin in ~/.docker/cli-plugins does not run; remove it and install Docker compose 2."
}

# Ubuntu's package, Docker's own, and Debian's, which is version 2 from Debian 13 on.
install_compose_package() {
    local package candidate
    compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null || apt-get update -qq || true
    for package in docker-compose-v2 docker-compose-plugin docker-compose; do
        candidate=$(apt-cache policy "$package" | sed -n 's/^ *Candidate: //p')
        candidate=${candidate#*:}
        [[ $candidate =~ ^[2-9][0-9]*\. ]] || continue
        DEBIAN_FRONTEND=noninteractive run_showing_progress "installing $package" "$cache/compose.log" \
            apt-get install -y -qq --no-install-recommends "$package" && return
    done
}

# Debian 12 has compose 1; sid's plugin is one binary that runs there. The machine's own apt sources stay as they are.
fetch_compose_plugin() {
    local apt="$cache/apt" options plugins=${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins
    [[ -e $debian_keyring ]] ||
        fail "the compose plugin (version 2) of Docker is missing, and Debian's cannot be checked without $debian_keyring." \
            "Install Docker compose 2, or the package debian-archive-keyring."
    rm -rf "$apt" && mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$plugins"
    echo "deb [signed-by=$debian_keyring] $(debian_mirror) sid main" >"$apt/sources.list"
    options=(-qq -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$apt/lists"
        -o "Dir::Cache=$apt/cache" -o Acquire::Check-Valid-Until=false -o APT::Sandbox::User=)
    # shellcheck disable=SC2016 # expanded by the inner shell
    run_showing_progress "fetching the compose plugin from Debian sid" "$cache/compose.log" \
        bash -c 'cd "$1" && shift && apt-get "$@" update && apt-get "$@" download docker-compose' _ "$apt" "${options[@]}" ||
        fail "Debian's docker-compose could not be fetched; apt's words are in $cache/compose.log." \
            "Install Docker compose 2 by hand, or set SLURMBRIDGE_DEBIAN_MIRROR to a mirror that answers."
    dpkg-deb --fsys-tarfile "$apt"/docker-compose_*.deb |
        tar -xO ./usr/libexec/docker/cli-plugins/docker-compose >"$plugins/docker-compose"
    chmod 755 "$plugins/docker-compose"
    rm -rf "$apt"
}

# The build host's own Debian mirror; nothing where it has none, as on Ubuntu: then the tools' own.
# Over https a minimal base image could not check it, so only http counts.
debian_mirror() {
    local found=""
    if [[ -n ${SLURMBRIDGE_DEBIAN_MIRROR:-} ]]; then
        echo "$SLURMBRIDGE_DEBIAN_MIRROR"
        return
    fi
    if has_apt; then
        # shellcheck disable=SC2016 # apt expands it
        found=$(apt-get indextargets --no-release-info --format '$(REPO_URI)' 2>/dev/null | grep -E '^http://.*/debian/?$' | head -n 1) || true
    fi
    echo "${found%/}"
}
