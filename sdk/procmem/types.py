"""What procmem's calls return: plain frozen data with the shapes written down.

Imports nothing of procmem when it runs; every later file of the photo's walk gives these out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from procmem.receipt import Receipt

Outcome: TypeAlias = Literal["checked", "failed", "not checked"]
"""Of a step of a provenance report: it holds, it does not, or nobody looked."""


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """What the perception model sees in N images.

    Attributes:
        cls: (N, D) float32 unit vectors, one per image; their dot product is the similarity.
        patches: (N, h, w, P) float32 patch tokens after the final norm, row-major over the patch
            grid, not normalized (the paper's segmentation rules use their length). P may differ
            from D, because D is the width after the model's readout.
    """

    cls: npt.NDArray[np.float32]
    patches: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Neighbor:
    """One remembered item near a query.

    Attributes:
        id: the item's id, an integer in [1, 2**63).
        label: its label, or None if it was taught without one.
        similarity: cosine in [-1, 1] between query and item; larger is nearer.
        source: where the image came from (a path, for example), or None.
    """

    id: int
    label: str | None
    similarity: float
    source: str | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the memory calls an image, and why.

    Attributes:
        label: the label with the largest vote, or None if no labelled item could vote.
        confidence: its share of the vote in [0, 1]; 0.0 when `label` is None.
        votes: every label's share of the vote, largest first; they sum to 1 unless empty.
        neighbors: the items that voted, nearest first; fewer than k if the memory holds fewer.
        shares: each of these neighbors' share of the vote.
        probability: that `label` is right, in (0, 1): how often answers of this confidence were,
            when remembered items were asked with themselves left out. None with fewer than 20
            items whose label another one has too: the only one of its label teaches nothing here.
        p_value: of novelty, in (0, 1]: how many remembered images are as unlike their nearest
            neighbor as this one is (conformal); 1.0 in a memory that is empty.
        is_novel: True if the image is less like its nearest neighbor than remembered images
            usually are to theirs, or if nothing could vote.
    """

    label: str | None
    confidence: float
    votes: Mapping[str, float]
    neighbors: tuple[Neighbor, ...]
    shares: tuple[float, ...]
    probability: float | None
    p_value: float
    is_novel: bool


@dataclass(frozen=True, slots=True)
class Counterfactual:
    """The fewest items of its own label without which an answer is another one.

    Attributes:
        label: the answer as it is.
        items: whose removal together changes it, nearest first; empty if nothing can vote. Weighed
            by similarity, no fewer items of any labels do.
        label_after: the answer without them; None if nothing is left to vote.
    """

    label: str | None
    items: tuple[Neighbor, ...]
    label_after: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """One answer that a removal changes.

    Attributes:
        removed: an item's id, or what a group's items have in common.
        query: number of the query.
        before: its answer as it is.
        after: its answer without the item or group; None if nothing is left to vote.
    """

    removed: int | str
    query: int
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class InfluenceReport:
    """Which remembered items, or groups of them, answers hang on.

    Attributes:
        answers: the label of every query.
        changes: every (item or group, query) whose removal changes the answer, by query.
        removable: how many items or groups there are.
        exposed: how many of them change at least one answer.
        exposed_share: `exposed` / `removable`: the share of non-private items of "Separating
            Knowledge and Perception with Procedural Data"; 0.0 of an empty memory.
    """

    answers: tuple[str | None, ...]
    changes: tuple[Change, ...]
    removable: int
    exposed: int
    exposed_share: float


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """A segmentation at the resolution of its image.

    Attributes:
        mask: (H, W) uint8, for every pixel the value that the taught masks use for its class; of
            clusters, which nobody taught, their number from 1 on.
        labels: the values that `mask` may take, ascending.
        confidence: (H, W) float32 in [0, 1], the share of the vote behind each pixel's value.
    """

    mask: npt.NDArray[np.uint8]
    labels: tuple[int, ...]
    confidence: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Correspondences:
    """Places in two images that are each other's nearest, best first.

    Attributes:
        points_a: (K, 2) float32, x and y in the one image, pixels: the centers of patches. Whole
            numbers are centers of pixels, so that rounded they are `image[y, x]`.
        points_b: (K, 2) float32, the same in the other image.
        similarities: (K,) float32 cosines in [-1, 1], largest first.
    """

    points_a: npt.NDArray[np.float32]
    points_b: npt.NDArray[np.float32]
    similarities: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class MemoryMap:
    """Where remembered items lie, seen along their two directions of largest variance.

    Attributes:
        ids: of the items, ascending.
        points: (N, 2) float32, one row per item, around 0; near ones are alike.
        explained: share of the variance that each of the two axes shows, in [0, 1].
    """

    ids: tuple[int, ...]
    points: npt.NDArray[np.float32]
    explained: tuple[float, float]


@dataclass(frozen=True, slots=True)
class ErasureReport:
    """What a deletion did and what was checked afterwards.

    Attributes:
        erased_ids: the ids that are gone, ascending.
        remaining: how many items the memory still holds.
        purged: True if the vault was rewritten without the items before the call returned. False
            means the purge is pending: the rows are deleted and zeroed, and the rewrite is
            finished when the vault is next opened for writing. Always False on a server.
        files_scanned: the names of the vault's files that were searched for remains.
        windows_checked: how many 16-byte windows of the erased data were looked for.
        windows_found: how many were found; 0 unless something is wrong.
        out_of_reach: what no software can vouch for, in words.
        receipt: signed proof of it, see `receipt.py`; None if it was not asked for, if nothing was
            erased, if the purge is pending, or if it cannot be made (the log says why), and on a
            server, for which nobody here can vouch.
        on_server: True if the memory is on a server: the items are gone from every answer, and
            their bytes when the server's own vacuum removes them; `out_of_reach` says more.
    """

    erased_ids: tuple[int, ...]
    remaining: int
    purged: bool
    files_scanned: tuple[str, ...]
    windows_checked: int
    windows_found: int
    out_of_reach: tuple[str, ...]
    receipt: Receipt | None = None
    on_server: bool = False


@dataclass(frozen=True, slots=True)
class ReceiveReport:
    """What taking in a bundle of another memory changed. Ids are ascending.

    Attributes:
        signer: address of the memory that signed the bundle.
        added: ids that the memory did not hold.
        replaced: ids that it held with another content, which gave way: it was taught earlier, or
            at the same second and is the smaller one by its bytes.
        kept: ids that it holds with another content, which stays, by the same rule.
        unchanged: ids that it held with the same content.
        revoked: ids that were passed over, because they were revoked here.
        not_seen: ids of items of another model whose source is not here, or could not be used.
        purged: False if something was replaced and its purge is pending.
    """

    signer: str
    added: tuple[int, ...]
    replaced: tuple[int, ...]
    kept: tuple[int, ...]
    unchanged: tuple[int, ...]
    revoked: tuple[int, ...]
    not_seen: tuple[int, ...]
    purged: bool


@dataclass(frozen=True, slots=True)
class RevocationReport:
    """What a revocation did in this memory.

    Attributes:
        revoked_ids: the ids that the list names, ascending.
        new_ids: those of them that this memory had not remembered as revoked before.
        erasure: of the items among them that it held; see there for what was checked.
    """

    revoked_ids: tuple[int, ...]
    new_ids: tuple[int, ...]
    erasure: ErasureReport


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """What is under way, or left, of a memory's move to another model.

    Attributes:
        phase: "half-way" while items are embedded anew and the memory answers under its old model;
            "unconfirmed" when it answers under the new one and some items are left under the old.
        items: half-way, how many are embedded anew; unconfirmed, how many are left.
        embedder_name: of the other model: the new one half-way, the old one unconfirmed.
        embedder_sha256: of its file.
        image_size: at which it sees images, pixels.
    """

    phase: Literal["half-way", "unconfirmed"]
    items: int
    embedder_name: str
    embedder_sha256: str
    image_size: int


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """An item that another model could not be shown.

    Attributes:
        id: of the item.
        source: where it came from, or None.
        reason: why, for people to read.
    """

    id: int
    source: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """What a migration did.

    Attributes:
        switched: whether the memory answers under the new model now.
        items: how many items the memory holds, without those that were left behind.
        reembedded: how many of them were embedded in this run.
        left: items that were not, ascending by id. After the switch they are to be asked in the
            folder `previous` of the memory.
        checked: whether the images were compared with what was taught, under the old model; False
            if that was not at hand.
        embedder_name: of the new model.
        embedder_sha256: of its file.
        image_size: side of the square that it sees of an image, pixels.
    """

    switched: bool
    items: int
    reembedded: int
    left: tuple[LeftBehind, ...]
    checked: bool
    embedder_name: str
    embedder_sha256: str
    image_size: int


@dataclass(frozen=True, slots=True)
class MemoryStats:
    """What a memory holds.

    Attributes:
        items: how many items.
        labels: how many items of each label, by label; items without one are not in it.
        masks: how many items have a mask.
        bytes_on_disk: of all files of the vault.
        embedder_name: of the model that the vault is bound to.
        embedder_sha256: of its file.
        image_size: side of the square that the model sees of each image, pixels.
        format_version: of the ledger.
        sealed: True if its items are encrypted.
        purge_pending: True if deleted items wait for the purge.
        receipt_key: public key of the memory's receipts, 64 hexadecimal digits; None if its key
            is missing or damaged.
        migration: of a move to another model that is not over; None if there is none.
    """

    items: int
    labels: Mapping[str, int]
    masks: int
    bytes_on_disk: int
    embedder_name: str
    embedder_sha256: str
    image_size: int
    format_version: int
    sealed: bool
    purge_pending: bool
    receipt_key: str | None
    migration: MigrationStatus | None = None


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Whether a vault is sound.

    Attributes:
        ok: True if there is no problem.
        problems: what is wrong, one sentence each.
        items: how many items were read, 0 if they could not be.
        masks: how many items have a mask, likewise.
    """

    ok: bool
    problems: tuple[str, ...]
    items: int
    masks: int


@dataclass(frozen=True, slots=True)
class ProvenanceStep:
    """One thing that a model's origin rests on, and whether it holds.

    Attributes:
        name: short, e.g. "weights"; an earlier file of the chain is named by its role and the
            first eight digits of its hash.
        outcome: see `Outcome`.
        detail: what was compared with what, or why not and what would make it possible; one line.
    """

    name: str
    outcome: Outcome
    detail: str


@dataclass(frozen=True, slots=True)
class ProvenanceReport:
    """What is known of a model's origin.

    Attributes:
        model: the model's name, or its file's where the manifest cannot be read.
        file: path of the model file.
        steps: from the file back to the seed.
        seed: of the random sample of programs; the same seed draws the same sample again.
    """

    model: str
    file: str
    steps: tuple[ProvenanceStep, ...]
    seed: int

    @property
    def ok(self) -> bool:
        """True if no step failed."""
        return not self.count("failed")

    @property
    def complete(self) -> bool:
        """True if every step was checked, and holds."""
        return self.count("checked") == len(self.steps)

    def count(self, outcome: Outcome) -> int:
        """How many steps have this outcome."""
        return sum(step.outcome == outcome for step in self.steps)
