"""`fugou simulate | scenarios | compare | study | bench | pretrain | evaluate-base`."""

from __future__ import annotations

import json
import os
import sys
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from common.cli import announce, as_json, language
from common.errors import UserError
from common.methods import METHODS

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("scenario", required=False)
@click.option("-o", "--output", type=FOLDER, help="Run folder; default runs/SCENARIO-TIME.")
@click.option(
    "--engine",
    type=click.Choice(["inline", "ray", "deployment"]),
    help="inline: in this process; ray: Flower's engine; deployment: real nodes on this machine.",
)
@click.option("--rounds", type=click.IntRange(1), help="Rounds of the run.")
@click.option("--merchants", type=click.IntRange(1), help="Merchants that take part.")
@click.option("--epsilon", type=float, help="Every merchant's cap at the scenario's delta; inf trains without noise.")
@click.option("--method", help=f"Aggregation rule: {', '.join(METHODS)}.")
@click.option("--arms", help="Comma-separated: federated, local (every shop alone), central (all rows in one place).")
@click.option("--base", help="default, a folder, or a hub id of a GPT-2.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change any setting of the scenario, such as lora.rank=4.",
)
@click.option("--seed", type=click.IntRange(0), help="Seed of the world and of the first adapter; never of noise.")
@click.option("--resume", is_flag=True, help="Go on with the run in the folder, after a stop or a kill.")
@click.option(
    "--from-round",
    type=click.IntRange(0),
    help="With --resume: go on from this earlier round; later ones stay on disk and charged.",
)
@click.option("--json", "json_", is_flag=True, help="Print the run's result as JSON.")
def simulate(
    scenario: str | None,
    output: Path | None,
    resume: bool,
    from_round: int | None,
    changes: tuple[str, ...],
    json_: bool,
    arms: str | None,
    **options: Any,
) -> None:
    """Train a private federation of simulated merchants and write a run folder.

    Example: fugou simulate shops-zh -o runs/first --epsilon 4
    """
    from simulations.scenario import load_scenario, parse_arms

    asked = dotted(changes, arms=parse_arms(arms) if arms is not None else None, **options)
    if resume and output is None:
        raise UserError("--resume needs the run's folder: fugou simulate --resume -o DIR")
    if from_round is not None and not resume:
        raise UserError(f"--from-round {from_round} goes with --resume: fugou simulate --resume -o DIR --from-round N")
    chosen = None if resume and scenario is None and not asked else load_scenario(scenario or "shops-zh", asked)
    quiet_libraries()
    from simulations.run import simulate as run_simulation

    name = chosen.scenario.name if chosen else "run"
    folder = output or Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    run = run_simulation(chosen, folder, resume=resume, report=announce, from_round=from_round)
    if json_:
        as_json((run.folder / "report.json").read_text("utf-8"))


PLACES = {
    "engine": ("engine.name",),
    "rounds": ("training.rounds",),
    "merchants": ("scenario.merchants",),
    "epsilon": ("privacy.epsilon",),
    "method": ("training.method",),
    "base": ("model.base",),
    "arms": ("scenario.arms",),
    "seed": ("scenario.seed", "training.seed"),
}


def dotted(changes: tuple[str, ...], **options: Any) -> dict[str, Any]:
    """Return the options a person gave as dotted scenario keys."""
    from simulations.scenario import parse_changes

    given = {place: value for name, value in options.items() if value is not None for place in PLACES[name]}
    return {**parse_changes(changes), **given}


def quiet_libraries() -> None:
    """Keep other people's telemetry, update checks and chatter out of a run; FUGOU_DEBUG=1 lets warnings through."""
    if not os.environ.get("FUGOU_DEBUG"):
        warnings.simplefilter("ignore")
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    os.environ.setdefault("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


@click.command()
@click.argument("name", required=False)
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def scenarios(name: str | None, json_: bool) -> None:
    """List the scenarios that ship, or print one.

    Example: fugou scenarios shops-zh
    """
    from simulations.scenario import load_scenario, shipped

    known = shipped()
    if name is None:
        titles = {one: load_scenario(one).scenario.title for one in known}
        if json_:
            as_json(titles)
        else:
            click.echo("\n".join(f"{one:20} {title}" for one, title in titles.items()))
    elif name not in known:
        raise UserError(f"unknown scenario {name!r}; there are {', '.join(known)}")
    elif json_:
        as_json(load_scenario(name).model_dump(mode="json"))
    else:
        click.echo(known[name].read_text("utf-8").rstrip())


@click.command()
@click.argument("name")
@click.option(
    "-o", "--output", type=FOLDER, help="Folder of the study; default runs/NAME. A stopped one goes on there."
)
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Runs at a time.")
@click.option("--json", "json_", is_flag=True, help="Print the result as JSON.")
def study(name: str, output: Path | None, jobs: int, json_: bool) -> None:
    """Run a study: settings varied against each other over several seeds, with intervals; a stopped one goes on.

    `recommend` is the one about recommendation on real stores: private federated heads against plain rankers.
    `sentiment` is the one about real reviews: ten shops together against each alone.
    `copy` trains shops-zh and holds a thousand messages of the shared model against the base's.

    Example: fugou study study-methods -o runs/methods
    """
    quiet_libraries()
    own = {"recommend": recommend, "sentiment": sentiment, "copy": copy}
    result = own[name](output) if name in own else sweeps(name, output, jobs)
    if json_:
        as_json(result)


def recommend(output: Path | None) -> dict[str, Any]:
    """Return the result of the study of recommendation."""
    from simulations.recommend import Study, run_recommend

    return run_recommend(Study(), output or Path("runs") / "recommend", announce)


def sentiment(output: Path | None) -> dict[str, Any]:
    """Return the result of the study of sentiment."""
    from simulations.sentiment import Study, run_sentiment

    return run_sentiment(Study(), output or Path("runs") / "sentiment", announce)


def copy(output: Path | None) -> dict[str, Any]:
    """Return the result of the study of messages."""
    from simulations.messages import Study, run_copy

    return run_copy(Study(), output or Path("runs") / "copy", announce)


def sweeps(name: str, output: Path | None, jobs: int) -> dict[str, Any]:
    """Return the result of a study of settings."""
    from simulations.study import load_study, run_study

    asked = load_study(name)
    return run_study(asked, output or Path("runs") / asked.name, announce, jobs)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=FOLDER)
@click.option("-o", "--output", type=FILE, default=Path("compare.html"), show_default=True, help="The page to write.")
def compare(runs: tuple[Path, ...], output: Path) -> None:
    """Put runs side by side: table and plots on one page.

    Example: fugou compare runs/a runs/b -o compare.html
    """
    from simulations.page import write_comparison
    from simulations.results import load_run

    write_comparison([load_run(run) for run in runs], output, language())
    announce(str(output))


@click.command()
@click.argument("names", nargs=-1)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="JSON file to write; of all, a folder.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a setting, such as ingest.times=0.")
def bench(names: tuple[str, ...], output: Path | None, changes: tuple[str, ...]) -> None:
    """Measure fugou, each part in a process of its own; without a name, list the benchmarks.

    `all` runs every one, some twice, for hours: a file each and a page of figures in a folder; a stopped one goes on there.

    Example: fugou bench ingest -o ingest.json
    """
    from common.config import nest
    from common.files import write_atomic
    from simulations.bench import BENCHMARKS, run_benchmarks
    from simulations.scenario import parse_changes

    if names == ("all",):
        every(output, changes)
        return
    if not names:
        for name, one in BENCHMARKS.items():
            click.echo(f"{name}\t{one.about}")
        return
    found = run_benchmarks(names, nest(parse_changes(changes)), announce)
    if output:
        write_atomic(output, json.dumps(found, ensure_ascii=False, indent=1) + "\n")
        announce(f"written to {output}")
    else:
        as_json(found)


def every(output: Path | None, changes: tuple[str, ...]) -> None:
    """Measure everything into a folder and say where the page is."""
    from simulations.bench_page import CASES, run_all

    if changes:
        raise UserError(f"--set {changes[0]} goes with a benchmark's name; all takes each as it is")
    announce(str(run_all(CASES, output or Path("runs") / "bench", announce)))


@click.command()
@click.argument("texts", nargs=-1, required=True, type=FILE)
@click.option("-o", "--output", type=FOLDER, required=True, help="Folder of the new base.")
@click.option(
    "--size",
    type=click.Choice(["tiny", "small", "gpt2"]),
    default="tiny",
    show_default=True,
    help="Shape of the model.",
)
@click.option("--minutes", type=float, help="Stop after so many minutes.")
@click.option("--tokens", type=click.IntRange(1), help="Stop after so many tokens.")
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True, help="Seed of weights and order.")
@click.option("--threads", type=click.IntRange(0), default=0, help="Threads; 0 takes all cores.")
@click.option("--from", "start", type=FOLDER, help="A finished base to go on from: its weights, shape and vocabulary.")
@click.option(
    "--hold", is_flag=True, help="Keep the rate up to the end, where another sitting will follow with --from."
)
@click.option("--rate", type=float, help="Highest learning rate; as the size has it where not given.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    show_default=True,
    help="auto: bf16 where the device has matrix units for it.",
)
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint.")
def pretrain(texts: tuple[Path, ...], output: Path, size: str, **options: Any) -> None:
    """Train a GPT-2 from unlabelled text: plain, .gz or .jsonl files; a text named twice is seen twice.

    Example: fugou pretrain corpus.txt.gz -o models/mine --size tiny --minutes 30
    """
    quiet_libraries()
    from simulations.pretrain import pretrain as train

    threads = options.pop("threads") or os.cpu_count() or 1
    train(list(texts), output, size, threads=threads, report=announce, **options)


@click.command("evaluate-base")
@click.argument("base")
@click.argument("texts", nargs=-1, type=FILE)
@click.option("--unseen", multiple=True, type=FILE, help="Text that was not trained on at all; all of it is measured.")
@click.option("--against", multiple=True, metavar="BASE", help="Another base to measure on the same text.")
@click.option("--ngram", type=click.IntRange(2, 6), help="Also KenLM's model of this order, learnt from TEXTS.")
@click.option("--documents", type=click.IntRange(1), default=200, show_default=True, help="At most so many of a kind.")
@click.option("--samples", is_flag=True, help="Also what the base writes after ten fixed prompts.")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def evaluate_base(base: str, texts: tuple[Path, ...], samples: bool, json_: bool, **options: Any) -> None:
    """Print bits a character of a base on text held out from training, by kind: whole, and answers alone.

    Example: fugou evaluate-base default reviews.txt trade.jsonl --ngram 5
    """
    quiet_libraries()
    from simulations import yardstick

    found = yardstick.evaluate(base, list(texts), **options)
    lines = yardstick.samples(base) if samples else []
    if json_:
        as_json(yardstick.plain(found, lines))
    else:
        click.echo("\n".join([yardstick.table(found), *([""] * bool(lines)), *lines]))


if __name__ == "__main__":
    sys.exit("start it as: fugou")
