"""A camera that behaves badly: JPEG pictures on standard output, 30 a second, with faults by chance.

usage: camera.py FOLDER LOG     FOLDER has VIEW-SIZE-N.jpg; LOG gets a line `TIME WHAT` for each fault and each beginning
"""

import pathlib, random, sys, time

FPS = 30
# The person is seen so many seconds in each view, by the clock that all processes share.
SECONDS_EACH = 12
VIEWS = ("none", "worn", "wrong")
SIZES = ("640x480", "1280x720")

CORRUPT = 0.01  # of the pictures
STALL_EVERY, STALL = 45, (0.4, 2.5)  # seconds: on average, and how long
SILENCE_EVERY, SILENCE = 600, 30  # so long that the camera is lost; it is killed then
SIZE_EVERY = 40
END_EVERY = 150


def view(moment):
    """What the camera sees at a moment of time.monotonic()."""
    return VIEWS[int(moment / SECONDS_EACH) % len(VIEWS)]


def corrupted(jpeg):
    kind = random.choice(("cut", "noise", "zeros", "start", "twisted"))
    middle = len(jpeg) // 2
    if kind == "cut":
        return kind, jpeg[: random.randrange(3, len(jpeg) - 2)]
    if kind == "noise":
        return kind, random.randbytes(len(jpeg))
    if kind == "zeros":
        return kind, bytes(len(jpeg))
    if kind == "start":
        return kind, b"\0\0" + jpeg[2:]
    return kind, jpeg[:middle] + random.randbytes(200) + jpeg[middle + 200 :]


def main():
    folder = pathlib.Path(sys.argv[1])
    jpegs = {path.stem: path.read_bytes() for path in folder.glob("*.jpg")}
    log = open(sys.argv[2], "a", buffering=1)
    out = sys.stdout.buffer
    size, number, due = random.choice(SIZES), 0, time.monotonic()

    def by_chance(seconds):
        return random.random() < 1 / (seconds * FPS)

    print(f"{due:.3f} start {size}", file=log)
    while True:
        if by_chance(END_EVERY):
            print(f"{time.monotonic():.3f} end", file=log)
            return
        if by_chance(SIZE_EVERY):
            size = SIZES[1 - SIZES.index(size)]
            print(f"{time.monotonic():.3f} size {size}", file=log)
        pause = SILENCE if by_chance(SILENCE_EVERY) else random.uniform(*STALL) if by_chance(STALL_EVERY) else 0
        if pause:
            print(f"{time.monotonic():.3f} {'silence' if pause == SILENCE else 'stall'} {pause:.1f}", file=log)
            due += pause
        time.sleep(max(0, due - time.monotonic()))
        # Back and forth by some pixels, a second each.
        jpeg = jpegs[f"{view(time.monotonic())}-{size}-{int(due) % 3}"]
        if random.random() < CORRUPT:
            kind, jpeg = corrupted(jpeg)
            print(f"{time.monotonic():.3f} corrupt {kind}", file=log)
        out.write(jpeg)
        out.flush()
        number += 1
        # What could not be written in time is not caught up.
        due = max(due + 1 / FPS, time.monotonic() - 0.5)


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        pass
