"""What the daily verbs say to a merchant, in Chinese and in English, side by side."""

from __future__ import annotations

from collections.abc import Mapping

WORDS: Mapping[str, tuple[str, str]] = {
    # profile: tags and the evidence for each
    "tag_segment": ("客户类型", "kind of customer"),
    "tag_rfm": ("RFM", "RFM"),
    "tag_category": ("常买品类", "categories"),
    "tag_brand": ("偏好品牌", "brands"),
    "tag_price": ("价位", "price level"),
    "tag_offers": ("促销敏感", "answers to offers"),
    "tag_rhythm": ("节奏", "rhythm"),
    "tag_when": ("下单时间", "when they order"),
    "tag_due": ("下次到期", "next due"),
    "tag_interest": ("评价关注", "talks about"),
    "why_segment": ("R{recency} F{frequency}，近一年 {orders} 单", "R{recency} F{frequency}, {orders} orders within a year"),
    "why_rfm": (
        "上次下单 {days} 天前；近一年 {orders} 单，共 {spent:.2f}",
        "last order {days} days ago; {orders} orders within a year, {spent:.2f} in all",
    ),
    "why_share": ("近一年 {part}/{whole} 件", "{part} of {whole} items within a year"),
    "why_price": (
        "所买商品标价平均为同类目中位价的 {ratio:.2f} 倍（低于 0.8 为低，高于 1.25 为高）",
        "list prices bought are {ratio:.2f} times the category's median on average (under 0.8 low, over 1.25 high)",
    ),
    "why_no_price": ("商品没有标价，按中计", "no list prices; counted as middle"),
    "why_offers": (
        "{part}/{whole} 件低于标价 95% 成交（五分之一以上为中，一半以上为高）",
        "{part} of {whole} items bought under 95% of the list price (from a fifth on middle, from a half on high)",
    ),
    "why_rhythm": ("{orders} 单，平均间隔 {gap} 天", "{orders} orders, {gap} days apart on average"),
    "why_once": ("只有 {orders} 单，看不出间隔", "{orders} order only; no gap to be seen"),
    "why_when": ("{part}/{whole} 单", "{part} of {whole} orders"),
    "why_due": ("上次 {last}，平均间隔 {gap} 天", "last {last}, {gap} days apart on average"),
    "why_interest": ("{count} 条评价里出现最多的词", "the words most frequent in {count} reviews"),
    "gap_days": ("约 {gap} 天一单", "an order every {gap} days or so"),
    "weekend": ("周末", "weekends"),
    "weekday": ("工作日", "weekdays"),
    "morning": ("上午", "mornings"),
    "afternoon": ("下午", "afternoons"),
    "evening": ("晚上", "evenings"),
    "night": ("夜里", "nights"),
    "profile_none": ("没有订单，谈不上画像", "no orders, so there is nothing to tell"),
    # reviews
    "review_head": ("{sentiment}（{share:.0%}），约 {stars} 星", "{sentiment} ({share:.0%}), about {stars} stars"),
    "review_unsure": ("，拿不准，请人看一眼", "; unsure, let a person look"),
    "review_aspect": ("  {name}：{sentiment} — {clause}", "  {name}: {sentiment} — {clause}"),
    # service
    "hand_over": (
        "您好，这个问题需要人工为您核实，我马上请同事来回复您。",
        "Thank you for asking. This needs a person to look at; a colleague will answer you shortly.",
    ),
    "why_unlike": (
        "店里没有足够相近的问答（最高 {score:.2f}）",
        "no dialog or policy of the shop is near enough (at best {score:.2f})",
    ),
    "why_asked": (
        "顾客要求人工，或涉及投诉、赔偿、健康",
        "a person was asked for, or it is about a complaint, damages or health",
    ),
    "why_case": ("相近的回答说的是另一单的情况", "the nearest answer speaks of another order"),
    "why_blocked": ("回答没有通过核查", "the answer did not pass the guard"),
    "why_odd": ("问题里有指令或标记，不交给模型", "the question holds instructions or marks; it is not given to the model"),
    "source_dialog": ("会话 {id}", "dialog {id}"),
    "source_policy": ("店规第 {number} 段", "policy paragraph {number}"),
    # campaign
    "stop_sms": ("拒收请回复R", "Reply STOP to opt out"),
    "mark_text": ("（AI生成）", " (AI-generated)"),
    "campaign_done": (
        "{count} 位顾客已写入 {file}；{left_out} 位退订未写；隐式标识在 {beside}",
        "{count} customers in {file}; {left_out} who opted out are not; the implicit label is in {beside}",
    ),
    "reason_line": (
        "买过{times}次，平均{gap}天一单，上次{last}",
        "bought {times} times, an order every {gap} days on average, last on {last}",
    ),
    "reason_words": ("，评价常提{words}", ", often writes of {words}"),
    # evaluate
    "quality_head": (
        "{shop}：{since} 以来的各周，只用本店自己的数据",
        "{shop}: the weeks since {since}, on this shop's own rows",
    ),
    "quality_name": ("指标", "figure"),
    "quality_value": ("结果", "value"),
    "quality_interval": ("95% 区间", "95% interval"),
    "quality_beside": ("对照", "beside"),
    "quality_count": ("例数", "cases"),
    "quality_note": (
        "区间由按顾客重抽样得到；例数少时区间很宽，不要据此下结论。离线命中不等于增量：只有随机留出对照组才能看出效果。",
        "Intervals are from resampling customers; with few cases they are wide, and nothing follows from them. A hit offline is "
        "no uplift: only a random hold-out shows what a campaign did.",
    ),
    "quality_title": ("效果评估", "Quality"),
    "quality_samples": ("店里发过的与现在会发的", "What was sent, and what would go out"),
    "quality_sent": ("店里发的", "sent"),
    "quality_written": ("会发的", "would go out"),
    "serving": (
        "服务在 http://{host}:{port}（控制台同址，用 API 密钥登录；按 Ctrl-C 结束）",
        "serving at http://{host}:{port} (the console is there too; log in with an API key; Ctrl-C ends it)",
    ),
    "evidence_line": ("  需核实：{what}", "  to be proved: {what}"),
}  # fmt: skip


def phrase(lang: str, key: str, **places: object) -> str:
    """Return the sentence `key` in `lang`, its places filled.

    >>> phrase("en", "gap_days", gap=9)
    'an order every 9 days or so'
    """
    return WORDS[key][lang == "en"].format(**places)
