"""Views against torchvision, bit for bit, and what happens to images that no view can take."""

import io
import threading
import warnings

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tv1
import torchvision.transforms.v2.functional as tv2
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode

from harness.errors import DataError, ParameterError
from harness.types import NAMED_VIEWS, View
from harness.views import decode, render, render_float, resized_size, to_batch, to_rgb

MODES = {
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "nearest": InterpolationMode.NEAREST,
}


def noise(width, height, seed=0, mode="RGB"):
    channels = {"RGB": 3, "RGBA": 4, "LA": 2, "CMYK": 4, "L": 1}[mode]
    values = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(values.squeeze(2) if channels == 1 else values, mode=None if channels in (1, 3) else mode)


def torchvision_pixels(functional, image, view):
    """The reference pipeline: Resize, CenterCrop and ToTensor's uint8, by torchvision."""
    image = image.convert("RGB")
    if view.resize is not None:
        size = [view.resize] if view.mode == "shorter" else [view.resize, view.resize]
        image = functional.resize(image, size, interpolation=MODES[view.interpolation])
    image = functional.center_crop(image, [view.crop, view.crop])
    return tv1.pil_to_tensor(image).numpy()


# --- pixels ----------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    crop=st.integers(1, 40),
    margin=st.integers(0, 25),
    interpolation=st.sampled_from(list(MODES)),
    mode=st.sampled_from(["shorter", "squash"]),
)
@pytest.mark.parametrize("functional", [tv1, tv2], ids=["v1", "v2"])
def test_render_equals_torchvision(functional, width, height, crop, margin, interpolation, mode):
    view = View(resize=crop + margin, crop=crop, interpolation=interpolation, mode=mode)
    image = noise(width, height)
    found = render(image, view)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, torchvision_pixels(functional, image, view))


@pytest.mark.parametrize(
    "size", [(500, 375), (375, 500), (333, 500), (224, 224), (256, 256), (257, 255), (299, 299), (1, 3)]
)
@pytest.mark.parametrize("interpolation", list(MODES))
def test_the_usual_sizes_equal_torchvision(size, interpolation):
    image = noise(*size)
    for view in (
        View(resize=256, crop=224, interpolation=interpolation),
        View(resize=248, crop=224, interpolation=interpolation),
        View(resize=235, crop=224, interpolation=interpolation),
        View(resize=224, crop=224, interpolation=interpolation, mode="squash"),
    ):
        np.testing.assert_array_equal(render(image, view), torchvision_pixels(tv2, image, view), err_msg=view.text)


@given(width=st.integers(8, 30), height=st.integers(8, 30), crop=st.integers(1, 8))
@settings(deadline=None)
def test_without_resize_only_the_centre_is_cut(width, height, crop):
    image, view = noise(width, height), View(crop=crop)
    found = render(image, view)
    np.testing.assert_array_equal(found, torchvision_pixels(tv1, image, view))
    whole = np.asarray(image).transpose(2, 0, 1)
    windows = np.lib.stride_tricks.sliding_window_view(whole, (3, crop, crop))[0]
    assert (windows == found).all(axis=(2, 3, 4)).any(), "the crop is no window of the image"


def test_stored_corrupted_images_are_not_resampled():
    image = noise(224, 224)
    np.testing.assert_array_equal(render(image, NAMED_VIEWS["imagenet_c"]), np.asarray(image).transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(9, 20), (20, 9)])
@pytest.mark.parametrize("view", [View(crop=10), View(resize=None, crop=21)])
def test_an_image_smaller_than_the_crop_is_refused_by_name(size, view):
    with pytest.raises(DataError, match=r"cat/1\.png: \d+ x \d+ pixels cannot fill"):
        render(noise(*size), view, name="cat/1.png")


def test_a_sliver_that_would_fill_the_memory_is_refused():
    with pytest.raises(DataError, match=r"sliver\.png: 1 x 900000 pixels would become 256 x 230400000"):
        resized_size((1, 900_000), View(resize=256, crop=224), name="sliver.png")
    assert resized_size((1, 900_000), View(resize=256, crop=224, mode="squash")) == (256, 256)


def test_a_wrong_rounding_would_be_seen():
    """The sizes that tell torchvision's rule from rounding, and from dividing first."""
    view = View(resize=256, crop=224)
    assert resized_size((500, 375), view) == (341, 256)  # 341.33 down
    assert resized_size((300, 599), view) == (256, 511)  # 511.15
    assert resized_size((3, 5), View(resize=2, crop=1)) == (2, 3)  # 3.33; up would be 4
    assert resized_size((375, 500), view) == (256, 341)


# --- pixel types -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "CMYK", "L"])
def test_conversion_is_pillows(mode):
    image = noise(13, 11, mode=mode)
    np.testing.assert_array_equal(np.asarray(to_rgb(image)), np.asarray(image.convert("RGB")))


def test_a_palette_with_transparency_gives_its_colours_without_a_warning():
    image = noise(16, 16).quantize(8)
    image.info["transparency"] = bytes([0, 128, 255, 255, 0, 3, 7, 255])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(to_rgb(image)), expected)
    assert "transparency" in image.info, "the caller's image was changed"


def test_one_bit_images_are_black_and_white():
    image = noise(8, 8, mode="L").convert("1")
    assert set(np.unique(np.asarray(to_rgb(image)))) == {0, 255}


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_upper_byte(tmp_path, form):
    values = np.array([[0, 255, 256, 0x8000, 0xFFFF]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep", format=form)
    found = np.asarray(decode(tmp_path / "deep"))
    np.testing.assert_array_equal(found, np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2))


def test_pixels_without_an_agreed_range_are_refused():
    with pytest.raises(DataError, match="floating point"):
        to_rgb(Image.fromarray(np.zeros((2, 2), dtype=np.float32)), name="f.tiff")
    with pytest.raises(DataError, match="70000"):
        to_rgb(Image.fromarray(np.array([[70_000]], dtype=np.int32)), name="i.tiff")


def test_exif_orientation_is_not_applied(tmp_path):
    image = noise(20, 10)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    assert decode(tmp_path / "turned.png").size == (20, 10)


# --- floating point --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", list(MODES))
@pytest.mark.parametrize("size", [(17, 30), (40, 21)])
def test_float_pixels_agree_with_8_bit_pixels_to_rounding(size, interpolation):
    # Mid-grey noise: where bicubic overshoots, Pillow's 8-bit resampling clips between its two passes too.
    image, view = (
        noise(*size).point(lambda value: 100 + value // 5),
        View(resize=25, crop=23, interpolation=interpolation),
    )
    floats = (np.asarray(image).transpose(2, 0, 1) / 255).astype(np.float32)
    found = render_float(floats, view)
    assert found.dtype == np.float32
    assert 0 <= found.min() <= found.max() <= 1
    # The 8-bit passes round twice, and the second weighs the first rounding by up to 1.5 (bicubic lobes).
    assert np.abs(found * 255 - render(image, view).astype(np.float64)).max() <= 1.25


def test_what_bicubic_overshoots_is_cut_off():
    step = np.zeros((3, 20, 20), dtype=np.float32)
    step[:, :, 10:] = 1
    found = render_float(step, View(resize=50, crop=50, interpolation="bicubic"))
    assert found.min() == 0
    assert found.max() == 1
    assert ((found > 0) & (found < 1)).any()


def test_float_pixels_that_are_only_cropped_are_untouched():
    values = np.random.default_rng(1).random((3, 12, 15), dtype=np.float32)
    np.testing.assert_array_equal(render_float(values, View(crop=10)), values[:, 1:11, 2:12])
    np.testing.assert_array_equal(render_float(values, View(resize=12, crop=12)), values[:, :, 2:14])  # 1.5 rounds to 2


# --- files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF"])
def test_files_are_read_by_content_and_truncated_ones_refused(tmp_path, form):
    whole = io.BytesIO()
    noise(40, 30).save(whole, format=form)
    path = tmp_path / "misnamed.jpg"
    path.write_bytes(whole.getvalue())
    with Image.open(io.BytesIO(whole.getvalue())) as reference:
        np.testing.assert_array_equal(np.asarray(decode(path)), np.asarray(reference.convert("RGB")))
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    with pytest.raises(DataError, match="misnamed"):
        decode(path)


@settings(max_examples=60, deadline=None)
@given(form=st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"]), data=st.data())
def test_corrupted_bytes_give_an_image_or_a_data_error(tmp_path_factory, form, data):
    buffer = io.BytesIO()
    noise(12, 9).save(buffer, format=form)
    raw = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 6))):
        raw[data.draw(st.integers(0, min(len(raw) - 1, 200)))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("fuzz") / "broken.bin"
    path.write_bytes(raw[: data.draw(st.integers(1, len(raw)))])
    message = None
    try:
        image = decode(path)
    except DataError as error:
        message = error.message
    assert image.mode == "RGB" if message is None else str(path) in message


def test_the_reason_is_told(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"cat\.png: there is no such file"):
        decode(tmp_path / "cat.png", name="cat.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(DataError, match="the file is empty"):
        decode(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("<html>not found</html>")
    with pytest.raises(DataError, match="not an image"):
        decode(tmp_path / "text.png")
    (tmp_path / "page.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    with pytest.raises(DataError, match="not an image"):
        decode(tmp_path / "page.png")
    noise(40, 40).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"large\.png.*decompression bomb"):
        decode(tmp_path / "large.png")


def test_decoding_is_the_same_from_many_threads(tmp_path):
    view = View(resize=30, crop=28)
    paths = []
    for seed in range(12):
        paths.append(tmp_path / f"{seed}.{'webp' if seed % 2 else 'png'}")
        noise(50, 40, seed).save(paths[-1], lossless=True)
    expected = [render(decode(path), view) for path in paths]
    found = {}

    def work(offset):
        for i in range(len(paths)):
            j = (i + offset) % len(paths)
            found[offset, j] = render(decode(paths[j]), view)

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 * len(paths)
    for (_, j), pixels in found.items():
        np.testing.assert_array_equal(pixels, expected[j])


# --- batches ---------------------------------------------------------------------------------------------------


def test_a_batch_holds_torchvisions_tensor():
    image = noise(30, 30)
    pixels = render(image, View(crop=30))[None]
    batch = to_batch(pixels, labels=[3], ids=["a"], positions=[7])
    assert torch.equal(batch.images[0], tv1.to_tensor(image))
    assert batch.images.dtype == torch.float32
    assert batch.labels.dtype == torch.int64
    assert batch.labels.tolist() == [3]
    assert batch.ids == ("a",)
    assert batch.positions.tolist() == [7]


def test_every_byte_becomes_its_255th():
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 3, 16, 16)
    found = to_batch(pixels, labels=[0], ids=["a"], positions=[0]).images.numpy()
    np.testing.assert_array_equal(found, pixels.astype(np.float32) / np.float32(255))


def test_an_empty_batch_and_one_of_unequal_lengths():
    assert len(to_batch(np.empty((0, 3, 4, 4), dtype=np.uint8), labels=[], ids=[], positions=[])) == 0
    with pytest.raises(ParameterError, match="2 labels"):
        to_batch(np.zeros((1, 3, 4, 4), dtype=np.uint8), labels=[1, 2], ids=["a"], positions=[0])
