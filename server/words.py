"""What the coordinator's engineers read, in Chinese and in English, side by side."""

from __future__ import annotations

from collections.abc import Mapping

from common.cli import language

WORDS: Mapping[str, tuple[str, str]] = {
    # init
    "made": ("协调方文件夹已建好：{folder}", "the coordinator's folder is ready: {folder}"),
    "made_key": (
        "签名密钥指纹 {fingerprint}；通过电话等另一渠道告诉商家",
        "fingerprint of the signing key: {fingerprint}; tell merchants by another way, such as the phone",
    ),
    "made_next": (
        "下一步：看一看 {file}，然后 fugou coordinator --dir {folder} up",
        "next: read {file}, then fugou coordinator --dir {folder} up",
    ),
    "made_backup": (
        "请备份 tls/ keys/ merchants.json chain.jsonl：没有它们，商家不会再相信这个联邦",
        "back up tls/ keys/ merchants.json chain.jsonl: without them merchants will not believe this federation again",
    ),
    # up and down
    "is_up": (
        "协调方已启动，商家连接 {address}；只放行 /v1/fleet/ 中商家节点所需的请求",
        "the coordinator is up; merchants connect to {address}, where nothing but their nodes' own requests is let in",
    ),
    "is_down": ("已停止 {count} 个进程", "{count} processes stopped"),
    "quiet": (
        "Flower 的遥测、更新检查与运行时装包都已关闭",
        "Flower's telemetry, update check and installation of packages at run time are off",
    ),
    # status
    "service": ("{name}：{state}，重启 {restarts} 次", "{name}: {state}, restarted {restarts} times"),
    "runs": ("运行中", "runs"),
    "stands": ("未运行", "does not run"),
    "certificate": ("服务器证书到期：{day}", "the server's certificate ends on {day}"),
    "no_run": ("还没有运行过", "no run yet"),
    "run": (
        "第 {id} 次运行：{state}，已完成 {done}/{rounds} 轮",
        "run {id}: {state}, {done} of {rounds} rounds done",
    ),
    "new": ("未开始", "not begun"),
    "running": ("进行中", "running"),
    "finished": ("已完成", "finished"),
    "failed": ("失败", "failed"),
    "is_stopped": ("已停止", "stopped"),
    "killed": ("进程丢失", "its process was lost"),
    "why": ("原因：{reason}", "reason: {reason}"),
    # merchants
    "enrolled": (
        "{name} 已登记（密钥 {fingerprint}）；把 {file} 交给商家：fugou merchant join {base}",
        "{name} is enrolled (key {fingerprint}); hand {file} to the merchant: fugou merchant join {base}",
    ),
    "revoked": (
        "{name} 已除名，密钥 {fingerprint} 不会再被接受",
        "{name} is revoked; key {fingerprint} is never taken again",
    ),
    "nobody": ("还没有商家登记", "no merchant is enrolled yet"),
    "is_revoked": ("已除名", "revoked"),
    # runs
    "started": (
        "第 {id} 次运行：{rounds} 轮，在 {folder}",
        "run {id}: {rounds} rounds, in {folder}",
    ),
    "round": (
        "第 {round} 轮：{counts}；适配器 {digest}",
        "round {round}: {counts}; adapter {digest}",
    ),
    "start_point": ("起点：适配器 {digest}", "start: adapter {digest}"),
    "ended": ("运行完成：{folder}", "the run has finished: {folder}"),
    "stopped": (
        "已停止第 {id} 次运行；继续：fugou coordinator run --resume",
        "run {id} is stopped; go on: run --resume",
    ),
    "nothing_to_stop": ("没有正在进行的运行", "no run is going on"),
    "taken_back": (
        "第 {again} 轮就是第 {round} 轮的模型，下一轮从这里继续；原来的轮次都保留。商家已花的预算不会退还",
        "round {again} is round {round} again; the next goes on from it, no round is lost, and charges stay charged",
    ),
    "exported": ("已导出到 {folder}", "exported to {folder}"),
    "reported": ("报告：{file}", "report: {file}"),
}


def say(key: str, **places: object) -> str:
    """Return the sentence `key` in the language of the command line, its places filled."""
    return WORDS[key][language() == "en"].format(**places)
