"""What the coordinator writes of a reply in `round.json`, in the reader's language.

Records are English, one form for machines. A page in Chinese says the sentences that the coordinator itself makes in
Chinese; what a merchant said, or a sentence that is not known here, stays as it was written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

NUMBER = r"(-?[\d.]+(?:e[+-]?\d+)?|inf|nan)"
CHINESE: Mapping[re.Pattern[str], str] = {
    re.compile(pattern.replace("#", NUMBER)): chinese
    for pattern, chinese in {
        "against the coordinator's reference: z = #, below #": r"背离协调方的参考方向：z = \1，低于 \2",
        "against the coordinator's reference: # over # rounds, below #": r"背离协调方的参考方向：\2 轮合计 \1，低于 \3",
        "update of norm #, clipped to #": r"更新的范数 \1，缩到 \2",
        "update of norm #, above #": r"更新的范数 \1，超过 \2",
        "far from the others: score #, the median is #": r"远离其他商家：得分 \1，中位数 \2",
        "#% of its numbers left out; the average is #%": r"有 \1% 的数未用，平均 \2%",
        "no reply before the deadline": "截止之前没有答复",
        "the node cannot be reached": "联系不上节点",
        "no reply could be made": "没能作出答复",
        "failed with code #": r"失败，代码 \1",
        "a second reply in one merchant's name": "同一商家的第二份答复",
        "answers round # on base ([0-9a-f]*)": r"答的是第 \1 轮，基座 \2",
        "array (.+) holds values that are not finite": r"数组 \1 含有非有限数",
        r"array (.+) is declared (.+), expected (.+)": r"数组 \1 声明为 \2，应为 \3",
        r"array (.+) is no npy file of (.+): # bytes": r"数组 \1 不是 \2 的 npy 文件：\3 字节",
    }.items()
}


def in_words(reason: str, lang: str) -> str:
    """Return a verdict's reason in `lang`, zh or en.

    >>> in_words("update of norm 1.2e+03, clipped to 13.3", "zh")
    '更新的范数 1.2e+03，缩到 13.3'
    >>> in_words("our shop is closed", "zh"), in_words("no reply before the deadline", "en")
    ('our shop is closed', 'no reply before the deadline')
    """
    if lang == "zh":
        for pattern, chinese in CHINESE.items():
            if found := pattern.fullmatch(reason):
                return found.expand(chinese)
    return reason
