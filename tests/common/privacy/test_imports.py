from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_privacy_room_loads_neither_torch_nor_flower_nor_the_accounting_library() -> None:
    code = (
        "import sys, common.privacy.ledger, common.privacy.policy, common.privacy.plan, common.privacy.accountant\n"
        "print([name for name in ('torch', 'flwr', 'opacus', 'dp_accounting', 'client', 'server') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"
