"""`python -S tests/command_client.py SOCKET ARGUMENT ...`: an agq command that a running server forks
(tests/command_server.py), with this process's streams, folder and environment. Without imports that cost time."""

import json
import os
import socket
import sys

with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
    socket.send_fds(connection, [b"f"], [0, 1, 2])
    request = {"arguments": sys.argv[2:], "cwd": os.getcwd(), "env": dict(os.environ)}
    connection.sendall(json.dumps(request).encode() + b"\n")
    _, status, seconds = connection.makefile().read().split()
with open(f"{sys.argv[1]}.seconds", "a") as file:
    file.write(f"{seconds}\n")
sys.exit(int(status))
