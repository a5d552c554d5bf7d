"""The merchant's executor: torch, the app and the base model loaded once, a fresh child for every message.

`python -m client.warm MERCHANT_DIR --runtime-api-address …` takes the place of `flower-superexec` (`common.forks`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch
from flwr.app import Error
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor.types import ExecutionSpec
from flwr.supercore.tls import validate_and_resolve_root_certificates

from client.config import OFFICER_KEY, POLICY, load_merchant
from client.confine import confine, database_ports
from common.forks import ForkExecutor, Work, take_tasks

messages = import_module("flwr.supernode.runtime.run_clientapp")


def answering(threads: int, databases: Sequence[int] = ()) -> Work:
    """Return what a child does with a message: answer it with `threads` of torch, walled in.

    It connects by TCP to the node and to `databases` (ports) only, where Linux can do it.
    """

    def work(spec: ExecutionSpec) -> None:
        confine([int(spec.runtime_api_address.rpartition(":")[2]), *databases])
        answer(spec, threads)

    return work


def answer(spec: ExecutionSpec, threads: int) -> None:
    """Answer one message: what Flower's `flwr-clientapp` does, in this process."""
    torch.set_num_threads(threads)
    vars(messages)["Error"] = silent
    messages.run_clientapp(
        runtime_api_address=spec.runtime_api_address,
        token=spec.token,
        insecure=spec.insecure,
        certificates=validate_and_resolve_root_certificates(spec.root_certificates_path, spec.insecure),
        parent_pid=spec.parent_pid,
        runtime_dependency_install=False,
    )


def silent(code: int, reason: str | None = None) -> Error:
    """Return the error reply that the coordinator may read: Flower would send the exception's text, paths and all."""
    return Error(code, f"failed with code {code}")


def warm_up(folder: Path) -> int:
    """Load the app and the merchant's base model with an adapter of the policy's shape, so that children find them.

    Returns the number of threads a child is to use. Here there is one: a pool of OpenMP does not survive a fork.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    import client.app  # noqa: F401
    from common.config import LoraSettings
    from common.lora import bench
    from common.privacy.keys import load_public_key, public_path
    from common.privacy.policy import load_policy

    policy = load_policy(folder / POLICY, public_key=load_public_key(public_path(folder / OFFICER_KEY))).policy
    lora = LoraSettings(targets=policy.lora.targets, rank=policy.lora.rank, alpha=policy.lora.alpha)
    bench(load_merchant(folder).model.base, lora)
    return threads


def main() -> None:
    """Warm up for the merchant named first, then take tasks until told to end."""
    folder = Path(sys.argv.pop(1))
    threads = warm_up(folder)
    databases = list(database_ports(load_merchant(folder)))
    take_tasks(ForkExecutor(TaskType.CLIENT_APP, answering(threads, databases)))


if __name__ == "__main__":
    main()
