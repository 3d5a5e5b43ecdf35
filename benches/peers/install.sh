#!/usr/bin/env bash
# install.sh node|go|nginx|pingora: fetches what the peers of the headline bench need, into this folder, if it is not there. What it
# cannot have, it says in its last line, and fails.
set -euo pipefail
cd "$(dirname "$0")"

node() {
    type -P node >/dev/null || { echo "there is no node"; return 1; }
    [[ -d node_modules/agentkeepalive && -d node_modules/undici ]] && return
    type -P npm >/dev/null || { echo "there is no npm"; return 1; }
    npm install --no-package-lock --no-audit --no-fund --loglevel error || { echo "npm cannot install"; return 1; }
}

go() {
    local source
    for source in *.go; do
        [[ -x go${source%.go} && go${source%.go} -nt $source ]] && continue
        debian go golang-go || return 1
        command go build -o "go${source%.go}" "$source" || { echo "go cannot build"; return 1; }
    done
}

nginx() {
    PATH=$PATH:/usr/sbin debian nginx nginx-light
}

# It has C code of zlib-ng's, which is built by cmake.
pingora() {
    debian cmake cmake || return 1
    cargo build --quiet --locked --release --manifest-path ../pingora/Cargo.toml --target-dir ../../target/pingora ||
        { echo "cargo cannot build it"; return 1; }
}

# debian PROGRAM PACKAGE: installs it where it is missing.
debian() {
    type -P "$1" >/dev/null && return
    [[ $(id -u) == 0 ]] && type -P apt-get >/dev/null || { echo "there is no $1"; return 1; }
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$2" </dev/null ||
        { echo "apt-get cannot install $2"; return 1; }
}

"$1"
