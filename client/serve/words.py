"""What the console says, in Chinese and in English, side by side."""

from __future__ import annotations

from collections.abc import Mapping

WORDS: Mapping[str, tuple[str, str]] = {
    "lang": ("zh-CN", "en"),
    "console": ("商家控制台", "Console"),
    "other_lang": ("English", "中文"),
    "login": ("登录", "Log in"),
    "logout": ("退出", "Log out"),
    "login_note": (
        "请输入 API 密钥。密钥用 fugou merchant serve --new-key NAME 生成，只显示一次。",
        "Enter an API key. fugou merchant serve --new-key NAME makes one and shows it once.",
    ),
    "key": ("密钥", "Key"),
    "wrong_key": ("密钥不对。", "That key is not known."),
    "docs": ("接口文档", "API"),
    "overview": ("概览", "Overview"),
    "facts": (
        "{customers} 位顾客 · {items} 种商品 · 截至 {day}",
        "{customers} customers · {items} items · as of {day}",
    ),
    "model_shared": ("共享模型 {adapter}，{since} 起", "shared model {adapter}, since {since}"),
    "model_base": ("基础模型，还没有共享适配器", "the base model; no shared adapter yet"),
    "stale": (
        "有更新的文件没能读入，仍用旧的：{why}",
        "Newer files could not be read; the old ones still answer: {why}",
    ),
    # lookup
    "lookup": ("查一位顾客", "Look up a customer"),
    "customer": ("顾客编号", "Customer id"),
    "offer": ("优惠（可不填）", "Offer (optional)"),
    "offer_hint": ("例如 满100减10；没填的优惠不会写进文案", "such as 10% off; no other offer is ever promised"),
    "look": ("查看", "Look"),
    "due_head": ("这几天该来的顾客", "Due within a week"),
    "due_none": ("这几天没有到期的顾客。", "Nobody is due within a week."),
    "due_note": (
        "按各自的购买间隔推算；点编号查看。已退订的不在其中。",
        "By each customer's own gap between orders; choose one to look it up. Nobody who opted out.",
    ),
    # a customer
    "known": ("画像", "What is known"),
    "tag": ("标签", "tag"),
    "value": ("内容", "value"),
    "evidence": ("依据", "evidence"),
    "offers_head": ("推荐什么", "What to offer"),
    "item": ("商品", "item"),
    "times": ("买过", "bought"),
    "times_of": ("{count} 次", "{count}×"),
    "new_item": ("没买过", "new"),
    "write_for": ("写文案", "Write"),
    "words_head": ("怎么说：{name}", "In which words: {name}"),
    "source_model": ("模型", "model"),
    "source_template": ("固定句式", "plain wording"),
    "carries": ("带到 {share:.0%} 的商品信息", "carries {share:.0%} of the facts"),
    "prove": ("发出前请核实：{what}", "Before it goes out, prove: {what}"),
    "no_words": ("没有一条文案通过核查，请换商品或优惠。", "No text passed the guard; try another item or offer."),
    "silent": ("这位顾客已退订，不要发送营销信息。", "This customer opted out: send no marketing."),
    "no_orders": ("没有订单，谈不上画像。", "No orders, so there is nothing to tell."),
    # budget and rounds
    "budget": ("隐私预算", "Privacy budget"),
    "spent": ("已花", "spent"),
    "cap": ("上限", "limit"),
    "rounds_left": ("还可进行 {left} 轮（已用 {used} / {most}）", "{left} rounds left ({used} of {most} used)"),
    "no_policy": (
        "还没有政策文件；fugou merchant init 会写一份草稿。",
        "There is no policy yet; fugou merchant init writes a draft.",
    ),
    "budget_trouble": ("预算读不出来：{why}", "The budget cannot be read: {why}"),
    "rounds": ("最近的账目", "Latest entries of the ledger"),
    "no_rounds": ("账本还没有条目：本店还没有参加过训练。", "The ledger is empty: this shop has not trained yet."),
    "time": ("时间", "time"),
    "kind": ("类型", "type"),
    "round": ("轮", "round"),
    "after": ("此后 ε", "ε after"),
    # quality
    "quality": ("效果", "Quality"),
    "no_quality": (
        "还没有评估；在商家文件夹里运行 fugou merchant evaluate -o . 后显示在这里。",
        "Not measured yet; run fugou merchant evaluate -o . in the merchant's folder and it shows here.",
    ),
    "measured": ("{day} 测得，只用本店自己的数据", "measured on {day}, on this shop's own rows"),
    # footer, docs
    "own_eyes": (
        "这里的一切都在本店的机器上，不外传。",
        "Everything here stays on this shop's own machine.",
    ),
    "docs_head": ("接口文档", "The HTTP API"),
    "docs_note": (
        "每个请求带上 Authorization: Bearer 密钥；机器可读的描述在 /openapi.json。出错时返回一行原因。",
        "Send Authorization: Bearer KEY with every request; /openapi.json is for machines. An error is one line with a reason.",
    ),
    "field": ("字段", "field"),
    "type": ("类型", "type"),
    "default": ("默认", "default"),
    "required": ("必填", "required"),
    "not_found": ("没有这位顾客或商品：{why}", "No such customer or item: {why}"),
}


def phrase(lang: str, key: str, **places: object) -> str:
    """Return the sentence `key` in `lang`, its places filled."""
    return WORDS[key][lang == "en"].format(**places)
