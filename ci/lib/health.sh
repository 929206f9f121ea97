# shellcheck shell=bash disable=SC2154 # ci, cache, project and services are set by ci/cluster
# When the cluster works, and what to show while it does not.

containers() { printf "$project-%s-1\n" "${services[@]}"; }

# One line for each service: name and health.
health() {
    local lines
    # shellcheck disable=SC2046
    lines=$(docker inspect --format '{{.Name}} {{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{end}}' \
        $(containers) 2>/dev/null) || true
    sed -E "s|^/$project-(.*)-1 |\1 |; s/ running / /" <<<"$lines"
}

all_healthy() { [[ $(health | grep -c ' healthy$') -eq ${#services[@]} ]]; }

show_health() {
    local service line
    for service in "${services[@]}"; do
        line=$(health | grep "^$service ") || line="$service absent"
        printf '%-12s %s\n' "${line%% *}" "${line#* }"
    done
}

# Nodes that take no work, with the state that says why.
unusable_nodes() {
    docker exec "$project-controller-1" sinfo -hN -p main -o '%N %T' 2>/dev/null |
        grep -vE ' (idle|mixed|allocated|completing)$' || true
}

wait_until_healthy() {
    local limit=$((SECONDS + ${SLURMBRIDGE_UP_SECONDS:-150})) line looks=0
    declare -A told=()
    say "waiting for the services"
    while ((SECONDS < limit)); do
        while read -r line; do
            [[ $line == *' healthy' && -z ${told[$line]:-} ]] || continue
            told[$line]=yes
            say "  $line"
        done < <(health)
        if all_healthy; then
            [[ -n $(unusable_nodes) ]] || return 0
            resume_nodes
        fi
        ((++looks % 5)) || check_data
        sleep 1
    done
    explain_unhealthy
}

# The cluster's data outlives the checkout that made it.
check_data() {
    local service
    for service in bridge far; do
        ! docker logs --tail 3 "$project-$service-1" 2>&1 | grep -q 'run the newer slurmbridge' ||
            fail "the cluster's data was made by a newer slurmbridge than this checkout's." \
                "Use the newer one, or remove the data and start: ci/cluster up --anew"
    done
}

# Slurm keeps a node down that vanished without notice, until somebody says that it is fine again.
resume_nodes() {
    local name state
    unusable_nodes | while read -r name state; do
        [[ $state =~ ^(down|drain|fail) ]] || continue
        say "  $name is $state; returning it to service"
        docker exec "$project-controller-1" scontrol update "nodename=$name" state=resume || true
    done
}

explain_unhealthy() {
    local service
    for service in "${services[@]}"; do
        ! health | grep -q "^$service healthy$" || continue
        printf '\n%s is not healthy; its last lines:\n' "$service" >&2
        docker logs --tail 15 "$project-$service-1" 2>&1 | sed 's/^/    /' >&2 || true
    done
    fail "the cluster does not work after $SECONDS s. Unusable nodes: $(unusable_nodes | tr '\n' ' ')"
}
