"""A merchant's desk: the shop's own rows beside the shared model, ready for questions. Nothing leaves it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path

from client.config import MerchantSettings, lexicon, load_merchant
from client.data.customers import Customer, gather, habit, history_before, offer_prompt
from client.data.sources import read_shop
from client.use import describe as descriptions
from client.use import recommend as recommending
from client.use.campaign import CampaignLine, opted_out, sent
from client.use.copywriter import Copy, Writer, compose, writer_of
from client.use.facts import Facts, facts_of, said
from client.use.label import LABELS
from client.use.overlap import Corpus, corpus_of, training_texts
from client.use.profile import Tag, profile
from client.use.ranking.book import Book, day_of, open_book
from client.use.ranking.rankers import Choice, view
from client.use.ranking.window import Window
from client.use.recommend import Offer, head_in, open_window
from client.use.reply import Memory, Reply, answer, read_policies, remember
from client.use.reviews import Reading, Scores, read_review, usual_scores
from client.use.templates import copy_of
from client.use.words import phrase
from common.config import LoraSettings, parse_settings
from common.errors import UserError
from common.lora import Bench, bench, initial, load, put
from common.ranking import Floats
from common.schema import Dialog, Product, Shop
from common.text import PLAIN, Lexicon, ago, clean, keywords

COPIED = 0.5
"""Share of a text's runs in a few customers' or campaigns' own words from which on it is left out."""

USUAL = 32
"""Reviews over which the model's habit is averaged."""


@dataclass(frozen=True)
class Desk:
    """One shop at one time: its customers, its catalogue and the shared model."""

    settings: MerchantSettings
    bench: Bench = field(repr=False)
    customers: dict[str, Customer] = field(repr=False)
    products: dict[str, Product] = field(repr=False)
    time: datetime
    book: Shop | None = field(default=None, repr=False)
    head: Mapping[str, Floats] | None = field(default=None, repr=False)
    """The federation's recommendation head, where the shared adapter's folder has one."""
    writer: Writer | None = field(default=None, repr=False)
    """What drafts texts; the model itself unless somebody gathers requests."""

    @property
    def lang(self) -> str:
        """The language of the shop's texts."""
        return self.settings.merchant.lang

    @property
    def drafts(self) -> Writer:
        """What drafts texts here."""
        return self.writer or writer_of(self.bench)

    @cached_property
    def purchases(self) -> Book:
        """Who bought what and when, as columns."""
        return open_book(list(self.customers.values()), self.products)

    @cached_property
    def places(self) -> dict[str, int]:
        """Where each customer stands in `purchases`."""
        return {customer: place for place, customer in enumerate(self.purchases.customers)}

    @cached_property
    def names(self) -> dict[str, str]:
        """What each item of the catalogue is called, fit to be shown."""
        return {item: clean(product.name) or item for item, product in self.products.items()}

    @cached_property
    def window(self) -> Window:
        """The shop's rankers as of the desk's day, with the shared head where the guard keeps it."""
        choice = Choice(debias=self.settings.offer.debias)
        seen = view(self.purchases, day_of(self.time))
        return open_window(seen, self.head, choice, self.names)

    @cached_property
    def dialogs(self) -> Sequence[Dialog]:
        """The shop's dialogs."""
        return self.book.dialogs if self.book else ()

    @cached_property
    def corpus(self) -> Corpus:
        """Runs of the texts that the shop's customers and campaigns wrote."""
        return corpus_of(training_texts(self.book) if self.book else ())

    @cached_property
    def memory(self) -> Memory:
        """What the shop has answered and written down."""
        return remember(self.dialogs, read_policies(self.settings.folder), self.lang, lexicon(self.settings))

    @cached_property
    def silent(self) -> frozenset[str]:
        """The customers who want no messages."""
        return opted_out(self.settings.folder, self.dialogs)

    @cached_property
    def usual(self) -> Scores:
        """What the model says on average to the shop's own reviews."""
        reviews = self.book.reviews if self.book else ()
        step = max(1, len(reviews) // USUAL)
        return usual_scores(self.bench, [one.text for one in reviews[::step]][:USUAL], self.lang)

    def customer(self, name: str) -> Customer:
        """Return the customer called `name`."""
        if name not in self.customers:
            raise UserError(f"customer {name!r} is not in this shop's files; there are {len(self.customers)} customers")
        return self.customers[name]

    def product(self, item: str) -> Product:
        """Return the product with the id `item`."""
        if item not in self.products:
            raise UserError(f"product {item!r} is not in this shop's catalogue of {len(self.products)} items")
        return self.products[item]

    def recommend(self, customer: Customer, k: int) -> list[Offer]:
        """Return the `k` best items of the catalogue for `customer`: what she buys again, then what is new to her."""
        place = self.places[customer.id]
        return recommending.offers(self.window, place, self.names, self.settings.offer.slots, k)

    def due(self, within: int) -> list[Customer]:
        """Return who will likely order within `within` days and takes messages, the likeliest first."""
        ready = recommending.due(self.purchases, day_of(self.time), within)
        return [self.customers[one] for one in ready if one not in self.silent]

    def copy(
        self, customer: Customer, product: Product, count: int, channel: str = "短信", offer: str = ""
    ) -> list[str]:
        """Return up to `count` texts that passed the guard, for `customer` and `product`."""
        return [one.text for one in self.compose(customer, product, count, channel, offer)]

    def compose(
        self,
        customer: Customer,
        product: Product,
        count: int,
        channel: str = "短信",
        offer: str = "",
        seed: int = 0,
    ) -> list[Copy]:
        """Return up to `count` texts for `customer` and `product`, best first; the same seed gives the same texts.

        A text that repeats what few others ever wrote in this shop is left out.
        """
        facts, last = self.facts(customer, product, offer)
        told = product.model_copy(update={"name": facts.name, "attributes": facts.attributes})
        prompt = offer_prompt(customer, told, self.time, said(channel), facts.offer, self.lang)
        plain = copy_of(facts, last, self.lang)
        return self._fresh(compose(self.drafts, prompt, facts, plain, count + 1, seed), facts)[:count]

    def facts(self, customer: Customer, product: Product, offer: str = "") -> tuple[Facts, str]:
        """Return what may be said to `customer` of `product`, and in a bucket word how long ago it was bought, if it was."""
        facts, last = facts_of(product, offer), self._last(customer, product)
        return replace(facts, given=f"{facts.given} {last}"), last

    def at(self, time: datetime, writer: Writer) -> Desk:
        """Return the desk as of another time, with drafts from `writer`; what the shop's texts are does not change."""
        other = replace(self, time=time, writer=writer)
        vars(other).update(corpus=self.corpus, purchases=self.purchases)  # kept, where they would be gathered again
        return other

    def describe(self, product: Product, count: int, seed: int = 0) -> list[Copy]:
        """Return up to `count` descriptions of `product`, best first."""
        return descriptions.describe(self.drafts, product, count, self.lang, seed)

    def review(self, text: str) -> Reading:
        """Return what the review `text` says."""
        return read_review(self.bench, text, self.lang, self.usual)

    def profile(self, customer: Customer, lang: str = "") -> list[Tag]:
        """Return what is known of `customer`, tag by tag with its evidence, in the shop's language or another."""
        return profile(customer, self.products, self.time, lang or self.lang, lexicon(self.settings))

    def reply(self, question: str, status: str = "", intent: str = "") -> Reply:
        """Return a draft of the answer to `question`, or that a person should answer."""
        return answer(self.bench, self.memory, question, status, intent)

    def _last(self, customer: Customer, product: Product) -> str:
        """Return in a bucket word how long ago the customer bought the product; nothing where never, today or long ago."""
        history = history_before(customer, self.time)
        last = next((one.time for one in reversed(history) if product.item_id in one.items), None)
        days = (self.time - last).days if last else 0
        return ago(days, self.lang) if 3 < days <= 90 else ""

    def _fresh(self, copies: Sequence[Copy], facts: Facts) -> list[Copy]:
        return [
            one for one in copies if one.source == "template" or self.corpus.overlap(one.text, facts.given) < COPIED
        ]


def open_desk(folder: Path, work: Bench | None = None) -> Desk:
    """Return the desk of the merchant in `folder`, as of the day after its last order; `work` is the model, if at hand."""
    settings = load_merchant(folder)
    shop = read_shop(settings)
    for table in ("orders", "products"):
        if not getattr(shop, table):
            raise UserError(f"{folder} has no {table}; check [sources] in merchant.toml")
    customers = gather(shop)
    time = max(order.order_time for order in shop.orders) + timedelta(days=1)
    products = {product.item_id: product for product in shop.products}
    by_id = {customer.id: customer for customer in customers}
    head = head_in(settings.model.adapter)
    return Desk(settings, work or load_model(settings), by_id, products, time, shop, head)


def load_model(settings: MerchantSettings) -> Bench:
    """Return the merchant's base carrying the shared adapter, or the bare base where no adapter is named."""
    if not settings.model.adapter:
        work = bench(settings.model.base, LoraSettings())
        put(work.model, initial(work.model, 0))  # B is zero, so the base answers, whatever the bench carried before
        return work
    folder = settings.model.adapter
    work = bench(settings.model.base, adapter_shape(folder))
    put(work.model, load(folder))
    return work


def adapter_shape(folder: Path) -> LoraSettings:
    """Return the shape of the adapter in `folder`; raise `UserError` where it has none that can be read."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        shape = {"targets": config["target_modules"], "rank": config["r"], "alpha": config["lora_alpha"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"adapter folder {folder} cannot be read: {error}; point [model] adapter at a run's model folder"
        ) from None
    return parse_settings(LoraSettings, shape, f"adapter folder {folder}")


def interests(customer: Customer, known: Lexicon = PLAIN, lang: str = "zh") -> str:
    """Return what the customer's own reviews talk about most, as a clause; nothing where there are none."""
    found = keywords([review.text for review in customer.reviews], 3, known)
    return phrase(lang, "reason_words", words=("、" if lang == "zh" else ", ").join(found)) if found else ""


def campaign(
    desk: Desk, within: int, limit: int, channel: str = "短信", offer: str = "", seed: int = 0, mark: bool = False
) -> Iterator[CampaignLine]:
    """Yield one line for each of the `limit` customers likeliest to be due within `within` days: item, words and why.

    Customers who opted out get none. The same seed, rows and model give the same lines.
    """
    for customer in desk.due(within)[:limit]:
        item = desk.recommend(customer, 1)[0]
        texts = desk.compose(customer, desk.products[item.item_id], 1, channel, offer, seed)
        if texts:
            text = sent(texts[0].text, channel, desk.lang, mark)
            yield _line(desk, customer, item, channel, text)


def _line(desk: Desk, customer: Customer, item: Offer, channel: str, text: str) -> CampaignLine:
    gap = habit(customer.baskets, desk.time).gap_days
    last = f"{customer.baskets[-1].time:%Y-%m-%d}"
    reason = phrase(desk.lang, "reason_line", times=item.times, gap=gap, last=last)
    reason += interests(customer, lexicon(desk.settings), desk.lang)
    return CampaignLine(customer.id, item.item_id, item.name, channel, text, reason, LABELS[desk.lang])
