#!/usr/bin/env python3
"""Records in twemproxy/ which server a real nutcracker picks for each key.

Needs Debian's `nutcracker` (0.5.0) in the PATH and nothing else. Listens on
loopback addresses only: the servers are fakes that answer any `get` with their
own number. Takes a minute and a half; names of files may be given to record
only those.
"""

import os
import subprocess
import sys
import tempfile
import time

from common import Fakes, File, ask, connect, free_port, keys

HASHES = [
    "one_at_a_time", "md5", "crc16", "crc32", "crc32a", "fnv1_64",
    "fnv1a_64", "fnv1_32", "fnv1a_32", "hsieh", "murmur", "jenkins",
]
TWO_HASHES = ["fnv1a_64", "md5"]

# The servers' addresses take part in the ring, so they cannot be chosen freely.
# 127.77.0.0/16 is loopback on Linux, and nobody else's.


def equal(net, count, port=22122):
    return [f"127.77.{net}.{host}:{port}:1" for host in range(1, count + 1)]


NAMED = ["cache-10", "cache-9", "b", "a", "Zebra", "caché", "a-much-longer-name.example.com", "cache-1"]

SCENARIOS = {
    # name: (servers, hashes, more)
    "equal": (equal(1, 10), HASHES, {}),
    "weights": (
        [f"127.77.2.{h}:22122:{w}" for h, w in enumerate([1, 2, 5, 5, 1, 2], 1)], HASHES, {},
    ),
    "names": (
        [f"127.77.3.{h}:22122:{1 + h % 3} {name}" for h, name in enumerate(NAMED, 1)], HASHES, {},
    ),
    "port_11211": (
        [f"127.77.4.{h}:{p}:1" for h, p in
         [(1, 11211), (2, 11212), (30, 11211), (4, 11211), (4, 11212), (5, 11211)]],
        HASHES, {},
    ),
    "servers_25": (equal(5, 25), HASHES, {}),
    "servers_47": (equal(6, 47), HASHES, {}),
    "tag": (equal(1, 10), TWO_HASHES, {"hash_tag": "{}"}),
    "tag_same": (equal(1, 10), TWO_HASHES, {"hash_tag": "::"}),
    "zero_points": (
        [f"127.77.7.{h}:22122:{w}" for h, w in enumerate([100000, 1, 3, 70000], 1)], TWO_HASHES, {},
    ),
    "sockets": (
        [f"/tmp/ketch-golden-{name}.sock:1" for name in ["one", "two", "three"]], TWO_HASHES, {},
    ),
    "long_names": (
        [f"127.77.8.{h}:22122:1 {'x' * length}{h}" for h, length in
         enumerate([266, 267, 268, 269, 272, 272], 1)],
        TWO_HASHES, {},
    ),
    "ejected_equal": (equal(1, 10), TWO_HASHES, {"dead": [0, 6, 7]}),
    "ejected_weights": (
        [f"127.77.2.{h}:22122:{w}" for h, w in enumerate([1, 2, 5, 5, 1, 2], 1)],
        TWO_HASHES, {"dead": [2, 4]},
    ),
    "ejected_26_to_25": (equal(9, 26), TWO_HASHES, {"dead": [13]}),
}


def address(server):
    """Where the fake of a server listens."""
    where = server.split(" ")[0].rsplit(":", 1)[0]
    if where.startswith("/"):
        return where
    host, port = where.rsplit(":", 1)
    return host, int(port)


def pools(scenario):
    """The pools of a scenario: name, port, distribution and hash of each."""
    _, hashes, _ = SCENARIOS[scenario]
    return [
        (f"{distribution}_{hash_name}", free_port(), distribution, hash_name)
        for distribution in ["ketama", "modula"]
        for hash_name in hashes
    ]


def configuration(scenario, listed):
    """The nutcracker.yml of a scenario."""
    servers, _, more = SCENARIOS[scenario]
    lines = []
    for name, port, distribution, hash_name in listed:
        lines += [
            f"{name}:",
            f"  listen: 127.0.0.1:{port}",
            f"  hash: {hash_name}",
            f"  distribution: {distribution}",
        ]
        if "hash_tag" in more:
            lines.append(f'  hash_tag: "{more["hash_tag"]}"')
        if "dead" in more:
            lines += [
                "  auto_eject_hosts: true",
                "  server_failure_limit: 1",
                "  server_retry_timeout: 3600000",
            ]
        lines += ["  servers:"] + [f"   - {server}" for server in servers]
    return "\n".join(lines) + "\n"


def eject(port, all_keys):
    """Asks until no answer is an error: the dead servers have been ejected."""
    with connect(port) as proxy:
        good = 0
        for key in all_keys:
            proxy.sendall(b"get " + key + b"\r\n")
            answer = proxy.recv(4096)
            good = 0 if b"ERROR" in answer else good + 1
            if good == 500:
                return
    raise AssertionError("the dead servers are not ejected")


def record(scenario, all_keys):
    servers, _, more = SCENARIOS[scenario]
    dead = more.get("dead", [])
    listed = pools(scenario)
    file = File(f"twemproxy/{scenario}.txt", "nutcracker-0.5.0")
    for number, server in enumerate(servers):
        file.server(server + (" # dead" if number in dead else ""))
    fakes = [None if n in dead else address(s) for n, s in enumerate(servers)]
    with tempfile.TemporaryDirectory() as place, Fakes(fakes):
        path = os.path.join(place, "nutcracker.yml")
        with open(path, "w", encoding="utf-8") as yml:
            yml.write(configuration(scenario, listed))
        nutcracker = subprocess.Popen(
            ["nutcracker", "-c", path, "-o", f"{place}/log", "-p", f"{place}/pid",
             "-a", "127.0.0.1", "-s", str(free_port())],
            stderr=subprocess.DEVNULL,
        )
        try:
            for _, port, distribution, hash_name in listed:
                if dead:
                    eject(port, all_keys)
                picks = ask(port, all_keys)
                tag = f" hash_tag={more['hash_tag']}" if "hash_tag" in more else ""
                file.pool(f"distribution={distribution} hash={hash_name}{tag}", picks)
        finally:
            nutcracker.terminate()
            nutcracker.wait()
    file.write()


def main():
    version = subprocess.run(["nutcracker", "-V"], stderr=subprocess.PIPE, text=True, check=True)
    assert "nutcracker-0.5.0" in version.stderr, version.stderr
    all_keys = keys()
    for scenario in sys.argv[1:] or SCENARIOS:
        start = time.monotonic()
        record(scenario, all_keys)
        print(f"{scenario}: {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
