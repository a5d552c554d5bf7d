"""The simulated merchants: each a folder as `fugou merchant` knows it, with files, settings, keys and a signed policy."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta
from itertools import islice
from pathlib import Path

import tomli_w

from client.config import LEDGER_KEY, OFFICER_KEY, POLICY
from client.data.customers import gather, pose
from client.use.evaluate import every_nth
from common.errors import UserError
from common.files import cannot_write, sync_folder, write_atomic
from common.privacy.keys import create_key
from common.privacy.policy import sign_policy, write_policy
from common.schema import TABLES, Shop
from common.text import Example
from server.reference import REFERENCE, write_reference
from simulations.attacks import hostile, poisoned
from simulations.control import scramble
from simulations.folder import Run
from simulations.mixed import in_order
from simulations.scenario import Scenario
from simulations.world import HELD_OUT_WEEKS, START, LazyShops, write_shop

JOURNEY_END = date(2018, 1, 1)
BEFORE_ALL = datetime(2000, 1, 1)
"""A shop that may train on nothing after this day has customers and no task: its updates are noise."""

REFERENCE_SHOPS, REFERENCE_CUSTOMERS, REFERENCE_EXAMPLES = 16, 12, 128
NOBODY = 1_000_003
"""Added to the seed for shops that are nobody's."""

IDS = ("customer_id", "item_id", "review_id", "dialog_id", "campaign_id")

Report = Callable[[str], None]


def make_world(scenario: Scenario) -> Sequence[Shop]:
    """Return the scenario's shops; made-up ones are made one by one, as they are looked at."""
    about, world = scenario.scenario, scenario.world
    if about.world == "complete-journey":
        from simulations.journey import load_shops

        return load_shops(about.merchants, households=world.households or None)
    customers = scenario.mixed.customers or world.customers
    return LazyShops(about.merchants, customers, about.seed, skew=world.skew, weeks=world.weeks)


def ids_of(shops: Sequence[Shop]) -> list[str]:
    """Return the shops' ids; made-up shops are not made for it."""
    return shops.ids if isinstance(shops, LazyShops) else [shop.id for shop in shops]


def shops_of(scenario: Scenario, shops: Sequence[Shop]) -> Sequence[Shop]:
    """Return the merchants of the run's arm: all `shops`, one of them alone, or one merchant with everybody's rows."""
    arm, _, alone = scenario.scenario.arm.partition(":")
    if arm == "central":
        return [pooled(shops)]
    return [shops[ids_of(shops).index(alone)]] if arm == "local" else shops


def pooled(shops: Sequence[Shop]) -> Shop:
    """Return one shop with the rows of all; every id carries its shop's, so nobody and nothing is taken for another."""
    tables = {
        table: [
            row.model_copy(update={name: f"{shop.id}/{getattr(row, name)}" for name in IDS if hasattr(row, name)})
            for shop in shops
            for row in getattr(shop, table)
        ]
        for table in TABLES
    }
    return Shop(id="central", name="central", lang=shops[0].lang, **tables)


def until(scenario: Scenario) -> datetime:
    """Return the public date that parts training from the last `HELD_OUT_WEEKS` weeks; no row has a say in it."""
    end = (
        JOURNEY_END if scenario.scenario.world == "complete-journey" else START + timedelta(weeks=scenario.world.weeks)
    )
    return datetime.combine(end - timedelta(weeks=HELD_OUT_WEEKS), time())


def reference_examples(scenario: Scenario) -> list[Example]:
    """Return what the coordinator of a simulation has of its own: examples from made-up shops that are no merchant's.

    Raises `UserError` for a world that is not made up.
    """
    about, world = scenario.scenario, scenario.world
    if about.world != "shops-zh":
        raise UserError(f"training.reference: scenario {about.name} has no examples that are nobody's; set it to false")
    shops = LazyShops(about.merchants, REFERENCE_CUSTOMERS, about.seed + NOBODY, skew=world.skew, weeks=world.weeks)
    posed = [
        one.example
        for shop in islice(shops, REFERENCE_SHOPS)
        for customer in gather(shop, until(scenario))
        for one in pose(customer, {product.item_id: product for product in shop.products}, shop.lang)
    ]
    return every_nth(posed, REFERENCE_EXAMPLES)


def prepare(run: Run, shops: Sequence[Shop], report: Report) -> None:
    """Write every merchant's folder: files, settings, signed policy, keys; folders that are there stay untouched."""
    final = run.folder / "merchants"
    if final.is_dir():
        return
    if run.scenario.federation().training.reference:
        write_reference(reference_examples(run.scenario), run.folder / REFERENCE)
    draft = run.folder / ".merchants.draft"
    shutil.rmtree(draft, ignore_errors=True)
    report(f"{len(shops)} merchants: {noise_of(run.scenario)}")
    try:
        attack = run.scenario.attack
        harmful = hostile(ids_of(shops), attack.kind, attack.merchants)
        places = {name: place for place, name in enumerate(in_order(ids_of(shops)))}
        for shop in shops:
            made = poisoned(shop, attack.kind) if shop.id in harmful else shop
            open_shop(run.scenario, made, draft / shop.id, places[shop.id])
        draft.replace(final)
        sync_folder(run.folder)
    except OSError as error:
        raise cannot_write(final, error) from error


def noise_of(scenario: Scenario) -> str:
    """Return every cap's noise with delta, unit and period."""
    privacy, caps = scenario.privacy, scenario.caps()
    each = [f"sigma {sigma:.3f} for epsilon {one:g}" if sigma else "no noise" for one, sigma in caps.items()]
    terms = f" (delta = {privacy.delta:g}, one customer, period {privacy.period})" if any(caps.values()) else ""
    return ", ".join(each) + terms


def open_shop(scenario: Scenario, shop: Shop, folder: Path, place: int = 0) -> None:
    """Write the folder of the merchant at `place` as `fugou merchant` expects it."""
    write_shop(scramble(shop, scenario.scenario.seed) if scenario.scenario.control == "cipher" else shop, folder)
    tables = [name for name in TABLES if (folder / f"{name}.csv").exists()]
    settings = {
        "merchant": {"id": shop.id, "name": shop.name, "lang": shop.lang},
        "sources": {name: f"{name}.csv" for name in tables},
        "model": {"base": scenario.model.base},
        "train": {
            "until": BEFORE_ALL if scenario.scenario.control == "noise" else until(scenario),
            "threads": scenario.engine.threads,
            "microbatch": scenario.engine.microbatch,
            "precision": scenario.engine.precision,
            "padding": scenario.engine.padding,
        },
    }
    write_atomic(folder / "merchant.toml", tomli_w.dumps(settings))
    write_policy(scenario.policy(shop.id, scenario.model.base_digest, place), folder / POLICY)
    sign_policy(folder / POLICY, create_key(folder / OFFICER_KEY))
    create_key(folder / LEDGER_KEY)
