"""The same questions to each Python client that speaks the binary protocol.

    check.py CLIENT HOST:PORT

CLIENT is `bmemcached` (python-binary-memcached) or `pylibmc` (libmemcached).
Fails with the first answer that is not the one expected.
"""

import os
import sys
import time

MEGABYTE = 1024 * 1024


def wait_until(what, condition, seconds=5):
    """Waits for a condition; servers' clocks tick once a second."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)


class Adapter:
    """A library's client, by the names that are the same in both; what differs is said below."""

    def __init__(self, client):
        self.client = client

    def __getattr__(self, name):
        return getattr(self.client, name)

    def reconnect(self):
        self.client.disconnect_all()


class Bmemcached(Adapter):
    """python-binary-memcached."""

    # It has none.
    touch = None

    def __init__(self, address):
        import bmemcached

        super().__init__(bmemcached.Client((address,), compression=None))

    def set(self, key, value, time=0):
        return self.client.set(key, value, time=time, compress_level=0)

    def set_too_large(self, key, value):
        from bmemcached.exceptions import MemcachedException

        try:
            return not self.set(key, value)
        except MemcachedException as error:
            return "Too large" in str(error)

    def count(self, key):
        self.client.incr(key, 0, default=10)


class Pylibmc(Adapter):
    """libmemcached, through pylibmc."""

    def __init__(self, address):
        import pylibmc

        self.pylibmc = pylibmc
        self.address = address
        super().__init__(self.connect())

    def connect(self):
        behaviors = {"cas": True, "tcp_nodelay": True, "receive_timeout": 5_000_000, "send_timeout": 5_000_000}
        return self.pylibmc.Client([self.address], binary=True, behaviors=behaviors)

    def replace(self, key, value):
        try:
            return self.client.replace(key, value)
        except self.pylibmc.NotFound:
            return False

    def set_too_large(self, key, value):
        try:
            return not self.client.set(key, value)
        except self.pylibmc.Error:
            return True

    def count(self, key):
        self.client.set(key, 10)

    def reconnect(self):
        super().reconnect()
        self.client = self.connect()


def check(client, prefix):
    key = f"{prefix}:one"
    assert client.get(key) is None
    assert client.set(key, "value")
    assert client.get(key) == "value"
    assert not client.add(key, "other")
    assert client.replace(key, "second")
    assert client.get(key) == "second"
    assert not client.replace(f"{prefix}:none", "x")
    print("  set, get, add, replace")

    wanted = {f"{prefix}:many:{n}": f"value {n}" for n in range(200)}
    for name, value in wanted.items():
        assert client.set(name, value)
    asked = list(wanted) + [f"{prefix}:nothing:{n}" for n in range(50)]
    assert client.get_multi(asked) == wanted
    assert client.get_multi([f"{prefix}:nothing:{n}" for n in range(50)]) == {}
    print("  multi-get over all servers")

    value, version = client.gets(key)
    assert value == "second" and version
    assert client.cas(key, "third", version)
    assert not client.cas(key, "fourth", version)
    assert client.get(key) == "third"
    print("  cas")

    number = f"{prefix}:number"
    client.count(number)
    assert client.incr(number, 5) == 15
    assert client.decr(number, 3) == 12
    print("  incr, decr")

    if client.touch:
        assert client.touch(key, 100)
        assert not client.touch(f"{prefix}:none", 100)
        assert client.set(f"{prefix}:short", "x")
        assert client.touch(f"{prefix}:short", 1)
        wait_until("a touched item expires", lambda: client.get(f"{prefix}:short") is None)
        print("  touch")

    assert client.delete(key)
    assert client.get(key) is None
    print("  delete")

    assert client.set(key, "soon gone", time=1)
    wait_until("an item expires", lambda: client.get(key) is None)
    print("  expiry")

    # What memcached stores of a megabyte: its header needs some of it.
    large = os.urandom(MEGABYTE // 2 - 200).hex()
    assert client.set(f"{prefix}:large", large)
    assert client.get(f"{prefix}:large") == large
    print("  a value of 1 MiB")

    assert client.set(key, "before")
    assert client.set_too_large(f"{prefix}:too large", "x" * (2 * MEGABYTE))
    assert client.get(key) == "before"
    print("  a value over the limit")

    client.reconnect()
    assert client.get(key) == "before"
    print("  reconnect")


def main():
    name, address = sys.argv[1:]
    client = {"bmemcached": Bmemcached, "pylibmc": Pylibmc}[name](address)
    check(client, f"{name}:{os.getpid()}")


main()
