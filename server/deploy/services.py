"""What a coordinator runs: the SuperLink, its executor, and the proxy that lets only merchants' traffic in.

The SuperLink's control interface asks for no password: whoever reaches its port can register nodes and start code on
every merchant's machine. So it listens on loopback alone, and the proxy passes on exactly the requests that a merchant's
node makes (`FLEET`); everything else is answered 403.

Flower's telemetry, update check and installation of packages at run time are off.
"""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import sys
import time
from pathlib import Path

from common import processes
from common.errors import Unreachable, UserError
from common.files import write_atomic
from common.model import DEFAULT_FOLDER
from common.processes import Service
from server.config import CoordinatorSettings, load_coordinator
from server.deploy.certificates import renew
from server.deploy.layout import Layout, hosts

ADDRESS = "superlink.address"
PATIENCE = 120.0
FLEET = (
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "get-run",
    "get-fab",
    "push-object",
    "pull-object",
    "confirm-message-received",
)
"""What a SuperNode of flwr 1.41 asks for; registering is the coordinator's own business."""
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def up(layout: Layout) -> None:
    """Start everything and return when merchants can connect; raise `UserError` or `Unreachable` with the log to read."""
    services = plan(layout)
    processes.start(layout.services, services)
    wait_until_open(layout)


def down(layout: Layout) -> int:
    """Stop everything that was ever started here and return how many processes there were."""
    return processes.stop(layout.services)


def plan(layout: Layout) -> list[Service]:
    """Return the services, with the certificate renewed where due and the proxy's configuration written.

    Raises `UserError` when the services run already, the proxy's program is missing or its port is taken.
    """
    settings = load_coordinator(layout.root)
    if processes.running(layout.services):
        raise UserError(f"the coordinator in {layout.root} runs already; `fugou coordinator status` shows it")
    down(layout)
    program = shutil.which(settings.coordinator.nginx)
    if program is None:
        raise UserError(
            f"coordinator.nginx = {settings.coordinator.nginx!r} is not on this machine; install nginx (apt-get install nginx)"
        )
    _check_free(settings)
    renew(layout.tls, hosts(settings.coordinator))
    port = free_port()
    for folder in (layout.flower, layout.services / "nginx"):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomic(layout.services / ADDRESS, f"127.0.0.1:{port}\n")
    conf = layout.services / "nginx" / "nginx.conf"
    write_atomic(conf, nginx_conf(layout, settings, port))
    return [superlink(layout, port), executor(layout, port), _proxy(program, conf)]


def superlink(layout: Layout, port: int) -> Service:
    """Return the SuperLink: TLS, known keys only, state in a database so that it survives its own crash."""
    tls = layout.tls
    command = [_script("flower-superlink"), "--host", "127.0.0.1", "--port", str(port), "--isolation", "process"]
    command += ["--ssl-ca-certfile", str(layout.authority), "--ssl-certfile", str(tls / "server.pem")]
    command += ["--ssl-keyfile", str(tls / "server.key"), "--enable-supernode-auth"]
    command += ["--database", str(layout.services / "superlink.db"), "--superexec-auth-secret-file", str(layout.secret)]
    return Service("superlink", tuple(command), environment(layout))


def executor(layout: Layout, port: int) -> Service:
    """Return what starts the ServerApp of each run."""
    command = [sys.executable, "-m", "server.deploy.warm", "--runtime-api-address", f"127.0.0.1:{port}"]
    command += ["--root-certificates", str(layout.authority), "--superexec-auth-secret-file", str(layout.secret)]
    return Service("executor", tuple(command), environment(layout))


def environment(layout: Layout) -> dict[str, str]:
    """Return what the services need beside the caller's environment."""
    own = {
        **QUIET,
        "FLWR_HOME": str(layout.flower),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "NO_PROXY": "127.0.0.1,localhost",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    if "FUGOU_BASE" not in os.environ and DEFAULT_FOLDER.is_dir():
        own["FUGOU_BASE"] = str(DEFAULT_FOLDER)
    return own


def _script(name: str) -> str:
    """Return the path of one of Flower's programs beside this Python."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise UserError(f"{path} is missing; install fugou with its dependencies into this environment")
    return str(path)


def _proxy(program: str, conf: Path) -> Service:
    folder = str(conf.parent)
    return Service("proxy", (program, "-p", folder, "-c", str(conf), "-e", f"{folder}/error.log", "-g", "daemon off;"))


def nginx_conf(layout: Layout, settings: CoordinatorSettings, port: int) -> str:
    """Return the proxy's configuration: TLS on the public port, the requests of `FLEET` to the SuperLink, 403 for all else."""
    about, tls, folder = settings.coordinator, layout.tls, layout.services / "nginx"
    temporary = "".join(
        f'  {kind}_temp_path "{folder}/{kind}";\n' for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    listen = f"[{about.listen}]" if ":" in about.listen else about.listen
    return f"""\
# Written by `fugou coordinator up`; changes are lost.
worker_processes 1;
pid "{folder}/nginx.pid";
events {{ worker_connections 1024; }}
http {{
{temporary}  access_log "{folder}/access.log";
  server_tokens off;
  client_max_body_size {about.body_limit}m;
  client_body_timeout 60s;
  server {{
    listen {listen}:{about.port} ssl;
    ssl_certificate "{tls}/server.pem";
    ssl_certificate_key "{tls}/server.key";
    ssl_protocols TLSv1.2 TLSv1.3;
    location ~ ^/v1/fleet/({"|".join(FLEET)})$ {{
      proxy_pass https://127.0.0.1:{port};
      proxy_ssl_trusted_certificate "{layout.authority}";
      proxy_ssl_verify on;
      proxy_ssl_name localhost;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_read_timeout 120s;
      proxy_request_buffering off;
      proxy_buffering off;
    }}
    location / {{ return 403; }}
  }}
}}
"""


def _check_free(settings: CoordinatorSettings) -> None:
    about = settings.coordinator
    family = socket.AF_INET6 if ":" in about.listen else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((about.listen, about.port))
        except OSError as error:
            raise UserError(
                f"coordinator.address = {about.address!r}: {about.listen}:{about.port} cannot be listened on "
                f"({error.strerror}); stop what uses it or change the port"
            ) from None


def free_port() -> int:
    """Return a port of loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def superlink_address(layout: Layout) -> str:
    """Return where the SuperLink listens; raise `Unreachable` when it was never started."""
    try:
        return (layout.services / ADDRESS).read_text("ascii").strip()
    except OSError:
        raise Unreachable(
            f"the coordinator in {layout.root} was never started; `fugou coordinator up` starts it"
        ) from None


def wait_until_open(layout: Layout, patience: float = PATIENCE) -> None:
    """Return when SuperLink and proxy answer with their certificate; raise `Unreachable` after `patience` seconds."""
    about = load_coordinator(layout.root).coordinator
    listen = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(about.listen, about.listen)
    for name, address in (("superlink", superlink_address(layout)), ("proxy", f"{listen}:{about.port}")):
        deadline = time.monotonic() + patience
        while not answers(layout, address):
            if time.monotonic() > deadline:
                raise Unreachable(
                    f"the {name} does not answer on {address}; {layout.services / 'logs' / name}.log says why"
                )
            time.sleep(0.2)


def answers(layout: Layout, address: str) -> bool:
    """Return whether something at `address` shows a certificate of this coordinator."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cafile=str(layout.authority))
    try:
        with (
            socket.create_connection((host, int(port)), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname="localhost"),
        ):
            return True
    except OSError:
        return False
