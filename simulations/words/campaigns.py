"""What a shop writes to a customer whose item is running out: a hook, the item's attributes, the offer, a link.

Every claim about the item is one of its given attributes; the digits are those of the offer and of the attributes.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from simulations.words.grammar import Voice

LONGEST = {"短信": 70, "微信": 120, "App推送": 56}  # characters
MOST_TRAITS = {"短信": 4, "微信": 6, "App推送": 3}  # attributes
OFFERS = (
    "无",
    "无",
    "无",
    "满50减5",
    "满99减15",
    "满199减30",
    "第二件半价",
    "两件8折",
    "三件7.5折",
    "老客立减6元",
    "券后省10元",
    "加1元换购",
    "包邮",
    "买二送一",
)
EMOJI = ("🍃", "✨", "🌿", "🎁", "🐾", "☕", "🍊", "🧺", "💌", "🌞", "🛒", "🍵", "🌙", "🎉")
PLANS = (
    "hello hook traits offer call",
    "hello hook offer traits call",
    "hello traits hook offer call",
    "hello offer hook traits call",
    "hook traits scene offer call",
    "hook traits offer call",
    "offer hook traits call",
    "traits hook call offer",
    "scene hook traits offer call",
    "hello scene traits hook offer call",
    "question traits offer call",
    "hello question traits scene call offer",
    "question offer traits call",
    "traits offer call",
)

RULES: Mapping[str, Sequence[str]] = {
    # --- greetings
    "hello": (
        "{昵称}",
        "{昵称}，(您好|你好)<p>",
        "{昵称}，(好久不见|又见面了|近来可好)",
        "(嗨|哈喽|嘿)，{昵称}",
        "<shop>(想起|惦记)<you>了",
        "<shop>来(敲敲门|打个招呼|报个信)",
        "(亲爱的|老朋友){昵称}",
        "{昵称}，这里是<shop>",
        "{昵称}(早|下午好|晚上好)",
        "给{昵称}(留个话|捎句话|提个醒)",
        "见字如面，{昵称}",
        "(掌柜|店长|小店|客服小妹)(来问候|给您请安|来唠一句)<p>",
    ),
    # --- the item is due
    "hook": (
        "<due>",
        "<due>",
        "<due_warm>",
        "<due_warm>",
        "<due_literary>",
        "<due_terse>",
        "<due_excited>",
        "<due_care>",
    ),
    "due": (
        "<you>(上次|上回|先前|之前)(带走|买|选|下单|入手)的<item>(该|差不多该|估计要|应该快)(补|添|续|<verb>完)了<p>",
        "(算算|算了算|数数)(日子|时间)，<item>(该|也该|差不多)(<verb>完|见底|续上|补货)了",
        "家里的<item>(还够<verb>|还剩多少|够不够)(吗|呢)",
        "<you>常(买|回购|带)的<item>(到货|备好|补齐|上架)了",
        "<item>(存货|余量)(可能|大概|想必)不(多|够)了",
        "离<you>上次(买|下单)<item>(有些日子|有一阵|有段时间)了",
        "又到(了|该)<item>(补货|续杯|添新)的(日子|时候)(了|)",
        "(提醒一声|顺手提一句|温馨提示)：<item>(该|可以)(补|添|囤)(一点|一些|几份)了",
        "按<you>的(习惯|节奏)，<item>(这几天|最近|近期)(就要|该要|差不多要)<verb>完了",
        "<item>(是不是|想必|大概)(快|已经)(<verb>完|见底)了",
        "<you>那份<item>，(我们|小店)(替您|帮忙|一直)(记着|惦记着|算着)日子",
    ),
    "due_warm": (
        "怕<you>(忙忘|一忙就忘|到时候着急)，(先来|特地)(说|提)一声<item>(该添|要续|快没)了",
        "(想着|惦记着|估摸着)<you>家的<item>(快没|要用光|该接上)了",
        "不想让<you>(打开柜子|伸手一拿)(才发现|却发现)<item>(空了|没了)",
        "<item>(给您|替您|帮忙)留(好了|着呢|了一份)",
        "老味道、老朋友，<item>(又在等|一直等着)<you>",
        "谢谢<you>(一直|每次)(选|回来买|惦记)<item>",
        "<you>(喜欢|偏爱|常点)的<item>，(我们|店里)(都|一直)(记在心上|记得|备着)",
        "<item>(快没|空了)的那种(小着急|小慌张)，我们(懂|想替您省下)",
    ),
    "due_literary": (
        "(日子|时光)(一页页|悄悄)(翻过|流走)，<item>也(浅|少)了下去",
        "(季节|节气)(换了|往前走了)一程，<item>(也该|正好)添新",
        "(一罐|一份|一盒)<item>，(装着|盛着|陪着)(寻常|平常|细碎)的(日子|时光)，(用尽|见底)时便(再续|添上)",
        "有些(习惯|陪伴)(不必|不用)(多说|提醒)，比如(手边|家中)的<item>",
        "(人间|生活)(琐碎|忙碌)，<item>(是|算是)(其中|里头)(一点|一份)(踏实|安稳)",
        "(旧的|上一份)将尽，(新的|下一份)<item>(已|正)(候着|在路上等)",
        "风(起|过)(一阵|几回)，<item>(也|又)到了(添续|该添)的时节",
    ),
    "due_terse": (
        "<item>，(该补|补货|续上|可以囤)了",
        "<item>快(没|见底)了(吧|)",
        "(补货提醒|到期提醒|续杯提醒|回购提醒)：<item>",
        "<item>(有货|现货|已到店)",
        "<item>，(老样子|照旧|再来一份)(？|)",
        "(该|轮到)<item>了",
    ),
    "due_excited": (
        "(来啦来啦|叮咚|注意啦|好消息)！<item>(回来|到货|开囤|补齐)(啦|咯|了)",
        "<item>(又|再次)(满仓|到位|上新)，(快来|赶紧|别等)(接|拿|囤)",
        "(谁家|哪位)的<item>(快没|见底)了<p>？(说的就是|是不是)<you>",
        "(冲|走|上车)！<item>(该囤|续上|安排)(啦|咯|起来)",
        "(别等|莫等|不要等到)(空了|没了)才(想起|着急)，<item>(现在|今天)就(囤|安排|接上)",
        "哇，<item>(这么快|转眼)(就|又)(要|该)<verb>完(啦|了)",
    ),
    "due_care": (
        "最近(忙|累|辛苦)不(忙|累|辛苦)？<item>(该添|快没)了，(记得|别忘)(备上|补一份)",
        "(天气|气温)(多变|不定)，(照顾好|顾好)(自己|家人)，也(顺手|记得)(看看|查查)<item>还(剩|有)多少",
        "(忙归忙|再忙)，<item>(也别断|记得续上|还是要备着)",
        "(生活|日子)(慢慢过|照旧)，<item>(我们|小店)(来操心|帮忙盯着|按时提醒)",
    ),
    "question": (
        "<item>(还有|还剩)(吗|多少|几份)？",
        "(要不要|想不想|是否)(再|)(来|续|添)(一份|点|些)<item>？",
        "(还记得|记不记得)(上次|上回)的<item>(吗|么)？",
        "(柜子|家)里的<item>(够|撑得)到(周末|月底|下周)(吗|么)？",
        "(今天|这周)(给家里|为自己)(添|补)点(什么|啥)？(不如|就)<item>(吧|)",
        "(猜猜|问一句)，<you>家(哪样|什么)(快没|该添)了？(八成|多半)是<item>",
    ),
    # --- attributes
    "flavour": (
        "<value>(的|)(那款|那味|一款)",
        "(选的是|这款是|还是|依旧是)<value>",
        "<value>(<flavour_name>|)(不变|照旧|依然)",
        "<flavour_name>是<you>熟悉的<value>",
        "(挑|选|认准)<value>(<flavour_name>|)的(就是它|看这里|别走开)",
        "<value>，(老客|常客|回头客)(都|多)(认|选)这(一款|一味|个)",
    ),
    "规格": (
        "(一份|规格|每份)<value>",
        "<value>(装|)，(<verb>着|囤着|放着)(正好|刚好|方便|不占地方)",
        "(这次|仍是|还是)<value>(的|)(规格|分量|装)",
        "<value>(够<verb>一阵|省得常买|分量刚好)",
        "(规格|分量)：<value>",
    ),
    "类型": (
        "(一款|一份|说的是)<value>",
        "<value>(就|还)(认|选|看)(它|这款)",
        "(挑|买|选)<value>，(来这里|看这里|认它)",
    ),
    "产地": (
        "(来自|出自|产自)<value>",
        "<value>(产|来的|出品)",
        "(产地|原产)<value>",
        "(从<value>|<value>)(一路|直接|远道)(来|到店)",
    ),
    "工艺": (
        "<value>",
        "(坚持|讲究|用的是)<value>",
        "<value>(做|制)的",
        "(工艺|做法)是<value>",
        "<value>，(不图快|慢工)",
    ),
    "等级": ("<value>", "(选的|这批)是<value>", "<value>，(自己|家里)<verb>(也|)(合适|体面)"),
    "包装": ("<value>", "<value>，(拿|取|收)着(方便|顺手|省事)", "(包装|这回)是<value>", "<value>(更好收纳|好存放)"),
    "适用": (
        "(适合|适用)<value>",
        "<value>(正合适|用得上|都能<verb>|可以放心选)",
        "(给|为)<value>(准备|备)的",
        "<value>(专属|之选|常备)",
    ),
    "特点": (
        "<value>",
        "(胜在|好在|主打)<value>",
        "<value>，(省心|踏实|实用|心里有数)",
        "(特点|长处)是<value>",
        "<value>这一点，(老客|回头客)(常|都)(夸|提)",
    ),
    "功效": (
        "(主打|侧重|着重)<value>",
        "<value>(就靠它|交给它|用它)",
        "(想要|在意|需要)<value>的(可以|不妨)(看|选)它",
        "<value>(日常|每天)(好|够)用",
    ),
    "成分": ("(含|添了|加了)<value>", "(成分|配方)里有<value>", "<value>(打底|为主|在内)"),
    "材质": ("<value>(材质|质地|做的)", "(用|选)的是<value>", "(材质|料子)是<value>"),
    "烘焙": ("<value>", "<value>(豆|)(度|)(刚好|正好)", "(烘焙度|这批)是<value>"),
    "储存": ("<value>(保存|存放|到家)", "(收到|到家)<value>(就行|即可)", "(储存|存放)：<value>"),
    "规格档": ("<value>", "(这批|这款)(是|为)<value>", "<value>(的|)(款|那种)"),
    "发货": ("<value>", "(全程|照例)<value>", "<value>，(路上|途中)(不耽搁|省心)"),
    # --- scene, offer, call
    "scene": (
        "<place>，(来一份正好|有它刚好|少不了它|常想起它|备着它就好)",
        "(适合|留给)<place>",
        "<place>，(手边|身边|家里)(有它|备着它)(就|才)(安心|踏实|自在)",
        "(想想|想象)<place>，(是不是|怎能)少(了它|一份)",
        "<place>的(小确幸|小满足|好搭档)",
    ),
    "offer": (
        "(现在|今天|这两天|本周)(下单|回购|带走)<offer>",
        "(老客|会员|回头客)(专享|专属|可享)<offer>",
        "(给<you>|为<you>|替您)(留|备|申请)了<offer>",
        "<offer>(还在|有效|进行中)",
        "(趁|赶上)<offer>，(囤|补|添)(一份|一些)(正好|划算|不亏)",
        "<offer>，(过时不候|先到先得|售完为止|限量|仅此几天)",
        "(结算|付款|下单)(自动|直接|就)<offer>",
        "(悄悄|偷偷)(说|告诉<you>)：<offer>",
        "(这回|这次|眼下)<offer>，(比平时|比往常)(划算|省)",
        "<offer>(的|)(小心意|心意|薄礼)(请|)(收下|笑纳)",
    ),
    "call": (
        "(点|戳|进|看)(这里|链接|)(直接|马上|)(下单|回购|带走|续上){链接}",
        "{链接}",
        "(回购|续单|补货|下单)(入口|通道|传送门|直达)：{链接}",
        "(老地方|店里|小店)(见|等<you>|恭候)：{链接}",
        "(一键|轻轻一点|两步)(续上|到家|搞定|下单){链接}",
        "(去看看|来看看|瞧一眼){链接}",
        "(想要|需要)(就|的话)(点|进){链接}",
        "(照旧|老样子)下单{链接}",
    ),
}


@dataclass(frozen=True)
class Pitch:
    """What one message may say: the item, its attributes, where it is used, the offer and the channel."""

    name: str
    brand: str
    kind: str
    flavour_name: str
    attributes: Mapping[str, str]
    place: str
    offer: str
    channel: str
    verb: str


def campaign_text(rng: random.Random, voice: Voice, style: Mapping[str, str], pitch: Pitch) -> str:
    """Return one message for `pitch`, no longer than its channel allows."""
    item = _item(rng, voice, pitch)
    facts = {
        **style,
        "item": item,
        "offer": pitch.offer,
        "place": pitch.place,
        "verb": pitch.verb,
        "flavour_name": pitch.flavour_name,
    }
    plan = [part for part in voice.pick(rng, "plan", PLANS).split() if part != "offer" or pitch.offer != "无"]
    parts = {part: [voice.say(rng, f"<{part}>", facts)] for part in plan if part != "traits"}
    parts["traits"] = _traits(rng, voice, facts, pitch)
    parts = {part: parts[part] for part in plan if parts[part]}
    while len(_join(parts)) + 2 > LONGEST[pitch.channel] and _shorten(parts):
        pass
    return _finish(rng, style, _name(parts, item))


def _item(rng: random.Random, voice: Voice, pitch: Pitch) -> str:
    """Return what this message calls the item; what the name leaves out is said in a clause of its own."""
    taste = pitch.attributes[pitch.flavour_name]
    forms = (
        pitch.name,
        pitch.brand + pitch.kind,
        taste + pitch.kind,
        pitch.brand + taste + pitch.kind,
        f"{pitch.brand}的{pitch.kind}",
        f"{pitch.kind}（{taste}）",
    )
    return voice.pick(rng, "item", forms)


def _traits(rng: random.Random, voice: Voice, facts: Mapping[str, str], pitch: Pitch) -> list[str]:
    """Return a clause for nearly every attribute that the item's name in this message leaves out."""
    left = [(key, value) for key, value in pitch.attributes.items() if value not in facts["item"]]
    rng.shuffle(left)
    most = MOST_TRAITS[pitch.channel] - (rng.random() < 0.2)
    return [
        voice.say(rng, "<flavour>" if key == pitch.flavour_name else f"<{key}>", {**facts, "value": value})
        for key, value in left[:most]
    ]


def _shorten(parts: dict[str, list[str]]) -> bool:
    """Take the least needed words out of `parts`; False when only what is needed is left."""
    for part in ("scene", "hello"):
        if parts.pop(part, []):
            return True
    if len(parts.get("traits", ())) > 1:
        parts["traits"].pop()
        return True
    for part in ("question", "hook"):
        if len(parts) > 1 and parts.pop(part, []):
            return True
    if parts.get("call", ["{链接}"]) != ["{链接}"]:
        parts["call"] = ["{链接}"]
        return True
    return False


def _name(parts: dict[str, list[str]], item: str) -> dict[str, list[str]]:
    """Return `parts` with the item in it, put before its attributes or in front of all."""
    if item in _join(parts):
        return parts
    where = "traits" if "traits" in parts else next(iter(parts))
    return {**parts, where: [item, *parts[where]]}


def _join(parts: Mapping[str, Sequence[str]]) -> str:
    """Return the parts one after the other: as long as the message will be, before its stops are chosen."""
    return "。".join("，".join(clauses) for clauses in parts.values()) + "。"


def _finish(rng: random.Random, style: Mapping[str, str], parts: Mapping[str, Sequence[str]]) -> str:
    """Return the message: a comma after a greeting, the shop's own stops elsewhere, nothing after a link."""
    text = ""
    for part, clauses in parts.items():
        words = "，".join(clauses)
        stop = "，" if part == "hello" else rng.choice(style["stops"])
        text += words + (" " if words.endswith("{链接}") else "" if words.endswith(("？", "！")) else stop)
    text = text.strip()
    text = text[:-1] + "。" if text.endswith(("，", "；")) else text
    return text + (rng.choice(style["emoji"]) if style["emoji"] and rng.random() < 0.5 else "")


def draw_style(rng: random.Random, shop: str) -> dict[str, str]:
    """Return how one shop speaks: its word for "you", its particle, its full stops, its emoji or none."""
    return {
        "shop": shop,
        "you": rng.choice(("您", "您", "你", "亲")),
        "p": rng.choice(("", "", "呀", "哦", "呢", "啦", "哈", "～")),
        "stops": rng.choice(("。", "。！", "，。", "～", "！", "；。", "～。")),
        "emoji": "".join(rng.sample(EMOJI, rng.choice((0, 0, 2, 3)))),
    }
