"""The ClientApp: unpack, call, pack. The same code answers in a simulation and on a merchant's own node."""

from __future__ import annotations

import logging
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.round import take_part
from client.trust import distrusts
from common.errors import UserError

log = logging.getLogger("fugou.client")

MERCHANT_DIR = "merchant-dir"

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer one round's ask for the merchant whose folder this node was started with."""
    folder = merchant_folder(context)
    refusal = distrusts(message.content, folder)
    return Message(refusal.pack(), reply_to=message) if refusal else answer(message, folder)


def merchant_folder(context: Context) -> Path:
    """Return the merchant's folder from the node's own configuration, which no message can change."""
    folder = context.node_config.get(MERCHANT_DIR)
    if not folder:
        raise UserError(f"this node has no {MERCHANT_DIR}; start it with --node-config '{MERCHANT_DIR}=\"/path\"'")
    return Path(str(folder))


def answer(message: Message, folder: Path) -> Message:
    """Return the merchant's reply; whatever goes wrong in the shop, the reply says no more than `failed`."""
    return Message(reply_of(message.content, folder), reply_to=message)


def reply_of(content: RecordDict, folder: Path) -> RecordDict:
    """Return the packed reply of the merchant in `folder` to `content`."""
    return take_part(content, folder).pack()
