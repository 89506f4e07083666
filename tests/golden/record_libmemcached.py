#!/usr/bin/env python3
"""Records in libmemcached/ which server libmemcached picks for each key.

Needs Debian's `libmemcached11` (1.1.4), called through ctypes: the library's
own `memcached_generate_hash` says which server a key belongs to, without a
connection to any. Takes half a minute. Debian builds it without the hsieh
hash, and twemproxy alone has crc16 and crc32a, so nine hashes are left.
"""

import ctypes

from common import File, keys

SUCCESS = 0
# enum memcached_behavior_t, memcached_server_distribution_t, memcached_hash_t.
BEHAVIOR_HASH, BEHAVIOR_DISTRIBUTION, BEHAVIOR_KETAMA_WEIGHTED = 2, 9, 16
DISTRIBUTION_MODULA = 0
HASHES = {
    "one_at_a_time": 0, "md5": 1, "crc32": 2, "fnv1_64": 3, "fnv1a_64": 4,
    "fnv1_32": 5, "fnv1a_32": 6, "murmur": 8, "jenkins": 9,
}

# The weights of libmemcached's own ketama fixture.
FIXTURE = [600, 300, 200, 350, 1000, 800, 950, 100]

SCENARIOS = {
    # Listed neither by length nor by bytes: the order decides under modula.
    "mixed": [
        f"{host}:{port}:1" for host, port in
        [("cache-10.example", 11211), ("cache-9.example", 11212), ("10.0.0.2", 11211),
         ("10.0.0.10", 11211), ("10.0.0.10", 11213), ("b", 1), ("a", 65535)]
    ],
    "fixture": [f"10.0.1.{host}:11211:{weight}" for host, weight in enumerate(FIXTURE, 1)],
    "weights": [f"10.0.2.{host}:11212:{weight}" for host, weight in enumerate([5, 1, 2, 1, 2, 5])],
    "servers_25": [f"10.0.3.{host}:11212:1" for host in range(25, 0, -1)],
    "servers_47": [f"10.0.4.{host}:11211:1" for host in range(47, 0, -1)],
}


def library():
    """libmemcached, with the signatures of what is called."""
    lib = ctypes.CDLL("libmemcached.so.11")
    handle, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32
    lib.memcached_lib_version.restype = text
    lib.memcached_create.restype = handle
    lib.memcached_create.argtypes = [handle]
    lib.memcached_free.argtypes = [handle]
    lib.memcached_server_add_with_weight.argtypes = [handle, text, ctypes.c_uint16, number]
    lib.memcached_behavior_set.argtypes = [handle, ctypes.c_int, ctypes.c_uint64]
    lib.memcached_generate_hash.restype = number
    lib.memcached_generate_hash.argtypes = [handle, text, ctypes.c_size_t]
    return lib


def picks(lib, servers, behaviors, all_keys):
    """The servers of all keys under these behaviors, which are set in order."""
    memcached = lib.memcached_create(None)
    for server in servers:
        host, port, weight = server.split(":")
        code = lib.memcached_server_add_with_weight(
            memcached, host.encode(), int(port), int(weight)
        )
        assert code == SUCCESS, (server, code)
    for behavior, value in behaviors:
        code = lib.memcached_behavior_set(memcached, behavior, value)
        assert code == SUCCESS, (behavior, value, code)
    picked = [lib.memcached_generate_hash(memcached, key, len(key)) for key in all_keys]
    lib.memcached_free(memcached)
    return picked


def main():
    lib = library()
    version = lib.memcached_lib_version().decode()
    all_keys = keys()
    for scenario, servers in SCENARIOS.items():
        file = File(f"libmemcached/{scenario}.txt", f"libmemcached {version}")
        for server in servers:
            file.server(server)
        for name, number in HASHES.items():
            # KETAMA_WEIGHTED sets the hash to MD5, so the hash comes second.
            behaviors = [(BEHAVIOR_KETAMA_WEIGHTED, 1), (BEHAVIOR_HASH, number)]
            file.pool(
                f"distribution=ketama server_order=listed hash={name}",
                picks(lib, servers, behaviors, all_keys),
            )
        for name, number in HASHES.items():
            behaviors = [(BEHAVIOR_DISTRIBUTION, DISTRIBUTION_MODULA), (BEHAVIOR_HASH, number)]
            file.pool(
                f"distribution=modula_unweighted hash={name}",
                picks(lib, servers, behaviors, all_keys),
            )
        file.write()


if __name__ == "__main__":
    main()
