"""What `fugou merchant audit` says, in Chinese and in English."""

from __future__ import annotations

from collections.abc import Mapping

from common.cli import language

WORDS: Mapping[str, tuple[str, str]] = {
    "begun": (
        "审计开始：{count} 个合成金丝雀，抛币承诺 {commitment} 已写入账本；不读任何顾客数据，不花预算",
        "audit begun: {count} synthetic canaries, the coins' commitment {commitment} is in the ledger; no row is read, "
        "nothing is charged",
    ),
    "checked": ("一致性检查 {passed}/{total} 项通过", "{passed} of {total} conformance checks passed"),
    "measured": (
        "{engine} 引擎：猜 {made} 个，对 {right} 个；下界 ε ≥ {lower:.2f}"
        "（δ = {delta:g}，置信度 {confidence:.0%}，单位：一位顾客，周期：本次审计），声明 ε ≤ {claimed}",
        "{engine} engine: {right} of {made} guesses right; lower bound ε ≥ {lower:.2f} (δ = {delta:g}, confidence "
        "{confidence:.0%}, unit: one customer, period: this audit), claimed ε ≤ {claimed}",
    ),
    "written": ("已写入 {file}，摘要 {digest} 已记入账本", "wrote {file}; its digest {digest} is in the ledger"),
    "consistent": (
        "审计结果：与声明一致（不等于证明）",
        "audit: consistent with the claim, which is no proof",
    ),
    "inconclusive": ("审计结果：没有结论：{why}", "audit: inconclusive: {why}"),
    "violation": (
        "审计不通过：{why}；在审计恢复一致之前，本商家不再训练",
        "the audit found a violation: {why}; this merchant trains nothing until an audit is consistent again",
    ),
    "few": (
        "--canaries {given}：请给 {least} 到 {most} 之间的数",
        "--canaries {given}: name a number from {least} to {most}",
    ),
}


def say(key: str, **values: object) -> str:
    """Return the words of `key` in the language of messages."""
    return WORDS[key][language() == "en"].format(**values)
