"""The coordinator's executor: what a ServerApp needs is loaded once, and every run is a fresh child.

`python -m server.deploy.warm --runtime-api-address …` takes the place of `flower-superexec`. The code that leads a run is
the one installed here, of which the run's app bundle is a copy.
"""

from __future__ import annotations

from queue import Queue

import torch
from flwr.supercore.constant import TaskType
from flwr.supercore.logger import mirror_output_to_queue, restore_output
from flwr.supercore.superexec.executor.types import ExecutionSpec
from flwr.supercore.tls import validate_and_resolve_root_certificates
from flwr.superlink.runtime.run_serverapp import run_serverapp

from common.forks import ForkExecutor, take_tasks


def lead(spec: ExecutionSpec) -> None:
    """Lead one run: what Flower's `flwr-serverapp` does, in this process."""
    said: Queue[str | None] = Queue()
    mirror_output_to_queue(said)
    run_serverapp(
        runtime_api_address=spec.runtime_api_address,
        log_queue=said,
        token=spec.token,
        insecure=spec.insecure,
        certificates=validate_and_resolve_root_certificates(spec.root_certificates_path, spec.insecure),
        parent_pid=spec.parent_pid,
        runtime_dependency_install=False,
    )
    restore_output()


def warm_up() -> None:
    """Load what a run needs, but for the base, so that children find it; with one thread, as a pool survives no fork."""
    torch.set_num_threads(1)
    import peft  # noqa: F401
    from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast  # noqa: F401

    import server.deploy.app  # noqa: F401


if __name__ == "__main__":
    warm_up()
    take_tasks(ForkExecutor(TaskType.SERVER_APP, lead))
