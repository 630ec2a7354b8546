"""The cameras' pictures: the demo's portrait in the forms in which cameras deliver it."""

import hashlib, pathlib, subprocess

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
PORTRAITS = REPOSITORY / "assets/demo"

# `empty` shows nobody; an emulated processor takes most of a second for each face.
# Each other name with its portrait and how far it is moved to the right, in sixty-fourths of a picture's width.
VIEWS = {"none": ("none", 0), "worn": ("worn", 0), "wrong": ("wrong", 0), "left": ("none", -6), "right": ("none", 6)}


def make(cache):
    """Writes NAME-WIDTHxHEIGHT.ENCODING for every view into a folder below `cache`, unless they are there, and returns it."""
    sources = [pathlib.Path(__file__), *sorted(PORTRAITS.glob("*.jpg"))]
    key = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    folder = cache / f"pictures-{key}"
    if (folder / "done").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, (portrait, shift) in {**VIEWS, "empty": (None, 0)}.items():
        for width, height, scale in ((640, 480, "8/8"), (1280, 720, "12/8")):
            if portrait:
                rgb = view(PORTRAITS / f"{portrait}.jpg", width, height, scale, shift * width // 64)
            else:
                rgb = bytes(x * 255 // width for _ in range(height) for x in range(width) for _ in "rgb")
            save(folder / f"{name}-{width}x{height}.jpg", jpeg(rgb, width, height))
            if width == 640:
                luma, blue, red = yuv(rgb)
                save(folder / f"{name}-640x480.yuyv", yuyv(luma, blue, red))
                if name in ("none", "worn", "wrong"):
                    save(folder / f"{name}-640x480.nv12", nv12(luma, blue, red, width, height))
                    save(folder / f"{name}-640x480.rgb3", rgb)
                    save(folder / f"{name}-640x480.bgr3", bgr(rgb))
                    save(folder / f"{name}-640x480.grey", full_range(luma))
    (folder / "done").touch()
    return folder


def save(path, data):
    path.write_bytes(bytes(data))


def view(path, width, height, scale, shift):
    """The portrait's upper part as RGB, its edges drawn out to the left and right."""
    pnm = subprocess.run(["djpeg", "-scale", scale, "-pnm", path], check=True, capture_output=True).stdout
    head, size, depth, pixels = pnm.split(b"\n", 3)
    side = int(size.split()[0])
    assert (head, depth) == (b"P6", b"255") and len(pixels) == 3 * side * side, path
    left = (width - side) // 2 + shift
    right = width - side - left
    rows = (pixels[3 * side * y : 3 * side * (y + 1)] for y in range(height))
    return b"".join(row[:3] * left + row + row[-3:] * right for row in rows)


def jpeg(rgb, width, height):
    """A JPEG as webcams make it: baseline, 4:2:2."""
    pnm = b"P6\n%d %d\n255\n" % (width, height) + rgb
    command = ["cjpeg", "-quality", "85", "-sample", "2x1", "-baseline"]
    return subprocess.run(command, input=pnm, check=True, capture_output=True).stdout


def yuv(rgb):
    """BT.601 in studio range: one byte a pixel in each of three planes."""
    r, g, b = rgb[0::3], rgb[1::3], rgb[2::3]

    def plane(offset, *factors):
        reds, greens, blues = ([factor * value / 256 for value in range(256)] for factor in factors)
        return bytes(round(offset + reds[x] + greens[y] + blues[z]) for x, y, z in zip(r, g, b))

    return plane(16, 65.738, 129.057, 25.064), plane(128, -37.945, -74.494, 112.439), plane(128, 112.439, -94.154, -18.285)


def yuyv(luma, blue, red):
    data = bytearray(2 * len(luma))
    data[0::2], data[1::4], data[3::4] = luma, blue[::2], red[::2]
    return data


def nv12(luma, blue, red, width, height):
    chroma = bytearray(width * height // 2)
    for plane, offset in ((blue, 0), (red, 1)):
        rows = (plane[y * width : (y + 1) * width : 2] for y in range(0, height, 2))
        chroma[offset::2] = b"".join(rows)
    return luma + chroma


def bgr(rgb):
    data = bytearray(rgb)
    data[0::3], data[2::3] = rgb[2::3], rgb[0::3]
    return data


def full_range(luma):
    return bytes(min(255, max(0, round((value - 16) * 255 / 219))) for value in luma)
