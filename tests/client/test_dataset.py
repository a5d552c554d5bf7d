from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

import client.data.dataset
from client.config import MerchantSettings, Shares, TrainChoice, lexicon, load_merchant
from client.data.customers import Posed, gather, known_before, pose
from client.data.dataset import Choice, Condensed, Dataset, Encodings, Tasks, choose, make_choice, make_dataset
from client.train import state
from client.train.sampling import Randomness, Rehearsal, SecureRandom
from common.errors import UserError
from common.model import Base, load_base
from common.privacy.policy import Policy
from common.schema import Order, Review, Row, Shop
from common.text import PLAIN, TASKS, Example
from common.tokens import Encoded, encode_examples

R = TypeVar("R", bound=Row)
TOKENS, RECORDS = 96, 4
MARK = "紫电清霜"
DAY = datetime(2026, 1, 1)
TEXTS = ("item_name", "text", "question", "answer", "offer")


@pytest.fixture(scope="module")
def base(tiny_base: str) -> Base:
    return load_base(tiny_base)


@pytest.fixture(scope="module")
def made(shop: Shop, base: Base) -> Dataset:
    return make_dataset(shop, base, TOKENS, RECORDS, None)


def ids_of(shop: Shop) -> list[str]:
    return [customer.id for customer in gather(shop)]


def change(rows: Sequence[R], chosen: Sequence[bool]) -> tuple[R, ...]:
    """Return the rows with a marker in every text of those that are chosen."""
    return tuple(
        row.model_copy(update={name: MARK + getattr(row, name) for name in TEXTS if hasattr(row, name)}) if one else row
        for row, one in zip(rows, chosen, strict=True)
    )


def marked(shop: Shop, customer: str = "", until: datetime | None = None) -> Shop:
    """Return the shop with a marker in every row of one customer, or in every row from `until` on."""

    def pick(row: Row) -> bool:
        time = getattr(row, "order_time", None) or getattr(row, "time", None)
        return row.customer_id == customer if until is None else bool(time and time >= until)  # type: ignore[attr-defined]

    def spoil(rows: Sequence[R]) -> tuple[R, ...]:
        return change(rows, [pick(row) for row in rows])

    return replace(
        shop,
        orders=spoil(shop.orders),
        reviews=spoil(shop.reviews),
        dialogs=spoil(shop.dialogs),
        campaigns=spoil(shop.campaigns),
    )


def without(shop: Shop, customer: str) -> Shop:
    return replace(
        shop,
        orders=[row for row in shop.orders if row.customer_id != customer],
        reviews=[row for row in shop.reviews if row.customer_id != customer],
        dialogs=[row for row in shop.dialogs if row.customer_id != customer],
        campaigns=[row for row in shop.campaigns if row.customer_id != customer],
    )


def text_of(posed: Sequence[Posed]) -> str:
    return "\n".join(one.example.prompt + one.example.target for one in posed)


# --- one row a customer ---


def test_there_is_one_bounded_row_for_every_customer(shop: Shop, made: Dataset) -> None:
    assert len(made) == len(ids_of(shop)) == 12
    rows = made.rows(range(len(made)), Rehearsal(1))
    assert rows.ids_BT.shape == rows.counts_BT.shape == (12, TOKENS)
    assert (rows.ids_BT[:, 0] == made.base.end).all()
    assert not rows.counts_BT[:, 0].any()
    assert made.rows([], Rehearsal(1)).ids_BT.shape == (0, TOKENS)


def test_a_row_holds_records_of_its_own_customer_only(shop: Shop, base: Base) -> None:
    ids = ids_of(shop)
    for place in (0, 5, 11):
        spoilt = make_dataset(marked(shop, ids[place]), base, TOKENS, RECORDS, None)
        for other, records in enumerate(spoilt.tasks):
            assert (MARK in text_of(records)) == (other == place)


def test_one_customer_more_or_less_changes_no_record_of_anybody_else(shop: Shop, base: Base, made: Dataset) -> None:
    ids = ids_of(shop)
    for place in (0, 6, 11):
        fewer = make_dataset(without(shop, ids[place]), base, TOKENS, RECORDS, None)
        assert len(fewer) == len(made) - 1
        assert list(fewer.tasks) == [records for other, records in enumerate(made.tasks) if other != place]
        assert (fewer.max_tokens, fewer.max_records, fewer.choice) == (made.max_tokens, made.max_records, made.choice)


def test_a_dataset_holds_nothing_that_is_shared_but_public_bounds() -> None:
    assert [field.name for field in fields(Dataset)] == ["tasks", "base", "max_tokens", "max_records", "choice"]


def test_a_customer_without_a_task_keeps_an_empty_row(shop: Shop, base: Base) -> None:
    start = min(order.order_time for order in shop.orders)
    early = make_dataset(shop, base, TOKENS, RECORDS, start)
    assert len(early) == 12
    rows = early.rows(range(12), Rehearsal(1))
    assert (rows.ids_BT == early.base.end).all()
    assert not rows.counts_BT.any()


# --- the later weeks ---


def test_rows_from_the_cut_on_are_never_in_a_training_record(shop: Shop, base: Base, made: Dataset) -> None:
    times = sorted(order.order_time for order in shop.orders)
    until = times[len(times) // 2]
    cut = make_dataset(shop, base, TOKENS, RECORDS, until)
    spoilt = make_dataset(marked(shop, until=until), base, TOKENS, RECORDS, until)
    assert list(spoilt.tasks) == list(cut.tasks)
    assert 0 < sum(map(len, cut.tasks)) < sum(map(len, made.tasks))


def test_a_training_record_is_a_task_whose_event_lies_before_the_cut(shop: Shop, base: Base) -> None:
    products = {product.item_id: product for product in shop.products}
    event = pose(gather(shop)[3], products, shop.lang)[2].time
    cut = make_dataset(shop, base, TOKENS, RECORDS, event)
    for customer, records in zip(gather(shop), cut.tasks, strict=True):
        posed = [one.example for one in pose(customer, products, shop.lang) if one.time < event]
        assert [one.example for one in records] == posed
        known = pose(known_before(customer, event), products, shop.lang)
        assert [one.example for one in known] == posed


# --- bounds ---


def small(task: str, count: int, first: int = 1, label: str = "") -> list[Posed]:
    """Return tasks without a prompt, the target of each its own number."""
    return [Posed(DAY, Example(task, "", str(number)), label) for number in range(first, first + count)]


def rows_of(data: Dataset, drawn: Sequence[int], randomness: Randomness) -> list[list[int]]:
    """Return the numbers in the rows of the `drawn` customers."""
    decoded = [str(data.base.tokenizer.decode(row)) for row in data.rows(drawn, randomness).ids_BT]
    return [[int(one) for one in row.split("<|endoftext|>") if one] for row in decoded]


def taken(data: Dataset, seed: int) -> list[int]:
    return rows_of(data, [0], Rehearsal(seed))[0]


def test_a_row_takes_at_most_so_many_records_freshly_chosen(base: Base) -> None:
    data = Dataset([small("复购", 40)], base, 64, RECORDS)
    draws = [tuple(taken(data, seed)) for seed in range(20)]
    assert {len(draw) for draw in draws} == {RECORDS}
    assert all(len(set(draw)) == RECORDS for draw in draws)
    assert len(set(draws)) > 15
    assert tuple(taken(data, 3)) == draws[3]


def test_every_record_has_the_same_chance(base: Base) -> None:
    data = Dataset([small("复购", 8)], base, 64, 2)
    found = [number for row in rows_of(data, [0] * 2000, Rehearsal(5)) for number in row]
    np.testing.assert_allclose(np.bincount(found, minlength=9)[1:] / 2000, 0.25, atol=0.045)


def test_a_rare_task_is_not_crowded_out_by_a_frequent_one(base: Base) -> None:
    data = Dataset([[*small("复购", 30), *small("文案", 1, 100), *small("评价", 2, 200)]], base, 64, 3)
    for seed in range(10):
        kinds = sorted(number // 100 for number in taken(data, seed))
        assert kinds == [0, 1, 2]


def test_a_record_that_does_not_fit_is_left_out_whole(base: Base) -> None:
    long = Posed(DAY, Example("评价", "", "777777777777777"))
    rows = {tuple(taken(Dataset([[long, *small("复购", 1, 5)]], base, 12, RECORDS), seed)) for seed in range(20)}
    assert rows == {(5,), (int("7" * 10),)}


def test_rows_come_in_the_order_of_the_draw(base: Base) -> None:
    data = Dataset([small("复购", 1, number) for number in (11, 12, 13)], base, 8, RECORDS)
    assert rows_of(data, [2, 0, 2], Rehearsal(1)) == [[13], [11], [13]]


# --- a row is its own customer's, bit for bit ---

SETTINGS = [
    TrainChoice(),
    TrainChoice(records="recent"),
    TrainChoice(balance="customer", mixture={"copy": 3.0, "history": 0.5}),
    TrainChoice(records="recent", balance="declared", mixture=dict.fromkeys(TASKS, 1.0)),
]


@pytest.mark.parametrize("train", SETTINGS, ids=["usual", "recent", "by class", "declared"])
def test_a_row_is_bit_for_bit_the_same_whoever_else_is_in_the_shop_and_whatever_they_do(
    shop: Shop, base: Base, train: TrainChoice
) -> None:
    made, ids = make_dataset(shop, base, TOKENS, RECORDS, None, train), ids_of(shop)
    whole = made.rows(range(12), Rehearsal(9)).ids_BT
    assert len({row.tobytes() for row in whole}) == 12
    for gone in (0, 7, 11):
        fewer = make_dataset(without(shop, ids[gone]), base, TOKENS, RECORDS, None, train)
        other = make_dataset(marked(shop, ids[gone]), base, TOKENS, RECORDS, None, train)
        spoilt = other.rows(range(12), Rehearsal(9))
        others = [place for place in range(12) if place != gone]
        np.testing.assert_array_equal(spoilt.ids_BT[others], whole[others])
        assert [place for place in range(12) if other.tasks[place] != made.tasks[place]] == [gone]
        for now, before in enumerate(others):
            alone = fewer.rows([now], Rehearsal(before)).ids_BT
            np.testing.assert_array_equal(alone, made.rows([before], Rehearsal(before)).ids_BT)


def test_nobodys_row_depends_on_who_else_is_drawn_except_through_fresh_words(made: Dataset) -> None:
    class Words:
        """Words that can be read off the place in the stream."""

        def __init__(self) -> None:
            self.taken = 0

        def words(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
            self.taken += count
            return np.arange(self.taken - count, self.taken, dtype=np.uint64)

    stream = Words()
    for drawn in ([3], [0, 11], [5, 5, 5], []):
        before = stream.taken
        made.rows(drawn, stream)
        assert stream.taken - before == 4 * len(drawn)


def test_a_microbatch_more_or_less_changes_no_row(made: Dataset) -> None:
    together, apart = Rehearsal(2), Rehearsal(2)
    whole = made.rows(range(12), together).ids_BT
    parts = [made.rows(part, apart).ids_BT for part in (range(5), range(5, 6), range(6, 12))]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


@pytest.mark.parametrize("randomness", [SecureRandom(), Rehearsal(1)], ids=["private", "rehearsal"])
def test_another_step_takes_other_records(made: Dataset, randomness: Randomness) -> None:
    assert len({made.rows(range(12), randomness).ids_BT.tobytes() for _ in range(6)}) > 1


# --- which records ---


def numbers(posed: Sequence[Posed], choice: Choice, limit: int, seed: int) -> list[int]:
    return [int(one.example.target) for one in choose(posed, choice, limit, seed.to_bytes(32, "big"))]


def test_recent_takes_the_newest_of_each_task_and_tasks_still_take_turns() -> None:
    records = [*small("复购", 30), *small("文案", 5, 100), *small("评价", 2, 200)]
    for seed in range(20):
        assert sorted(numbers(records, Choice(recent=True), 3, seed)) == [30, 104, 201]
        assert sorted(numbers(records, Choice(recent=True), 8, seed))[-5:] in (
            [103, 104, 200, 201][-5:],
            [102, 103, 104, 200, 201],
        )
    assert numbers(small("复购", 9), Choice(recent=True), 4, 1) == [9, 8, 7, 6]


def test_tasks_share_rows_in_proportion_to_their_weights() -> None:
    records = [*small("复购", 50), *small("文案", 50, 100), *small("评价", 50, 200)]
    choice = Choice(weights={"复购": 1.0, "文案": 2.0, "评价": 0.0})
    found = [number // 100 for seed in range(400) for number in numbers(records, choice, 4, seed)]
    np.testing.assert_allclose(np.bincount(found, minlength=3) / len(found), [1 / 3, 2 / 3, 0], atol=0.03)
    assert numbers(small("评价", 3), choice, 4, 1) == []


def test_a_task_of_weight_0_is_not_even_posed_and_one_of_weight_1_is(shop: Shop, base: Base) -> None:
    usual = {one.example.task for records in make_dataset(shop, base, TOKENS, RECORDS, None).tasks for one in records}
    assert usual == {task.zh for task in TASKS.values() if task.weight}
    train = TrainChoice(mixture={"copy": 0.0, "profile": 1.0})
    changed = make_dataset(shop, base, TOKENS, RECORDS, None, train)
    other = {one.example.task for posed in changed.tasks for one in posed}
    assert other == (usual | {"画像"}) - {"文案"}


@pytest.mark.parametrize("key", TASKS)
@pytest.mark.parametrize("lang", ["zh", "en"])
def test_every_task_alone_makes_rows_that_count_its_targets_only(shop: Shop, base: Base, key: str, lang: str) -> None:
    only = TrainChoice(mixture={other: float(other == key) for other in TASKS})
    data = make_dataset(replace(shop, lang=lang), base, 200, RECORDS, None, only)
    posed = [task for one in data.tasks for task in one]
    assert {one.example.task for one in posed} == {TASKS[key].name(lang)}
    rows = data.rows(range(12), Rehearsal(1))
    assert rows.counts_BT.any(axis=1).sum() >= 8
    marked_as_target = {
        str(base.tokenizer.decode(ids[counts])).split("<|endoftext|>")[0]
        for ids, counts in zip(rows.ids_BT, rows.counts_BT, strict=True)
        if counts.any()
    }
    assert marked_as_target <= {one.example.target for one in posed}


# --- classes ---


def reviewed(labels: str) -> list[Posed]:
    """Return one review a letter: n, 0 or p, numbered from 1 in the order of time."""
    names = {"n": "negative", "0": "neutral", "p": "positive"}
    return [small("情感", 1, number, names[one])[0] for number, one in enumerate(labels, 1)]


def test_within_a_customers_own_reviews_the_classes_take_turns() -> None:
    records = reviewed("pppppppnpp0p")
    for seed in range(20):
        assert {records[number - 1].label for number in numbers(records, Choice(by_class=True), 3, seed)} == {
            "negative", "neutral", "positive",
        }  # fmt: skip
    assert sorted(numbers(records, Choice(recent=True, by_class=True), 4, 0)) == [8, 10, 11, 12]


def test_declared_shares_thin_the_common_class_for_every_customer_alike() -> None:
    choice = make_choice(TrainChoice(balance="declared", shares=Shares(negative=0.1, neutral=0.2, positive=0.7)), "zh")
    assert choice.keep == {"negative": 1.0, "neutral": 0.5, "positive": pytest.approx(1 / 7)}
    lonely = [sum(bool(numbers(reviewed(one), choice, 4, seed)) for seed in range(2000)) for one in "n0p"]
    np.testing.assert_allclose(np.array(lonely) / 2000, [1.0, 0.5, 1 / 7], atol=0.05)
    assert len(numbers(small("复购", 9), choice, 9, 1)) == 9


def test_balance_is_off_unless_asked_for(shop: Shop, base: Base) -> None:
    made = make_dataset(shop, base, TOKENS, RECORDS, None)
    assert made.choice == make_choice(TrainChoice(), "zh")
    assert (made.choice.recent, made.choice.by_class, dict(made.choice.keep)) == (False, False, {})


@pytest.mark.parametrize("balance", ["customer", "declared"])
def test_balancing_one_customers_reviews_moves_nobody_elses_row(shop: Shop, base: Base, balance: str) -> None:
    train = TrainChoice.model_validate({"balance": balance})
    who, made = ids_of(shop)[4], make_dataset(shop, base, TOKENS, RECORDS, None, train)
    angry = [row.model_copy(update={"rating": 1}) if row.customer_id == who else row for row in shop.reviews]
    angry += [
        Review(review_id=f"n{number}", customer_id=who, item_id="x", time=shop.reviews[0].time, rating=1, text="差")
        for number in range(500)
    ]
    changed = make_dataset(replace(shop, reviews=angry), base, TOKENS, RECORDS, None, train)
    assert changed.choice == made.choice
    before, after = (data.rows(range(12), Rehearsal(3)).ids_BT for data in (made, changed))
    assert [place for place in range(12) if (before[place] != after[place]).any()] == [4]


# --- much data ---


def test_what_was_not_used_lately_is_let_go_and_posed_again(
    shop: Shop, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = list(make_dataset(shop, base, TOKENS, RECORDS, None).tasks)
    monkeypatch.setattr(client.data.dataset, "KEPT_LETTERS", 5_000)
    tight = make_dataset(shop, base, TOKENS, RECORDS, None)
    assert [tight.tasks[place] for place in (3, 0, 11, 3, -1)] == [expected[place] for place in (3, 0, 11, 3, 11)]
    assert list(tight.tasks) == expected
    assert tight.tasks[2:4] == expected[2:4]
    kept = kept_by(tight)
    assert 0 < sum(len(text_of([one])) for posed in kept.values() for one in posed) <= 5_000
    assert len(kept) < 12


def kept_by(data: Dataset) -> Mapping[int, Sequence[Posed]]:
    assert isinstance(data.tasks, Tasks)
    return data.tasks._kept


def test_nobody_is_posed_before_somebody_is_drawn(shop: Shop, base: Base) -> None:
    data = make_dataset(shop, base, TOKENS, RECORDS, None)
    assert len(data) == 12
    assert not kept_by(data)
    data.rows([2, 7], Rehearsal(1))
    assert list(kept_by(data)) == [2, 7]


def test_a_customer_of_very_many_orders_is_bounded(base: Base) -> None:
    start = datetime(2025, 1, 1)
    orders = [
        Order(customer_id="c", order_time=start + timedelta(days=day), item_id=f"i{item}", item_name=f"物{item}")
        for day in range(300)
        for item in range(3)
    ]
    data = make_dataset(Shop("s", "s", "zh", orders, []), base, TOKENS, RECORDS, None)
    assert len(data.tasks[0]) == 32


# --- the settings ---

LEAST = '[merchant]\nid = "tea-1"\n[sources]\norders = "orders.csv"\nproducts = "products.csv"\n'


def settled(folder: Path, text: str) -> MerchantSettings:
    (folder / "merchant.toml").write_text(LEAST + text, "utf-8")
    return load_merchant(folder)


def test_what_a_merchant_writes_is_what_a_row_is_made_by(tmp_path: Path) -> None:
    train = settled(
        tmp_path, '[train]\nrecords = "recent"\nbalance = "customer"\nmixture = {copy = 2, profile = 0.5}\n'
    ).train
    choice = make_choice(train, "en")
    assert (choice.recent, choice.by_class, dict(choice.keep)) == (True, True, {})
    assert {name: weight for name, weight in choice.weights.items() if weight not in (0, 1)} == {
        "copy": 2,
        "profile": 0.5,
    }
    assert make_choice(settled(tmp_path, "").train, "zh") == make_choice(TrainChoice(), "zh")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mixture = {coppy = 2}", "mixture names coppy; the tasks are repurchase, judgement, copy, description,"),
        (
            f"mixture = {{{', '.join(f'{key} = 0' for key in TASKS)}}}",
            "mixture leaves every task out; give one of them",
        ),
        ("mixture = {copy = -1}", "greater than or equal to 0"),
        ("shares = {positive = 0}", "train.shares.positive = 0"),
        ('balance = "shop"', "train.balance = 'shop'"),
    ],
)
def test_a_setting_that_makes_no_row_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        settled(tmp_path, f"[train]\n{text}\n")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_shops_own_words_are_read_from_the_files_it_names(tmp_path: Path) -> None:
    (tmp_path / "terms.txt").write_text("小方糕\n", "utf-8")
    (tmp_path / "stop.txt").write_text("亲\n", "utf-8")
    own = lexicon(settled(tmp_path, '[text]\ndictionary = "terms.txt"\nstop_words = "stop.txt"\n'))
    assert own.terms == (("小方糕", 0),)
    assert "亲" in own.stop_words
    assert lexicon(settled(tmp_path, '[text]\ndictionary = ""\n')) == PLAIN
    with pytest.raises(UserError, match=r"text\.dictionary = '\.\./x' leads out of the merchant's folder"):
        settled(tmp_path, '[text]\ndictionary = "../x"\n')
    with pytest.raises(UserError, match=r"none\.txt cannot be read: No such file or directory"):
        lexicon(settled(tmp_path, '[text]\nstop_words = "none.txt"\n'))


# --- ids that are kept ---


@pytest.mark.parametrize(
    "train",
    [TrainChoice(), TrainChoice(records="recent"), TrainChoice(balance="customer"), TrainChoice(balance="declared")],
    ids=["usual", "recent", "by customer", "declared"],
)
def test_a_condensed_set_gives_the_very_same_rows(shop: Shop, base: Base, train: TrainChoice) -> None:
    whole = make_dataset(shop, base, TOKENS, RECORDS, None, train)
    small = whole.condensed(1_000_000)
    assert small is not None
    assert len(small) == len(whole)
    for seed, drawn in enumerate([range(12), [7, 7, 0], [], [11]]):
        one, other = whole.rows(drawn, Rehearsal(seed)), small.rows(drawn, Rehearsal(seed))
        np.testing.assert_array_equal(one.ids_BT, other.ids_BT)
        np.testing.assert_array_equal(one.counts_BT, other.counts_BT)


def test_a_condensed_set_holds_no_text_and_few_bytes(made: Dataset) -> None:
    small = made.condensed(1_000_000)
    assert small is not None
    assert not any(isinstance(value, Dataset | Tasks) for value in vars(small).values())
    assert small.ids.itemsize == 2
    assert len(small.ids) > 100


def test_a_set_of_more_ids_than_allowed_is_not_condensed(made: Dataset) -> None:
    assert made.condensed(10) is None


def test_a_task_drawn_again_is_not_encoded_again_and_is_the_same(
    shop: Shop, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    honest = encode_examples

    def counted(base: Base, examples: Sequence[Example], max_tokens: int) -> list[Encoded]:
        asked.append(len(examples))
        return honest(base, examples, max_tokens)

    monkeypatch.setattr(client.data.dataset, "_encodings", Encodings())
    monkeypatch.setattr(client.data.dataset, "encode_examples", counted)
    data = make_dataset(shop, base, TOKENS, RECORDS, None)
    first, again = data.rows(range(12), Rehearsal(3)), data.rows(range(12), Rehearsal(3))
    np.testing.assert_array_equal(first.ids_BT, again.ids_BT)
    np.testing.assert_array_equal(first.counts_BT, again.counts_BT)
    assert asked[0] > 12
    assert asked[1] == 0


def test_what_is_kept_of_ids_is_bounded_and_what_is_not_kept_is_the_same(
    shop: Shop, base: Base, made: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = made.rows(range(12), Rehearsal(4)).ids_BT
    few = Encodings()
    monkeypatch.setattr(client.data.dataset, "KEPT_IDS", 200)
    monkeypatch.setattr(client.data.dataset, "_encodings", few)
    for _ in range(2):
        np.testing.assert_array_equal(made.rows(range(12), Rehearsal(4)).ids_BT, wanted)
        assert sum(len(one.ids) for one in few._kept.values()) == few._ids <= 200


def test_rows_of_another_length_are_not_taken_for_these(shop: Shop, base: Base) -> None:
    long, short = (make_dataset(shop, base, tokens, RECORDS, None) for tokens in (TOKENS, 24))
    assert long.rows(range(12), Rehearsal(5)).ids_BT.shape == (12, TOKENS)
    fresh = short.rows(range(12), Rehearsal(5))
    assert fresh.ids_BT.shape == (12, 24)
    assert (fresh.counts_BT.sum(1) > 0).any()


def test_a_shop_that_made_room_is_not_read_again_until_its_files_change(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "KEPT", 1)
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        shutil.copytree(Path(__file__).parents[2] / "examples" / "merchant", folder)
    settings = [load_merchant(folder) for folder in folders]
    policy = Policy(
        merchant="tea-house", epsilon=8.0, period="2026Q4", max_rounds=50, sigma_min=4.0, rate=0.02, steps=1,
        clip_norm=0.5, divisor=16.0, max_records_per_customer=RECORDS, max_tokens=TOKENS,
    )  # fmt: skip
    first = state.dataset(settings[0], base, policy)
    wanted = first.rows(range(len(first)), Rehearsal(6)).ids_BT
    state.dataset(settings[1], base, policy)
    small = state.dataset(settings[0], base, policy)
    assert isinstance(first, Dataset)
    assert isinstance(small, Condensed)
    np.testing.assert_array_equal(small.rows(range(len(small)), Rehearsal(6)).ids_BT, wanted)
    orders = folders[0] / "orders.csv"
    orders.write_text(orders.read_text("utf-8") + orders.read_text("utf-8").splitlines()[1] + "\n", "utf-8")
    assert isinstance(state.dataset(settings[0], base, policy), Dataset)
