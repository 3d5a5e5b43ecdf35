#!/usr/bin/env bash
# Installs the servers that are not here, says which cannot be had, and runs the tests against those that can.
#
#   tests/real_servers/run.sh [REQUESTS]          REQUESTS to each server: 20000 unless told otherwise
#   tests/real_servers/run.sh [REQUESTS] --write  and leaves the table in docs/real-servers.md
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin

# Program and Debian's package. A package that starts a service would be in the way: Apache's is the one without.
servers=(
    nginx=nginx-light
    openssl=openssl
    haproxy=haproxy
    apache2=apache2-bin
    caddy=caddy
    node=nodejs
    go=golang-go
    python3=python3
)
missing() {
    local server
    for server in "${servers[@]}"; do
        command -v "${server%=*}" >/dev/null || echo "${server#*=}"
    done
}

if [[ -n $(missing) ]] && command -v apt-get >/dev/null; then
    timeout 120 apt-get update >/dev/null || true
    for package in $(missing); do
        DEBIAN_FRONTEND=noninteractive timeout 300 \
            apt-get install -y --no-install-recommends "$package" >/dev/null </dev/null || true
    done
fi
here=()
for server in "${servers[@]}"; do
    if command -v "${server%=*}" >/dev/null; then
        here+=("${server%=*}")
    else
        echo "skipped: ${server%=*} is not installed, and Debian's ${server#*=} cannot be installed here"
    fi
done

versions() {
    { command -v nginx && nginx -v; } 2>&1 | sed -n 's,^nginx version: nginx/,nginx ,p'
    { command -v haproxy && haproxy -v; } 2>/dev/null | sed -n 's/^HAProxy version \([0-9.]*\).*/HAProxy \1/p'
    { command -v apache2 && apache2 -v; } 2>/dev/null | sed -n 's,.*Apache/\([0-9.]*\).*,Apache httpd \1,p'
    { command -v caddy && caddy version; } 2>/dev/null | sed -n 's/^v\{0,1\}\([0-9][0-9.]*\).*/Caddy \1/p'
    { command -v node && node --version; } 2>/dev/null | sed -n 's/^v/node /p'
    { command -v go && go version; } 2>/dev/null | sed -n 's/^go version go\([0-9.]*\).*/Go \1/p'
    python3 --version 2>/dev/null
}
versions=$(versions | paste -sd, | sed 's/,/, /g')
echo "$versions"

requests=20000
if [[ ${1:-} =~ ^[0-9]+$ ]]; then
    requests=$1
    shift
fi
said=$(mktemp)
trap 'rm -f "$said"' EXIT
REAL_SERVERS="${here[*]}" REAL_SERVERS_REQUESTS=$requests \
    cargo test --locked --test real_servers -- --nocapture | tee "$said"

head='| server | requests | GETs failed | GETs sent again | POSTs failed | POSTs carried out twice | sockets | most requests on one | found closed before use | time |'
table=$(echo "$head"; sed 's/[^|]//g; s/|/|---/g; s/---$//' <<<"$head"; grep '^| ' "$said" | sort -f)
echo "$table"
if [[ ${1:-} == --write ]]; then
    {
        cat <<'EOF'
# Against real servers

GETs and POSTs in turns, 16 callers over at most 8 connections, through `ReusedReset`, to servers that close: by count,
by time, or after each response. After every thousand requests all callers wait for about the second after which these
servers close what is idle, so that the next requests meet the closes. The agent's own idle timeout is its default, which
is longer, and `server_hint_margin` is zero: nothing but the look before each reuse and the second try stands between the
callers and a closed connection. The servers log each request that they carry out.

- nginx: `keepalive_requests 7`, `keepalive_timeout 1s`. HAProxy: `timeout http-keep-alive 1s`, before the same nginx.
- Apache httpd: `KeepAliveTimeout 1`, `MaxKeepAliveRequests 100`. node: `keepAliveTimeout` 1 s, `maxRequestsPerSocket` 5.
- Go's net/http: `IdleTimeout` 1 s. Python's http.server: HTTP/1.0.

A POST that failed met a close on a reused connection, and its caller was told so: `is_reset()` and `is_reused()`.

Over HTTP/2 64 callers share at most 4 connections, without `ReusedReset`, to servers that close what is idle for a second,
with the same pauses, and of which some end each connection after a thousand requests (GOAWAY): nginx by
`keepalive_requests`, node by `session.close()`, Go by `Connection: close`. No request fails there. HAProxy and Caddy stand before an
nginx, whose log is read: there, *most requests on one* counts the connections between the two.

EOF
        echo "$table"
        cat <<EOF

$versions.
Times are those of servers side by side, the pauses included.
\`tests/real_servers/run.sh --write\` made this page.
EOF
    } >docs/real-servers.md
fi
