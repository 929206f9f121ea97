# shellcheck shell=bash disable=SC2154 # ci, cache, project and services are set by ci/cluster
# The node image, built when its inputs changed: its tag is their digest.

base_image=slurmbridge-base:sid

image_tag() { cat "$ci/slurm/Dockerfile" "$ci/requirements.lock" "$ci/requirements-stores.lock" | sha256sum | cut -c 1-12; }

image_present() { docker image inspect "slurmbridge-node:$1" >/dev/null 2>&1; }

ensure_image() {
    local tag
    tag=$(image_tag)
    image_present "$tag" && return
    ensure_base
    build_image "$tag"
    remove_older_images "$tag"
}

ensure_base() {
    docker image inspect "$base_image" >/dev/null 2>&1 && return
    say "pulling debian:sid-slim"
    if timeout 30 docker pull -q debian:sid-slim >"$cache/pull.log" 2>&1; then
        docker tag debian:sid-slim "$base_image"
        return
    fi
    say "no container registry answers; making the base image from the Debian mirror instead"
    if ! command -v mmdebstrap >/dev/null; then
        { ((EUID == 0)) && has_apt; } || fail "debian:sid-slim cannot be pulled, and mmdebstrap, which would make it, is missing. Install mmdebstrap."
        DEBIAN_FRONTEND=noninteractive run_showing_progress "installing mmdebstrap" "$cache/base.log" \
            apt-get install -y -qq --no-install-recommends mmdebstrap debian-archive-keyring ||
            fail "apt-get install mmdebstrap failed; its words are in $cache/base.log."
    fi
    local mirror
    mirror=$(debian_mirror)
    run_showing_progress "making a minimal Debian sid" "$cache/base.log" \
        mmdebstrap --variant=minbase --aptopt='Acquire::Check-Valid-Until "false"' \
        --keyring="$debian_keyring" sid "$cache/base.tar" ${mirror:+"$mirror"} ||
        fail "mmdebstrap failed; its words are in $cache/base.log."
    docker import "$cache/base.tar" "$base_image" >/dev/null
    rm -f "$cache/base.tar"
}

# The CA bundle that the host's pip trusts, when it has one of its own.
host_ca_bundle() {
    local file
    for file in "${PIP_CERT:-}" "${SSL_CERT_FILE:-}" "${REQUESTS_CA_BUNDLE:-}" "$(host_pip_setting cert)"; do
        [[ -z $file || ! -r $file ]] || { echo "$file"; return; }
    done
}

host_pip_setting() { python3 -m pip config get "global.$1" 2>/dev/null || true; }

build_image() {
    local tag=$1 context=$cache/context bundle name arguments
    rm -rf "$context" && mkdir -p "$context"
    cp "$ci/slurm/Dockerfile" "$ci/requirements.lock" "$ci/requirements-stores.lock" "$context/"
    bundle=$(host_ca_bundle)
    cat "${bundle:-/dev/null}" >"$context/ca.crt"
    arguments=(--build-arg "BASE=$base_image" --build-arg "DEBIAN_MIRROR=$(debian_mirror)"
        --build-arg "PIP_INDEX_URL=${PIP_INDEX_URL:-$(host_pip_setting index-url)}" --tag "slurmbridge-node:$tag")
    for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
        [[ -z ${!name:-} ]] || arguments+=(--build-arg "$name")
    done
    # Clients from 23 on want buildx for BuildKit and may come without it; the older builder does as well.
    if docker buildx version >/dev/null 2>&1; then
        export DOCKER_BUILDKIT=1 BUILDKIT_PROGRESS=plain BUILDX_BUILDER=default
    else
        export DOCKER_BUILDKIT=0
    fi
    run_showing_progress "building the node image (log: $cache/build.log)" "$cache/build.log" \
        docker build "${arguments[@]}" "$context" || {
        grep -v '^DEPRECATED' "$cache/build.log" | tail -n 25 >&2
        fail "the node image cannot be built; the whole log is $cache/build.log."
    }
    rm -rf "$context"
}

# Images in use refuse to go, which is wanted.
remove_older_images() {
    local image
    docker image ls --format '{{.Repository}}:{{.Tag}}' slurmbridge-node | while read -r image; do
        [[ $image == "slurmbridge-node:$1" ]] || docker image rm "$image" >/dev/null 2>&1 || true
    done
}
