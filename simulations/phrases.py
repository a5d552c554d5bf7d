"""Every sentence of the HTML pages, in Chinese and in English, side by side.

A phrase may hold `{named}` places. The symbol ε never stands here without δ, the unit of privacy and the period.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Lang = Literal["zh", "en"]

BOUND = "ε ≤ {epsilon} (δ = {delta}, unit: {unit}, period: {period})"
BOUND_ZH = "ε ≤ {epsilon}（δ = {delta}，单位：{unit}，周期：{period}）"

PHRASES: Mapping[str, tuple[str, str]] = {
    # the head of a page
    "lang": ("zh-CN", "en"),
    "page": ("联邦微调运行报告", "Federated fine-tuning run"),
    "comparison": ("运行对比", "Runs compared"),
    "comparison_of": ("{count} 次运行的对比", "{count} runs compared"),
    "foot": (
        "由 fugou（复购）根据运行文件夹生成；数字均来自该文件夹。",
        "Made by fugou (复购) from the run folder; every number comes from it.",
    ),
    "scenario": ("场景", "Scenario"),
    "seed": ("随机种子", "Seed"),
    # the outcome
    "fell": (
        "经过 {rounds} 轮、{merchants} 家商户，留出文本的困惑度从 {before} 降到 {after}（−{percent}%）",
        "Held-out perplexity fell from {before} to {after} (−{percent}%) in {rounds} rounds over {merchants} merchants",
    ),
    "rose": (
        "经过 {rounds} 轮、{merchants} 家商户，留出文本的困惑度从 {before} 升到 {after}（+{percent}%）",
        "Held-out perplexity rose from {before} to {after} (+{percent}%) in {rounds} rounds over {merchants} merchants",
    ),
    "stayed": (
        "经过 {rounds} 轮、{merchants} 家商户，留出文本的困惑度停在 {before}",
        "Held-out perplexity stayed at {before} in {rounds} rounds over {merchants} merchants",
    ),
    "untrained": (
        "尚未训练：基座模型在留出文本上的困惑度为 {before}",
        "Not trained yet: the base model's held-out perplexity is {before}",
    ),
    "at_bound": (f"；每家商户 {BOUND_ZH}。", f"; for every merchant {BOUND}."),
    "at_bound_some": (
        f"；{{private}} 家加噪商户各自 {BOUND_ZH}，另有 {{open}} 家未加噪，没有隐私保证。",
        f"; for each of the {{private}} merchants that added noise {BOUND}; {{open}} added none and have no guarantee.",
    ),
    "at_bounds": (
        "；各商户的隐私条件不同，不能用一个数概括，见“隐私损失”。",
        "; merchants state their privacy loss under different terms, so no single number holds: see “Privacy loss”.",
    ),
    "no_bound": (
        "；未加噪声（σ = 0），没有隐私保证。",
        "; no noise was added (σ = 0), so there is no privacy guarantee.",
    ),
    "unknown_bound": ("；运行文件夹中没有商户的隐私记录。", "; the run folder holds no merchant's privacy record."),
    # arms
    "arms": ("联邦、单店与集中", "Federated, alone and central"),
    "arm": ("训练方式", "Arm"),
    "arm_base": ("基座，未训练", "base, untrained"),
    "arm_federated": ("联邦", "federated"),
    "arm_local": ("单店各自训练", "each shop alone"),
    "arm_central": ("集中训练（上限）", "central (upper bound)"),
    "arms_title": ("同样的工作量，三种做法：留出文本的困惑度", "The same work done three ways: held-out perplexity"),
    "arms_desc": ("困惑度：{values}。", "Perplexity: {values}."),
    "arm_differs": (
        "{arm}的困惑度比{than}{percent}（95% 区间 {low} 到 {high}，{customers} 位顾客）。",
        "Perplexity {arm} against {than}: {percent} (95% interval {low} to {high}, {customers} customers).",
    ),
    "arm_no_difference": (
        "{arm}与{than}的差别没有超出误差：{percent}（95% 区间 {low} 到 {high}，{customers} 位顾客）。",
        "No difference beyond error, {arm} against {than}: {percent} (95% interval {low} to {high}, "
        "{customers} customers).",
    ),
    "arms_note": (
        "各方式的轮数、步数、噪声倍数与隐私上限相同，在同样的留出样本上评估；区间按顾客配对自助法得出，不含商户抽样与"
        "本次噪声的波动。集中训练要求数据离开各店，只作上限，不可部署。",
        "Every arm had the same rounds, steps, noise multiplier and privacy cap and is measured on the same held-out "
        "examples. Intervals are a paired bootstrap over customers; they leave out the choice of merchants and the "
        "luck of this run's noise. Central training needs rows to leave their shops: a bound, not a way to work.",
    ),
    "recommend_outcome": (
        "在 {customers} 位留出顾客上，recall@10：{values}。",
        "On {customers} held-out customers, recall@10: {values}.",
    ),
    # figures at a glance
    "tile_perplexity": ("困惑度（留出）", "perplexity, held-out"),
    "tile_tokens": ("{tokens} 个目标词元", "{tokens} target tokens"),
    "tile_epsilon": ("最大的 ε（δ = {delta}）", "largest ε (δ = {delta})"),
    "tile_epsilon_note": (
        "单位：{unit}，周期：{period}，上限 {limit}",
        "unit: {unit}, period: {period}, limit {limit}",
    ),
    "tile_noise": ("隐私保证", "privacy guarantee"),
    "tile_none": ("无", "none"),
    "tile_none_note": ("未加噪声", "no noise was added"),
    "tile_mixed": ("见下", "see below"),
    "tile_mixed_note": ("各商户条件不同", "terms differ by merchant"),
    "tile_recall": ("recall@10，{system}", "recall@10, {system}"),
    "tile_recall_note": ("个人频次基线 {baseline}", "personal frequency alone {baseline}"),
    "tile_traffic": ("传输总量", "bytes moved"),
    "tile_traffic_note": ("上行 {up}，下行 {down}", "{up} up, {down} down"),
    "tile_time": ("总时长", "wall clock"),
    "tile_time_note": ("{rounds} 轮，{merchants} 家商户", "{rounds} rounds, {merchants} merchants"),
    # what it does not show
    "limits": ("本页不能说明什么", "What this page does not show"),
    "limit_simulation": (
        "这是模拟。留出集上的数字只有模拟器看得到；在真实联邦中它们不会离开商家，协调方也得不到本页。",
        "This is a simulation. Held-out figures are seen by the simulator only; in a real federation they "
        "never leave a shop, and the coordinator has no such page.",
    ),
    "limit_cover": (
        "(ε, δ) 界只覆盖本周期内发出的适配器更新（含作废的扣费）；不覆盖谁在何时参与、公开的噪声参数，"
        "也不覆盖看过私有数据后所做的选择。",
        "The (ε, δ) bounds cover the adapter updates sent in the period, burned charges included. They do "
        "not cover who took part and when, the public noise parameters, or choices made after looking at "
        "private data.",
    ),
    "limit_credit": (
        "安全聚合、加密传输和文本脱敏都不计入界内；界只来自各商户自己加的噪声。",
        "No credit is taken for secure aggregation, encrypted transport or scrubbing of texts: the bounds "
        "come only from the noise that each merchant adds.",
    ),
    "limit_overlap": (
        "同一顾客在多家商户购物时，其损失大于任何一行所示；各行不可相加、平均，也不可跨不同的 δ、单位或周期比较。",
        "A customer of several merchants loses more than any one row says. Rows must not be added, averaged, "
        "or compared under another δ, unit or period.",
    ),
    "limit_data": (
        "数据是合成的或公开的，真实店铺会不同；离线 recall 不等于营销带来的增量。",
        "The data are synthetic or public; real shops differ. Offline recall is not the uplift that a campaign brings.",
    ),
    "limit_once": (
        "一次运行、一个种子：运行之间的波动没有测量。",
        "One run with one seed: variation from run to run was not measured.",
    ),
    "limit_compare": (
        "每行是一次运行；没有重复，行间的小差别可能只是随机波动。困惑度只有在同样的留出文本和同样的分词下才可比。",
        "Each row is one run without repeats, so small differences may be chance. Perplexities compare only "
        "on the same held-out texts under the same tokenizer.",
    ),
    # perplexity
    "perplexity": ("困惑度", "perplexity"),
    "perplexity_axis": ("困惑度（越低越好）", "perplexity (lower is better)"),
    "perplexity_axis_log": ("困惑度（越低越好，对数轴）", "perplexity (lower is better, log axis)"),
    "round": ("轮", "round"),
    "rounds_axis": ("轮次（0 = 基座模型）", "round (0 = base model)"),
    "perplexity_by_round": ("逐轮留出困惑度", "Held-out perplexity by round"),
    "perplexity_note": (
        "全体商户的留出文本，{tokens} 个目标词元。纵轴不一定从零开始。",
        "Held-out texts of all merchants, {tokens} target tokens. The vertical axis need not start at zero.",
    ),
    "perplexity_desc": (
        "折线图：困惑度从第 0 轮的 {before} 到第 {rounds} 轮的 {after}。",
        "Line chart: perplexity goes from {before} in round 0 to {after} in round {rounds}.",
    ),
    "by_task": ("按任务", "By task"),
    "by_task_note": (
        "每个小图有自己的纵轴，看走势，不比高低。",
        "Each panel has its own vertical axis: read the course, not the height.",
    ),
    "task_title": ("任务“{task}”的困惑度", "Perplexity on the task {task}"),
    "task_复购": ("复购", "repurchase 复购"),
    "task_文案": ("文案", "copy 文案"),
    "task_描述": ("描述", "description 描述"),
    "task_情感": ("情感", "sentiment 情感"),
    "task_评价": ("评价", "review 评价"),
    "task_客服": ("客服", "service 客服"),
    "overall": ("总体", "overall"),
    "overall_title": ("全部任务", "All tasks"),
    "axis_note": ("纵轴不一定从零开始。", "The vertical axis need not start at zero."),
    "comma": ("，", ", "),
    "count_word": ("{word} {n}", "{n} {word}"),
    # recommendation
    "recommend": ("复购推荐", "Repurchase recommendation"),
    "recommend_title": ("recall@10：训练前后", "Recall@10 before and after training"),
    "recommend_note": (
        "{customers} 位留出顾客的平均。热门和个人频次不经训练。按 {customers} 位顾客计，"
        "任一均值的标准误不超过 {error}。",
        "Mean over {customers} held-out customers. Popularity and personal frequency involve no training. "
        "With {customers} customers the standard error of any of these means is at most {error}.",
    ),
    "recommend_desc": (
        "横条图：各推荐方法的 recall@10。{values}。",
        "Bar chart: recall@10 of each recommender. {values}.",
    ),
    "recall_axis": ("recall@10（0 到 1，越高越好）", "recall@10 (0 to 1, higher is better)"),
    "system": ("方法", "recommender"),
    "popularity": ("热门商品", "popularity"),
    "frequency": ("个人频次", "personal frequency"),
    "model": ("共享模型单独", "shared model alone"),
    "blend": ("模型与频次融合", "blend of both"),
    "desk": ("店铺推荐清单", "the desk's list"),
    "before": ("训练前", "before training"),
    "after": ("训练后", "after training"),
    "fixed": ("不经训练", "no training involved"),
    "recall_before": ("recall@10 前", "recall@10 before"),
    "recall_after": ("recall@10 后", "recall@10 after"),
    "ndcg_before": ("NDCG@10 前", "NDCG@10 before"),
    "ndcg_after": ("NDCG@10 后", "NDCG@10 after"),
    # privacy
    "privacy": ("隐私损失", "Privacy loss"),
    "privacy_title": (
        "各商户的 ε（δ = {delta}，单位：{unit}，周期：{period}）上界与其上限",
        "Each merchant's ε (δ = {delta}, unit: {unit}, period: {period}), as an upper bound, against its limit",
    ),
    "privacy_note": (
        "向上取整到两位小数。虚线是商户自己签署的上限。条形不表示“还剩百分之几的隐私”：损失不随轮数线性增长，"
        "请看剩余轮数。",
        "Rounded up to two decimals. The dashed line is the limit that the merchant signed. A bar does not "
        "show “per cent of privacy left”: loss is not linear in rounds, so read the rounds left.",
    ),
    "privacy_most": (
        "图中只画最接近上限的 {shown} 家，共 {count} 家；表中是全部。",
        "The chart shows the {shown} of {count} merchants nearest to their limit; the table has all.",
    ),
    "privacy_desc": ("横条图：{values}。", "Bar chart: {values}."),
    "privacy_value": ("{merchant} {epsilon}，上限 {limit}", "{merchant} {epsilon}, limit {limit}"),
    "epsilon_axis": (
        "ε（δ = {delta}，单位：{unit}，周期：{period}）",
        "ε (δ = {delta}, unit: {unit}, period: {period})",
    ),
    "spent_bar": ("已花费的上界", "spent, upper bound"),
    "epsilon_head": ("ε ≤（δ\u00a0=\u00a0{delta}）", "ε ≤ (δ\u00a0=\u00a0{delta})"),
    "limit_head": ("上限", "limit"),
    "charges_head": ("账本扣费", "ledger charges"),
    "left_head": ("剩余轮数", "rounds left"),
    "noise_head": ("σ · 抽样率 · 步数", "σ · rate · steps"),
    "no_noise": ("无噪声，无保证", "no noise, no guarantee"),
    "open_merchants": (
        "这些商户未加噪声（σ = 0），没有隐私保证：{names}。",
        "These merchants added no noise (σ = 0) and have no privacy guarantee: {names}.",
    ),
    "released": ("释放 {n}", "{n} released"),
    "burned": ("作废 {n}", "{n} burned"),
    "refused": ("拒绝 {n}", "{n} refused"),
    "refunded": ("退还 {n}", "{n} refunded"),
    "over_limit": ("超出上限", "over the limit"),
    "no_charges": ("没有扣费", "no charges"),
    "customer": ("顾客", "customer"),
    "record": ("记录", "record"),
    # traffic and time
    "traffic": ("传输与时间", "Traffic and time"),
    "traffic_title": ("每轮传输的字节", "Bytes moved per round"),
    "traffic_note": (
        "全体商户合计。上行：商户到协调方；下行：协调方到商户。1 MB = 10⁶ 字节。",
        "All merchants together. Up: merchants to coordinator; down: coordinator to merchants. 1 MB = 10⁶ bytes.",
    ),
    "traffic_desc": (
        "柱状图：{rounds} 轮共上行 {up}、下行 {down}。",
        "Column chart: {up} up and {down} down in {rounds} rounds.",
    ),
    "up": ("上行", "up"),
    "down": ("下行", "down"),
    "replies": ("答复", "replies"),
    "time_title": ("每轮时间的去向", "Where each round's time went"),
    "time_note": (
        "墙钟秒数，在运行模拟的机器上测得；“其余”是各部分之外的时间。",
        "Wall-clock seconds on the machine that ran the simulation; “other” is what the measured parts leave over.",
    ),
    "time_desc": ("堆叠柱状图：{rounds} 轮共 {total}。", "Stacked column chart: {total} in {rounds} rounds."),
    "seconds_axis": ("秒", "seconds"),
    "total": ("合计", "total"),
    "train": ("训练", "train"),
    "aggregate": ("聚合", "aggregate"),
    "messages": ("收发", "messages"),
    "evaluate": ("评估", "evaluate"),
    "other": ("其余", "other"),
    # merchants
    "merchants": ("商户", "Merchants"),
    "merchants_note": (
        "各轮状态：{legend}。顾客数与各店困惑度只有模拟器看得到。",
        "Status by round: {legend}. Customer counts and a shop's own perplexity are seen by the simulator only.",
    ),
    "merchants_only": (
        "顾客数与各店困惑度只有模拟器看得到。",
        "Customer counts and a shop's own perplexity are seen by the simulator only.",
    ),
    "merchants_better": (
        "{better} / {count} 家商户的困惑度低于训练前。",
        "Perplexity is lower than before training at {better} of {count} merchants.",
    ),
    "merchant": ("商户", "merchant"),
    "customers": ("顾客", "customers"),
    "change": ("变化", "change"),
    "perplexity_before": ("困惑度 前", "perplexity before"),
    "perplexity_after": ("困惑度 后", "perplexity after"),
    "reasons": ("缺席的原因", "Why merchants were missing"),
    "reason": ("原因", "reason"),
    "status": ("状态", "status"),
    "done_word": ("完成", "done"),
    "refused_word": ("拒绝", "refused"),
    "failed_word": ("失败", "failed"),
    "late_word": ("迟到", "late"),
    "set aside_word": ("搁置", "set aside"),
    "absent_word": ("未记录", "not recorded"),
    "done_letter": ("完", "D"),
    "refused_letter": ("拒", "R"),
    "failed_letter": ("败", "F"),
    "late_letter": ("迟", "L"),
    "set aside_letter": ("搁", "S"),
    "absent_letter": ("·", "·"),
    # samples
    "samples": ("文案样例", "Copy samples"),
    "samples_note": (
        "运行写下的样例，未经改动：基座模型、训练后的共享模型，以及店铺自己的文案。",
        "As the run wrote them, unedited: by the base model, by the trained shared model, and the shop's own text.",
    ),
    "prompt": ("提示", "prompt"),
    "reference": ("店铺原文", "the shop's own"),
    # settings
    "settings": ("设置与版本", "Settings and versions"),
    "digests": ("各轮适配器摘要", "Adapter digest by round"),
    "digest": ("摘要（SHA-256）", "digest (SHA-256)"),
    "method": ("聚合方法", "method"),
    # comparison
    "run": ("运行", "run"),
    "runs": ("参与对比的运行", "The runs"),
    "scenario_head": ("场景", "scenario"),
    "merchants_head": ("商户数", "merchants"),
    "folder": ("文件夹", "folder"),
    "rounds": ("轮数", "rounds"),
    "privacy_worst": ("最大的 ε 及其 δ、单位、周期", "largest ε with its δ, unit and period"),
    "bound": (BOUND_ZH, BOUND),
    "worst_of": ("{count} 家中最大", "largest of {count}"),
    "tokens": ("留出词元", "held-out tokens"),
    "different_tokens": (
        "注意：各次运行的留出词元数或基座困惑度不同，困惑度不能直接比较。",
        "Beware: the runs differ in held-out tokens or in the base model's perplexity, so perplexities do "
        "not compare directly.",
    ),
    "perplexity_runs_desc": ("折线图，每次运行一条线。{values}。", "Line chart, one line a run. {values}."),
    "recommend_runs": ("训练后的 recall@10", "Recall@10 after training"),
    "recommend_runs_note": ("每次运行最后一次评估。", "The last evaluation of each run."),
    "privacy_runs": (
        "各次运行中最大的 ε（δ = {delta}，单位：{unit}，周期：{period}）",
        "Largest ε of each run (δ = {delta}, unit: {unit}, period: {period})",
    ),
    "differences": ("不同的设置", "Settings that differ"),
    "differences_none": ("各次运行的设置相同。", "All runs have the same settings."),
    "setting": ("设置", "setting"),
}


def phrase(lang: Lang, key: str, **places: object) -> str:
    """Return the sentence `key` in `lang` with its places filled.

    >>> phrase("en", "worst_of", count=6)
    'largest of 6'
    """
    return PHRASES[key][lang == "en"].format(**places)
