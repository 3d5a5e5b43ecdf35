#!/usr/bin/env bash
# install.sh node|go: fetches what the peers of the headline bench need, into this folder, if it is not there. What it
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
    [[ -x goproxy && goproxy -nt proxy.go ]] && return
    if ! type -P go >/dev/null; then
        [[ $(id -u) == 0 ]] && type -P apt-get >/dev/null || { echo "there is no go"; return 1; }
        apt-get install -y --no-install-recommends golang-go || { echo "apt-get cannot install golang-go"; return 1; }
    fi
    command go build -o goproxy proxy.go || { echo "go cannot build"; return 1; }
}

"$1"
