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

HIDDEN: Mapping[str, str] = {
    "手机": "mobile number",
    "座机": "landline",
    "身份证": "identity card",
    "银行卡": "bank card",
    "邮箱": "e-mail",
    "微信": "WeChat",
    "QQ": "QQ",
    "账号": "account",
    "网址": "web address",
    "地址": "address",
    "姓名": "name",
    "单号": "order or parcel number",
    "车牌": "licence plate",
    "护照": "passport",
    "IP": "IP address",
    "税号": "tax number",
    "生日": "birth date",
}
"""What desensitisation finds, by the word of its surrogate, in English."""

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
    # metrics
    "no_purchases": (
        "{folder} 没有可用的订单；请先运行 fugou merchant check 看每一行怎么了",
        "{folder} has no order that can be used; fugou merchant check says what is wrong with every row",
    ),
    "metrics_head": (
        "{name}：{customers} 位顾客，{purchases} 次购买，{begin} 至 {end}",
        "{name}: {customers} customers, {purchases} purchases, {begin} to {end}",
    ),
    "metrics_own_eyes": (
        "以下是本店自己的准确数字，没有加噪声，只供本店查看：不上传，也不花预算。",
        "These are the shop's own exact figures, without noise, for the shop's eyes: nothing is sent, nothing is charged.",
    ),
    "metrics_purchase": (
        "购买：一位顾客在一天里的全部订单算一次购买；已取消、已退款的订单和退货不算。统计截至数据的最后一天。",
        "Purchase: all orders of one customer on one day count once; cancelled and refunded orders and returns do not "
        "count. The figures stand as of the last day in the data.",
    ),
    "metrics_repurchase": (
        "复购率。N 日复购率：首次购买距数据结束至少 N 天的顾客中，首购后 N 天内又在另一天购买的比例。"
        "期内复购率：最近 N 天内买过的顾客中，在这 N 天里买过两次以上的比例，数据不足 N 天时不算（–）。"
        "两者不同，引用时请说明是哪一个。",
        "Repurchase rate. After the first purchase: of the customers whose first purchase lies at least N days before the "
        "end of the data, the share that bought on another day within N days. Within the period: of the customers that "
        "bought in the last N days, the share that bought at least twice in them. Data shorter than N days "
        "gives none (–). They differ; say which one you quote.",
    ),
    "metrics_overall": (
        "全部顾客中买过两次以上的：{rate}（没有时间限制，新顾客会拉低它）",
        "of all customers, bought twice or more: {rate} (no time limit; new customers pull it down)",
    ),
    "metrics_frequency": (
        "购买频次：某月的购买次数 ÷ 该月买过的顾客数。总频次 = 全部购买次数 ÷ 各月顾客数之和。",
        "Purchase frequency: purchases of a month divided by the customers that bought in it. Over all months: all "
        "purchases divided by the sum of the months' customers.",
    ),
    "metrics_per_month": (
        "每位活跃顾客每月 {frequency} 次",
        "{frequency} purchases an active customer and month",
    ),
    "metrics_cohorts": (
        "同期群留存：按首次购买的月份分组；+k 是该组在之后第 k 个月里买过的比例。尚未结束的月份不计（–）。"
        "第一个月的组里也有数据开始之前的老顾客。",
        "Cohort retention: customers by the month of their first purchase; +k is the share that bought in the k-th month "
        "after it. A month that is not over yet is not counted (–). The first cohort also holds customers from before "
        "the data begins.",
    ),
    "metrics_rfm": (
        "RFM：R 距最后一次购买的天数，F 购买次数，M 消费金额（单价 × 数量）；各按全店顾客分五档，1 + ⌊5 × 不如他的顾客比例⌋，"
        "相同的值同档；4、5 档为高。各列为该类顾客的中位数。",
        "RFM: R days since the last purchase, F purchases, M money spent (price × quantity); each scored 1 to 5 as "
        "1 + ⌊5 × share of customers that do worse⌋, equals alike; 4 and 5 are high. Columns are medians of the segment.",
    ),
    "metrics_waiting": (
        "复购间隔：从一次购买到下一次的天数。每位顾客最后一次购买之后的间隔还没有结束，按“至少这么久”计"
        "（Kaplan–Meier 1958）；只看已结束的间隔会偏短。",
        "Days to the next purchase. The gap after a customer's last purchase is still open and counts as 'at least so "
        "long' (Kaplan and Meier 1958); closed gaps alone would come out too short.",
    ),
    "metrics_quartiles": (
        "四分之一的购买在 {quarter} 内有下一次，一半在 {half} 内，四分之三在 {most} 内（已结束 {closed} 个，未结束 {open} 个）",
        "a quarter of purchases are followed by another within {quarter}, half within {half}, three quarters within "
        "{most} ({closed} gaps closed, {open} open)",
    ),
    "metrics_closed": (
        "只看已结束的间隔，中位数是 {days} 天（偏短，仅供对照）",
        "the median of closed gaps alone is {days} days (too short; for comparison)",
    ),
    "days": ("{days} 天", "{days} days"),
    "part_of": ("{month}（不完整）", "{month} (part)"),
    "head_window": ("窗口 N", "window N"),
    "head_judged": ("可判断的首购顾客", "first purchases judged"),
    "head_returned": ("N 天内再买", "came back"),
    "head_rate": ("比例", "rate"),
    "head_active": ("最近 N 天顾客", "active in last N"),
    "head_repeated": ("两次以上", "twice or more"),
    "head_month": ("月份", "month"),
    "head_customers": ("顾客", "customers"),
    "head_purchases": ("购买", "purchases"),
    "head_each": ("人均", "each"),
    "head_segment": ("分群", "segment"),
    "head_share": ("占比", "share"),
    "head_recency": ("距今天数", "days since"),
    "head_spend": ("金额", "spent"),
    "head_within": ("多少天内", "within"),
    "segment_champion": ("重要价值（R高 F高 M高）", "champions (R high, F high, M high)"),
    "segment_rising": ("重要发展（R高 F低 M高）", "rising (R high, F low, M high)"),
    "segment_keep": ("重要保持（R低 F高 M高）", "to win back (R low, F high, M high)"),
    "segment_rescue": ("重要挽留（R低 F低 M高）", "to rescue (R low, F low, M high)"),
    "segment_loyal": ("一般价值（R高 F高 M低）", "loyal, small baskets (R high, F high, M low)"),
    "segment_new": ("一般发展（R高 F低 M低）", "new or occasional (R high, F low, M low)"),
    "segment_quiet": ("一般保持（R低 F高 M低）", "gone quiet (R low, F high, M low)"),
    "segment_lost": ("一般挽留（R低 F低 M低）", "nearly lost (R low, F low, M low)"),
    # a new folder
    "init_done": ("{folder} 已建好：{name}（{id}）。接下来：", "{folder} is made: {name} ({id}). What comes next:"),
    "init_tables": (
        "  1. 换上自己的表格，改 merchant.toml 的 [sources]（现在是示例）",
        "  1. put your own tables there and correct [sources] in merchant.toml (an example stands there now)",
    ),
    "init_check": (
        "  2. fugou merchant --dir {folder} check      看每一行，什么也不写",
        "  2. fugou merchant --dir {folder} check      looks at every row and writes nothing",
    ),
    "init_metrics": (
        "  3. fugou merchant --dir {folder} metrics    复购率、频次、留存、RFM",
        "  3. fugou merchant --dir {folder} metrics    repurchase rate, frequency, cohorts, RFM",
    ),
    "init_plan": (
        "  4. fugou merchant --dir {folder} plan       预算怎么花；policy.toml 是草稿，请隐私官看过再签",
        "  4. fugou merchant --dir {folder} plan       what the budget does; policy.toml is a draft for the officer to sign",
    ),
    "init_keys": (
        "keys/officer 是隐私官的私钥，keys/ledger 是账本的私钥：请备份，不要给别人。",
        "keys/officer is the privacy officer's private key, keys/ledger the ledger's: back them up, give them to nobody.",
    ),
    "init_full": (
        "{folder} 已存在且不是空文件夹；换一个名字，或先把里面的东西移走",
        "{folder} exists and is no empty folder; choose another name, or move away what is in it",
    ),
    "init_id": (
        "商户编号 {id!r} 不合规：1 到 64 个小写字母、数字或连字符，例如 --id qinghe-tea",
        "merchant id {id!r}: write 1 to 64 small letters, digits or hyphens, as in --id qinghe-tea",
    ),
    "init_name": (
        "店名 {name!r} 不能用：写一行可见的文字，例如 --name 青禾茶铺",
        "name {name!r}: write one line of visible text, as in --name 'Qing He Tea'",
    ),
    # what check found
    "check_no_policy": (
        "还没有 {file}，不知道每位顾客至多用几条记录；fugou merchant init 会写一份草稿",
        "there is no {file} yet, so how many records of a customer may be used is not known; fugou merchant init writes a draft",
    ),
    "check_head": ("{name}（{id}）", "{name} ({id})"),
    "check_harmless": (
        "check 只读：什么也不写，不动账本，不花预算。下面的例子来自真实顾客，只供本店自己查看，请勿外传。",
        "check only reads: nothing is written, no ledger touched, no budget spent. The examples below are of real customers "
        "and for the shop's own eyes; do not pass them on.",
    ),
    "check_nobody": ("没有可用的订单。", "There is no order that can be used."),
    "check_shop": (
        "{customers} 位顾客，{purchases} 次购买（一人一天算一次），{begin} 至 {end}，{items} 种商品；买得最多：{top}",
        "{customers} customers, {purchases} purchases (a customer and a day), {begin} to {end}, {items} items; "
        "bought most: {top}",
    ),
    "check_top": ("{name}（{count} 行）", "{name} ({count} lines)"),
    "check_rates": (
        "复购率：{rates}；不限时间 {overall}（定义见 fugou merchant metrics）",
        "repurchase rate: {rates}; without time limit {overall} (defined in fugou merchant metrics)",
    ),
    "check_rate": (
        "首购后 {days} 天内 {rate}（{customers} 位可判断）",
        "{rate} within {days} days of the first purchase ({customers} judged)",
    ),
    "check_no_findings": ("没有发现问题。", "Nothing wrong was found."),
    "check_findings": (
        "发现（每类列出前几处，--all 列出全部，--json 供程序读取）：",
        "Findings (the first of each kind; --all lists all, --json is for programs):",
    ),
    "check_finding": (
        "{table}，{column}：{kind}，{count} 处，{does}",
        "{table}, {column}: {kind}; {count} times, {does}",
    ),
    "check_place": ("    {source}：{place}　{value}", "    {source}: {place}  {value}"),
    "check_more": ("    …… 另有 {count} 处", "    … and {count} more"),
    "check_record": ("整行", "whole row"),
    "check_scrubbed": (
        "训练前已隐去的个人信息：{kinds}",
        "personal data hidden before training: {kinds}",
    ),
    **{f"hidden_{kind}": (kind, english) for kind, english in HIDDEN.items()},
    "check_nothing_scrubbed": ("文字里没有发现个人信息。", "No personal data was found in the texts."),
    "check_trained": (
        "模型能学的：{customers} 位顾客共 {records} 条记录（{tasks}）{held_out}",
        "what a model can learn from: {records} records of {customers} customers ({tasks}){held_out}",
    ),
    "check_sampled": (
        "以上与以下按顾客编号的哈希抽取 {customers} 位计算；抽到的顾客，其每一行都在内",
        "figures of records are of {customers} customers drawn by a hash of their ids; every row of those drawn is in",
    ),
    "check_held_out": ("；留作评估 {count} 条", "; {count} kept for evaluation"),
    "check_before": (
        "每位顾客的记录：中位数 {median:g}，九成不超过 {nine_in_ten}，至多 {most}",
        "records of a customer: median {median:g}, nine in ten have at most {nine_in_ten}, the most is {most}",
    ),
    "check_after": (
        "按政策每位至多用 {bound} 条之后：中位数 {median:g}，九成不超过 {nine_in_ten}，至多 {most}",
        "with at most {bound} of a customer, as the policy has it: median {median:g}, nine in ten {nine_in_ten}, the most {most}",
    ),
    "check_examples": (
        "模型看到的样子（每种任务一例，已去除个人信息）：",
        "What the model sees (one example of every task, personal data hidden):",
    ),
    "check_example": ("  {prompt}⟦{target}⟧", "  {prompt}⟦{target}⟧"),
    "check_refused": ("{table} 未能读入：{reason}", "{table} was not taken: {reason}"),
    "check_more_refused": ("（另有 {count} 张表也未能读入）", " (and {count} more tables were not taken)"),
    "head_table": ("表", "table"),
    "head_read": ("读到", "read"),
    "head_good": ("可用", "good"),
    "head_excluded": ("有意不计", "left out on purpose"),
    "reason_cancelled": ("已取消", "cancelled"),
    "reason_refunded": ("已退款", "refunded"),
    "reason_unpaid": ("未付款", "unpaid"),
    "reason_returns": ("退货行", "returns"),
    "reason_blank": ("空行", "blank"),
    "does_row_left_out": ("整行不用", "row left out"),
    "does_value_emptied": ("清空该值", "value emptied"),
    "does_text_cut": ("截断", "text cut"),
    "does_kept_as_it_is": ("原样保留", "kept as it is"),
    "kind_empty-id": ("缺少编号", "an id is missing"),
    "kind_id": (
        "编号不合规（超过 64 个字符或含看不见的字符）",
        "no id: longer than 64 characters, or with characters that cannot be seen",
    ),
    "kind_rounded-id": (
        "编号被表格软件改成了科学计数或抹去了尾数；请把该列按文本导出",
        "an id that a spreadsheet has rounded; export the column as text",
    ),
    "kind_empty": ("必填而为空", "empty, and needed"),
    "kind_empty-text": ("没有文字", "no words"),
    "kind_time": ("看不懂的时间；可在 formats 里写明格式", "not a time; say in formats how it is written"),
    "kind_range": ("超出合理范围", "outside what a shop can mean"),
    "kind_number": ("不是数字", "not a number"),
    "kind_zero": ("数量为 0，不算购买", "a quantity of 0 is no purchase"),
    "kind_rating": ("不是 1 到 5 的星级", "not a rating from 1 to 5"),
    "kind_too-long": ("超过 20,000 个字符", "longer than 20,000 characters"),
    "kind_formula": (
        "像一个公式；这里只当文字，导出时会加防护",
        "reads like a formula; it stays text here and is disarmed in every export",
    ),
    "kind_formula-error": ("表格里出错的公式", "a formula that failed in the spreadsheet"),
    "kind_encoding": (
        "有在先前导出时丢失的字符（�）；请从原系统重新导出",
        "characters lost in an earlier export (�); export again from the source",
    ),
    "kind_status": (
        "不认识的状态，按有效订单计；可在 statuses 里写明",
        "an unknown status, taken as a purchase; say in statuses what it means",
    ),
    "kind_ragged": (
        "格数与表头不符；含逗号或换行的格要加引号",
        "more or fewer cells than the header; put quotes around a cell with a comma or line break",
    ),
    "kind_header": ("又是一行表头", "the header again"),
    "kind_future": (
        "日期在今天之后；店里的“今天”是最后一单的第二天，它会推后所有人的周期，请更正",
        "a date in the future; the shop's today is the day after its last order, so this shifts every rhythm: correct it",
    ),
    "kind_before-2000": ("日期早于 2000 年；会拉长周期，请核对", "a date before 2000; it stretches rhythms: check it"),
    "kind_unknown-product": (
        "商品目录里没有；历史里用订单上的名称，但不会被推荐，也不会为它写文案",
        "not in the catalogue; its history stays under the name on the order, but it is never recommended nor written about",
    ),
    "kind_no-orders": (
        "这位顾客没有订单；文字照样可学，但谈不上复购",
        "a customer without an order; the words can be learned from, nothing can be said of repurchase",
    ),
    "kind_duplicate": (
        "与前面某行同键；同一单里的商品只算一次，但金额、评价、对话和推送会重复计入，商品以最后一行为准",
        "the key of an earlier row; an item counts once in an order, but money, reviews, dialogs and messages count again, "
        "and of products the last row holds",
    ),
    "kind_damaged-text": (
        "像是用错编码读过的文字（乱码），模型会照学；请按 UTF-8 重新导出",
        "words that look read in a wrong encoding, which a model would learn; export again as UTF-8",
    ),
    "kind_html": (
        "含网页标签，模型会照学；请导出纯文字",
        "web page tags, which a model would learn; export plain text",
    ),
    # taking part in a federation
    "join_request": (
        "请把 {file} 交给协调方登记（指纹 {fingerprint}，请通过电话等另一渠道核对）",
        "send {file} to the coordinator (fingerprint {fingerprint}: compare it by another way, such as the phone)",
    ),
    "join_then": (
        "拿到邀请文件后：fugou merchant join 邀请文件",
        "once you have the invitation: fugou merchant join INVITATION",
    ),
    "join_whom": (
        "加入 {name}（{address}），协调方密钥指纹 {fingerprint}，请与对方核对",
        "joining {name} ({address}); the coordinator's key is {fingerprint}: compare it with them",
    ),
    "join_taken": (
        "邀请已记下；节点由 systemd 或容器启动",
        "the invitation is taken; systemd or a container starts the node",
    ),
    "join_done": (
        "节点在线；随时可以退出：fugou merchant leave。Flower 的遥测、更新检查与运行时装包都已关闭",
        "the node is online; leave at any time with: fugou merchant leave. Flower's telemetry, update check and run-time "
        "installation are off",
    ),
    "left": (
        "节点已停止（{count} 个进程）；账本、密钥和模型都在原处",
        "the node is stopped ({count} processes); ledger, keys and models stay where they are",
    ),
    "not_joined": ("还没有加入联邦：fugou merchant join", "not in a federation yet: fugou merchant join"),
    "node_online": (
        "{merchant} 在线，协调方 {address}，重启 {restarts} 次",
        "{merchant} is online at {address}, restarted {restarts} times",
    ),
    "node_trying": (
        "{merchant} 的节点在运行，但还没有连上 {address}（重启 {restarts} 次）",
        "the node of {merchant} runs and is not let in at {address} yet (restarted {restarts} times)",
    ),
    "node_stands": ("{merchant} 的节点没有运行", "the node of {merchant} does not run"),
    "node_trouble": ("原因：{reason}", "reason: {reason}"),
    "node_chain": (
        "看到的共享适配器链：{place}:{link}（与其他商家核对：status --compare）",
        "chain of shared adapters shown: {place}:{link} (another merchant checks it with: status --compare)",
    ),
    "model_holds": (
        "第 {run} 次运行第 {round} 轮（{method}）的模型 {digest} 由协调方签署，未被改动",
        "the model {digest} of run {run}, round {round} ({method}), is signed by the coordinator and unchanged",
    ),
    "node_no_chain": ("还没有看到过共享适配器", "no shared adapter was shown yet"),
    "node_off": (
        "{merchant} 的节点不在线；fugou merchant join 启动它",
        "the node of {merchant} is not online; fugou merchant join starts it",
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
