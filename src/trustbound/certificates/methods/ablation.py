"""Derandomised ablation: a certificate against patches, of the classifier that votes over bands or blocks."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trustbound.certificates.certifying import CertificationResult
from trustbound.certificates.graph.graph import Graph
from trustbound.errors import InputError, UnsupportedError
from trustbound.metrics.in_box import placed
from trustbound.model.defences.ablated import Ablated, ablate, check
from trustbound.model.wrapping import Model, wrap
from trustbound.record.box import Box
from trustbound.tasks.task import Task
from trustbound.threat.threat import Threat

#: Examples that are asked about again, one by one, and the share of the logits' spread that rounding may explain there.
_WATCHED, _APART = 4, 0.02


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AblationResult(CertificationResult):
    """What was certified of each example, of the model that votes.

    Shapes      votes (B, K) int64; touched (B,) int64, how many votes a patch can change.

    `margin` is a lower bound, over all patches, of votes for the label − votes for any other class.
    """

    votes: Tensor
    touched: Tensor
    kind: str
    width: int

    @property
    def claim(self) -> str:
        """Of which model."""
        return f"of the model that votes over {self.kind}s of width {self.width}, not of the one inside"


@dataclass(frozen=True, kw_only=True, eq=False)
class Ablation:
    """Count the votes of ablated copies, and those that a patch can change.

    Bound       Lower, of the model that votes alone (`tb.ablate`); it says nothing about the model inside.
                Deterministic.
    Needs       a classifier of pictures that answers row by row, of any kind.  Sets: patch.  Goal: misclassify.
    Update      certified where votes(y) − votes(c) > 2 Δ for every other class c, Δ the copies that show some of the
                patch: m + width − 1 bands, (m + width − 1)² blocks.
    Shapes      inputs (B, C, H, W) in the box; labels (B,) int64.
    Cost        a forward for each place: W of bands, H · W of blocks; once 16 more to see that rows are by themselves.
    Randomness  none.
    Raises      InputError for numbers out of range; UnsupportedError for other goals, and for a network whose answer
                to a copy is seen to hang on more than the copy.
    Rounding    what a copy shows outside of the patch is the same to the last bit. Not covered: the network is taken
                for one function, whatever its kernels round in batches of other sizes.
    Reference   Levine and Feizi, (De)Randomized Smoothing for Certifiable Defense against Patch Attacks, 2020,
                arXiv:2002.10733, theorem 1 and sections 3.1 and 3.2.
    Deviations  those of `tb.ablate`; a tie that the paper gives to the label by its number is not certified.

    Parameters
        kind        "band" or "block"; None for what a model that `tb.ablate` made shows, else "band".
        width       in pixels; None for that of such a model, else 4.
        threshold   as of `tb.ablate`.

    >>> from trustbound.certificates import certify
    >>> bright = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    >>> with torch.no_grad():
    ...     _ = bright[1].weight.copy_(torch.tensor([[1.0], [-1.0]]).expand(2, 36)), bright[1].bias.zero_()
    >>> inputs, labels = torch.ones(1, 1, 6, 6), torch.tensor([0])
    >>> [bool(certify("ablation", bright, inputs, labels, f"patch:{m}", box=(0, 1), width=1).certified) for m in (2, 3)]
    [True, False]
    """

    kind: str | None = None
    width: int | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        """Refuse what shows nothing."""
        check("band" if self.kind is None else self.kind, 4 if self.width is None else self.width, self.threshold)

    def certify(
        self,
        model: nn.Module | Graph,
        inputs: Tensor,
        labels: Tensor,
        threat: Threat,
        sizes: Tensor,
        *,
        box: Box,
        batch_size: int | None,
        key: int,
        task: Task,
    ) -> AblationResult:
        """What is proven of inputs (B, C, H, W) that `certify` has checked, to patches of their sizes (B,)."""
        started = time.perf_counter()
        if threat.goal.name != "misclassify":
            raise UnsupportedError(f"no proof: ablation serves the goal misclassify; got {threat.goal}")
        if isinstance(model, Graph):
            raise UnsupportedError("no proof: ablation asks the model itself, not its list of operations")
        threat.perturbations.check(box, tuple(inputs.shape[1:]))
        voting = self._voting(model, box)
        module = voting.module
        assert isinstance(module, Ablated)
        centres = placed(inputs.detach(), box).to(voting.device, voting.input_dtype)
        with torch.no_grad():
            _refuse_company(module, centres[:_WATCHED])
            parts = [voting(part) for part in centres.split(batch_size or max(1, len(centres)))] if len(centres) else []
        votes = torch.cat(parts).round().to(torch.int64) if parts else torch.zeros(0, 1, dtype=torch.int64)
        if len(inputs):
            voting.task.check_fit(labels, (votes.shape[1],))
        height, width = inputs.shape[2:]
        tolerance = threat.perturbations.tolerance(box, 1)
        told = [module.touched(int(size + tolerance), height, width) for size in sizes.tolist()]
        touched = torch.tensor(told, dtype=torch.int64, device=votes.device)
        labels = labels.to(votes.device)
        own = votes.gather(1, labels.unsqueeze(1)).squeeze(1) if len(votes) else touched
        others = votes.scatter(1, labels.unsqueeze(1), -1).amax(1) if len(votes) else touched
        margin = (own - others - 2 * touched).to(torch.float64)
        return AblationResult(
            name="ablation",
            certified=margin > 0,
            margin=margin,
            slack=torch.zeros_like(margin),
            seconds=time.perf_counter() - started,
            votes=votes,
            touched=touched,
            kind=module.kind,
            width=module.width,
        )

    def _voting(self, model: nn.Module, box: Box) -> Model:
        """The model that votes: the one that was given, or the one that is made around it."""
        given = wrap(model, box=box) if not isinstance(model, Model) else model
        if not isinstance(given.module, Ablated):
            kind, width = "band" if self.kind is None else self.kind, 4 if self.width is None else self.width
            return ablate(given, kind=kind, width=width, threshold=self.threshold)
        made = given.module
        for name in ("kind", "width", "threshold"):
            asked, held = getattr(self, name), getattr(made, name)
            if asked is not None and asked != held:
                raise InputError(f"{given.name} was made with {name}={held!r}; got {name}={asked!r}. Leave it out.")
        return given


def _refuse_company(module: Ablated, inputs: Tensor) -> None:
    """Refuse a network that answers copies of inputs (B, C, H, W) otherwise once they are asked about one by one."""
    network = module.network
    for path, part in network.module.named_modules():
        batch = isinstance(part, nn.modules.batchnorm._BatchNorm) and (part.training or part.running_mean is None)
        if batch or (isinstance(part, nn.modules.dropout._DropoutNd) and part.training):
            raise UnsupportedError(
                f"no proof: ablation needs a network whose answer to a copy hangs on that copy alone; "
                f"{path or network.name} ({type(part).__name__}) is in train mode or normalises by the batch. Call "
                "model.eval(), with running statistics."
            )
    if not len(inputs):
        return
    shown = list(module.windows(*inputs.shape[2:]))
    copies = torch.cat([module.copy(inputs, shown[0]), module.copy(inputs, shown[len(shown) // 2])])
    together, alone = network(copies).double(), torch.cat([network(copy) for copy in copies.split(1)]).double()
    apart = (together - alone).abs().nan_to_num(0.0, 0.0, 0.0).amax()
    spread = (together.nan_to_num(0.0, 0.0, 0.0).amax(1) - together.nan_to_num(0.0, 0.0, 0.0).amin(1)).amax()
    if float(apart) > _APART * float(spread):
        raise UnsupportedError(
            f"no proof: ablation needs a network whose answer to a copy hangs on that copy alone; {network.name} "
            f"answers the same copies otherwise by {float(apart):.2g} when each is asked about by itself. Fix its "
            "randomness, and let rows of a batch not see each other."
        )
