"""Writes jpeg/: small JPEG files, and the pixels that Pillow decodes them to, as PNG.

    python make_jpeg_goldens.py
"""

import pathlib

from PIL import Image

OUT = pathlib.Path(__file__).parent / "jpeg"


def picture(width: int, height: int) -> Image.Image:
    """Waves and edges in three colours."""
    pixels = [
        ((x * 7 + y * 3) % 256, 255 if (x // 9 + y // 7) % 2 else 40, (x * y) % 256)
        for y in range(height)
        for x in range(width)
    ]
    image = Image.new("RGB", (width, height))
    image.putdata(pixels)
    return image


def write(name: str, image: Image.Image, **options: object) -> None:
    path = OUT / f"{name}.jpg"
    image.save(path, quality=85, **options)
    Image.open(path).convert("RGB").save(OUT / f"{name}.png", optimize=True)


if __name__ == "__main__":
    for sampling in ["4:4:4", "4:2:2", "4:2:0"]:
        write(sampling.replace(":", ""), picture(64, 48), subsampling=sampling)
        write(sampling.replace(":", "") + "_odd", picture(53, 37), subsampling=sampling)
    write("420_progressive", picture(53, 37), subsampling="4:2:0", progressive=True)
    write("grey", picture(53, 37).convert("L"))
    write("cmyk", picture(53, 37).convert("CMYK"))
