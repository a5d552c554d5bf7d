"""What the privacy officer reads, in Chinese and in English, side by side.

Epsilon never stands without delta, the unit and the period, and is rounded up: a smaller figure would promise more
than was accounted for.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

from common.cli import language
from common.privacy.accountant import up
from common.privacy.policy import Policy

WORDS: Mapping[str, tuple[str, str]] = {
    "promise": (
        "ε ≤ {epsilon}（δ = {delta:g}，单位：一位顾客，周期：{period}）",
        "ε ≤ {epsilon} (δ = {delta:g}, unit: one customer, period: {period})",
    ),
    "no_noise": ("σ = 0：没有噪声，不保护任何人。", "σ = 0: no noise, nobody is protected."),
    # signatures
    "signed": ("政策已签名，签名有效（{detail}）", "the policy is signed and the signature holds ({detail})"),
    "unsigned": ("政策是草稿，没有签名：{detail}", "the policy is a draft without signature: {detail}"),
    "broken": ("政策的签名无效：{detail}", "the policy's signature does not hold: {detail}"),
    "unknown": ("政策已签名，签名者无从核对：{detail}", "the policy is signed, by whom cannot be told: {detail}"),
    "signed_by": ("{file} 已由密钥 {kid} 签名，摘要 {digest}", "{file} is signed by key {kid}, digest {digest}"),
    "no_key": (
        "没有隐私官的密钥 {file}；用 --key 指明，或用 --new-key 生成一把",
        "there is no officer's key at {file}; name it with --key, or make one with --new-key",
    ),
    "has_officer": (
        "{file} 已有隐私官的公钥；用它的私钥签名（--key），不生成新的",
        "{file} names an officer already; sign with that officer's key (--key), a new one is not made",
    ),
    "other_officer": (
        "密钥 {kid} 不是 {where} 记下的隐私官（{officer}）；用隐私官的密钥签名",
        "key {kid} is not the officer's that {where} names ({officer}); sign with the officer's key",
    ),
    # adopting
    "in_force": (
        "政策 {digest} 生效：{promise}，还可进行 {left} 轮",
        "policy {digest} is in force: {promise}, {left} rounds left",
    ),
    "first_round": (
        "还没有账本；第一轮会以这份政策开账",
        "there is no ledger yet; the first round begins it with this policy",
    ),
    "not_adopted": (
        "新政策未被采纳：{reason}。账本仍按旧政策，本周期已花 {spent}；同一周期的政策只能收紧，新周期须有新数据",
        "the policy is not adopted: {reason}. The old one stays in force, spent so far {spent}; within a period a policy "
        "may only allow less, and a new period needs new data",
    ),
    "renewed": (
        "新周期只属于新数据。两个周期的数据里都有的顾客，终身累计 {lifetime}",
        "the new period is for new data only. A customer in the data of all periods has lost {lifetime} in a lifetime",
    ),
    # the plan
    "mechanism": (
        "每轮：{steps} 步，每步以 {rate:g} 的概率抽取顾客，裁剪 C = {clip:g}，噪声 σ = {sigma:g}，除以常数 {divisor:g}；"
        "每位顾客至多 {records} 条记录、{tokens} 个词元",
        "a round: {steps} steps, a customer is drawn with chance {rate:g}, clip norm C = {clip:g}, noise σ = {sigma:g}, "
        "divided by the constant {divisor:g}; at most {records} records and {tokens} tokens of a customer",
    ),
    "limit": ("上限：{promise}，至多 {rounds} 轮", "limit: {promise}, at most {rounds} rounds"),
    "standing": (
        "已花 {spent} 轮（其中作废 {burned} 轮）：{promise}；预留 {reserved} 轮；被拒 {refused} 次；还可进行 {left} 轮",
        "spent: {spent} rounds ({burned} of them burned): {promise}; reserved: {reserved}; refused: {refused} times; "
        "rounds left: {left}",
    ),
    "round": ("轮", "round"),
    "epsilon": (
        "ε（δ = {delta:g}，单位：一位顾客，周期：{period}）",
        "ε (δ = {delta:g}, unit: one customer, period: {period})",
    ),
    "what_if": ("换一种读法，同样 {rounds} 轮：", "the same {rounds} rounds, read otherwise:"),
    "merchants": (
        "一位在 {count} 家同政策商户购物的顾客",
        "a customer who shops at {count} merchants with this policy",
    ),
    "records": (
        "假如单位是一条记录：一位有 {count} 条记录的顾客",
        "if one record were the unit: a customer with {count} records",
    ),
    "mode_schedule": (
        "记账方式 schedule（事先定好的轮次，PLD）：{rounds} 轮 {promise}",
        "mode schedule (rounds fixed in advance, PLD): {rounds} rounds cost {promise}",
    ),
    "mode_adaptive": (
        "记账方式 adaptive（可随时调整，Rényi 过滤器）：{rounds} 轮 {promise}",
        "mode adaptive (changes allowed on the way, Rényi filter): {rounds} rounds cost {promise}",
    ),
    "mode_mine": ("{mode}；上限内至多 {rounds} 轮 ← 本政策", "{mode}; the limit allows {rounds} ← this policy"),
    "mode_other": ("{mode}；上限内至多 {rounds} 轮", "{mode}; the limit allows {rounds}"),
    "needed": (
        "{rounds} 轮要满足 {promise}，每步噪声须 σ ≥ {sigma:g}（记账方式 schedule）",
        "for {promise} over {rounds} rounds each step needs noise σ ≥ {sigma:g} (mode schedule)",
    ),
    "another_policy": (
        "账本中生效的是另一份政策（{digest}，周期 {period}）；见 policy adopt 与 policy renew",
        "another policy is in force in the ledger ({digest}, period {period}); see policy adopt and policy renew",
    ),
    "no_round": (
        "这份政策连一轮也不允许：一轮要花 {promise}；加大 sigma_min，或减少 steps、rate",
        "this policy does not allow a single round: one costs {promise}; raise sigma_min, or lower steps or rate",
    ),
    "spent_out": (
        "预算已用完：{merchant} 已花 {spent} 轮、预留 {reserved} 轮，{promise}；上限 ε = {cap}、{rounds} 轮，{why}。"
        "可以做的：为新周期的新数据签一份新政策（policy sign，再 policy renew）；同一周期的政策只能收紧，不能加预算",
        "the budget is spent: {merchant} has spent {spent} rounds and reserved {reserved}, {promise}; the limit is "
        "ε = {cap} and {rounds} rounds, and {why}. What can be done: sign a policy for a new period and its new data "
        "(policy sign, then policy renew); within this period a new policy may only allow less",
    ),
    "why_rounds": ("轮数已满", "all rounds are used"),
    "why_epsilon": ("再来一轮会超过上限", "one more round would pass it"),
    # the ledger
    "head": ("末条 {seq}，哈希 {hash}", "head: entry {seq}, hash {hash}"),
    "entry": ("条目", "entry"),
    "time": ("时间", "time"),
    "kind": ("类型", "type"),
    "after": ("此后", "after it"),
    "note": ("说明", "note"),
    "ledger_holds": (
        "账本完好：核对到条目 {seq}，哈希 {hash}，锚点 {anchors} 个",
        "the ledger holds: checked to entry {seq}, hash {hash}, {anchors} anchors",
    ),
    "ledger_broken": (
        "账本 {file} 在条目 {seq} 处不成立：{reason}；请恢复备份，若末尾丢失：fugou merchant ledger recover",
        "the ledger {file} does not hold at entry {seq}: {reason}; restore a backup, or where its end is lost: "
        "fugou merchant ledger recover",
    ),
    "anomaly": ("注意：{what}", "note: {what}"),
    "exported": ("{count} 条已写入 {file}", "{count} entries written to {file}"),
    "recovered": (
        "作废了 {count} 个已中断的预留；没有丢失的条目",
        "{count} dead reservations burned; no entry is lost",
    ),
    "lost": (
        "账本末条是 {after}，而锚点见过条目 {lost}（{hash}）；按最坏情况计 {charges} 轮。"
        "能恢复备份就恢复；否则由隐私官签字认账：ledger recover --accept --key keys/officer",
        "the ledger ends at entry {after}, and an anchor has seen entry {lost} ({hash}); at worst {charges} rounds are "
        "lost. Restore a backup if there is one; else the officer signs for them: ledger recover --accept --key keys/officer",
    ),
    "accepted": (
        "丢失的部分已按 {charges} 轮记账，隐私官 {kid} 签字；本周期已花 {promise}，还可进行 {left} 轮",
        "the loss is charged as {charges} rounds, signed by officer {kid}; spent in this period {promise}, {left} rounds left",
    ),
}


def say(key: str, **places: object) -> str:
    """Return the sentence `key` in the language of the command line, its places filled."""
    return WORDS[key][language() == "en"].format(**places)


def promise(epsilon: float, policy: Policy) -> str:
    """Return epsilon as it may be told: rounded up, with the policy's delta, unit and period."""
    return say("promise", epsilon=up(epsilon), delta=policy.delta, period=policy.period)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return `rows` as lines with aligned columns; a Chinese character is two columns wide."""
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell + " " * (wide - width(cell)) for cell, wide in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def width(text: str) -> int:
    """Return how many columns of a terminal `text` takes."""
    return sum(2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text)
