# Sourced by demo.sh and tests/run.sh: from a bare Debian 12 with python3 to a virtual environment
# with vmconsole in it.
#
# Everything vmconsole needs comes as wheels but borgbackup 1.4, which its authors publish as source
# only; building it takes a C compiler and a few headers. Root gets them as Debian packages. Without
# root they are fetched with apt-get and unpacked into a cache folder, and used from there: nothing
# outside the checkout and the cache is touched.

BUILD_PACKAGES="gcc libc6-dev pkg-config python3-dev libacl1-dev libssl-dev liblz4-dev libzstd-dev libxxhash-dev"

say() { printf '%s\n' "== $*" >&2; }

die() {
    printf '%s\n' "$1" >&2
    [ $# -lt 2 ] || printf '%s\n' "  -> $2" >&2
    exit 1
}

# Prints a Python of at least 3.11.
find_python() {
    for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    die "Python 3.11 or newer is needed." "On Debian 12: apt-get install python3"
}

is_root() { [ "$(id -u)" = 0 ]; }

has_apt() { command -v apt-get >/dev/null 2>&1 && command -v dpkg-deb >/dev/null 2>&1; }

# install_packages PACKAGE...: as root, quietly, updating the lists only when that is needed.
install_packages() {
    missing=
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    say "installing Debian packages:$missing"
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >"$cache/apt.log" 2>&1 ||
        { apt-get update -q >>"$cache/apt.log" 2>&1 &&
            DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >>"$cache/apt.log" 2>&1; } ||
        { tail -n 15 "$cache/apt.log" >&2; die "apt-get could not install:$missing" "The whole log: $cache/apt.log"; }
}

# apt-get with lists and cache of our own, so that it works without root.
own_apt() {
    mkdir -p "$cache/apt/lists/partial" "$cache/apt/archives/partial"
    apt-get -q -o Dir::State::Lists="$cache/apt/lists" -o Dir::Cache="$cache/apt" \
        -o Dir::State::status=/var/lib/dpkg/status -o APT::Sandbox::User=root -o Debug::NoLocking=1 "$@"
}

# unpack_packages PACKAGE...: without root, with all they need that is not installed, into $tools.
unpack_packages() {
    has_apt || die "A C compiler and headers are missing, and there is no apt-get to fetch them." \
        "Install a compiler and the headers of Python, OpenSSL, ACL, lz4, zstd and xxhash; then start again."
    say "fetching a compiler into $tools (no root, nothing outside it is touched)"
    own_apt update >"$cache/apt.log" 2>&1 || { tail -n 5 "$cache/apt.log" >&2; die "apt-get update failed."; }
    wanted=$(own_apt -s --no-install-recommends install "$@" 2>>"$cache/apt.log" | awk '/^Inst/ && $2 != "libc6" {print $2}')
    mkdir -p "$tools" "$cache/debs"
    # shellcheck disable=SC2086
    (cd "$cache/debs" && own_apt download $wanted >>"$cache/apt.log" 2>&1) ||
        { tail -n 5 "$cache/apt.log" >&2; die "apt-get could not fetch the compiler."; }
    for deb in "$cache/debs"/*.deb; do
        dpkg-deb -x "$deb" "$tools"
        rm -f "$deb"
    done
    libraries="$tools/usr/lib/$(dpkg_triplet)"
    # Two things in these packages assume that they lie in /: a linker script, and links to libraries.
    [ ! -f "$libraries/libc.so" ] || sed -i "s,/usr/lib/[^ ]*/libc_nonshared,$libraries/libc_nonshared," "$libraries/libc.so"
    for link in "$libraries"/lib*.so; do
        [ ! -e "$link" ] && [ -L "$link" ] || continue
        target=$(readlink "$link")
        for folder in "/usr/lib/$(dpkg_triplet)" "/lib/$(dpkg_triplet)"; do
            [ ! -e "$folder/${target##*/}" ] || ln -sf "$folder/${target##*/}" "$link"
        done
    done
}

dpkg_triplet() { "$python" -c 'import sysconfig; print(sysconfig.get_config_var("MULTIARCH") or "")'; }

# can_build: is everything there to compile borgbackup?
can_build() {
    command -v "${CC:-gcc}" >/dev/null 2>&1 && command -v pkg-config >/dev/null 2>&1 || return 1
    include=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
    printf '#include <Python.h>\n#include <openssl/evp.h>\n#include <sys/acl.h>\n#include <lz4.h>\n#include <zstd.h>\n#include <xxhash.h>\n' |
        "${CC:-gcc}" -I"$include" -E - >/dev/null 2>&1
}

# use_tools: compile with what unpack_packages left.
use_tools() {
    libraries="$tools/usr/lib/$(dpkg_triplet)"
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    PATH="$tools/usr/bin:$PATH"
    LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    CPATH="$tools/usr/include:$tools/usr/include/$(dpkg_triplet):$tools/usr/include/python$version"
    LIBRARY_PATH="$libraries"
    PKG_CONFIG_PATH="$libraries/pkgconfig:$tools/usr/share/pkgconfig"
    PKG_CONFIG_SYSROOT_DIR="$tools"
    CC="gcc -B$libraries"
    export PATH LD_LIBRARY_PATH CPATH LIBRARY_PATH PKG_CONFIG_PATH PKG_CONFIG_SYSROOT_DIR CC
}

ensure_compiler() {
    ! "$venv/bin/python" -c 'import borg' 2>/dev/null || return 0
    ! can_build || return 0
    if is_root && has_apt; then
        # shellcheck disable=SC2086
        install_packages $BUILD_PACKAGES
    elif [ -n "$(dpkg_triplet)" ]; then
        [ -x "$tools/usr/bin/gcc" ] || {
            # shellcheck disable=SC2086
            unpack_packages $BUILD_PACKAGES
        }
        use_tools
    fi
}

# make_venv: Debian's python3 comes without ensurepip; its pip wheel is fetched then.
make_venv() {
    ! "$venv/bin/python" -m pip --version >/dev/null 2>&1 || return 0
    rm -rf "$venv"
    ! "$python" -m venv "$venv" >/dev/null 2>&1 || return 0
    rm -rf "$venv"
    if is_root && has_apt; then
        install_packages python3-venv
        "$python" -m venv "$venv"
        return
    fi
    has_apt || die "Python's venv module is incomplete here." "Install it; on Debian 12: apt-get install python3-venv"
    [ -d "$tools/usr/share/python-wheels" ] || {
        say "fetching pip into $tools"
        own_apt update >"$cache/apt.log" 2>&1 || { tail -n 5 "$cache/apt.log" >&2; die "apt-get update failed."; }
        mkdir -p "$cache/debs" "$tools"
        (cd "$cache/debs" && own_apt download python3-pip-whl python3-setuptools-whl >>"$cache/apt.log" 2>&1) ||
            die "apt-get could not fetch pip."
        for deb in "$cache/debs"/*.deb; do
            dpkg-deb -x "$deb" "$tools"
            rm -f "$deb"
        done
    }
    "$python" -m venv --without-pip "$venv"
    wheel=$(ls "$tools"/usr/share/python-wheels/pip-*.whl)
    "$venv/bin/python" "$wheel/pip" install -q --no-index "$wheel"
}

# bootstrap EXTRA: make or refresh $venv for this checkout; EXTRA is "" or an extra such as "[dev]".
bootstrap() {
    cache=${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/vmconsole
    tools=$cache/tools
    venv=${VMCONSOLE_VENV:-$cache/venv-$(printf %s "$checkout$1" | cksum | cut -d' ' -f1)}
    mkdir -p "$cache"
    python=$(find_python)
    make_venv
    ensure_compiler
    # Nothing in the source tree is written: pip builds from a copy.
    say "installing vmconsole into $venv"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check "$checkout$1" >"$cache/pip.log" 2>&1 ||
        { tail -n 30 "$cache/pip.log" >&2; die "pip could not install vmconsole." "The whole log: $cache/pip.log"; }
}
