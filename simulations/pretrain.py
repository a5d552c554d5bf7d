"""A base model from plain text: read, learn a vocabulary, pack, train, write a folder that every GPT-2 loader takes.

    B batch   T tokens of a block   V vocabulary

Text never lies in memory as a whole: files are streamed (to count, for the vocabulary, into ids), ids lie in
memory-mapped files of two bytes each under OUT/.work, which also holds the checkpoint and is gone when the model
stands.

Why our own vocabulary: byte-level, so that nothing is unknown; no normaliser, so that ，and ： stay what shops write;
digits apart, so that prices do not become words; the marks of the task prompts apart, so that a prompt and its target
meet at a token's edge.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import functools
import gzip
import io
import itertools
import json
import math
import shutil
import time
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from common.cores import one_core_each
from common.errors import UserError
from common.files import cannot_write, write_atomic
from common.model import digest_of, load_base
from simulations.corpus import PROMPTS
from simulations.muon import Muon

END, PAD = "<|endoftext|>", "<|pad|>"
TIED = "lm_head.weight"  # the embeddings once more
MARKS = "[:｜【】;×·#*、]"
HELD_OUT = 100  # one document in so many is kept for evaluation
VOCABULARY_CHARS = 12_000_000  # the vocabulary is learnt on an even sample of at most so many characters
REPORT_SECONDS = 15.0
PIECE = 2  # blocks that one core computes at a time; part of what a run is, as sums are taken in this order
QUICK_BLOCKS, FULL_BLOCKS = 4, 64  # held-out blocks a kind, on the way and at the end

Ids = npt.NDArray[np.uint16]
Report = Callable[[str], None]


@dataclass(frozen=True)
class Size:
    """The shape of a model and how it is trained; `rate` is the highest learning rate, `batch` counts blocks."""

    layers: int
    width: int
    heads: int
    vocabulary: int
    block: int = 256
    batch: int = 8
    rate: float = 1e-3


SIZES: Mapping[str, Size] = {
    "tiny": Size(layers=4, width=320, heads=5, vocabulary=8192, rate=3e-3),
    "small": Size(layers=8, width=384, heads=6, vocabulary=16384, batch=16, rate=1e-3),
    "gpt2": Size(layers=12, width=768, heads=12, vocabulary=32768, block=512, batch=32, rate=6e-4),
}


@dataclass(frozen=True)
class Document:
    """One text in pieces that are encoded apart; `kind` names where it comes from."""

    kind: str
    pieces: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """What a run was asked for; a checkpoint fits the run that wrote it and no other."""

    texts: tuple[tuple[str, int], ...]  # file name and bytes
    size: Size
    minutes: float | None
    tokens: int | None
    seed: int
    start: str | None = None  # digest of the base it starts from
    hold: bool = False


@dataclass(frozen=True)
class Share:
    """How much of one kind of text there is."""

    documents: int
    tokens: int
    characters: int


@dataclass(frozen=True)
class Score:
    """Held-out figures of one kind of text: perplexity a token, bits a character, and the tokens they rest on."""

    perplexity: float
    bits_per_character: float
    tokens: int


@dataclass(frozen=True)
class Progress:
    """How far a run is; `seconds` counts training only, over all its parts."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list, repr=False)  # nats a token, one a step


@dataclass(frozen=True)
class PretrainResult:
    """The finished folder and what was measured on the way."""

    folder: Path
    parameters: int
    tokens: int
    seconds: float
    tokens_per_second: float
    losses: Sequence[float] = field(repr=False)
    scores: Mapping[str, Score]
    shares: Mapping[str, Share]
    samples: Sequence[tuple[str, str]] = field(repr=False)


@dataclass(frozen=True)
class Data:
    """Ids ready for training, what they were made of, and how many characters begin in each token (V,)."""

    train: Ids
    held_out: Mapping[str, Ids]
    shares: Mapping[str, Share]
    token_characters: npt.NDArray[np.int64]


@dataclass(frozen=True)
class How:
    """How a run is carried out, none of which changes what it computes except `lowered` (bf16) and the device."""

    resume: bool
    lowered: bool
    checkpoint_seconds: float
    report: Report
    device: torch.device
    pool: ThreadPoolExecutor


def pretrain(
    texts: Sequence[Path],
    out: Path,
    size: str | Size = "tiny",
    *,
    minutes: float | None = None,
    tokens: int | None = None,
    seed: int = 1,
    start: Path | None = None,
    hold: bool = False,
    rate: float | None = None,
    resume: bool = False,
    threads: int = 2,
    report: Report = print,
    precision: str = "auto",
    checkpoint_seconds: float = 60.0,
) -> PretrainResult:
    """Train a GPT-2 from nothing on `texts` for `minutes` or until `tokens` are seen, and return the folder `out`.

    `texts` are .txt (blank line between documents), .jsonl (field "text", perhaps "kind"), each perhaps .gz.
    An interrupted run leaves its checkpoint and goes on with `resume=True`; on a processor, and with a number of tokens
    as its goal, it then ends with the same weights as a run that was never interrupted, whatever `threads` is.
    `start` is a finished base whose weights, shape and vocabulary are taken over, for a further sitting; `hold` keeps
    the rate up to the end, for a sitting that another will follow; `rate` is the highest rate instead of the size's.
    `precision` is auto (bf16 where the processor has matrix units), fp32 or bf16. Raises `UserError`.
    """
    run = _run(texts, _size(size, rate), minutes, tokens, seed, start, hold)
    _keep_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    lowered = _lowered(precision, device)
    work = _open_work(out, run, resume)
    with one_core_each(threads) as pool:
        how = How(resume, lowered, checkpoint_seconds, report, device, pool)
        tokenizer = _tokenizer(texts, work, run, report) if start is None else _load_tokenizer(start / "tokenizer.json")
        data = _data(texts, work, tokenizer, run, report)
        model = new_model(run.size, seed)
        if start is not None:
            model.load_state_dict(load_base(str(start)).model.state_dict())
        torch.nn.Module.to(model, device)
        progress = _train(model, data, work, run, how)
        torch.nn.Module.to(model, "cpu")
        scores = evaluate(model, data, run.size, FULL_BLOCKS)
        report(_score_line(scores))
        samples = write_samples(model, tokenizer, end_of(tokenizer), PROMPTS)
    result = PretrainResult(
        folder=out,
        parameters=model.num_parameters(),
        tokens=progress.tokens,
        seconds=progress.seconds,
        tokens_per_second=progress.tokens / max(progress.seconds, 1e-9),
        losses=progress.losses,
        scores=scores,
        shares=data.shares,
        samples=samples,
    )
    save_base(model, tokenizer, out)
    write_atomic(out / "README.md", model_card(result, run))
    shutil.rmtree(work)
    return result


def _run(
    texts: Sequence[Path],
    size: Size,
    minutes: float | None,
    tokens: int | None,
    seed: int,
    start: Path | None,
    hold: bool,
) -> Run:
    if (minutes or 0) <= 0 and (tokens or 0) <= 0:
        raise UserError("there is no end to train to; give --minutes or --tokens above 0")
    if not texts:
        raise UserError("there is no text to learn from; name one or more .txt or .jsonl files")
    for path in texts:
        if not path.is_file():
            raise UserError(f"text file {path} does not exist; name .txt or .jsonl files, plain or .gz")
    digest = None
    if start is not None:
        size, digest = shape_of(start, size), digest_of(start)
    return Run(tuple((path.name, path.stat().st_size) for path in texts), size, minutes, tokens, seed, digest, hold)


def _size(size: str | Size, rate: float | None) -> Size:
    if isinstance(size, str) and size not in SIZES:
        raise UserError(f"size {size!r} is not known; choose one of {', '.join(SIZES)}")
    if rate is not None and not 0 < rate < 1:
        raise UserError(f"rate {rate:g} cannot train; name one above 0 and below 1, such as 0.002")
    shape = SIZES[size] if isinstance(size, str) else size
    return shape if rate is None else replace(shape, rate=rate)


def shape_of(folder: Path, size: Size) -> Size:
    """Return `size` with the shape of the base in `folder`, its batch and rate as they are."""
    config = load_base(str(folder)).model.config
    end_of(_load_tokenizer(folder / "tokenizer.json"))
    return replace(
        size,
        layers=config.n_layer,
        width=config.n_embd,
        heads=config.n_head,
        vocabulary=config.vocab_size,
        block=config.n_positions,
    )


def _keep_memory() -> None:
    """Let the C library keep freed memory: steps ask for the same large blocks again, and fresh pages cost a fifth."""
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        library = ctypes.CDLL(None)
        for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 1 << 28)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
            library.mallopt(option, value)


def _open_work(out: Path, run: Run, resume: bool) -> Path:
    """Return the work folder of a new or a resumed run, or refuse a folder that holds anything else."""
    work, asked = out / ".work", json.dumps(asdict(run), ensure_ascii=False, indent=1)
    if not resume:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            way = "add --resume to go on, or" if (work / "run.json").is_file() else "empty it or"
            raise UserError(f"folder {out} is not empty; {way} choose another with -o")
        write_atomic(work / "run.json", asked)
    elif not (work / "run.json").is_file():
        raise UserError(f"folder {out} holds no interrupted run; leave out --resume to start one")
    elif (work / "run.json").read_text("utf-8") != asked:
        raise UserError(f"folder {out} holds a run with other texts or settings; resume it as it was started")
    return work


# Reading


def read_documents(path: Path) -> Iterator[Document]:
    """Yield the documents of one file, in order, without holding more than one."""
    name = path.name.removesuffix(".gz")
    kind = Path(name).stem
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            yield from _json_documents(file, kind, path) if name.endswith(".jsonl") else _plain_documents(file, kind)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"text file {path} cannot be read: {error}; it must be UTF-8, plain or gzip") from None


def _plain_documents(lines: Iterable[str], kind: str) -> Iterator[Document]:
    for filled, group in itertools.groupby(lines, key=lambda line: bool(line.strip())):
        if filled:
            yield Document(kind, ("\n".join(line.strip() for line in group),))


def _json_documents(lines: Iterable[str], kind: str, path: Path) -> Iterator[Document]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text = row["text"]
            pieces = (text,) if isinstance(text, str) else tuple(map(str, text))
            yield Document(str(row.get("kind", kind)), pieces)
        except (ValueError, KeyError, TypeError):
            raise UserError(f'line {number} of {path} is no JSON object with a field "text"; mend or drop it') from None


def _all_documents(texts: Sequence[Path]) -> Iterator[Document]:
    return itertools.chain.from_iterable(read_documents(path) for path in texts)


def is_held_out(document: Document) -> bool:
    """Return whether a document is kept for evaluation; equal texts fall on the same side."""
    return zlib.crc32("".join(document.pieces).encode()) % HELD_OUT == 0


# Vocabulary


def learn_tokenizer(documents: Iterable[Document], vocabulary: int) -> Tokenizer:
    """Return a byte-level BPE of at most `vocabulary` tokens learnt from `documents`, ends and padding included."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(MARKS), "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        max_token_length=24,
    )
    tokenizer.train_from_iterator((piece for document in documents for piece in document.pieces), trainer)
    return tokenizer


def _tokenizer(texts: Sequence[Path], work: Path, run: Run, report: Report) -> Tokenizer:
    """Return the run's tokenizer: the one in `work`, or one learnt now from an even sample."""
    path = work / "tokenizer.json"
    if path.is_file():
        return _load_tokenizer(path)
    characters = sum(len(piece) for one in _all_documents(texts) for piece in one.pieces)
    if not characters:
        raise UserError(
            f"there is no text in {', '.join(name for name, _ in run.texts)}; name files with words in them"
        )
    every = math.ceil(characters / VOCABULARY_CHARS)
    report(
        f"{characters / 1e6:.1f} million characters; learning {run.size.vocabulary} tokens on one document in {every}"
    )
    train = (one for one in _all_documents(texts) if not is_held_out(one))
    tokenizer = learn_tokenizer(itertools.islice(train, 0, None, every), run.size.vocabulary)
    write_atomic(path, tokenizer.to_str())
    return tokenizer


def _load_tokenizer(path: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise UserError(f"{path} is damaged ({error}); delete {path.parent.parent} and start again") from None


def characters_of_tokens(tokenizer: Tokenizer) -> npt.NDArray[np.int64]:
    """Return (V,) how many characters begin in each token: its UTF-8 bytes that are not continuation bytes.

    Sums over a text give its exact length, whichever bytes a token is cut at.
    """
    continuation = {code for code, byte in _byte_of_letter().items() if byte & 0xC0 == 0x80}
    counts = np.zeros(tokenizer.get_vocab_size(), dtype=np.int64)
    for token, number in tokenizer.get_vocab().items():
        counts[number] = 0 if token in (END, PAD) else sum(letter not in continuation for letter in token)
    return counts


def _byte_of_letter() -> dict[str, int]:
    """Return which byte each letter of a byte-level vocabulary stands for (Radford et al. 2019, GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(rest)}


# Packing


def _data(texts: Sequence[Path], work: Path, tokenizer: Tokenizer, run: Run, report: Report) -> Data:
    """Return the ids of all texts, from `work` if they lie there whole, else made now."""
    done = work / "data.json"
    if not done.is_file():
        shares = _encode_all(texts, work, tokenizer)
        _shuffle_documents(work, run.seed)
        write_atomic(done, json.dumps({kind: asdict(share) for kind, share in shares.items()}, ensure_ascii=False))
    shares = {kind: Share(**share) for kind, share in json.loads(done.read_text("utf-8")).items()}
    train = np.memmap(work / "train.u16", dtype=np.uint16, mode="r")
    if len(train) <= run.size.block:
        raise UserError(f"there are {len(train)} tokens of text, less than one block of {run.size.block}; add text")
    held_out = {kind: np.fromfile(_held_out_file(work, n), np.uint16) for n, kind in enumerate(shares)}
    total = sum(share.tokens for share in shares.values())
    report(
        f"{total:,} tokens in {sum(share.documents for share in shares.values()):,} documents of {len(shares)} kinds"
    )
    held_out = {kind: ids for kind, ids in held_out.items() if len(ids) > 1}
    return Data(train, held_out, shares, characters_of_tokens(tokenizer))


def _held_out_file(work: Path, number: int) -> Path:
    return work / f"held-out-{number}.u16"


def end_of(tokenizer: Tokenizer) -> int:
    """Return the id of the end mark."""
    number = tokenizer.token_to_id(END)
    if number is None:
        raise UserError(f"the tokenizer has no {END}; delete the output folder and start again without --resume")
    return number


def _encode_all(texts: Sequence[Path], work: Path, tokenizer: Tokenizer) -> dict[str, Share]:
    """Write every document's ids, its end included, to `work` and return how much there is of each kind."""
    shares: dict[str, Share] = {}
    held_out: dict[str, array[int]] = {}
    try:
        with (work / "raw.u16").open("wb") as ids_file, (work / "lengths.u32").open("wb") as lengths_file:
            for document, ids in _encode(_all_documents(texts), tokenizer):
                shares[document.kind] = _add(shares.get(document.kind, Share(0, 0, 0)), document, ids)
                kept = held_out.setdefault(document.kind, array("H", [end_of(tokenizer)]))
                if is_held_out(document):
                    kept.extend(ids)
                else:
                    ids.tofile(ids_file)
                    array("I", [len(ids)]).tofile(lengths_file)
    except OSError as error:
        raise cannot_write(work, error) from error
    for number, kind in enumerate(shares):
        write_atomic(_held_out_file(work, number), held_out[kind].tobytes())
    return shares


def _encode(documents: Iterable[Document], tokenizer: Tokenizer) -> Iterator[tuple[Document, array[int]]]:
    """Yield each document with its ids, its pieces encoded apart and the end mark last."""
    remaining = iter(documents)
    while group := list(itertools.islice(remaining, 2000)):
        encoded = iter(tokenizer.encode_batch([piece for one in group for piece in one.pieces]))
        for document in group:
            ids = array("H", itertools.chain.from_iterable(next(encoded).ids for _ in document.pieces))
            ids.append(end_of(tokenizer))
            yield document, ids


def _add(share: Share, document: Document, ids: array[int]) -> Share:
    return Share(share.documents + 1, share.tokens + len(ids), share.characters + sum(map(len, document.pieces)))


def _shuffle_documents(work: Path, seed: int) -> None:
    """Write the documents of raw.u16 to train.u16 in random order, so that every block mixes kinds of text."""
    lengths = np.fromfile(work / "lengths.u32", np.uint32).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    if not starts[-1]:
        raise UserError("there is too little text: every document fell into the held-out part; add text")
    raw = np.memmap(work / "raw.u16", dtype=np.uint16, mode="r")
    try:
        with (work / "train.u16").open("wb") as file:
            for one in np.random.default_rng([seed, 1]).permutation(len(lengths)):
                raw[starts[one] : starts[one + 1]].tofile(file)
    except OSError as error:
        raise cannot_write(work, error) from error
    (work / "raw.u16").unlink()


def batch_at(train: Ids, step: int, size: Size, seed: int) -> npt.NDArray[np.int64]:
    """Return (B, T) the blocks of `step`: a pure function of the step, every block once an epoch in a new order."""
    blocks = len(train) // size.block
    numbers = range(step * size.batch, (step + 1) * size.batch)
    starts = [int(_order(blocks, seed, number // blocks)[number % blocks]) * size.block for number in numbers]
    return np.stack([train[start : start + size.block] for start in starts]).astype(np.int64)


@functools.lru_cache(maxsize=2)
def _order(blocks: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng([seed, 2, epoch]).permutation(blocks)


# Training


def new_model(size: Size, seed: int) -> GPT2LMHeadModel:
    """Return an untrained GPT-2 without dropout, embeddings tied, weights drawn from `seed`."""
    config = GPT2Config(
        vocab_size=size.vocabulary,
        n_positions=size.block,
        n_embd=size.width,
        n_layer=size.layers,
        n_head=size.heads,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
        use_cache=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config)


@dataclass
class _Clock:
    """Says when `seconds` have gone by since it last said so."""

    seconds: float
    last: float = field(default_factory=time.monotonic)

    def strikes(self) -> bool:
        """Return whether it is time again."""
        if time.monotonic() - self.last < self.seconds:
            return False
        self.last = time.monotonic()
        return True


def _train(model: GPT2LMHeadModel, data: Data, work: Path, run: Run, how: How) -> Progress:
    """Train `model` in place to the end of `run` and return how far it came; the one loop of this module."""
    checkpoint, optimizers = work / "checkpoint.pt", new_optimizers(model, run.size, how.pool)
    progress = load_checkpoint(checkpoint, model, optimizers) if how.resume else Progress()
    save, say, tenth = _Clock(how.checkpoint_seconds), _Clock(REPORT_SECONDS), int(10 * _fraction(progress, run))
    while _fraction(progress, run) < 1:
        started = time.monotonic()
        ids_BT = torch.from_numpy(batch_at(data.train, progress.step, run.size, run.seed))
        rate = run.size.rate * schedule(_fraction(progress, run), run.hold)
        progress.losses.append(_step(model, optimizers, ids_BT, rate, how))
        progress = replace(
            progress,
            step=progress.step + 1,
            tokens=progress.tokens + ids_BT.numel(),
            seconds=progress.seconds + time.monotonic() - started,
        )
        if save.strikes():
            save_checkpoint(checkpoint, model, optimizers, progress)
        if say.strikes():
            how.report(_progress_line(progress, run))
        if int(10 * _fraction(progress, run)) > tenth:
            tenth = int(10 * _fraction(progress, run))
            how.report(_score_line(evaluate(model, data, run.size, QUICK_BLOCKS)))
    save_checkpoint(checkpoint, model, optimizers, progress)
    return progress


def new_optimizers(model: GPT2LMHeadModel, size: Size, pool: ThreadPoolExecutor) -> tuple[torch.optim.Optimizer, ...]:
    """Return Muon for the matrices of the blocks and AdamW for embeddings, biases and norms."""
    blocks: dict[int, list[torch.Tensor]] = {1: [], 3: []}
    rest = []
    for name, weight in model.named_parameters():
        if weight.dim() == 2 and ".h." in name:
            blocks[3 if "c_attn" in name else 1].append(weight)
        else:
            rest.append(weight)
    groups = [{"params": weights, "parts": parts} for parts, weights in blocks.items()]
    return (
        Muon(groups, lr=size.rate, each=pool.map),
        torch.optim.AdamW(rest, lr=size.rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    )


def _step(
    model: GPT2LMHeadModel, optimizers: Sequence[torch.optim.Optimizer], ids_BT: torch.Tensor, rate: float, how: How
) -> float:
    """Take one step at `rate` and return the batch's loss in nats a token before it."""
    model.train()
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
    weights = list(model.parameters())
    pieces = ids_BT.to(how.device).split(len(ids_BT) if how.device.type == "cuda" else PIECE)
    total = 0.0
    for number, (loss, gradients) in enumerate(how.pool.map(lambda piece: _gradients(model, piece, how), pieces)):
        share = len(pieces[number]) / len(ids_BT)
        total += share * loss
        for weight, gradient in zip(weights, gradients, strict=True):
            if number == 0:
                weight.grad = gradient.mul_(share)
            elif weight.grad is not None:
                weight.grad.add_(gradient, alpha=share)
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return total


def _gradients(model: GPT2LMHeadModel, ids_BT: torch.Tensor, how: How) -> tuple[float, tuple[torch.Tensor, ...]]:
    """Return the mean loss of a piece of a batch and its gradients in the order of the parameters."""
    with torch.autocast(how.device.type, torch.bfloat16, enabled=how.lowered):
        loss = _loss(model, ids_BT)
    return float(loss.detach()), torch.autograd.grad(loss, list(model.parameters()))


def _loss(model: GPT2LMHeadModel, ids_BT: torch.Tensor) -> torch.Tensor:
    """Return the mean loss in nats of predicting each id from those before it in its block."""
    hidden = model.transformer(input_ids=ids_BT[:, :-1], use_cache=False).last_hidden_state
    return functional.cross_entropy(model.lm_head(hidden).flatten(0, 1).float(), ids_BT[:, 1:].flatten())


def schedule(fraction: float, hold: bool = False) -> float:
    """Return the share of the highest rate at `fraction` of the run: 3 % linear warm-up, then a cosine down to 2 %.

    With `hold` it stays up to the end.

    >>> [round(schedule(one), 2) for one in (0.015, 0.03, 0.515, 1.0)]
    [0.5, 1.0, 0.51, 0.02]
    """
    warm, floor = 0.03, 0.02
    if fraction < warm:
        return max(fraction, warm / 100) / warm
    if hold:
        return 1.0
    return floor + (1 - floor) / 2 * (1 + math.cos(math.pi * min(1.0, (fraction - warm) / (1 - warm))))


def _fraction(progress: Progress, run: Run) -> float:
    """Return how much of the run is done, 1 and more when it is at its end."""
    by_time = progress.seconds / (60 * run.minutes) if run.minutes else 0.0
    by_tokens = progress.tokens / run.tokens if run.tokens else 0.0
    return max(by_time, by_tokens)


def _lowered(precision: str, device: torch.device) -> bool:
    """Return whether to compute in bf16: always, never, or where the device has matrix units for it.

    AVX-512's bf16 instructions alone do not pay: they took 1.7 times as long as fp32.
    """
    if precision not in ("auto", "bf16", "fp32"):
        raise UserError(f"precision {precision!r} is not known; choose auto, bf16 or fp32")
    units = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_amx_tile_supported()
    return precision == "bf16" or (precision == "auto" and bool(units))


# Checkpoints


def save_checkpoint(
    path: Path, model: GPT2LMHeadModel, optimizers: Sequence[torch.optim.Optimizer], progress: Progress
) -> None:
    """Write all that a run needs to go on exactly; the place in the data follows from the step."""
    buffer = io.BytesIO()
    state = [optimizer.state_dict() for optimizer in optimizers]
    torch.save({"model": model.state_dict(), "optimizers": state, "progress": asdict(progress)}, buffer)
    write_atomic(path, buffer.getvalue())


def load_checkpoint(path: Path, model: GPT2LMHeadModel, optimizers: Sequence[torch.optim.Optimizer]) -> Progress:
    """Put the checkpoint at `path` into model and optimizers and return its progress; none yet means the beginning."""
    if not path.is_file():
        return Progress()
    try:
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        return Progress(**state["progress"])
    except Exception as error:
        raise UserError(
            f"checkpoint {path} is damaged ({type(error).__name__}); delete {path.parent.parent} and start again "
            "without --resume"
        ) from None


# Evaluation


def evaluate(model: GPT2LMHeadModel, data: Data, size: Size, most: int) -> dict[str, Score]:
    """Return the held-out score of every kind of text on its first `most` blocks, in fp32 arithmetic."""
    return {kind: _score(model, ids, data.token_characters, size.block, most) for kind, ids in data.held_out.items()}


@torch.no_grad()
def _score(model: GPT2LMHeadModel, ids: Ids, characters_V: npt.NDArray[np.int64], block: int, most: int) -> Score:
    model.train(False)
    nats, tokens, characters = 0.0, 0, 0
    for start in range(0, min(len(ids) - 1, most * block), block):
        piece = ids[start : start + block].astype(np.int64)
        if len(piece) > 1:
            nats += float(_loss(model, torch.from_numpy(piece)[None])) * (len(piece) - 1)
            tokens += len(piece) - 1
            characters += int(characters_V[piece[1:]].sum())
    return Score(math.exp(nats / tokens), nats / math.log(2) / max(characters, 1), tokens)


def write_samples(
    model: GPT2LMHeadModel,
    tokenizer: Tokenizer | PreTrainedTokenizerBase,
    end: int,
    prompts: Sequence[str],
    longest: int = 80,
) -> list[tuple[str, str]]:
    """Return what the model writes after each prompt: temperature 0.8, among the 40 likeliest, to the end mark."""
    generator = torch.Generator().manual_seed(0)
    model.train(False)
    return [(one, _write(model, tokenizer, end, one, longest, generator)) for one in prompts]


@torch.no_grad()
def _write(
    model: GPT2LMHeadModel,
    tokenizer: Tokenizer | PreTrainedTokenizerBase,
    end: int,
    prompt: str,
    longest: int,
    generator: torch.Generator,
) -> str:
    room = int(model.config.n_positions)
    ids = [end, *_ids(tokenizer, prompt)]
    begin = len(ids)
    while len(ids) < begin + longest:
        logits = model(input_ids=torch.tensor([ids[-room:]]), use_cache=False).logits[0, -1].float()
        values, tokens = logits.topk(min(40, len(logits)))
        drawn = int(tokens[torch.multinomial(torch.softmax(values / 0.8, 0), 1, generator=generator)])
        if drawn == end:
            break
        ids.append(drawn)
    return str(tokenizer.decode(ids[begin:]))


def _ids(tokenizer: Tokenizer | PreTrainedTokenizerBase, text: str) -> list[int]:
    ids = tokenizer.encode(text, add_special_tokens=False)
    return list(ids) if isinstance(ids, list) else list(ids.ids)


def sample_lines(samples: Sequence[tuple[str, str]]) -> list[str]:
    """Return one Markdown line for each prompt and what was written after it."""
    return [f"* `{prompt}` → {_one_line(text)}" for prompt, text in samples]


# The folder


def save_base(model: GPT2LMHeadModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write model (fp16) and tokenizer as a folder that `AutoTokenizer` and `GPT2LMHeadModel` load offline."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        unk_token=END,
        pad_token=PAD,
        model_max_length=model.config.n_positions,
        clean_up_tokenization_spaces=False,
    )
    config = copy.deepcopy(model.config)
    config.architectures, config.dtype = ["GPT2LMHeadModel"], torch.float16
    half = {name: weight.half().contiguous() for name, weight in model.state_dict().items() if name != TIED}
    write_atomic(folder / "model.safetensors", safetensors.torch.save(half, metadata={"format": "pt"}))
    try:
        fast.save_pretrained(folder)
        config.save_pretrained(folder)
        GenerationConfig(bos_token_id=0, eos_token_id=0, pad_token_id=1).save_pretrained(folder)
    except OSError as error:
        raise cannot_write(folder, error) from error


def model_card(result: PretrainResult, run: Run) -> str:
    """Return the model card: what it was made of and how, held-out figures by kind of text, samples, limits."""
    goal = " ".join(
        f"--{name} {value:g}" for name, value in (("minutes", run.minutes), ("tokens", run.tokens)) if value
    )
    name = next((name for name, size in SIZES.items() if size == replace(run.size, rate=size.rate)), "custom")
    command = f"fugou pretrain {' '.join(name for name, _ in run.texts)} -o {result.folder.name} --size {name} {goal}"
    options = " --from BASE" * bool(run.start) + " --hold" * run.hold + f" --rate {run.size.rate:g}"
    return CARD.format(
        origin=f"a base with digest {run.start[:12]}" if run.start else "nothing",
        name=result.folder.name,
        shape=f"{run.size.layers} layers, width {run.size.width}, {run.size.heads} heads",
        parameters=result.parameters / 1e6,
        vocabulary=run.size.vocabulary,
        block=run.size.block,
        tokens=result.tokens / 1e6,
        minutes=result.seconds / 60,
        speed=result.tokens_per_second,
        command=f"{command} --seed {run.seed}{options}",
        shares=_share_table(result.shares),
        scores=_score_table(result.scores),
        samples="\n".join(sample_lines(result.samples)),
    )


CARD = """\
---
language: [zh, en]
library_name: transformers
pipeline_tag: text-generation
---
# {name}

A GPT-2 trained from {origin}: {shape}, {parameters:.2f} million parameters, {vocabulary} byte-level tokens, contexts of
{block} tokens. Weights are stored in fp16 and meant to be computed in fp32.

## How it was made

    {command}

{tokens:.2f} million tokens were seen in {minutes:.1f} minutes of training ({speed:,.0f} tokens a second).

| text | documents | tokens | share |
| --- | ---: | ---: | ---: |
{shares}

## Held-out figures

One document in a hundred, chosen by its checksum, was never trained on. Perplexity is a token, bits are a character.

| text | perplexity | bits a character | tokens scored |
| --- | ---: | ---: | ---: |
{scores}

## Ten samples, unedited

Temperature 0.8 among the 40 likeliest tokens, 80 tokens at most, one draw each.

{samples}

## Limits

A base for adapters, not an assistant: it knows few facts, what it writes need not be true, and nothing was done to make
it safe. How far it follows a prompt is to be judged by the samples and figures above.
"""


def _one_line(text: str) -> str:
    return " ⏎ ".join(text.split("\n"))


def _share_table(shares: Mapping[str, Share]) -> str:
    total = sum(share.tokens for share in shares.values())
    return "\n".join(
        f"| {kind} | {share.documents:,} | {share.tokens:,} | {share.tokens / total:.1%} |"
        for kind, share in shares.items()
    )


def _score_table(scores: Mapping[str, Score]) -> str:
    return "\n".join(
        f"| {kind} | {score.perplexity:.1f} | {score.bits_per_character:.2f} | {score.tokens:,} |"
        for kind, score in scores.items()
    )


def _progress_line(progress: Progress, run: Run) -> str:
    """Return one line: done, step, loss of the last steps, speed, time left."""
    fraction, recent = _fraction(progress, run), progress.losses[-50:]
    left = progress.seconds * (1 - fraction) / max(fraction, 1e-9)
    return (
        f"{fraction:4.0%} step {progress.step}: loss {sum(recent) / len(recent):.3f}, "
        f"{progress.tokens / max(progress.seconds, 1e-9):,.0f} tokens/s, {max(left, 0) / 60:.1f} min left"
    )


def _score_line(scores: Mapping[str, Score]) -> str:
    """Return one line: perplexity and bits a character of each kind."""
    return "held out: " + ", ".join(
        f"{kind} {score.perplexity:.1f} ({score.bits_per_character:.2f} bits/char)" for kind, score in scores.items()
    )
