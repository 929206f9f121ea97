# shellcheck shell=bash disable=SC2154 # ci, cache, project and services are set by ci/cluster
# What the machine must have, looked at before anything long begins.

check_machine() {
    [[ $(uname -s) == Linux ]] || fail "the cluster needs Linux: its jobs are confined by cgroups and namespaces."
    [[ -c /dev/fuse ]] || fail "there is no /dev/fuse, so no container image can be mounted. Load the kernel module: modprobe fuse"
    [[ -c /dev/net/tun ]] || fail "there is no /dev/net/tun. Load the kernel module: modprobe tun"
    check_cgroup
}

check_cgroup() {
    local controller
    [[ $(stat -fc %T /sys/fs/cgroup 2>/dev/null) != cgroup2fs ]] || return 0
    for controller in memory cpuset freezer; do
        [[ -d /sys/fs/cgroup/$controller && -e /sys/fs/cgroup/$controller/cgroup.procs ]] ||
            fail "no cgroups are mounted at /sys/fs/cgroup ($controller is missing), so jobs could not be limited." \
                "Mount them: mount -t cgroup2 cgroup2 /sys/fs/cgroup, or the package cgroupfs-mount."
    done
}

check_ports() {
    check_port bridge 8642 "${SLURMBRIDGE_PORT:-8642}" SLURMBRIDGE_PORT
    check_port login 22 "${SLURMBRIDGE_SSH_PORT:-8622}" SLURMBRIDGE_SSH_PORT
    check_port far 8642 "${SLURMBRIDGE_FAR_PORT:-8643}" SLURMBRIDGE_FAR_PORT
    check_port database 5432 "${SLURMBRIDGE_DATABASE_PORT:-8632}" SLURMBRIDGE_DATABASE_PORT
}

check_port() {
    local service=$1 inside=$2 port=$3 variable=$4
    [[ $(docker port "$project-$service-1" "$inside" 2>/dev/null) != *":$port" ]] || return 0
    ! (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null ||
        fail "port $port on 127.0.0.1 is taken by another program. Stop it, or choose another port: $variable=$((port + 1000)) ci/cluster up"
}

check_disk() {
    local root needed=6 available
    root=$(docker info --format '{{.DockerRootDir}}')
    ! image_present "$(image_tag)" || needed=1
    [[ -r $root || -d $root ]] || root=/
    available=$(df --output=avail -B 1M "$root" | tail -n 1)
    ((available >= needed * 1024)) ||
        fail "Docker's folder $root has ${available} MiB free, and the cluster needs $needed GiB there." \
            "Make room, for example with: docker system prune"
}
