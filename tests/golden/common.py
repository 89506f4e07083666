"""What all recorders share: the keys, the files, and a fake memcached server.

The keys and the form of the files are described in README.md; the Rust test
makes the same keys by itself (`keys.rs`) and reads the files (`file.rs`).
"""

import asyncio
import multiprocessing
import os
import socket
import time

KEYS = 100_000
FIRST = 1_000
BLOCK = 1_000
MASK = (1 << 64) - 1

PLAIN = b"abcdefghijklmnopqrstuvwxyz0123456789:_-."
PRINTABLE = bytes(range(0x21, 0x7F))
ANY = PRINTABLE + bytes(range(0x80, 0x100))
ALPHABETS = (PLAIN, PRINTABLE, PRINTABLE, ANY)

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

HERE = os.path.dirname(os.path.abspath(__file__))


def splitmix64(state):
    """The numbers of splitmix64 that follow `state`."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) & MASK
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & MASK
        yield mixed ^ (mixed >> 31)


def key(number):
    """The key of that number; each has a generator of its own."""
    numbers = splitmix64((number * 0xD1342543DE82EF95) & MASK)
    length = 1 + next(numbers) % 200
    alphabet = ALPHABETS[next(numbers) % 4]
    raw = b"".join(next(numbers).to_bytes(8, "little") for _ in range((length + 7) // 8))
    return bytes(alphabet[byte % len(alphabet)] for byte in raw[:length])


def keys():
    """All keys, in order."""
    return [key(number) for number in range(KEYS)]


def fnv1a(picks):
    """FNV-1a of 64 bits over one byte for each pick."""
    digest = 0xCBF29CE484222325
    for pick in picks:
        digest = ((digest ^ pick) * 0x100000001B3) & MASK
    return digest


class File:
    """A file of recorded picks, written as they come."""

    def __init__(self, path, source):
        self.path = os.path.join(HERE, path)
        self.lines = [
            f"# Picked by {source}.",
            "# Recorded by a script; README.md says how, and what the lines mean.",
        ]

    def server(self, text):
        self.lines.append(f"server {text}")

    def pool(self, options, picks):
        """One pool: its options, and the server of every key."""
        assert len(picks) == KEYS, f"{len(picks)} picks of {KEYS}"
        self.lines += ["", f"pool {options}"]
        for start in range(0, FIRST, 100):
            self.lines.append("first " + "".join(DIGITS[p] for p in picks[start : start + 100]))
        digests = [f"{fnv1a(picks[at : at + BLOCK]):016x}" for at in range(0, KEYS, BLOCK)]
        for start in range(0, len(digests), 5):
            self.lines.append("blocks " + " ".join(digests[start : start + 5]))

    def write(self):
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        with open(self.path, "w", encoding="utf-8") as file:
            file.write("\n".join(self.lines) + "\n")
        print(f"wrote {os.path.relpath(self.path, HERE)}", flush=True)


# The fake servers: every `get` is a hit whose value is the server's number.


class Fake(asyncio.Protocol):
    """One connection to the fake server of that number."""

    def __init__(self, number):
        self.tail = b" 0 3\r\n%03d\r\nEND\r\n" % number
        self.rest = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        *lines, self.rest = (self.rest + data).split(b"\r\n")
        out = []
        for line in lines:
            if line.startswith(b"get "):
                out.append(b"VALUE " + line[4:] + self.tail)
            elif line == b"version":
                out.append(b"VERSION 1.6.0\r\n")
            else:
                out.append(b"ERROR\r\n")
        self.transport.write(b"".join(out))


def serve(addresses, ready):
    """Serves on all addresses, the first being number 0, until killed."""

    async def main():
        loop = asyncio.get_running_loop()
        for number, address in enumerate(addresses):
            if address is None:
                continue
            if isinstance(address, str):
                await loop.create_unix_server(lambda n=number: Fake(n), address)
            else:
                await loop.create_server(lambda n=number: Fake(n), *address)
        ready.set()
        await asyncio.Event().wait()

    asyncio.run(main())


class Fakes:
    """The fake servers of a list, in a process of their own.

    An address is a pair of host and port, the path of a unix socket, or `None`
    for a server that refuses connections.
    """

    def __init__(self, addresses):
        self.sockets = [address for address in addresses if isinstance(address, str)]
        ready = multiprocessing.Event()
        self.process = multiprocessing.Process(target=serve, args=(addresses, ready), daemon=True)
        self.process.start()
        assert ready.wait(10), "the fake servers do not come up; is an address taken?"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.join()
        for path in self.sockets:
            os.unlink(path)


def free_port():
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def connect(port, deadline=10):
    """A connection to a proxy, which may need a moment to come up."""
    until = time.monotonic() + deadline
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=60)
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def ask(port, all_keys, batch=500):
    """The server of each key, as the proxy on `port` has it.

    Every answer is checked to be for the key that was asked for.
    """
    picks = []
    with connect(port) as proxy:
        for start in range(0, len(all_keys), batch):
            asked = all_keys[start : start + batch]
            proxy.sendall(b"".join(b"get " + key + b"\r\n" for key in asked))
            expected = [b"VALUE " + key + b" 0 3" for key in asked]
            answer = b""
            while answer.count(b"\r\nEND\r\n") < len(asked):
                more = proxy.recv(1 << 20)
                assert more, f"the proxy hung up after {len(picks)} keys: {answer[-200:]}"
                answer += more
                assert b"SERVER_ERROR" not in answer, answer[-200:]
            lines = answer.split(b"\r\n")
            assert lines[0:-1:3] == expected, f"other keys were answered: {answer[:300]}"
            picks += [int(value) for value in lines[1::3]]
    return picks
