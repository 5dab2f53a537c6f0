"""A real PgBouncer in transaction mode between a service and its database."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

CONFIGURATION = """\
[databases]
{database} = {target}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 10
max_client_conn = 200
"""


@contextmanager
def pgbouncer(dsn: str) -> Iterator[str]:
    """Run a PgBouncer in front of the database at `dsn`, which has a port; gives the address that leads through it."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None, "no PgBouncer; on Debian: apt-get install pgbouncer"
    address = urlsplit(dsn)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as name:
        configuration = Path(name) / "pgbouncer.ini"
        target = f"host={address.hostname} port={address.port} user={address.username}"
        if address.password:
            target += f" password={unquote(address.password)}"
        configuration.write_text(
            CONFIGURATION.format(database=address.path.strip("/"), target=target, listen_port=port)
        )
        user = None
        if os.geteuid() == 0:  # it refuses to run as root
            user = pwd.getpwnam("nobody").pw_uid
            for path in (Path(name), configuration):
                os.chown(path, user, -1)
        with (Path(name) / "log").open("wb") as log:
            process = subprocess.Popen([program, str(configuration)], user=user, stdout=log, stderr=log)
        try:
            _await(port, process, Path(name) / "log")
            yield f"postgresql://{address.username}@127.0.0.1:{port}{address.path}"
        finally:
            process.kill()
            process.wait()


def _await(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)
        else:
            return
