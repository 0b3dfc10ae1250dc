"""The network of `leanpipe.corpus.extract.content_model` in torch, and how it is fitted."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from leanpipe.corpus.extract.content_model import CLIP, DILATION, WIDTH

MEMBERS = 3  # networks, which differ by their seed
EPOCHS = 10
BATCH = 8
RATE = 3e-3
DECAY = 1e-2
HIDDEN = 32
NAMES = 8  # numbers that stand for a word
DROPPED = 0.1  # of what a layer says
WORDS_DROPPED = 0.2
SEEN = 8  # pages that have a word, from which it is in the vocabulary
SLACK = 20.0  # weight that a page's own is added to: short pages count less


@dataclass
class Example:
    """What a network is shown of a page."""

    measures: np.ndarray
    """A row for each block."""
    far: list[list[bytes]]
    """Of each block: the words of elements around it …"""
    near: list[list[bytes]]
    """… and of the nearest."""
    target: np.ndarray
    weight: np.ndarray


class Batch(NamedTuple):
    """Pages side by side, the shorter ones filled up."""

    measures: torch.Tensor
    words: torch.Tensor
    places: torch.Tensor
    """Of each word, the block among all of the batch."""
    target: torch.Tensor
    weight: torch.Tensor
    real: torch.Tensor


class Network(nn.Module):
    """See `ContentModel.score`, which does the same in numpy."""

    def __init__(self, vocabulary: dict[bytes, int], mean: np.ndarray, deviation: np.ndarray):
        super().__init__()
        self.vocabulary, self.mean, self.deviation = vocabulary, mean, deviation
        self._found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.words = nn.Embedding(2 * len(vocabulary), NAMES)
        nn.init.normal_(self.words.weight, std=0.02)
        self.c1 = nn.Conv1d(len(mean) + NAMES, HIDDEN, 1)
        self.c2 = nn.Conv1d(HIDDEN, HIDDEN, WIDTH, padding="same")
        self.c3 = nn.Conv1d(HIDDEN, HIDDEN, WIDTH, padding="same", dilation=DILATION)
        self.g = nn.Linear(2 * HIDDEN, HIDDEN)
        self.o = nn.Conv1d(3 * HIDDEN, 1, 1)
        self.drop = nn.Dropout(DROPPED)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Log odds of each block."""
        vectors, (pages, blocks, _) = self.words.weight, batch.measures.shape
        if self.training:
            vectors = vectors * (torch.rand(len(vectors), 1) > WORDS_DROPPED)
        named = torch.zeros(pages * blocks, NAMES).index_add(0, batch.places, vectors[batch.words])
        h = torch.cat([batch.measures, named.view(pages, blocks, NAMES)], -1).transpose(1, 2)
        real = batch.real[:, None]
        one = self.drop(functional.relu(self.c1(h))) * real
        whole = torch.cat([one.sum(2) / real.sum(2), one.max(2)[0]], 1)
        whole = functional.relu(self.g(whole))[:, :, None]
        two = self.drop(functional.relu(self.c2(one) + whole)) * real
        three = self.drop(functional.relu(self.c3(two)))
        return self.o(torch.cat([one, two, three], 1))[:, 0]

    def batch(self, examples: Sequence[Example]) -> Batch:
        """Put examples side by side."""
        longest = max(len(one.measures) for one in examples)
        shape = (len(examples), longest)
        measures = np.zeros((*shape, len(self.mean)), np.float32)
        target, weight, real = (np.zeros(shape, np.float32) for _ in range(3))
        words, places = [], []
        for page, one in enumerate(examples):
            number = len(one.measures)
            measures[page, :number] = ((one.measures - self.mean) / self.deviation).clip(-CLIP, CLIP)
            target[page, :number], weight[page, :number], real[page, :number] = one.target, one.weight, 1
            if id(one) not in self._found:
                self._found[id(one)] = self._words_of(one)
            here, at = self._found[id(one)]
            words.append(here)
            places.append(at + page * longest)
        arrays = (measures, np.concatenate(words), np.concatenate(places), target, weight, real)
        return Batch(*map(torch.from_numpy, arrays))

    def _words_of(self, example: Example) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of the words around blocks, and of these blocks; a word has another number where it is near."""
        found = [
            (number + beside * len(self.vocabulary), block)
            for beside, blocks in enumerate((example.far, example.near))
            for block, words in enumerate(blocks)
            for word in words
            if (number := self.vocabulary.get(word)) is not None
        ]
        pairs = np.array(found, dtype=np.int64).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]


def fit(examples: Sequence[Example]) -> dict[str, np.ndarray]:
    """Fit networks to what is known of blocks. The same examples give the same model on the same machine."""
    return weights_of([_fit_one(examples, seed) for seed in range(MEMBERS)])


def _fit_one(examples: Sequence[Example], seed: int) -> Network:
    torch.manual_seed(seed)
    dice = random.Random(seed)
    measures = np.concatenate([one.measures for one in examples])
    network = Network(_vocabulary(examples), measures.mean(0), measures.std(0) + 1e-3)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    steps = EPOCHS * (len(examples) // BATCH + len(examples) // (8 * BATCH) + 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    for _ in range(EPOCHS):
        order, cut = list(examples), []
        dice.shuffle(order)
        for start in range(0, len(order), 8 * BATCH):
            alike = sorted(order[start : start + 8 * BATCH], key=lambda one: len(one.measures))
            cut += [alike[at : at + BATCH] for at in range(0, len(alike), BATCH)]
        for chosen in cut:
            batch = network.batch(chosen)
            network.train()
            loss = functional.binary_cross_entropy_with_logits(network(batch), batch.target, reduction="none")
            loss = ((loss * batch.weight).sum(1) / (batch.weight.sum(1) + SLACK)).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return network


def _vocabulary(examples: Sequence[Example]) -> dict[bytes, int]:
    """The words that many pages have."""
    seen = Counter(word for one in examples for word in {*chain(*one.far, *one.near)})
    return {
        word: number
        for number, word in enumerate(sorted(w for w, n in seen.items() if n >= SEEN and len(w) > 1))
    }


def weights_of(networks: Sequence[Network]) -> dict[str, np.ndarray]:
    """The weights as `ContentModel` reads them, of networks that were fitted to the same pages."""
    first = networks[0]
    weights: dict[str, np.ndarray] = {"vocabulary": np.array(list(first.vocabulary))}
    weights |= {"mean": first.mean.astype(np.float32), "scale": (1 / first.deviation).astype(np.float32)}
    own = [_own_weights(network) for network in networks]
    return weights | {name: np.stack([one[name] for one in own]).astype(np.float16) for name in own[0]}


def _own_weights(network: Network) -> dict[str, np.ndarray]:
    far, near = np.split(network.words.weight.detach().numpy(), 2)
    weights = {"far": far, "near": near}
    for name in ("c1", "c2", "c3", "g", "o"):
        layer = getattr(network, name)
        weight = layer.weight.detach().numpy()
        # Of a convolution: output, input, place. A column for each place and input, in the order of `_neighbors`.
        weight = weight.transpose(0, 2, 1).reshape(weight.shape[0], -1) if weight.ndim == 3 else weight
        weights |= {f"{name}.w": weight, f"{name}.b": layer.bias.detach().numpy()}
    return weights | {"o.w": weights["o.w"][0], "o.b": weights["o.b"][0]}
