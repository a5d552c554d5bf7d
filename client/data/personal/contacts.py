"""Where a person can be reached on a network: e-mail, WeChat, QQ, other ids, web addresses, IP addresses."""

from __future__ import annotations

import re
from collections.abc import Iterator

from client.data.personal.numbers import BE, END
from client.data.personal.view import Span, View, by, has_cue

TOP = r"(?:com|cn|net|org|top|xyz|shop|vip|cc|me|io|info|link|club|site|online|tv|co|uk|edu|gov)"
MAILERS = r"(?:qq|163|126|139|189|gmail|sina|sohu|outlook|hotmail|foxmail|yeah|aliyun|icloud)"
AT = r"(?:@|艾特|圈a|[(\[]\s?at\s?[)\]])"
DOT = r"(?:[.。]|点|dot|[(\[]\s?dot\s?[)\]])"
LOCAL = r"(?<![a-z0-9._%+\-])[a-z0-9][a-z0-9._%+\-]{0,63}"
emails = by(
    rf"{LOCAL}{AT}[a-z0-9\-]{{1,63}}(?:{DOT}[a-z]{{2,6}}(?![a-z])){{1,3}}",
    rf"{LOCAL}\s?{AT}\s?[a-z0-9\-]{{1,63}}(?:\s?{DOT}\s?{TOP}(?![a-z])){{1,3}}",
    rf"{LOCAL}\s?{AT}\s?[a-z0-9\-]{{1,63}}\s?{DOT}\s?[a-z0-9\-]{{1,63}}\s?{DOT}\s?{TOP}(?:{DOT}cn)?" + END,
    rf"{LOCAL}\s?[#\s]\s?{MAILERS}\s?{DOT}\s?(?:com|cn|net)" + END,
    rf"{LOCAL} at [a-z0-9\-]{{2,30}} (?:dot|点) {TOP}" + END,
    rf"(?:(?<=[:\s])|^)[一-鿿]{{1,8}}@[a-z0-9\-]{{1,63}}\.{TOP}" + END,
    digits=False,
)
REST = r"[^\s,;()<>\"'、。一-鿿\ue000]"
urls = by(
    rf"(?:https?|hxxps?|ftp)://{REST}+(?:[一-鿿]{{1,12}}$)?",
    rf"(?<![a-z0-9@.\-])(?:[a-z0-9\-]{{1,63}}\.)+{TOP}(?![a-z0-9\-])(?:\.[a-z]{{2}}(?![a-z]))?(?::\d{{2,5}})?(?:/{REST}*)?",
    rf"(?<![a-z0-9])www\s?{DOT}\s?[a-z0-9\-]{{1,63}}\s?{DOT}\s?{TOP}(?:{DOT}cn)?" + END,
    r"([¥￥$€₤])[a-z0-9]{9,14}\1",
    digits=False,
)
WEIXIN = (
    r"(?:[微薇威维徽][\s.]?[信❤]|v[信❤]|wei信|[微薇]号|(?<![a-z])(?:vx|wx|weixin|wechat)"
    r"|[加家嘉伽+➕私][我个]?(?:[v微薇威魏](?![a-z]*生素))|(?<![a-z])v我)"
)
IDS = r"[a-z][a-z0-9_\-]{5,19}"
MIXED = rf"(?=[a-z\-]*[\d_]){IDS}"
wechats = by(
    rf"{WEIXIN}(?:同?手机号?|号码|号|\s?id|账号)?(?:[\s:是为=→\-.]{{1,4}}|(?<=[号v微薇威]))(?P<x>(?!series|phone|iphone|pay|support|users?){IDS}|[1-9]\d{{5,11}})"
    + END,
    rf"(?:{WEIXIN}|卫星)(?:号码|号|id|账号)?(?P<x>{MIXED}|[1-9]\d{{5,11}})" + END,
    rf"加(?P<x>{MIXED})(?=\s?[微薇]信?)",
    digits=False,
)
qqs = by(
    rf"(?:(?<![a-z])qq|扣扣|叩叩|蔻蔻|球球|企鹅号?|加群|(?<![a-z])q(?=号|群|:|\d))(?:号码|号|群号|群)?{BE}"
    r"(?P<x>[1-9](?:[ \-]?\d){4,11})" + END
)
SITE = (
    "阿里旺旺|旺旺|抖音|快手|小红书|红薯|微博|支付宝|淘宝|京东|闲鱼|拼多多|B站|知乎|钉钉|陌陌|推特|豆瓣|贴吧|飞书|探探"
    "|(?<![a-z])(?:telegram|tg|whatsapp|skype|ins|insta|instagram|twitter|facebook|line|snapchat|tiktok)(?![a-z])"
)
HANDLE = r"@?[a-z0-9_+][a-z0-9_.\-]{4,29}"
accounts = by(
    rf"(?:{SITE})\s?(?:账号|号码|昵称|用户名|号|id|:|搜索?|@){BE}(?P<x>{HANDLE})",
    rf"(?:{SITE})\s?(?P<x>@[a-z0-9_.]{{3,29}}|(?=[a-z_.\-]*[\d_])[a-z][a-z0-9_.\-]{{4,29}}|(?<=支付宝)1[3-9]\d{{9}})"
    + END,
    r"(?:B站|知乎|钉钉|抖音|快手|陌陌)\s?(?P<x>[a-z]{6,20})" + END,
    rf"(?:{SITE})(?:账号|号|昵称)[:是]\s?(?P<x>[一-鿿]{{2,10}})(?![一-鿿])",
    r"(?:微博|抖音|快手|小红书)\s?@(?P<x>[一-鿿]{2,10})(?![一-鿿])",
    r"(?:用户名|昵称|网名|(?<![a-z])id\s?:|user\s?name)\s?(?:是|叫|:)?\s?(?P<x>(?=[a-z_.\-]*[\d_])[a-z][a-z0-9_.\-]{4,29})"
    + END,
    r"(?:facebook|instagram|twitter|t)\.(?:com|me)/(?P<x>[a-z0-9_.]{4,30})",
    r"(?<![a-z0-9.])@(?P<x>[a-z](?=[a-z.]*[\d_])[a-z0-9_.]{4,29})" + END,
    digits=False,
)
OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_addresses = by(
    rf"(?<![\d.v])(?:{OCTET}\.){{3}}{OCTET}(?::\d{{2,5}})?(?![\d.])",
    r"(?<![\w:])(?=[0-9a-f:]*[0-9a-f]{2})(?=(?:[0-9a-f]*:){4}|[0-9a-f:]*::[0-9a-f])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{1,4}(?![\w:])",
    digits=False,
)
RELEASE = re.compile(
    r"(?:版本?号?|固件|系统|驱动|升级到|更新到|ios|android|firmware|version|release|build)[\s:是为到v]{0,3}$", re.I
)


def addresses_of_machines(view: View) -> Iterator[Span]:
    """Yield IPv4, IPv6 and MAC addresses, but no version of a program."""
    for start, end in _addresses(view):
        if not has_cue(RELEASE, view, start):
            yield start, end
