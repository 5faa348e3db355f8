"""Real proxies that WebSocket does not pass: nginx as most sites have it, and tinyproxy as some companies have it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from engine_servers import ServerProcess, free_port
from hosts import CERTIFICATE, KEY

NGINX_CONF = """{user}
pid {folder}/pid;
error_log stderr notice;
worker_shutdown_timeout 1ms;
events {{}}
http {{
    error_log {folder}/errors;
    log_format openings '$http_upgrade$http_wsrpc_transport';
    access_log {folder}/openings openings;
    {paths}
    include {folder}/site-*.conf;
}}
"""
"""What Debian's nginx.conf says around a site, for a user who is not root. A reload ends connections at once."""
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def find(command: str, package: str) -> str:
    found = shutil.which(command, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
    assert found is not None, f"there is no {command}: 'apt-get install {package}' installs it"
    return found


def start_nginx(folder: Path) -> ServerProcess:
    """Start nginx with the sites ``site-*.conf`` of a folder."""
    (folder / "nginx.conf").write_text(
        NGINX_CONF.format(
            folder=folder,
            user="user root;" if os.geteuid() == 0 else "",  # others may not read pytest's folders
            paths="".join(f"{kind}_temp_path {folder}/{kind}; " for kind in TEMPORARY),
        ),
        "utf-8",
    )
    command = (find("nginx", "nginx-light"), "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf"))
    return ServerProcess("", "start worker process", *command, "-g", "daemon off;")


class Nginx(NamedTuple):
    """How nginx is configured, and what passes it: ``"http"``, or only ``"responses that end"``."""

    location: str = ""
    passes: str = "http"
    tls: bool = False


BUFFERS = "proxy_ignore_headers X-Accel-Buffering; gzip on; gzip_proxied any; gzip_types *; gzip_min_length 1;"
"""Then compression holds back the first bytes of each response that goes on."""

NGINX = {
    "proxy_pass alone": Nginx(),  # which is HTTP/1.0, with buffers
    "HTTP/1.1 without buffers": Nginx("proxy_http_version 1.1; proxy_buffering off; proxy_request_buffering off;"),
    "holds responses back": Nginx(BUFFERS, "responses that end"),
    "refuses upgrades": Nginx("if ($http_upgrade) { return 403; }"),
    "HTTP/2 and TLS": Nginx("proxy_set_header X-Forwarded-Proto $scheme; proxy_http_version 1.1;", tls=True),
}


class Front:
    """nginx in front of a site, which does not pass WebSocket on. See `browser.page_site.Front`."""

    def __init__(self, folder: Path, nginx: Nginx) -> None:
        self._folder = folder
        self._nginx = nginx

    @contextmanager
    def __call__(self, port: int) -> Generator[str]:
        own, tls = free_port(), ""
        if self._nginx.tls:
            tls = f" ssl http2; ssl_certificate {CERTIFICATE}; ssl_certificate_key {KEY}"
        (self._folder / "site-blocking.conf").write_text(
            f"server {{\nlisten 127.0.0.1:{own}{tls};\nlocation / {{\nproxy_pass http://127.0.0.1:{port};\n"
            f"proxy_set_header Host $http_host;\n{self._nginx.location}\n}}\n}}\n",
            "utf-8",
        )
        self._process = start_nginx(self._folder)
        try:
            yield f"{'https://localhost' if tls else 'http://127.0.0.1'}:{own}/"
        finally:
            self._process.end()

    def reload(self) -> None:
        os.kill(int((self._folder / "pid").read_text("utf-8")), signal.SIGHUP)

    def restart(self) -> None:
        self._process.end()
        self._process = start_nginx(self._folder)

    def openings(self) -> list[str]:
        """What clients have opened, in the order of the ends: ``websocket``, ``stream`` or ``poll``. Ask at the end."""
        lines = (self._folder / "openings").read_text("utf-8").split()
        return [opened for line in lines if (opened := line.strip("-"))]  # "-" is nginx's text for no header


def accepts(port: int) -> bool:
    with socket.socket() as sock:
        return not sock.connect_ex(("127.0.0.1", port))


@contextmanager
def tinyproxy(folder: Path, *settings: str) -> Generator[int]:
    """Start tinyproxy, which allows CONNECT for port 443 only, and give its port."""
    port = free_port()
    log = f'LogFile "{folder}/tinyproxy.log"'
    lines = (f"Port {port}", "Listen 127.0.0.1", log, "Timeout 600", "ConnectPort 443", *settings)
    (folder / "tinyproxy.conf").write_text("\n".join(lines) + "\n", "utf-8")
    process = subprocess.Popen((find("tinyproxy", "tinyproxy-bin"), "-d", "-c", str(folder / "tinyproxy.conf")))
    try:
        while not accepts(port):
            assert process.poll() is None, "tinyproxy ended"
            time.sleep(0.01)
        yield port
    finally:
        process.kill()  # it would wait for the end of its connections
        process.wait()
