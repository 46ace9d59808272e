"""The metric forward, devices, attack targets, and going on when memory runs out."""

from __future__ import annotations

import pytest
import torch
from engine_doubles.models import CLASSES, VIEW, TinyModel
from engine_doubles.probes import CentroidProbe, HeadProbe, PixelProbe
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import CapabilityError, UsageError
from harness.forward import (
    Forward,
    as_memory_allows,
    choose_device,
    head_scores,
    is_out_of_memory,
    probe_scores,
)
from harness.loader import BatchSize
from harness.options import Counters
from harness.progress import NoProgress
from harness.protocols import ProbeContext
from harness.types import FeatureSpec, FeatureTable, ModelOutputs, OutputSpec

CPU = torch.device("cpu")
LOGITS = OutputSpec(logits=True)


def forward_of(precision):
    return Forward(device=CPU, precision=precision, counters=Counters())


def test_a_forward_is_counted_and_takes_no_part_in_gradients(model, dataset):
    forward = forward_of("fp32")
    images = dataset.load("query", range(5), VIEW).images
    outputs = forward(model, images, LOGITS)
    assert outputs.logits["head"].is_inference()
    assert (forward.counters.forward_passes, forward.counters.forward_images) == (1, 5)
    assert model.calls == [(5, True)]
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()


def test_a_forward_that_fails_is_not_counted(model):
    forward = forward_of("fp32")
    with pytest.raises(CapabilityError):
        forward(model, torch.zeros(1, 3, 16, 16), OutputSpec(tokens=frozenset({0})))
    assert forward.counters == Counters()


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_the_precision_is_that_of_the_autocast(model, precision, dtype):
    forward_of(precision)(model, torch.zeros(1, 3, 16, 16), LOGITS)
    assert model.autocast == [dtype]


def test_bf16_really_computes_in_bf16():
    class Linear(TinyModel):
        def outputs(self, images, want):
            from harness.types import ModelOutputs

            return ModelOutputs(pooled=images.flatten(1) @ torch.ones(768, 1))

    outputs = forward_of("bf16")(Linear(), torch.rand(2, 3, 16, 16), OutputSpec(pooled=True))
    assert outputs.pooled.dtype == torch.bfloat16


def test_head_scores_are_differentiable(model, dataset):
    images = dataset.load("query", range(3), VIEW).images.requires_grad_()
    scores = head_scores(model)(images)
    assert scores.shape == (3, len(CLASSES))
    gradient = torch.autograd.grad(scores.sum(), images)[0]
    assert gradient.abs().sum() > 0
    step = 1e-3 * gradient / gradient.norm()
    expected = scores.sum() + (gradient * step).sum()
    assert head_scores(model)(images + step).sum().item() == pytest.approx(expected.item(), abs=1e-5)


def test_head_scores_are_those_of_the_images_classes():
    class Thousand(TinyModel):
        def outputs(self, images, want):
            return ModelOutputs(logits={"head": images.flatten(1).mean(dim=1, keepdim=True) * torch.arange(1000.0)})

    thousand = Thousand(label_space="imagenet1k")
    images = torch.full((2, 3, 16, 16), 0.5, requires_grad=True)
    logits = thousand.outputs(images, LOGITS).logits["head"]
    assert torch.equal(head_scores(thousand, "imagenet1k")(images), logits)
    assert torch.equal(head_scores(thousand, "imagenet_a")(images)[:, :3], logits[:, [6, 11, 13]])
    scores = head_scores(thousand, "imagenet16")(images)
    knife = logits.log_softmax(dim=1)[:, 499]
    assert scores.shape == (2, 16)
    assert torch.allclose(scores[:, 13], knife)
    assert torch.autograd.grad(scores.sum(), images)[0].abs().sum() > 0
    with pytest.raises(CapabilityError, match="not those of digits"):
        head_scores(thousand, "digits")


def test_probe_scores_are_those_of_the_probe_on_top_of_the_model(model, dataset):
    batch = dataset.load("support", range(18), VIEW)
    x = model.outputs(batch.images, OutputSpec(pooled=True)).pooled.numpy()
    probe = CentroidProbe()
    table = FeatureTable(x=x, y=batch.labels.numpy(), ids=batch.ids, spec=FeatureSpec(pooled=True))
    fitted = probe.fit(table, ProbeContext(model=model.info, classes=CLASSES, label_space=None, seed=0))
    images = dataset.load("query", range(4), VIEW).images.requires_grad_()
    scores = probe_scores(model, probe, fitted)(images)
    pooled = model.outputs(images, OutputSpec(pooled=True)).pooled.double()
    slow = torch.stack([-(pooled - centroid).norm(dim=1) for centroid in fitted.centroids], dim=1)
    assert torch.allclose(scores, slow)
    assert torch.autograd.grad(scores.sum(), images)[0].abs().sum() > 0


def test_a_probe_without_scores_cannot_be_attacked(model):
    probe = PixelProbe()
    context = ProbeContext(model=model.info, classes=CLASSES, label_space=None, seed=0)
    with pytest.raises(CapabilityError, match="pixels has no differentiable scores"):
        probe_scores(model, probe, probe.fit(None, context))(torch.zeros(1, 3, 16, 16))
    head = HeadProbe()
    assert probe_scores(model, head, head.fit(None, context))(torch.zeros(1, 3, 16, 16)).shape == (1, 3)


def test_devices():
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize("name", ["gpu", "cuda:77", "cpu:zero", ""])
def test_a_device_that_is_not_there_is_named(name):
    with pytest.raises(UsageError, match="cannot be used"):
        choose_device(name)


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("MPS backend out of memory (allocated 1 GB)"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_out_of_memory_looks_like(error, is_memory):
    assert is_out_of_memory(error) is is_memory


class Notes(NoProgress):
    def __init__(self):
        self.texts = []

    def note(self, text):
        self.texts.append(text)


@settings(max_examples=40, deadline=None)
@given(images=st.integers(1, 33), size=st.integers(1, 40), memory=st.integers(1, 40))
def test_every_image_is_worked_on_once_in_order_whatever_the_memory(images, size, memory):
    from engine_doubles.data import CountingDataset

    tried = []

    def work(batch):
        tried.append(len(batch))
        if len(batch) > memory:
            raise torch.OutOfMemoryError("too many")
        return batch.positions.tolist()

    loaded = CountingDataset().load("query", list(range(images)), VIEW)
    batch_size, notes = BatchSize(size), Notes()
    done = list(as_memory_allows(loaded, batch_size, work, device=CPU, progress=notes))
    assert [position for part in done for position in part] == list(range(images))
    assert batch_size.value <= size
    failed = [n for n in tried if n > memory]
    assert len(notes.texts) == len(failed) <= 6
    # A size that was once too large is never tried again, and no smaller one than needed is settled on.
    assert sorted(set(failed), reverse=True) == failed
    if failed:
        assert batch_size.value == (failed[-1] + 1) // 2


def test_one_image_too_many_is_raised(dataset):
    def work(batch):
        raise torch.OutOfMemoryError("no memory at all")

    batch_size = BatchSize(8)
    with pytest.raises(torch.OutOfMemoryError, match="no memory at all"):
        list(as_memory_allows(dataset.load("query", range(8), VIEW), batch_size, work, device=CPU, progress=Notes()))
    assert batch_size.value == 1


def test_other_errors_are_raised_at_once(dataset):
    tried = []

    def work(batch):
        tried.append(len(batch))
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        list(as_memory_allows(dataset.load("query", range(8), VIEW), BatchSize(8), work, device=CPU, progress=Notes()))
    assert tried == [8]


def test_fp32_on_a_gpu_is_not_cut_to_tf32_and_the_setting_comes_back():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    forward = Forward(device=torch.device("cuda"), precision="fp32", counters=Counters())
    with forward.autocast():
        assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (False, False)
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before
