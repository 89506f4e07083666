#!/usr/bin/env python3
"""Records in memcached/ which server memcached's own proxy picks for each key.

Needs a memcached that was configured with `--enable-proxy`, which no
distribution ships; its path is the only argument. Takes a minute. The servers
are fakes, as for twemproxy.
"""

import os
import subprocess
import sys
import tempfile

from common import Fakes, File, ask, free_port, keys


def servers(net, count, port=22122):
    return [(f"127.78.{net}.{host}", port) for host in range(1, count + 1)]


# A ring of memcached's proxy has 160 points a server whatever their number, so
# twemproxy's rounding sizes, as 25 and 47, are left to jump hash.
RING = "dist = mcp.dist_ring_hash, omode = 'twemproxy'"
JUMP = [
    ("distribution=jump", ""),
    ("distribution=jump seed=gutter", "seed = 'gutter'"),
    ("distribution=jump hash_stop=_-", "filter = 'stop', filter_conf = '_-'"),
    ("distribution=jump hash=md5", "hash = mcp.dist_ring_hash.hash"),
]
RINGS = [
    ("distribution=ketama server_order=listed hash=xxh3_64", RING),
    ("distribution=ketama server_order=listed hash=xxh3_64 seed=gutter", RING + ", seed = 'gutter'"),
    ("distribution=ketama server_order=listed hash=md5", RING + ", hash = mcp.dist_ring_hash.hash"),
]

SCENARIOS = {
    "servers_2": (servers(1, 2), JUMP),
    "servers_10": (servers(2, 10), JUMP + RINGS),
    "servers_25": (servers(3, 25), JUMP),
    "servers_47": (servers(4, 47), JUMP),
    "port_11211": (servers(5, 7, 11211), RINGS),
}

LUA = """
function mcp_config_pools()
    local backends = {}
%s
    return mcp.pool(backends, { %s })
end

function mcp_config_routes(pool)
    local route = mcp.funcgen_new()
    local handle = route:new_handle(pool)
    route:ready({ f = function(context)
        return function(request) return context:enqueue_and_wait(request, handle) end
    end })
    mcp.attach(mcp.CMD_GET, route)
end
"""


def record(program, version, scenario, all_keys):
    addresses, pools = SCENARIOS[scenario]
    file = File(f"memcached/{scenario}.txt", version)
    for host, port in addresses:
        file.server(f"{host}:{port}:1")
    backends = "\n".join(
        f"    backends[{n}] = mcp.backend('b{n}', '{host}', {port})"
        for n, (host, port) in enumerate(addresses, 1)
    )
    with tempfile.TemporaryDirectory() as place, Fakes(addresses):
        # memcached gives up root before it reads its configuration.
        os.chmod(place, 0o755)
        for options, lua_options in pools:
            path = os.path.join(place, "proxy.lua")
            with open(path, "w", encoding="utf-8") as lua:
                lua.write(LUA % (backends, lua_options))
            port = free_port()
            memcached = subprocess.Popen(
                [program, "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-t", "1", "-u", "nobody",
                 "-o", f"proxy_config={path}"],
            )
            try:
                file.pool(options, ask(port, all_keys))
            finally:
                memcached.terminate()
                memcached.wait()
    file.write()


def main():
    program = sys.argv[1]
    version = subprocess.run([program, "-V"], stdout=subprocess.PIPE, text=True, check=True)
    all_keys = keys()
    for scenario in SCENARIOS:
        record(program, f"the proxy of {version.stdout.strip()}", scenario, all_keys)


if __name__ == "__main__":
    main()
