#!/usr/bin/env bash
# Processor time per request of ketch and of twemproxy on the same memcacheds, with
# nothing but Debian's memcached, nutcracker and libmemcached-tools.
#
#   cargo build --release && benches/against-twemproxy.sh [SECONDS] [ROUNDS]
#
# All programs share one core (CORE, default 0), so that no time is lost or won by
# waking another one; the rounds alternate, and the medians are shown. Not a
# verifying load: it counts, the tests check.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-5} rounds=${2:-3} core=${CORE:-0}
ketch=${KETCH:-target/release/ketch}
PATH=$PATH:/usr/sbin
for program in memcached nutcracker memcaslap taskset; do
  command -v "$program" >/dev/null || { echo "$program is not installed" >&2; exit 1; }
done
[ -x "$ketch" ] || { echo "$ketch is not there: cargo build --release" >&2; exit 1; }

work=$(mktemp -d)
started=()
# Only what was started here is ended.
trap 'kill "${started[@]}" 2>/dev/null || true; wait; rm -rf "$work"' EXIT
as_root=()
[ "$(id -u)" != 0 ] || as_root=(-u root)

servers=()
for port in 21471 21472 21473 21474; do
  taskset -c "$core" memcached "${as_root[@]}" -l 127.0.0.1 -p "$port" -U 0 -t 1 -m 256 &
  started+=($!)
  servers+=("127.0.0.1:$port")
done
{
  echo "listen: 127.0.0.1:21480"
  echo "workers: 1"
  echo "pools: {main: {servers: [$(IFS=,; echo "${servers[*]}")]}}"
  echo "route: main"
} >"$work/ketch.yaml"
{
  echo "main:"
  echo "  listen: 127.0.0.1:21481"
  echo "  hash: fnv1a_64"
  echo "  distribution: ketama"
  echo "  servers:"
  for server in "${servers[@]}"; do echo "   - $server:1"; done
} >"$work/nutcracker.yaml"
taskset -c "$core" "$ketch" -c "$work/ketch.yaml" 2>"$work/ketch.log" &
started+=($!) ketch_id=$!
taskset -c "$core" nutcracker -c "$work/nutcracker.yaml" -s 21482 -o "$work/nutcracker.log" &
started+=($!) nutcracker_id=$!
deadline=$((SECONDS + 10))
for port in 21480 21481; do
  until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
    [ $SECONDS -lt $deadline ] || { echo "nothing listens on $port" >&2; exit 1; }
  done
done

# User and system time of a process so far, in ticks.
ticks() { awk '{print $14 + $15}' "/proc/$1/stat"; }

measure() { # NAME PORT ID memcaslap-arguments...
  local name=$1 port=$2 id=$3 before after said ops
  shift 3
  before=$(ticks "$id")
  said=$(taskset -c "$core" memcaslap -s "127.0.0.1:$port" -T 1 -t "${seconds}s" -X 32 "$@" | tail -n 3)
  after=$(ticks "$id")
  ops=$(sed -n 's/.*Ops: \([0-9]*\).*/\1/p' <<<"$said")
  awk -v name="$name" -v ticks=$((after - before)) -v hz="$(getconf CLK_TCK)" -v ops="$ops" \
    'BEGIN { printf "%s %.2f\n", name, ticks / hz * 1e6 / ops }' >>"$work/figures"
}

show() { # TITLE memcaslap-arguments...
  local title=$1 round
  shift
  : >"$work/figures"
  for round in $(seq "$rounds"); do
    measure ketch 21480 "$ketch_id" "$@"
    measure nutcracker 21481 "$nutcracker_id" "$@"
  done
  for name in ketch nutcracker; do
    grep "^$name " "$work/figures" | sort -k2n | awk -v title="$title" \
      '{ at[NR] = $2 } END { printf "%-28s %-11s %6.2f us per key (%.2f to %.2f)\n", title, $1, at[int((NR + 1) / 2)], at[1], at[NR] }'
  done
}

show "one client" -c 1
show "50 clients" -c 50
show "50 clients, gets of 20 keys" -c 50 -d 20
