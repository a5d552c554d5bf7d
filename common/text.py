"""Text on its way to the model and back: cleaning, words, and the prompt and target of every task.

Two paths. The *fluent* path (`clean`) keeps every word and the shop's own script, Simplified or Traditional, and feeds
language-model training: what a model is to write must read as its shop writes. The *word* path (`words`, `keywords`)
also takes Traditional to Simplified letters, cuts with jieba, drops stop words, and feeds similarity, profiles and
evaluation, where 綠茶 and 绿茶 are one word. A `Lexicon` carries a shop's own terms and stop words; it is a value that
callers pass, so two shops in one process never see each other's.

Numbers enter prompts as words from fixed public tables (`AGO`, `RECENCY`, …), so that the model meets few symbols, no
exact value is there to be memorised, and no prompt depends on the other customers, as a quantile would.

Every task, by the key that settings use (`TASKS`); the loss counts on the target only:

    key          zh    prompt asks with                                          target
    repurchase   复购  rhythm, what was bought most                              names of what comes next
    judgement    判断  the same and one candidate, with how due it is            是 or 否
    copy         文案  channel, item, attributes, offer, rhythm                  the message that was sent
    description  描述  item, attributes                                          the catalogue's description
    sentiment    情感  a review                                                  负面, 中性 or 正面
    review       评价  item, stars                                               the review
    reply        客服  intent, status, question                                  the shop's answer
    profile      画像  R, F and M from 1 to 5, categories, prices, offers        a tag from `TAGS` and a sentence
    history      履历  rhythm, what was bought most                              the same in sentences
"""

from __future__ import annotations

import functools
import re
import unicodedata
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError

if TYPE_CHECKING:
    import jieba
    from opencc import OpenCC

CONTROL = re.compile(r"[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
BLANKS = re.compile(r"\s+")
NOT_A_WORD = re.compile(r"^[\W_]+$")
TERM = re.compile(r"[\u4e00-\u9fd5a-zA-Z0-9+#&._%\-]{1,64}")
"""What jieba can keep in one piece; at every other letter it cuts whatever the dictionary says."""

WIDE = re.compile("[０-９Ａ-Ｚａ-ｚ]+")
"""Full-width digits and letters; full-width punctuation is how Chinese is written and no part of it."""

STOP_WORDS = frozenset(
    (
        "的 了 和 是 就 都 而 及 与 着 或 一个 没有 我们 你们 他们 它们 这个 那个 这 那 我 你 您 他 她 它 在 也 还 很 "
        "又 吧 吗 呢 啊 呀 哦 嗯 把 被 让 给 对 从 到 由 向 以 为 于 之 等 并 但 但是 因为 所以 如果 虽然 可以 会 要 "
        "有 不 上 下 中 来 去 说 the a an of and or to in on for with is are was were "
        "be this that it as at by from you your we our "
    ).split()
)

AGO_ZH = ((0, "当天"), (3, "3天内"), (10, "1周"), (21, "2周"), (45, "1个月"), (90, "2个月"))
AGO_EN = ((0, "today"), (3, "within 3 days"), (10, "1 week"), (21, "2 weeks"), (45, "1 month"), (90, "2 months"))
LONGER = {"zh": "3个月以上", "en": "over 3 months"}
AGO = {"zh": AGO_ZH, "en": AGO_EN}
AGO_DAYS = tuple(limit for limit, _ in AGO_ZH)
AGO_WORDS = {lang: (*(word for _, word in table), LONGER[lang]) for lang, table in AGO.items()}
RHYTHM = {"zh": ("低频", "中频", "高频"), "en": ("occasional", "regular", "frequent")}
SENTIMENT = {"zh": ("负面", "中性", "正面"), "en": ("negative", "neutral", "positive")}
YES = {"zh": ("否", "是"), "en": ("no", "yes")}
DUE = {"zh": ("未到期", "快到期", "已到期", "首次"), "en": ("not due", "nearly due", "due", "bought once")}
LEVEL = {"zh": ("低", "中", "高"), "en": ("low", "middle", "high")}
TAGS = {"zh": ("沉睡", "新客", "稳定", "常客"), "en": ("dormant", "new", "steady", "loyal")}
TAG_LINES = {
    "zh": ("有一阵子没来了，", "刚认识我们不久，", "节奏比较稳定，", "是店里的常客，"),
    "en": ("has not been here for a while", "has only just met us", "keeps an even rhythm", "comes again and again"),
}

RECENCY = (90, 45, 21, 7)
"""Days since the last order at or under which R is 2, 3, 4, 5; above all of them it is 1."""
FREQUENCY = (2, 3, 6, 12)
"""Orders within a year from which on F is 2, 3, 4, 5."""
MONEY = (2.0, 6.0, 15.0, 40.0)
"""Money spent within a year, in median list prices of the shop's catalogue, from which on M is 2, 3, 4, 5."""


@dataclass(frozen=True)
class Task:
    """One task: its key in settings, its name by language, its usual weight in a customer's row, and its voice there.

    The voice is how much one id of its target counts in the customer's loss, a whole number from 1 on, the same for
    everybody.
    """

    key: str
    zh: str
    en: str
    weight: float
    voice: int = 1

    def name(self, lang: str) -> str:
        """Return the name that examples of this task carry."""
        return self.zh if lang == "zh" else self.en


LABEL_VOICE = 4
"""Voice of a target that is one word: a sentence beside it in the row has some twenty times as many ids, and with a voice
each they would teach the model to begin a sentence where it should say the word."""

TASKS: Mapping[str, Task] = {
    task.key: task
    for task in (
        Task("repurchase", "复购", "repurchase", 1.0),
        Task("judgement", "判断", "judgement", 0.0, LABEL_VOICE),
        Task("copy", "文案", "copy", 1.0),
        Task("description", "描述", "description", 0.0),
        Task("sentiment", "情感", "sentiment", 1.0, LABEL_VOICE),
        Task("review", "评价", "review", 1.0),
        Task("reply", "客服", "reply", 1.0),
        Task("profile", "画像", "profile", 0.0),
        Task("history", "履历", "history", 0.0),
    )
}
"""Weight 0: what a rule or the catalogue says already need not be learned from customers at the price of their budget."""


VOICES: Mapping[str, int] = {name: task.voice for task in TASKS.values() for name in (task.zh, task.en)}
"""The voice of every task by the name that examples carry."""


@dataclass(frozen=True)
class Example:
    """One task for the model: the loss counts on `target` only."""

    task: str
    prompt: str
    target: str


@dataclass(frozen=True)
class Bought:
    """One item in a customer's history: times bought and days since the last time."""

    name: str
    times: int
    days_ago: int


@dataclass(frozen=True)
class Habit:
    """A customer's rhythm as a prompt says it; `gap_days` is the mean gap between orders, `rhythm` 0, 1 or 2."""

    rhythm: int
    gap_days: int


@dataclass(frozen=True)
class Portrait:
    """A customer in public buckets: R, F and M from 1 to 5, favourite categories, price level and love of offers 0 to 2."""

    recency: int
    frequency: int
    money: int
    categories: tuple[str, ...]
    spend: int
    offers: int


@dataclass(frozen=True)
class Lexicon:
    """A shop's own words: terms that are never cut, each with its weight (0 leaves the choice to jieba), and stop words."""

    terms: tuple[tuple[str, int], ...] = ()
    stop_words: frozenset[str] = STOP_WORDS


PLAIN = Lexicon()


def clean(text: str) -> str:
    r"""Return `text` on one line, without control, zero-width and direction characters; every word and the script stay.

    Full-width digits and letters become ordinary ones, full-width punctuation stays.

    >>> clean("好\u200b茶 \n ２５０ｇ，下次再来")
    '好茶 250g，下次再来'
    """
    plain = CONTROL.sub("", text.replace("\n", " ").replace("\t", " "))
    return BLANKS.sub(" ", WIDE.sub(lambda wide: unicodedata.normalize("NFKC", wide[0]), plain)).strip()


def simplify(text: str) -> str:
    """Return `text` with Traditional letters as Simplified ones, by OpenCC's word lists; for the word path only.

    >>> simplify("這款烏龍茶很香，乾隆年間的髮簪")
    '这款乌龙茶很香，乾隆年间的发簪'
    """
    return text if text.isascii() else str(_converter().convert(text))


def words(text: str, lexicon: Lexicon = PLAIN) -> list[str]:
    """Return the words of `text` in order: NFKC, Simplified, lower case, cut by jieba, no stop words, no punctuation.

    >>> words("這款茉莉花茶很香，下次再买！")
    ['款', '茉莉花茶', '很香', '下次', '再', '买']
    """
    cut = _segmenter(lexicon.terms).lcut(_folded(clean(text)))
    return [word for word in cut if word not in lexicon.stop_words and not NOT_A_WORD.match(word)]


def keywords(texts: Iterable[str], count: int, lexicon: Lexicon = PLAIN) -> list[str]:
    """Return the `count` most frequent words of two letters or more in `texts`, ties in order of appearance."""
    tally = Counter(word for text in texts for word in words(text, lexicon) if len(word) > 1)
    return [word for word, _ in tally.most_common(count)]


def read_lexicon(dictionary: Path | None, stop_words: Path | None) -> Lexicon:
    """Return the lexicon in a shop's two files; either may be missing from the settings.

    `dictionary` has one term a line, with a weight behind it or not (jieba's own form, `冻顶乌龙 20`). `stop_words` has
    one word a line, added to `STOP_WORDS`; `-word` takes one out of them. Empty lines and lines that begin with `#` are
    passed over. Raises `UserError` with the line for a file that cannot be used.
    """
    terms = [_term(line, where) for line, where in _lines(dictionary)]
    listed = [_folded(line) for line, _ in _lines(stop_words)]
    added = {word for word in listed if not word.startswith("-")}
    return Lexicon(
        tuple(dict(terms).items()), (STOP_WORDS | added) - {word[1:] for word in listed if word not in added}
    )


def _folded(text: str) -> str:
    return simplify(unicodedata.normalize("NFKC", text)).lower()


def _lines(file: Path | None) -> list[tuple[str, str]]:
    """Return what stands in `file` line by line, each with its place."""
    if file is None:
        return []
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{file}: line {line} is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}; check [text] in merchant.toml") from None
    numbered = ((clean(line), f"{file}, line {number}") for number, line in enumerate(text.splitlines(), 1))
    return [(line, where) for line, where in numbered if line and not line.startswith("#")]


def _term(line: str, where: str) -> tuple[str, int]:
    term, *rest = _folded(line).split()
    if not TERM.fullmatch(term):
        raise UserError(f"{where}: {term[:70]!r} is not one word of at most 64 letters and digits; give a term a line")
    if rest and not (rest[0].isdecimal() and int(rest[0]) > 0):
        raise UserError(f"{where}: the weight {rest[0]!r} of {term!r} is not a whole number above 0; leave it out")
    return term, int(rest[0]) if rest else 0


@functools.cache
def _converter() -> OpenCC:
    from opencc import OpenCC

    return OpenCC("t2s")


@functools.lru_cache(maxsize=8)
def _segmenter(terms: tuple[tuple[str, int], ...]) -> jieba.Tokenizer:
    """Return a tokenizer of its own for `terms`: what one shop adds stays out of every other shop's."""
    frequencies, total = _frequencies()
    import jieba

    tokenizer = jieba.Tokenizer()
    tokenizer.FREQ, tokenizer.total = (dict(frequencies) if terms else frequencies), total
    tokenizer.initialized = True
    for term, weight in terms:
        tokenizer.add_word(term, weight or None)
    return tokenizer


@functools.cache
def _frequencies() -> tuple[dict[str, int], int]:
    """Return jieba's word counts, read from the dictionary it ships and never from a cache in a shared folder."""
    import logging
    import warnings

    with warnings.catch_warnings():  # jieba still imports pkg_resources and has bare escapes
        warnings.simplefilter("ignore")
        import jieba
    jieba.setLogLevel(logging.WARNING)
    tokenizer = jieba.Tokenizer()
    frequencies, total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    return frequencies, total


def ago(days: int, lang: str) -> str:
    """Return the bucket word for `days` ago, from the public table `AGO`.

    >>> ago(5, "zh"), ago(200, "en")
    ('1周', 'over 3 months')
    """
    return AGO_WORDS[lang][bisect_left(AGO_DAYS, days)]


def rhythm(orders: int, days: int) -> int:
    """Return 0 (under one order in 30 days), 1, or 2 (three and more) for `orders` within `days`."""
    monthly = orders * 30 / max(days, 30)
    return int(monthly >= 1) + int(monthly >= 3)


def due(days_ago: int, gap_days: float | None) -> int:
    """Return where an item stands in its own rhythm: 0 not due, 1 nearly due, 2 due, 3 where no gap is known.

    >>> [due(days, 10) for days in (5, 7, 10)], due(5, None)
    ([0, 1, 2], 3)
    """
    if gap_days is None:
        return 3
    return int(days_ago >= 0.7 * gap_days) + int(days_ago >= gap_days)


def score(value: float, steps: Sequence[float]) -> int:
    """Return 1 to 5: one more than the number of public `steps` that `value` has reached."""
    return 1 + sum(value >= step for step in steps)


def recency_score(days: int) -> int:
    """Return R from 1 to 5 for an order `days` ago, 5 the latest."""
    return 1 + sum(days <= limit for limit in RECENCY)


def attributes_text(attributes: Mapping[str, str]) -> str:
    """Return attributes as they stand in prompts and files: `材质#棉*风格#简约`."""
    return "*".join(f"{name}#{what}" for name, what in attributes.items())


def bought_text(recent: Sequence[Bought], lang: str) -> str:
    """Return what was bought as prompts list it.

    >>> bought_text([Bought("牛奶", 6, 3)], "zh"), bought_text([Bought("milk", 6, 3)], "en")
    ('牛奶×6·3天内', 'milk x6, within 3 days')
    """
    if lang == "zh":
        return ";".join(f"{one.name}×{one.times}·{ago(one.days_ago, lang)}" for one in recent)
    return "; ".join(f"{one.name} x{one.times}, {ago(one.days_ago, lang)}" for one in recent)


def _customer(habit: Habit, recent: Sequence[Bought], lang: str) -> str:
    how_often, gap, items = RHYTHM[lang][habit.rhythm], ago(habit.gap_days, lang), bought_text(recent, lang)
    if lang == "zh":
        return f"客户:{how_often}·周期{gap}｜近购:{items}"
    return f"customer: {how_often}, every {gap} | recent: {items}"


def repurchase_prompt(habit: Habit, recent: Sequence[Bought], lang: str) -> str:
    """Return the prompt that asks which items come next; the target is their names joined by `joiner(lang)`.

    >>> repurchase_prompt(Habit(2, 7), [Bought("牛奶", 6, 3)], "zh")
    '【复购】客户:高频·周期1周｜近购:牛奶×6·3天内｜会买:'
    """
    customer = _customer(habit, recent, lang)
    return f"【复购】{customer}｜会买:" if lang == "zh" else f"[repurchase] {customer} | will buy: "


def judgement_prompt(habit: Habit, recent: Sequence[Bought], candidate: Bought, how_due: int, lang: str) -> str:
    """Return the prompt that asks whether `candidate` comes next, `how_due` as `due` says; the target is in `YES`.

    >>> judgement_prompt(Habit(2, 7), [], Bought("牛奶", 6, 3), 1, "zh")
    '【复购】客户:高频·周期1周｜近购:｜候选:牛奶×6·3天内·快到期｜会买:'
    """
    customer, item, when = _customer(habit, recent, lang), bought_text([candidate], lang), DUE[lang][how_due]
    if lang == "zh":
        return f"【复购】{customer}｜候选:{item}·{when}｜会买:"
    return f"[repurchase] {customer} | candidate: {item}, {when} | will buy: "


def joiner(lang: str) -> str:
    """Return what stands between item names in a target."""
    return "、" if lang == "zh" else ", "


def copy_prompt(
    channel: str, name: str, attributes: Mapping[str, str], offer: str, habit: Habit, last_days: int, lang: str = "zh"
) -> str:
    """Return the prompt whose target is repurchase copy (复购文案) for one customer and item."""
    facts, often, last = attributes_text(attributes), RHYTHM[lang][habit.rhythm], ago(last_days, lang)
    if lang == "zh":
        head = f"【文案】渠道:{channel}｜商品:{name}｜属性:{facts}｜优惠:{offer or '无'}"
        return f"{head}｜客户:{often}·上次{last}｜文案:"
    head = f"[copy] channel: {channel} | item: {name} | attributes: {facts} | offer: {offer or 'none'}"
    return f"{head} | customer: {often}, last {last} | copy: "


def description_prompt(name: str, attributes: Mapping[str, str], lang: str = "zh") -> str:
    """Return the prompt whose target is a product description."""
    facts = attributes_text(attributes)
    if lang == "zh":
        return f"【描述】商品:{name}｜属性:{facts}｜描述:"
    return f"[description] item: {name} | attributes: {facts} | description: "


def sentiment_prompt(text: str, lang: str = "zh") -> str:
    """Return the prompt whose target is one of `SENTIMENT[lang]`."""
    return f"【情感】评价:{clean(text)}｜情感:" if lang == "zh" else f"[sentiment] review: {clean(text)} | sentiment: "


def sentiment(rating: int, lang: str = "zh") -> str:
    """Return the sentiment word of a review with `rating` stars: 1-2 negative, 3 neutral, 4-5 positive."""
    return SENTIMENT[lang][(rating > 2) + (rating > 3)]


def review_prompt(name: str, rating: int, lang: str = "zh") -> str:
    """Return the prompt whose target is a review of `rating` stars."""
    if lang == "zh":
        return f"【评价】商品:{name}｜星级:{rating}｜评价:"
    return f"[review] item: {name} | stars: {rating} | review: "


def reply_prompt(intent: str, status: str, question: str, lang: str = "zh") -> str:
    """Return the prompt whose target is a service reply (客服回复)."""
    if lang == "zh":
        return f"【客服】意图:{intent or '其他'}｜状态:{status or '无'}｜问题:{clean(question)}｜回复:"
    return f"[service] intent: {intent or 'other'} | status: {status or 'none'} | question: {clean(question)} | reply: "


def profile_prompt(portrait: Portrait, lang: str = "zh") -> str:
    """Return the prompt whose target is `profile_text`: the tag follows by rule, the model only words it.

    >>> profile_prompt(Portrait(4, 5, 3, ("乳品", "烘焙"), 1, 2))
    '【画像】R4F5M3｜品类:乳品、烘焙｜价位:中｜促销敏感:高｜画像:'
    """
    rfm = f"R{portrait.recency}F{portrait.frequency}M{portrait.money}"
    names = joiner(lang).join(portrait.categories)
    spend, offers = LEVEL[lang][portrait.spend], LEVEL[lang][portrait.offers]
    if lang == "zh":
        return f"【画像】{rfm}｜品类:{names or '无'}｜价位:{spend}｜促销敏感:{offers}｜画像:"
    return f"[profile] {rfm} | categories: {names or 'none'} | prices: {spend} | offers: {offers} | profile: "


def profile_tag(portrait: Portrait) -> int:
    """Return the place in `TAGS`: dormant when R is 1 or 2, loyal when F is 4 or 5, new when F is low and R high."""
    if portrait.recency <= 2:
        return 0
    if portrait.frequency >= 4:
        return 3
    return 1 if portrait.frequency <= 2 and portrait.recency >= 4 else 2


def profile_text(portrait: Portrait, lang: str = "zh") -> str:
    """Return the customer's tag and one sentence, worded from public buckets only.

    >>> profile_text(Portrait(4, 5, 3, ("乳品", "烘焙"), 1, 2))
    '常客，是店里的常客，常买乳品、烘焙，价位中，对优惠的反应高。'
    """
    tag, names = profile_tag(portrait), joiner(lang).join(portrait.categories)
    spend, offers = LEVEL[lang][portrait.spend], LEVEL[lang][portrait.offers]
    if lang == "zh":
        bought = f"常买{names}，" if names else ""
        return f"{TAGS[lang][tag]}，{TAG_LINES[lang][tag]}{bought}价位{spend}，对优惠的反应{offers}。"
    bought = f", often buys {names}" if names else ""
    return f"{TAGS[lang][tag]}: {TAG_LINES[lang][tag]}{bought}; prices {spend}, answers to offers {offers}."


def history_prompt(habit: Habit, recent: Sequence[Bought], lang: str = "zh") -> str:
    """Return the prompt whose target is `history_text`."""
    customer = _customer(habit, recent, lang)
    return f"【履历】{customer}｜履历:" if lang == "zh" else f"[history] {customer} | history: "


def history_text(habit: Habit, recent: Sequence[Bought], lang: str = "zh") -> str:
    """Return a customer's purchases told in one sentence.

    >>> history_text(Habit(2, 7), [Bought("牛奶", 6, 3), Bought("面包", 1, 40)], "zh")
    '这位客户是高频客户，大约1周来一次，买过6次牛奶（3天内），买过1次面包（1个月）。'
    """
    often, gap = RHYTHM[lang][habit.rhythm], ago(habit.gap_days, lang)
    if lang == "zh":
        items = [f"买过{one.times}次{one.name}（{ago(one.days_ago, lang)}）" for one in recent]
        return "，".join([f"这位客户是{often}客户", f"大约{gap}来一次", *items]) + "。"
    items = [f"{one.times} x {one.name} ({ago(one.days_ago, lang)})" for one in recent]
    return f"A customer ({often}, every {gap}) who bought " + (", ".join(items) or "nothing yet") + "."
