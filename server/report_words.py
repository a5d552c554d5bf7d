"""What the federation page says, in Chinese and in English."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Lang = Literal["zh", "en"]

WORDS: Mapping[str, tuple[str, str]] = {
    "lang": ("zh-CN", "en"),
    "kind": ("联邦报告", "Federation report"),
    "title": ("运行 {run}", "Run {run}"),
    "facts": (
        "{rounds} 轮，{merchants} 家商家；由协调方所存的轮次记录生成",
        "{rounds} rounds, {merchants} merchants; made from the records of rounds that the coordinator keeps",
    ),
    "limits": ("这一页没有说的", "What this page does not say"),
    "limit_declared": (
        "费用是商家声明的；协调方无从核对，商家自己的报告与账本才是证据。",
        "Charges are as merchants declared them; the coordinator cannot check them. A merchant's own report and ledger are "
        "the evidence.",
    ),
    "limit_received": (
        "ε 是协调方收到的更新的上界；商家作废的轮次同样花费预算，只有商家的报告计入。",
        "ε bounds the updates that the coordinator received; rounds that a merchant burned cost budget too, and only the "
        "merchant's report counts them.",
    ),
    "limit_sum": (
        "各家的 ε 不相加也不平均：每一个只属于那一家的一位顾客；同时在 m 家购物的顾客保护较弱。",
        "Losses are neither added nor averaged: each is for one customer of that one merchant; a customer of m merchants is "
        "protected less.",
    ),
    "limit_unseen": (
        "顾客数、损失值、账本内容与店名，协调方都不知道，这里也没有。",
        "Counts of customers, losses, ledgers and names of shops are unknown to the coordinator and not on this page.",
    ),
    "claims": ("各商家的声明", "Every merchant's claim"),
    "claims_note": (
        "单位：一位顾客，增删一位为相邻；每个 ε 与同一行的 δ、周期一起读，向上取两位小数。",
        "Unit: one customer, add or remove one. Read every ε with the δ and the period of its own row; rounded up.",
    ),
    "chart": ("收到的更新所花的 ε（上界）", "ε of the updates received (upper bound)"),
    "chart_alt": ("每家商家一条：{rows}。", "A bar a merchant: {rows}."),
    "chart_axis": ("ε（δ 与周期见表；单位：一位顾客）", "ε (δ and period in the table; unit: one customer)"),
    "merchant": ("商家", "merchant"),
    "epsilon": ("ε ≤", "ε ≤"),
    "delta": ("δ", "δ"),
    "period": ("周期", "period"),
    "mechanism": ("σ / 采样率 / 步数", "σ / rate / steps"),
    "taken": ("参与轮数", "rounds taken part"),
    "policy": ("政策摘要", "policy digest"),
    "head": ("账本末项（锚点）", "ledger's last entry (anchor)"),
    "warnings": ("异常", "Anomalies"),
    "warnings_none": ("没有。", "None."),
    "back": (
        "{merchant}：第 {round} 轮的账本编号 {now} 不在第 {before} 轮的 {then} 之后",
        "{merchant}: the ledger's number {now} in round {round} does not come after {then} of round {before}",
    ),
    "other_policy": (
        "{merchant}：第 {round} 轮换了政策",
        "{merchant}: another policy from round {round} on",
    ),
    "open": ("没有噪声，不保护任何人", "no noise, nobody is protected"),
    "unbounded": ("没有上界", "no bound"),
    "nothing": ("没有更新", "no update"),
    "rounds": ("轮次与裁定", "Rounds and verdicts"),
    "rounds_note": (
        "✓ = 采用　拒 = 商家的政策拒绝　失 = 失败　迟 = 超时　搁 = 检查未过，未采用　· = 未被邀请",
        "✓ = taken; R = refused by the merchant's policy; F = failed; L = late; S = set aside by a check; ·\u00a0= not asked",
    ),
    "round": ("轮", "round"),
    "adapters": ("每轮之后的共享适配器", "The shared adapter after every round"),
    "adapter": ("共享适配器摘要", "shared adapter's digest"),
    "said": ("商家说的与检查发现的", "What merchants said and checks found"),
    "said_none": ("没有。", "Nothing."),
    "reason": ("原因", "reason"),
    "status": ("裁定", "verdict"),
    "mark_done": ("✓", "✓"),
    "mark_refused": ("拒", "R"),
    "mark_failed": ("失", "F"),
    "mark_late": ("迟", "L"),
    "mark_set aside": ("搁", "S"),
    "mark_": ("·", "·"),
    "foot": (
        "fugou 生成；不含脚本，不联网。同一内容见 federation.json。",
        "Made by fugou; no script, nothing fetched. The same in federation.json.",
    ),
}


def phrase(lang: Lang, key: str, **values: object) -> str:
    """Return the words of `key`."""
    return WORDS[key][lang == "en"].format(**values)
