"""Flower's executor with everything loaded once: each task is a child of this process, which has it from its first moment.

Flower starts a new process for every task, which here would import torch, transformers and PEFT each time. A forked child
shares their memory with its parent and takes whatever its task leaves behind with it when it ends. The parent computes
nothing and never touches a GPU, so that a child finds neither threads nor a CUDA context of another.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from importlib import import_module

from flwr.supercore.cli.flower_superexec import flower_superexec
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor.types import ExecutionSpec, LaunchResult

superexec = import_module("flwr.supercore.superexec.run_superexec")

Work = Callable[[ExecutionSpec], None]


class ForkExecutor:
    """Does every task of one kind by `work` in a child of this process; the methods are those of Flower's `Executor`."""

    def __init__(self, kind: TaskType, work: Work) -> None:
        self.kind, self.work = kind, work

    def get_eligible_capacity(
        self, supported_task_types: set[TaskType], *, insecure: bool = False, root_certificates_path: str | None = None
    ) -> tuple[set[TaskType], set[str]]:
        """Return the one kind of task that runs here."""
        return {self.kind} & supported_task_types, set()

    def wait_for_capacity(
        self,
        task_type: TaskType | None = None,
        *,
        fab_hash: str | None = None,
        insecure: bool = False,
        root_certificates_path: str | None = None,
    ) -> None:
        """Return at once: whoever hands out tasks knows how many at a time."""

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Fork, and let the child do the task that `spec` names."""
        sys.stdout.flush()
        sys.stderr.flush()
        if os.fork() == 0:
            code = 1
            try:
                self.work(spec)
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
        """Nothing is kept between tasks."""


def take_tasks(executor: ForkExecutor) -> None:
    """Be Flower's `flower-superexec`, whose options are on the command line, with `executor`, until told to end."""
    vars(superexec)["get_executor"] = lambda *_, **__: executor
    flower_superexec()
