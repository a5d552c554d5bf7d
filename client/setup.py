"""`fugou merchant init`: a new merchant's folder, whole or not there at all.

The folder is made beside its final place and moved there in one step, so that a failure half way leaves nothing behind.
The policy in it is a draft: it allows nothing until the privacy officer has read and signed it.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from client.config import FILE, LEDGER_KEY, OFFICER_KEY, POLICY, load_merchant
from client.example import example_tables
from client.words import say
from common.errors import UserError
from common.files import cannot_write, sha256, write_atomic
from common.privacy.keys import create_key
from common.privacy.policy import Policy, policy_text

AN_ID = re.compile(r"[a-z0-9-]{1,64}")

SETTINGS = {
    "zh": """\
# {title} 的设置。这个文件和本文件夹里的一切都不会离开本店。
# 把自己的表格放进来，改好 [sources]，然后运行：fugou merchant check

[merchant]
id = "{id}"
name = {name}
lang = "{lang}"          # 店里文字的语言：zh 或 en

# 现在这里是一家虚构小店的示例表；换成自己的文件即可（CSV、XLSX、Parquet 或数据库）。
# 常见的中文表头能自动识别；认不出的写明哪个表头对应哪个字段，用不到的列从不读取：
#   orders = {{ path = "订单.csv", columns = {{ customer_id = "会员卡号", order_time = "成交时间" }} }}
[sources]
{sources}

[model]
base = "default"         # 底座模型：default、文件夹或模型编号
adapter = ""             # 共享适配器的文件夹；加入联邦之后填写

[train]
# until = 2026-05-01     # 从这一天起的数据只用来评估，不参与训练
device = "cpu"           # cpu、auto 或 cuda:0

[server]
address = ""             # 协调方的地址 host:port；加入之前留空
ca = ""                  # 协调方的证书文件
""",
    "en": """\
# Settings of {title}. Neither this file nor anything else in this folder leaves the shop.
# Put your own tables here, correct [sources], and run: fugou merchant check

[merchant]
id = "{id}"
name = {name}
lang = "{lang}"          # language of the shop's texts: zh or en

# These are the example tables of an invented shop; put your own in their place (CSV, XLSX, Parquet or a database).
# For headers that are not known, say which of them stands for which field; columns not needed are never read:
#   orders = {{ path = "orders.csv", columns = {{ customer_id = "card", order_time = "bought at" }} }}
[sources]
{sources}

[model]
base = "default"         # the base model: default, a folder or a hub id
adapter = ""             # folder of the shared adapter; fill it in after joining

[train]
# until = 2026-05-01     # rows from this day on are kept for evaluation and never trained on
device = "cpu"           # cpu, auto or cuda:0

[server]
address = ""             # the coordinator's host:port; empty before joining
ca = ""                  # file with the coordinator's certificate authority
""",
}


def make_merchant(folder: Path, name: str, lang: str, today: date, *, merchant: str = "") -> Path:
    """Make the folder of a new merchant: settings, draft policy, keys of officer and ledger, and an example's tables.

    `merchant` is the shop's id in the federation; without one it is made from the name. Returns the folder.
    Raises `UserError` when the folder holds anything, the name is empty or the id is none; nothing is left then.
    """
    identity = merchant or make_id(name)
    if not AN_ID.fullmatch(identity):
        raise UserError(say("init_id", id=merchant))
    if not name.strip() or not name.isprintable():
        raise UserError(say("init_name", name=name))
    with fresh(folder) as place:
        for file, content in files(identity, name.strip(), lang, today).items():
            write_atomic(place / file, content)
        for key in (OFFICER_KEY, LEDGER_KEY):
            create_key(place / key)
        load_merchant(place)
    return folder


def make_id(name: str) -> str:
    """Return an id for a shop called `name`: its letters and digits, or a short hash where it has too few.

    >>> make_id("Qing He Tea"), make_id("青禾茶铺")
    ('qing-he-tea', 'shop-2df33b13')
    """
    letters = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-")
    return letters if len(letters) >= 3 else f"shop-{sha256(name.encode())[:8]}"


def files(identity: str, name: str, lang: str, today: date) -> Mapping[str, str]:
    """Return file name -> text of everything in a new folder but the keys."""
    tables = example_tables(lang)
    sources = "\n".join(f'{Path(file).stem} = "{file}"' for file in tables)
    quoted = '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return {
        FILE: SETTINGS[lang].format(id=identity, title=name, name=quoted, lang=lang, sources=sources),
        POLICY: policy_text(draft(identity, today)),
        **tables,
    }


def draft(identity: str, today: date) -> Policy:
    """Return a policy for the quarter that `today` lies in: 13 rounds of four steps for epsilon 2 at delta 1e-6."""
    return Policy(
        merchant=identity,
        epsilon=2.0,
        delta=1e-6,
        period=f"{today.year}Q{(today.month + 2) // 3}",
        max_rounds=13,
        sigma_min=1.964,
        rate=0.1,
        steps=4,
        clip_norm=1.0,
        divisor=24.0,
        max_records_per_customer=4,
        max_tokens=160,
    )


@contextmanager
def fresh(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `folder` when the block ends well, and is removed when it does not.

    Raises `UserError` when `folder` is a file, holds anything, or cannot be made.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(say("init_full", folder=folder))
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(dir=folder.absolute().parent, prefix=f".{folder.name or 'merchant'}."))
    except OSError as error:
        raise cannot_write(folder, error) from error
    try:
        yield place
        place.chmod(0o700)
        place.replace(folder.absolute())
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
