"""What no client library of the others asks: gat, gatk and their quiet forms.

    frames.py HOST:PORT
"""

import os
import socket
import struct
import sys

GAT, GATQ, GATK, GATKQ, NOOP, SET = 0x1D, 0x1E, 0x23, 0x24, 0x0A, 0x01


def frame(opcode, key=b"", extras=b"", value=b"", opaque=0):
    body = len(extras) + len(key) + len(value)
    head = struct.pack(">BBHBBHIIQ", 0x80, opcode, len(key), len(extras), 0, 0, body, opaque, 0)
    return head + extras + key + value


def read(stream):
    head = stream.read(24)
    _, opcode, key_len, extras_len, _, status, body_len, opaque, _ = struct.unpack(">BBHBBHIIQ", head)
    body = stream.read(body_len)
    return opcode, status, opaque, body[extras_len : extras_len + key_len], body[extras_len + key_len :]


def main():
    host, port = sys.argv[1].rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        stream = connection.makefile("rb")
        keys = [b"frames:%d:%d" % (os.getpid(), n) for n in range(20)]
        for key in keys[:10]:
            connection.sendall(frame(SET, key, bytes(8), b"of " + key))
            assert read(stream)[:2] == (SET, 0)
        time = struct.pack(">I", 100)
        connection.sendall(frame(GAT, keys[0], time, opaque=1) + frame(GATK, keys[10], time, opaque=2))
        assert read(stream) == (GAT, 0, 1, b"", b"of " + keys[0])
        assert read(stream) == (GATK, 1, 2, keys[10], b"")
        for opcode in (GATQ, GATKQ):
            run = b"".join(frame(opcode, key, time, opaque=n) for n, key in enumerate(keys))
            connection.sendall(run + frame(NOOP, opaque=99))
            for n, key in enumerate(keys[:10]):
                name = key if opcode == GATKQ else b""
                assert read(stream) == (opcode, 0, n, name, b"of " + key)
            assert read(stream) == (NOOP, 0, 99, b"", b"")
    print("  gat, gatk, gatq, gatkq")


main()
