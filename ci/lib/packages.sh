# shellcheck shell=bash
# What tests and measures need of the system, from Debian's packages. Needs messages.sh.

# Apache, as a WebDAV server. Its service is not started.
ensure_apache() {
    [[ -x /usr/sbin/apache2 && -e /usr/lib/apache2/modules/mod_dav_fs.so ]] || install_package apache2-bin
}

# What staging is measured against.
ensure_rclone() {
    command -v rclone >/dev/null || install_package rclone
}

install_package() {
    if [[ $EUID != 0 ]] || ! command -v apt-get >/dev/null; then
        fail "$1 is missing; install it (Debian: apt-get install $1)."
    fi
    say "installing $1"
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$1"; } \
        >/dev/null 2>&1 || fail "$1 could not be installed; run apt-get install $1 to see why."
}
