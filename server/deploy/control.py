"""Orders to the SuperLink: register and unregister nodes, start and stop runs. Loopback only: it knows no passwords."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

from common.bundle import app_files, pack
from common.errors import Unreachable, UserError
from common.files import sha256
from server.deploy.layout import Layout
from server.deploy.services import superlink_address

if TYPE_CHECKING:
    from flwr.supercore.control import ControlHttpClient


@dataclass(frozen=True)
class Node:
    """A registered node as the SuperLink sees it."""

    id: int
    status: str
    """registered, online, offline or unregistered."""


@contextmanager
def control(layout: Layout) -> Iterator[ControlHttpClient]:
    """Yield a client of the SuperLink's control interface; raise `Unreachable` when it does not answer."""
    from flwr.cli.cli_client_interceptor import CliClientHttpInterceptor
    from flwr.supercore.control import ControlHttpClient
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

    address = superlink_address(layout)
    client = ControlHttpClient.from_server_address(
        address,
        insecure=False,
        root_certificates=layout.authority.read_bytes(),
        interceptors=[CliClientHttpInterceptor(), RuntimeVersionHttpInterceptor(component_name="fugou")],
    )
    try:
        yield client
    except httpx.RequestError as error:
        raise Unreachable(
            f"the SuperLink at {address} does not answer ({error}); `fugou coordinator up` starts it"
        ) from None
    except httpx.HTTPStatusError as error:
        raise UserError(f"the SuperLink refuses: {_reason(error.response)}") from None
    finally:
        client.close()


def _reason(response: httpx.Response) -> str:
    try:
        tree = json.loads(response.text)
        return str(tree.get("public_details") or tree.get("message") or tree.get("detail") or tree)[:200]
    except (ValueError, AttributeError):
        return f"HTTP {response.status_code}"


def register(layout: Layout, key: bytes) -> int:
    """Register a node's public key (PEM) and return the node's id."""
    from flwr.proto.control_pb2 import RegisterNodeRequest

    with control(layout) as client:
        return int(client.RegisterNode(RegisterNodeRequest(public_key=key)).node_id)


def unregister(layout: Layout, node: int) -> None:
    """Take a node's registration away; its key is burned."""
    from flwr.proto.control_pb2 import UnregisterNodeRequest

    with control(layout) as client:
        client.UnregisterNode(UnregisterNodeRequest(node_id=node))


def nodes(layout: Layout) -> dict[int, Node]:
    """Return id -> node of everything that is registered."""
    from flwr.proto.control_pb2 import ListNodesRequest

    with control(layout) as client:
        return {one.node_id: Node(one.node_id, one.status) for one in client.ListNodes(ListNodesRequest()).nodes_info}


def start_run(
    layout: Layout, config: Mapping[str, str | int | float | bool], files: Mapping[str, bytes] | None = None
) -> int:
    """Start a run of the app installed here, or of `files`, and return Flower's id of it."""
    from flwr.common.serde import fab_to_proto, user_config_to_proto
    from flwr.proto.control_pb2 import StartRunRequest
    from flwr.supercore.fab import Fab

    bundle = pack(files or app_files())
    request = StartRunRequest(
        fab=fab_to_proto(Fab(sha256(bundle), bundle, {})), override_config=user_config_to_proto(dict(config))
    )
    with control(layout) as client:
        response = client.StartRun(request)
    if not response.HasField("run_id"):
        raise UserError("the SuperLink did not start the run; its log in services/logs says why")
    return int(response.run_id)


def stop_run(layout: Layout, run: int) -> bool:
    """Stop a run; return whether there was one to stop."""
    from flwr.proto.control_pb2 import StopRunRequest

    with control(layout) as client:
        return bool(client.StopRun(StopRunRequest(run_id=run)).success)


def run_status(layout: Layout, run: int) -> str:
    """Return what the SuperLink says of a run, such as `running` or `finished:failed`; empty when it knows none."""
    from flwr.proto.control_pb2 import ListRunsRequest

    with control(layout) as client:
        found = client.ListRuns(ListRunsRequest(run_id=run)).run_dict
    if run not in found:
        return ""
    status = found[run].status
    return ":".join(part for part in (status.status, status.sub_status) if part)
