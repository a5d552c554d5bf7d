from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from client.config import load_merchant
from common.errors import UserError

EXAMPLE = Path(__file__).parents[2] / "examples" / "merchant"
LEAST = """
[merchant]
id = "tea-1"
[sources]
orders = "orders.csv"
products = "products.csv"
"""


def write(folder: Path, text: str) -> Path:
    (folder / "merchant.toml").write_text(text, encoding="utf-8")
    return folder


def error(folder: Path, text: str) -> str:
    with pytest.raises(UserError) as caught:
        load_merchant(write(folder, text))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_example_folder_loads() -> None:
    settings = load_merchant(EXAMPLE)
    assert (settings.merchant.id, settings.merchant.name, settings.merchant.lang) == ("qinghe-tea", "青禾茶铺", "zh")
    assert settings.folder == EXAMPLE
    assert settings.sources.campaigns is not None
    assert settings.sources.campaigns.path == EXAMPLE / "campaigns.csv"
    assert settings.model.adapter is None
    assert settings.train.until is None


def test_what_is_left_out_has_a_default_and_paths_are_whole(tmp_path: Path) -> None:
    settings = load_merchant(write(tmp_path, LEAST))
    assert settings.sources.orders.path == tmp_path.resolve() / "orders.csv"
    assert settings.sources.reviews is None
    assert (settings.model.base, settings.train.device) == ("default", "cpu")
    assert (settings.train.threads, settings.train.microbatch) == (0, 16)
    assert (settings.server.address, settings.server.ca) == ("", "")


def test_a_source_can_be_a_table_with_columns(tmp_path: Path) -> None:
    text = LEAST.replace('"orders.csv"', '{path = "a.csv", columns = {customer_id = "会员卡号"}}')
    orders = load_merchant(write(tmp_path, text)).sources.orders
    assert orders.path == tmp_path.resolve() / "a.csv"
    assert orders.columns == {"customer_id": "会员卡号"}


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        ("2026-05-01", datetime(2026, 5, 1)),
        ("2026-05-01T08:30:00", datetime(2026, 5, 1, 8, 30)),
        ('"2026-05-01"', datetime(2026, 5, 1)),
    ],
)
def test_until_is_a_day_or_a_time(tmp_path: Path, until: str, expected: datetime) -> None:
    assert load_merchant(write(tmp_path, LEAST + f"[train]\nuntil = {until}\n")).train.until == expected


@pytest.mark.parametrize("until", ["20260501", "2026-05-01T08:30:00Z", '"soon"', "true"])
def test_until_is_nothing_else(tmp_path: Path, until: str) -> None:
    assert "train.until" in error(tmp_path, LEAST + f"[train]\nuntil = {until}\n")


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "mps"])
def test_an_unknown_device_is_refused(tmp_path: Path, device: str) -> None:
    assert f"train.device = '{device}'" in error(tmp_path, LEAST + f'[train]\ndevice = "{device}"\n')


@pytest.mark.parametrize("name", ["Tea", "茶", "../tea", "", "a" * 65, "tea\\n"])
def test_an_id_that_could_be_a_path_is_refused(tmp_path: Path, name: str) -> None:
    assert "merchant.id" in error(tmp_path, LEAST.replace("tea-1", name))


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"merchant\.toml: no such file; `fugou merchant init DIR`"):
        load_merchant(tmp_path)


def test_broken_toml_names_the_line(tmp_path: Path) -> None:
    assert "line 2" in error(tmp_path, '[merchant]\nid = "tea\n')


def test_a_file_in_another_encoding_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "merchant.toml").write_bytes('[merchant]\nname = "茶"'.encode("gb18030"))
    with pytest.raises(UserError, match="line 2 is not UTF-8"):
        load_merchant(tmp_path)


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "merchant.toml").write_text(LEAST, encoding="utf-8-sig")
    assert load_merchant(tmp_path).merchant.id == "tea-1"


def test_unknown_keys_are_named_with_what_is_known(tmp_path: Path) -> None:
    assert "unknown key 'train.epsilon'" in error(tmp_path, LEAST + "[train]\nepsilon = 8\n")
    assert "unknown key 'folder'" in error(tmp_path, 'folder = "/"\n' + LEAST)
    text = LEAST.replace('"orders.csv"', '{path = "a.csv", columns = {customer = "x"}}')
    assert "orders.columns names customer; the fields of orders are customer_id" in error(tmp_path, text)


@pytest.mark.parametrize("path", ["../orders.csv", "a/../../orders.csv", "link/orders.csv"])
def test_a_path_may_not_lead_out_of_the_folder(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    assert "leads out of the merchant's folder" in error(folder, LEAST.replace("orders.csv", path))
    assert "model.adapter" in error(folder, LEAST + f'[model]\nadapter = "{path}"\n')
    assert "server.ca" in error(folder, LEAST + f'[server]\nca = "{path}"\n')


def test_an_absolute_path_is_the_merchants_own_choice(tmp_path: Path) -> None:
    settings = load_merchant(write(tmp_path, LEAST.replace("orders.csv", "/data/orders.csv")))
    assert settings.sources.orders.path == Path("/data/orders.csv")


def test_a_source_says_how_its_table_is_to_be_read(tmp_path: Path) -> None:
    text = LEAST.replace(
        '"orders.csv"',
        '{path = "订单*.csv", encoding = "gb18030", formats = {order_time = "%d/%m/%Y"}, timezone = "UTC", '
        'columns = {status = "态"}, statuses = {cancelled = ["作废"]}, max_bad = 0.2}',
    )
    orders = load_merchant(write(tmp_path, text)).sources.orders
    assert (orders.encoding, orders.timezone, orders.max_bad) == ("gb18030", "UTC", 0.2)
    assert orders.statuses == {"cancelled": ("作废",)}
    assert orders.path == tmp_path.resolve() / "订单*.csv"


def test_the_shops_time_zone_reaches_its_sources(tmp_path: Path) -> None:
    assert load_merchant(write(tmp_path, LEAST)).sources.orders.local == "Asia/Shanghai"
    text = LEAST.replace('"tea-1"', '"tea-1"\ntimezone = "Europe/Berlin"')
    assert load_merchant(write(tmp_path, text)).sources.products.local == "Europe/Berlin"


@pytest.mark.parametrize("zone", ["Beijing", "", "../etc/passwd", "+08:00"])
def test_a_time_zone_that_is_none_is_refused(tmp_path: Path, zone: str) -> None:
    assert "merchant.timezone" in error(tmp_path, LEAST.replace('"tea-1"', f'"tea-1"\ntimezone = "{zone}"'))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ('{path = "a.csv", formats = {when = "%d"}}', "orders.formats names when; the fields of orders are"),
        ('{path = "a.csv", max_bad = 2}', "sources.orders.max_bad = 2"),
        ('{path = "a.csv", encoding = "latin-1"}', "sources.orders.encoding = 'latin-1'"),
        ('{path = "a.csv", statuses = {lost = ["x"]}}', "sources.orders.statuses"),
        ('{path = "a.csv", query = "select 1"}', "query is for a database"),
        ("{columns = {}}", "path must name a file or a database"),
    ],
)
def test_a_source_that_makes_no_sense_is_named(tmp_path: Path, source: str, words: str) -> None:
    assert words in error(tmp_path, LEAST.replace('"orders.csv"', source))


def test_a_status_is_a_column_of_orders_only(tmp_path: Path) -> None:
    text = LEAST.replace('"products.csv"', '{path = "a.csv", columns = {status = "态"}}')
    assert "products.columns names status" in error(tmp_path, text)


def test_a_database_is_a_source_and_its_address_is_in_no_representation(tmp_path: Path) -> None:
    address = "postgresql://u:sesame@host/shop?table=orders"
    orders = load_merchant(write(tmp_path, LEAST.replace("orders.csv", address))).sources.orders
    assert (orders.url, orders.path) == (address, Path())
    assert "sesame" not in repr(orders)
    text = LEAST.replace("orders.csv", "sqlite:///data/shop.db?table=orders")
    assert (
        load_merchant(write(tmp_path, text)).sources.orders.url
        == f"sqlite:///{tmp_path.resolve()}/data/shop.db?table=orders"
    )


def test_an_error_about_a_database_does_not_show_its_password(tmp_path: Path) -> None:
    text = LEAST.replace('"orders.csv"', '{path = "postgresql://u:sesame@host/shop?table=orders", max_bad = 2}')
    assert "sesame" not in error(tmp_path, text)
    for address in ("postgresql://u:a:/sesame@host/shop", "postgresql://u@host/shop?password=sesame&table=a"):
        text = LEAST.replace('"orders.csv"', f'{{path = "{address}", columns = {{a = "b"}}}}')
        assert "sesame" not in error(tmp_path, text)
        assert "@host/shop" in error(tmp_path, text)
