#!/bin/sh
# Real clients through the proxy on four memcached servers, in both ways that it asks them in.
#
#     tests/clients/run.sh [WORK]
#
# Installs the clients from their registries into WORK (default: a new directory below /tmp), so it needs the network,
# python3 with venv, node with npm, and cargo. KETCH and MEMCACHED name the programs if they are not in PATH.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=${1:-$(mktemp -d /tmp/ketch-clients.XXXXXX)}
ketch=${KETCH:-ketch}
memcached=${MEMCACHED:-memcached}
port=${PORT:-22400}
mkdir -p "$work"

pids=
trap 'for pid in $pids; do kill "$pid" 2>/dev/null || true; done' EXIT

if [ ! -x "$work/venv/bin/python" ]; then
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet python-binary-memcached pylibmc
fi
[ -d "$work/node_modules/memjs" ] || npm install --silent --prefix "$work" memjs
cargo build --quiet --manifest-path "$here/rust/Cargo.toml" --target-dir "$work/rust"

servers=
for number in 1 2 3 4; do
    "$memcached" -u "$(id -un)" -l 127.0.0.1 -p $((port + number)) -U 0 -m 64 &
    pids="$pids $!"
    servers="$servers${servers:+, }127.0.0.1:$((port + number))"
done
cat > "$work/ketch.yaml" <<YAML
listen:
  - {address: "127.0.0.1:$((port + 10))", route: as_client}
  - {address: "127.0.0.1:$((port + 11))", route: meta}
  - {address: "127.0.0.1:$((port + 12))", route: embedded}
admin: off
pools:
  as_client: {servers: [$servers]}
  meta: {servers: [$servers], server_protocol: meta}
  embedded: {servers: [embedded, embedded]}
route: as_client
YAML
"$ketch" proxy -c "$work/ketch.yaml" 2> "$work/ketch.log" &
pids="$pids $!"
tries=0
until grep -q ready "$work/ketch.log"; do
    tries=$((tries + 1))
    [ $tries -lt 200 ] || { cat "$work/ketch.log"; exit 1; }
    sleep 0.05
done

for way in direct as_client meta embedded; do
    case $way in
        direct) address=127.0.0.1:$((port + 1)) ;;
        as_client) address=127.0.0.1:$((port + 10)) ;;
        meta) address=127.0.0.1:$((port + 11)) ;;
        embedded) address=127.0.0.1:$((port + 12)) ;;
    esac
    for client in bmemcached pylibmc; do
        echo "$way: $client"
        "$work/venv/bin/python" "$here/check.py" "$client" "$address"
    done
    echo "$way: memjs"
    NODE_PATH="$work/node_modules" node "$here/check.js" "$address"
    for mode in binary ascii; do
        echo "$way: memcache crate, $mode"
        "$work/rust/debug/ketch-client-check" "$mode" "$address"
    done
    echo "$way: frames"
    python3 "$here/frames.py" "$address"
done
echo "all clients are content"
