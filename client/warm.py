"""The merchant's executor: torch, the app and the base model loaded once, a fresh child for every message.

`python -m client.warm MERCHANT_DIR --runtime-api-address …` takes the place of `flower-superexec`. Flower starts a new
process for every message, which here would import torch and read the base each time; a forked child has both from its
first moment, shares their memory with its parent, and takes whatever a message leaves behind with it when it ends.

The parent never trains and never touches a GPU, so a child finds neither threads nor a CUDA context of another.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch
from flwr.app import Error
from flwr.supercore.cli.flower_superexec import flower_superexec
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor.types import ExecutionSpec, LaunchResult
from flwr.supercore.tls import validate_and_resolve_root_certificates

from client.config import OFFICER_KEY, POLICY, load_merchant
from client.confine import confine, database_ports

superexec = import_module("flwr.supercore.superexec.run_superexec")
messages = import_module("flwr.supernode.runtime.run_clientapp")


class ForkExecutor:
    """Starts every ClientApp as a child of this process; the methods are those of Flower's `Executor`.

    A child has `threads` of torch, and connects by TCP to the node and to `databases` (ports) only, where Linux can do it.
    """

    def __init__(self, threads: int, databases: Sequence[int] = ()) -> None:
        self.threads, self.databases = threads, tuple(databases)

    def get_eligible_capacity(
        self, supported_task_types: set[TaskType], *, insecure: bool = False, root_certificates_path: str | None = None
    ) -> tuple[set[TaskType], set[str]]:
        """Return the one kind of task that runs here."""
        return {TaskType.CLIENT_APP} & supported_task_types, set()

    def wait_for_capacity(
        self,
        task_type: TaskType | None = None,
        *,
        fab_hash: str | None = None,
        insecure: bool = False,
        root_certificates_path: str | None = None,
    ) -> None:
        """Return at once: a SuperNode hands out one message at a time."""

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Fork, and let the child answer the message that `spec` names."""
        sys.stdout.flush()
        sys.stderr.flush()
        if os.fork() == 0:
            code = 1
            try:
                confine([int(spec.runtime_api_address.rpartition(":")[2]), *self.databases])
                answer(spec, self.threads)
                code = 0
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        return LaunchResult.accepted()

    def reconcile(self) -> None:
        """Take leave of children that have ended."""
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return

    def close(self) -> None:
        """Nothing is kept between messages."""


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
    executor = ForkExecutor(threads, list(database_ports(load_merchant(folder))))
    vars(superexec)["get_executor"] = lambda *_, **__: executor
    flower_superexec()


if __name__ == "__main__":
    main()
