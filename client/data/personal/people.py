"""Names of people: behind a cue, in front of a title, or beside something that was found.

A strong cue (收货人：) vouches for any name with a known surname; a weak one (我是, 给, 找) only for given names made of
the characters that Chinese given names are made of. A name without a cue stays: brands, books and places look the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from client.data.personal.view import TAKEN, Span, View, by

DOUBLE = "欧阳|司马|上官|诸葛|东方|皇甫|尉迟|慕容|司徒|令狐|宇文|长孙|独孤|南宫|端木|轩辕|公孙|夏侯|纳兰"
SURE = (
    "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯于董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶阎余潘杜戴夏钟汪田任姜范方石姚谭廖邹熊金陆郝孔白崔康毛邱秦江史顾侯邵孟龙万段雷钱汤尹黎易常武乔贺赖龚文"
    "施樊殷颜庞章倪严俞温季鲁葛岳齐梅莫庄辛管祝左涂谷祁耿牟卜路詹关苗凌费纪靳童欧甄项曲游裴席卫屈鲍覃霍翁隋甘薄司柏宁柯阮桂闵柴华车冉房吉饶刁瞿戚丘古米池滕晋苑邬臧畅宫苟褚廉简娄符奚穆党燕郎邸冀姬屠郜晏栾郁"
    "蒙喻揭窦迟敖糜鄢冷卓仇艾蓝巩井虞卞竺冼楚佟栗匡宗巫鞠桑荆谌扬伏岑习胥蔺尤佘尚扈"
)
DOUBTFUL = "盛成阳查位景单包解强边辜来嵺全盖木谈连商计宇花都稽练仲乐封原官衣应台僧银明沙保和"
"""Surnames that are more often words; they count only behind a strong cue."""

SURNAME = f"(?:{DOUBLE}|[{SURE}{DOUBTFUL}])"
LIKELY = f"(?:{DOUBLE}|[{SURE}])"
GIVEN_LETTERS = (
    "伟芳娜秀英敏静丽强磊军洋勇艳杰娟涛明超兰霞平刚桂玉萍红娥玲芬燕彩春菊凤洁梅琳素莲真环雪荣爱妹月莺媛瑞凡佳嘉琼勤珍贞莉卉姣君晓晨建国志文斌辉鹏飞宇浩凯健俊帆博诚旭宁欣怡婷雯倩颖璐瑶萌悦琪梦洪海峰波林森东"
    "亮龙云成康星光安岩茂坚彪哲豪学祥武新利清彬富顺子昌良永庆德正义仁礼智孝忠思淑惠珠翠雅芝巧美芸茜秋珊莎锦黛青岚苑婕馨瑗琰韵融园艺咏卿聪澜纯毓昭冰爽琬茗羽希若曦妍蕾薇菲航宏坤鑫雷雨泽轩睿涵梓煜铭翔翰培胜绍"
    "元广裕楠榕勋庭振乐卫民友群芹桃蓉香艾娇莹华瑾琴雁珏鸿炎炜煌烨烁灿骏骁麟祺祯禄福寿喜贵银铃钰钧铁锋锐镇圆丹妮娅娣嫣嫦怀远逸尘宝亚亦伦伯仲佩佑侠保冬克兆冠创功劲励勉化升原叔召吉唯喆城基堂塑墨声奇妙姗姿婉宜"
    "宽宾寅尚岳岭川巍帅幼庄弘彤彦徽忆怜恒恩悟慈慕慧懿扬承拓捷敬斐旋旺昊昕映显普景晏晗晶曙曼木杉材枫柏柔柯栋桐桑棋楚槐樱歌毅江汉汐沁沛沐泉泓洲浦浪润渊湘源溪滨滢漫潇潮澄澎瀚灵烈焕煦熙犀狄玄玛玫珂珈琛琦瑜璇畅"
    "皓益盈盛睦磐祖禹秉稳竹策笛纪纬维绮绿翎耀聿育胤腾舒舟芊芙芮芷茹荷莘菁萱葵蓓蓝蔚薰虎虹蝶衡诗语诺谊谦豫贝贤赞赫越跃辰辽迅迪逊遥邦郁采钊铎锡鉴锴闯阔阳隆雄雍霄霆霖霜露靓靖韬韶音顶项颂风飘骄魁鲁鸣鹤鹭麒麦默"
    "柱根栓锁"
)
"""What Chinese given names are made of, without the letters that are more often words."""

GIVEN = f"(?:[大小一三]?[{GIVEN_LETTERS}]{{1,2}})"
ANY = r"(?:(?![的了是在有先女太说要打很都也和就不没]|小姐)[一-鿿]){1,2}"

NOT_A_NAME = (
    r"(?!高[端龄挑贵级个考兴档明]|白[领色茶毫牡小]|任[何意]|方[便式法太]|万[能一分]|金[牌色骏骑华银]|温[柔馨度]|文[艺静字明]|时尚|成[熟功]|单[身位]|年轻|易[瘦胖碎拆]|常[用规温年]"
    r"|史上|严[格重选]|谢谢|马上|黄[色芪茶金山]|周[一二三四五六日末到边]|于是|何[时况必]|夏[天季]|江[南北苏西山]|龙[井年]|毛[尖峰巾]|石[榴斛]|武夷|余额|施工|许[多久]|曾经|田园|叶子|钱[多少]"
    r"|安[全康徽]|林业|海[南]|云南|平[安时]|高盛|房间|和密|全[部家国]|和[平谐]|国[内际]|新[年疆]|福[建]|山[东西]|康师傅|钱大妈|卫星|白小姐|董小姐|新春|春节|幸福|生[日意]|明[天年星]|祝[大各您你生万]|金龙|石头|王者|白云|青[岛年])"
)
PLAIN = ANY.replace("没]", "没号码牌式话件单址间色款]")
TITLE = r"(?:先生|女士|小姐|太太)"
WIDE_TITLE = r"(?:老师|师傅|医生|经理|阿姨|叔叔|大哥|大姐|大妈|教授|总监|店长|老板|主任|护士)"
STOP = (
    r"(?=[很的也说来拿收不就都在要态辛处一送打代签亲推买喜有给生让寄，。！!,.;；:：、?？\s~）)]|和|与|$|"
    + TITLE
    + "|"
    + WIDE_TITLE
    + r"|\ue000)"
)
EDGE = r"(?<![一-鿿A-Za-z0-9])"
STRONG = (
    "收货人|收件人|联系人|联络人|寄件人|签收人|取件人|提货人|预订人|预定人|认证人|收款人|付款人|持卡人"
    "|姓名|姓 名|真名|实名|名字是|名字叫|开户名|(?<!用)户名|抬头个人|个人抬头|抬头|落款|本名"
)
WEAK = (
    "我是|本人|请|给|找|由|让|转交|发给|写|写上|祝|听|客服|快递员|快递小哥|配送员|送货员|外卖员|同事|朋友"
    "|老公|老婆|儿子|女儿|我妈|他妈|我爸|他爸|妈妈|爸爸|同学|闺蜜|昨天|今天|—|--"
)
FOREIGN = r"[一-鿿]{1,6}·[一-鿿]{1,6}"
strong_names = by(
    rf"(?:{STRONG})(?:是|叫|为)?\s?[:：是为叫]?\s?(?P<x>{FOREIGN}|{NOT_A_NAME}{SURNAME}[·\s]?{ANY}(?=[^一-鿿]|$|{TITLE})|{NOT_A_NAME}{LIKELY}{GIVEN}{STOP})",
    rf"(?:{STRONG})\s?(?::|：|是|为|叫)\s?(?P<x>{SURNAME}{ANY}|[一-鿿]{{2,4}}(?=[,，。;；\s]|$|{TAKEN})|[A-Z][a-z]+(?:\s[A-Z][a-z]+)?)",
    rf"(?:落款|抬头)[:：]?\s?{SURNAME}{ANY}\s(?P<x>{SURNAME}{ANY})(?![一-鿿])",
    rf"(?:我叫|本人叫|他叫|她叫|名叫|[公婆儿子女妈爸弟妹哥姐友]叫)(?P<x>{FOREIGN}|{NOT_A_NAME}{SURNAME}(?:{ANY}(?![一-鿿])|{GIVEN}|{ANY}(?=[的，,。])))",
    digits=False,
    flags=re.NOFLAG,
)
weak_names = by(
    rf"(?:{WEAK})(?P<x>{NOT_A_NAME}{LIKELY}{GIVEN}){STOP}",
    rf"(?:{EDGE})(?P<x>{NOT_A_NAME}{LIKELY}{GIVEN})(?=\s?(?:收(?![到货获])|代收|亲启|亲收|签收|说(?:这|好|的)|一起|的(?:快递|电话|订单|包裹|名字|手机)))",
    r"(?P<x>张三|李四|王五)(?=\s?(?:收|代收|亲启|签收))",
    rf"(?:昨天|今天|跟|和|让|请)(?P<x>{NOT_A_NAME}{LIKELY}{GIVEN})(?=一起|也|介绍|推荐)",
    rf"(?<={TAKEN})(?P<x>{NOT_A_NAME}{LIKELY}{ANY})(?=收(?![到货获]))",
    rf"祝{LIKELY}{GIVEN}和(?P<x>{LIKELY}{GIVEN})(?=新婚|百年|生日|快乐)",
    rf"祝(?P<x>{LIKELY}{GIVEN})(?=和{LIKELY}{GIVEN}(?:新婚|百年|生日|快乐))",
    digits=False,
    flags=re.NOFLAG,
)
titled_names = by(
    rf"(?:{EDGE}|(?<=[给找叫由请是系\-:\s]))(?P<x>{NOT_A_NAME}{LIKELY}(?:{ANY})?)(?={TITLE})",
    rf"(?:{EDGE}|(?<=[给找叫由请是系]))(?P<x>(?!康师傅){NOT_A_NAME}{LIKELY}(?:{GIVEN}|{ANY}(?=老师收))?)(?={WIDE_TITLE})",
    rf"(?P<x>{LIKELY})(?={TITLE}(?:收|的?(?:电话|订单|号码)))",
    digits=False,
    flags=re.NOFLAG,
)
beside_names = by(
    rf"{EDGE}(?P<x>{NOT_A_NAME}{LIKELY}{PLAIN})(?=[\s,，、/(（]{{1,2}}(?:的?(?:电话|手机))?{TAKEN})",
    rf"{EDGE}(?P<x>{NOT_A_NAME}{LIKELY}{GIVEN})(?=的?(?:电话|手机|号码)?:?{TAKEN})",
    rf"(?<={TAKEN})[\s,，、:：/(（]{{1,2}}(?P<x>{NOT_A_NAME}{LIKELY}{ANY})(?![一-鿿A-Za-z0-9])",
    rf"(?<={TAKEN})(?P<x>{NOT_A_NAME}{LIKELY}{GIVEN})(?![一-鿿A-Za-z0-9])",
    digits=False,
    flags=re.NOFLAG,
)

CAPITAL = r"(?:[A-Z]['’])?[A-Z][a-z]+"
NOT_ENGLISH = (
    r"(?!(?:Pepper|Clean|Butterworth|Dash|Dior|Coffee|Scholl|Pac|Guys|All|Everyone|Amazon|Team|Again|Great|Very|So|Really|Mr|Mrs|Ms|Miss|Dr|Happy|Not|Now|Just|Still"
    r"|The|This|That|My|Your|Our|Customer|Service|Support|Refund|Help|Martens|Bronner|Bean|Muscle|Beast|Me|You|Us|Him|Her|Them|Unknown|None|Seller)\b)"
)
PERSON = rf"{NOT_ENGLISH}{CAPITAL}(?:\s{NOT_ENGLISH}{CAPITAL})?"
FULL = rf"{NOT_ENGLISH}{CAPITAL}(?:\s[A-Z]\.)?\s{CAPITAL}"
english_names = by(
    rf"\b(?:Mr|Mrs|Ms|Miss|Dr)\.?\s(?P<x>{PERSON})\b",
    rf"\b(?:[Nn]ame|[Cc]ontact|[Aa]ttn|[Rr]ecipient|[Ss]hip to|[Cc]ustomer name|[Nn]ame is|I am|I['’]m|[Tt]his is)"
    rf"\s?:?\s(?P<x>{FULL})\b",
    rf"\b(?:gift|package|parcel|order|box) for (?P<x>{FULL})\b",
    rf"\b(?:[Aa]sk for|[Ss]peak to|[Ll]eave it with|[Ss]igned by)\s(?P<x>[A-Z]\.\s{CAPITAL}|{PERSON})\b",
    rf"\b(?:Thanks|Thank you|Regards|regards|Sincerely|Cheers),?\s(?P<x>{PERSON})[.!]?$",
    digits=False,
    flags=re.NOFLAG,
)


TITLED = re.compile("先生|女士|小姐|太太|老师|师傅|医生|经理|阿姨|叔叔|大哥|大姐|大妈|教授|总监|店长|老板|主任|护士")
CUED = re.compile("货人|件人|系人|络人|收人|款人|付人|卡人|订人|定人|证人|姓|真名|实名|名字|户名|抬头|落款|本名|叫")
_LAST = "".join(sorted({cue[-1] for cue in WEAK.split("|")})).replace("-", "") + "跟和"
WEAKLY = (
    re.compile(f"[{SURE}](?<=[{_LAST}\\-].)[大小一三]?[{GIVEN_LETTERS}]"),
    re.compile("张三|李四|王五"),
    re.compile(f"[{SURE}][{GIVEN_LETTERS}]{{1,2}} ?(?:收|代收|亲启|亲收|签收|说|一起|的[快电订包名手])"),
)
GATED = (
    ((CUED,), strong_names),
    ((TITLED,), titled_names),
    ((*WEAKLY, re.compile(TAKEN)), weak_names),
    ((re.compile(TAKEN),), beside_names),
)
"""Every group of rules with what a text must have for it to find anything."""


def names(view: View) -> Iterator[Span]:
    """Yield names, the surest first."""
    for gates, search in GATED:
        if any(gate.search(view.plain) for gate in gates):
            yield from search(view)
