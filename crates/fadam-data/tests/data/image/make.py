"""Writes the pictures of this folder.

    python make.py          (pip install pillow==13.0.0; it brings libjpeg-turbo, libpng and libwebp)

`quarters` is 48 x 32 pixels: red and green above, blue and yellow below; `noise` 37 x 23 random pixels.
"""

import random
import struct

from PIL import Image

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]


def quarters(width=48, height=32):
    picture = Image.new("RGB", (width, height))
    for n, colour in enumerate(COLOURS):
        picture.paste(colour, (n % 2 * width // 2, n // 2 * height // 2, (n % 2 + 1) * width // 2, (n // 2 + 1) * height // 2))
    return picture


picture = quarters()
picture.save("baseline.jpg", quality=95, subsampling=0)
picture.save("subsampled.jpg", quality=95, subsampling=2)
picture.save("progressive.jpg", quality=95, progressive=True, subsampling=0)
picture.convert("L").save("grey.jpg", quality=95)
picture.save("lossy.webp", quality=95, method=6)
picture.save("lossless.webp", lossless=True)
picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=4).save("palette.png")

# Inks, as Adobe's programs store them: inverted. Half of the black ink lies over the lower half.
inks = Image.merge("CMYK", [picture.getchannel(c).point(lambda v: 255 - v) for c in "RGB"] + [Image.new("L", picture.size)])
inks.paste((0, 0, 0, 128), (0, 16, 48, 32))
inks.save("cmyk.jpg", quality=95)

# The left half is opaque red, the right half red of alpha 102 (two fifths).
half = Image.new("RGBA", (32, 16), (255, 0, 0, 255))
half.paste((255, 0, 0, 102), (16, 0, 32, 16))
half.save("alpha.webp", lossless=True)
half.save("alpha-lossy.webp", quality=95, exact=True)
half.save("alpha.png")

# Two frames, of which the first is quarters.
picture.save("animated.webp", save_all=True, append_images=[Image.new("RGB", picture.size, (9, 9, 9))], lossless=True, duration=100)

# Grey of 16 bits: 8 x in the upper byte, 15 y in the lower one.
Image.frombytes("I;16", (32, 16), b"".join(struct.pack("<H", 8 * 256 * x + 15 * y) for y in range(16) for x in range(32))).save("grey-16.png")

# The file has quarters turned left; EXIF says that a quarter turn clockwise mends it.
exif = Image.Exif()
exif[0x0112] = 6
picture.transpose(Image.Transpose.ROTATE_90).save("turned.jpg", quality=95, subsampling=0, exif=exif)
picture.transpose(Image.Transpose.ROTATE_90).save("turned.png", exif=exif)
picture.transpose(Image.Transpose.ROTATE_90).save("turned.webp", lossless=True, exif=exif)

random.seed(1)
noise = Image.frombytes("RGB", (37, 23), random.randbytes(37 * 23 * 3))
noise.save("noise.png")
noise.save("noise.jpg", quality=90, subsampling=0)
noise.save("noise-progressive.jpg", quality=90, progressive=True)
noise.save("noise-lossy.webp", quality=90)
for width, height in [(16, 10), (37, 10), (90, 23), (111, 69), (20, 60)]:
    noise.resize((width, height), Image.Resampling.BILINEAR).save(f"noise-{width}x{height}.png")
