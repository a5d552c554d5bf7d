"""What customers write about an item, in agreement with the stars they gave."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from simulations.words.catalogue import Category, suiting
from simulations.words.grammar import Voice

ASPECTS = ("物流", "包装", "质量", "客服", "价格")
# Which aspects are praised (+) or blamed (-), by stars; the item itself always follows the stars.
MOODS: Mapping[int, tuple[str, ...]] = {
    5: ("+", "++", "+++", "++++"),
    4: ("+", "++", "+-", "++-", "+++"),
    3: ("+-", "-+", "+-+", "--+", "o", "o-", "o+"),
    2: ("-", "--", "-+", "--+"),
    1: ("-", "--", "---"),
}

RULES: Mapping[str, Sequence[str]] = {
    "open": (
        "",
        "",
        "",
        "(收到|到手|拆开)(几天|一周|两天)了，",
        "(来|回来|过来)(说|评价|写)两句：",
        "(犹豫|纠结|对比)(很久|半天|好几家)才(下单|买)的，",
        "(朋友|同事|邻居|闺蜜)(推荐|安利)的，",
        "(家里|孩子|爸妈)(用|要|催)得(急|勤)，",
        "(本来|原本)没(抱|报)(期待|多大希望)，",
        "(说|讲)(实话|真的|点真心话)，",
        "(不吹不黑|公平地说|平心而论)，",
        "(活动|大促|换季)时(囤|买|入)的，",
        "<kind>(买|试)过(好几家|不少)，",
    ),
    "again": (
        "(第二次|又一次|再次)(买|回购|下单)了，",
        "(老顾客|老客|回头客)了，",
        "(一直|每次都)(在这家|固定)(买|囤)<kind>，",
        "(上一份|之前的)(刚好|正好)(<verb>完|见底)，",
        "(记不清|数不清)(第几次|多少回)(买|下单)了，",
    ),
    "+物流": (
        "(物流|快递|配送)(很快|给力|挺快|神速|比预计早)",
        "(昨天|前天)下单(今天|隔天)就(到|送来|收到)了",
        "(快递员|小哥)(态度好|很客气|送到了家门口)",
        "(发货|出库)(及时|利索|没耽误)",
        "(两天|不到三天)就(拿到|送到)手(里|)",
        "(大雨天|周末)(也|还)(准时|照常)(送到|配送)",
    ),
    "-物流": (
        "(物流|快递|配送)(太慢|慢得离谱|拖拖拉拉|一言难尽)",
        "(等|盼)了(快一周|五六天|好几天)才(到|收到)",
        "(快递|包裹)(扔在楼下|没打招呼就放驿站|送错了楼)",
        "(信息|单号)(好几天|三天)(不动|没更新)",
        "(说好|承诺)(当天|次日)发，(拖|等)到(第三天|周末)",
    ),
    "+包装": (
        "(包装|打包)(严实|用心|仔细|完好|扎实)",
        "(里三层外三层|气泡膜裹得严)，(一点没|没有)(磕|漏|破)",
        "(盒子|袋子)(好看|有质感)，(送人|摆着)(也|都)(体面|不丢份)",
        "(封口|密封)(好|严)，(没|不)(漏气|受潮)",
        "(拆开|打开)(整整齐齐|干干净净)",
    ),
    "-包装": (
        "(包装|打包)(简陋|敷衍|随便|太薄)",
        "(箱子|盒子)(压扁|破了个口|湿透)了",
        "(就|只)(一层|一个)(塑料袋|薄纸盒)，(里面|东西)(磕|压)坏了",
        "(封口|盖子)(开|松)着，(洒|漏)了一些",
        "(没有|不见)(任何|一点)(缓冲|防护)",
    ),
    "+客服": (
        "(客服|店家|老板)(耐心|热情|回复快|有问必答|很负责)",
        "(问|咨询)了(好几个|一堆)问题，(都|也)(一一|耐心)(答|解释)了",
        "(有点小问题|少发了一件)，(马上|立刻|二话不说)(补|解决|处理)了",
        "(售后|服务)(没话说|让人安心|到位)",
    ),
    "-客服": (
        "(客服|店家)(半天不理人|爱答不理|只会复制粘贴|推来推去)",
        "(问|反映)(了|过)(几次|两回)，(都|也)没(下文|人管)",
        "(售后|退换)(扯皮|拖|麻烦得要命)",
        "(消息|留言)(已读不回|隔天才回)，(态度|语气)(也|还)(差|冲)",
    ),
    "+价格": (
        "(价格|价钱)(实惠|公道|划算|不贵|良心)",
        "(性价比高|价格没得说|一句话：值)",
        "(用券|凑单|活动)(下来|之后)(比超市|比楼下|比别家)(便宜|省)(不少|一截|好几块)",
        "(这个|同样)(价|价位)(能|可以)(买到|有)这(品质|样的)，(满足|可以)了",
    ),
    "-价格": (
        "(价格|价钱)(偏高|不便宜|虚高|涨得快)",
        "(刚买|没过两天)就(降价|打折)，(心里|有点)(不平衡|不是滋味)",
        "(不值|对不起)(这个|这)(价|价钱)",
        "性价比(一般|偏低|谈不上)",
        "比(别家|楼下|超市)贵(出|了)(一截|不少)",
    ),
    "+质量": (
        "<praise>",
        "<praise>",
        "<praise>",
        "<praise>",
        "<kind>(质量|品质)(好|稳|在线|没变)",
        "(东西|<kind>)(跟|和)(描述|图片)(一样|一致)，<praise>",
        "<flavour>的(好<verb>|合口味|选对了)，<praise>",
        "<praise>，(挑不出毛病|很满意|真不错)",
    ),
    "-质量": (
        "<complaint>",
        "<complaint>",
        "<complaint>",
        "<complaint>",
        "<kind>(质量|品质)(差|不稳定|下降了|让人失望)",
        "(东西|<kind>)(跟|和)(描述|图片)(差远|不符|两回事)，<complaint>",
        "<complaint>，(很失望|太坑|没法<verb>|怎么回事)",
        "<flavour>的(不好<verb>|踩雷|选错了)，<complaint>",
    ),
    "o": (
        "(一般般|中规中矩|普普通通|没什么特别|就那样)",
        "(谈不上|说不上)(好|惊喜)(也|，也)(谈不上|说不上)(差|难<verb>)",
        "(凑合|将就)(<verb>|着<verb>)(吧|)",
        "(跟|和)(预想|以前买的)差不多，(没有|不算)(亮点|出彩)",
        "(及格|六十分)，(多的|再多)(没有|给不了)",
    ),
    "and": ("，", "，", "，(而且|另外|还有|再说|加上)", "；", "。"),
    "but-": (
        "，(但|但是|不过|就是|只是|可惜|可)",
        "。(不过|只是|唯一不足是|美中不足|扣分的是)",
        "，(话说回来|扣星是因为)",
    ),
    "but+": ("，(但|不过|好在|倒是|还好)", "。(不过|好在|值得一提的是|说句公道话，)", "，(话说回来|加分的是)"),
    "+复购": (
        "(会|还会|肯定|下次还)(回购|再来|买)",
        "(吃完|用完|下个月)(再来|接着囤|继续买)",
        "(已经|又)(推荐|安利)给(同事|姐妹|家里人|邻居)了",
        "(放进|加到)(常买|回购)清单(了|里)",
        "(认准|就认)这家(店|)了",
        "(希望|盼着)(一直|别)(保持|涨价)",
    ),
    "-复购": (
        "(不会|不想|没打算)(再|)(买|回购|来)了",
        "(最后一次|就此别过|拉黑)(了|)",
        "(劝|建议)(大家|各位)(慎重|三思|绕道)",
        "(退|退货)(了|中|处理)",
        "(下次|以后)(换别家|另找一家|还是去超市买)",
    ),
    "o复购": (
        "(再|先)(看看|观望)",
        "(有活动|打折)再(说|考虑)",
        "(下次|以后)(买不买|要不要)再说",
        "(可能|也许)换个口味试试",
    ),
    "stop": ("。", "。", "！", "", "～", "…"),
    "wow": ("！(爱了|绝了|好评)", "！！", "，(五星|满分|赞)！", "～(开心|满意)", "👍", "😋"),
    "sigh": ("。(唉|哎)", "，(无语|心累)", "。(避雷|劝退)", "😡", "…"),
}

ENDINGS = {5: "wow", 4: "stop", 3: "stop", 2: "sigh", 1: "sigh"}


def review_text(
    rng: random.Random, voice: Voice, category: Category, facts: Mapping[str, str], stars: int, *, again: bool
) -> str:
    """Return a review of `stars` stars; `again` says that the customer has bought the item before."""
    mood = voice.pick(rng, f"mood{stars}", MOODS[stars])
    kind = facts["kind"]
    named = {
        **facts,
        "verb": category.verb,
        "praise": voice.pick(rng, f"praise of {kind}", suiting(category.praise, kind)),
        "complaint": voice.pick(rng, f"complaint of {kind}", suiting(category.complaints, kind)),
    }
    opening = "<again>" if again and rng.random() < 0.5 else "<open>"
    text = opening + _body(rng, voice, mood) + _close(rng, stars)
    return _tidy(voice.say(rng, text, named))


def _body(rng: random.Random, voice: Voice, mood: str) -> str:
    """Return the template of the aspects, with a word for it where the mood turns."""
    others = rng.sample([aspect for aspect in ASPECTS if aspect != "质量"], k=len(ASPECTS) - 1)
    first = 0 if rng.random() < 0.7 else len(mood) - 1
    text = ""
    for place, sign in enumerate(mood):
        if place:
            text += f"<but{sign}>" if sign != mood[place - 1] else "<and>"
        aspect = "质量" if place == first else others[place % len(others)]
        text += "<o>" if sign == "o" else f"<{sign}{aspect}>"
    return text


def _close(rng: random.Random, stars: int) -> str:
    """Return the template of the ending: whether one would buy again, and how loudly it is said."""
    again = {5: "，<+复购>", 4: "，<+复购>", 3: "，<o复购>", 2: "，<-复购>", 1: "，<-复购>"}[stars]
    return (again if rng.random() < 0.45 else "") + (f"<{ENDINGS[stars]}>" if rng.random() < 0.4 else "<stop>")


def _tidy(text: str) -> str:
    """Return `text` without the doubled punctuation that joined phrases leave behind."""
    for pair, single in (("，，", "，"), ("：，", "："), ("。，", "。"), ("，。", "。"), ("，！", "！")):
        text = text.replace(pair, single)
    return text.strip("，")
