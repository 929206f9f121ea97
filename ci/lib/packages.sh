# shellcheck shell=bash
# What tests need of the system, from Debian's packages. Needs messages.sh.

# Apache, as a WebDAV server. Its service is not started.
ensure_apache() {
    [[ -x /usr/sbin/apache2 && -e /usr/lib/apache2/modules/mod_dav_fs.so ]] && return
    if [[ $EUID != 0 ]] || ! command -v apt-get >/dev/null; then
        fail "Apache is missing; install it (Debian: apt-get install apache2-bin)."
    fi
    say "installing apache2-bin"
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends apache2-bin; } \
        >/dev/null 2>&1 || fail "apache2-bin could not be installed; run apt-get install apache2-bin to see why."
}
