"""What mien does on cameras. Each function marked with @check is one check; it gets a machine without a camera."""

import json, time

from debian import Debian
from machine import PICTURES, Webcam, wait

CHECKS = []

WEBCAM = [
    {"encoding": "MJPG", "width": 640, "height": 480, "fps": [30, 15]},
    {"encoding": "MJPG", "width": 1280, "height": 720, "fps": [30, 15]},
    {"encoding": "YUYV", "width": 640, "height": 480, "fps": [30, 15]},
]
LOOPBACK = 9  # the number of the loopback camera


class Skipped(Exception):
    """What a check needs is not there."""


def check(function):
    CHECKS.append(function)
    return function


# What the checks share ---------------------------------------------------------------------------------------------------


def start(machine, *arguments, source="camera", **options):
    """`mien run` on a camera, with the smallest networks' input that still finds the portrait."""
    fixed = ("mien", "run", "--headless", "--json", "--detect-size", "160", "--source", source)
    return machine.start(*fixed, *arguments, **options)


def mien(machine, *arguments, source="camera", **options):
    """As `start`, to its end: the exit code, the events and the log."""
    program = start(machine, *arguments, source=source, **options)
    code = program.wait(90)
    return code, program.events(), program.err()


def refusal(machine, *arguments, source="camera", **options):
    """The log of a run that must be refused."""
    code, events, log = mien(machine, "--frames", 1, *arguments, source=source, **options)
    assert code == 2 and not pictures(events), f"{arguments} ended with code {code}: {log}"
    return log


def devices(machine):
    code, text = machine.run("mien devices --json 2> /tmp/devices.err", 60)
    return code, [json.loads(line) for line in text.splitlines()]


def pictures(events):
    return [event for event in events if "faces" in event]


def fresh(program, count=3, seconds=60):
    """Waits for `count` pictures from now on."""
    program.events()
    seen = []

    def enough():
        assert program.code() is None, f"mien has ended with {program.code()}: {program.err()}"
        seen.extend(pictures(program.events()))
        return len(seen) >= count

    wait(enough, seconds, f"no {count} pictures ({program.err().strip()})")
    return seen


def contains(text, *parts):
    for part in parts:
        assert part.lower() in text.lower(), f"no {part!r} in: {text.strip()}"


def grown(first, last):
    """Complains if memory, threads or descriptors have grown."""
    assert last["rss"] <= first["rss"] * 1.05 + 1024, f"memory grew: {first} to {last}"
    assert last["threads"] <= first["threads"], f"threads grew: {first} to {last}"
    assert last["descriptors"] <= first["descriptors"], f"descriptors grew: {first} to {last}"


def loopback(machine, encoding, *names, size=(640, 480)):
    """A loopback camera that shows pictures; the module is loaded anew, as it does not survive its users' end."""
    machine.sh("rmmod v4l2loopback 2> /dev/null || true")
    machine.sh(f"modprobe v4l2loopback video_nr={LOOPBACK} exclusive_caps=1 card_label=Loopback")
    files = [name if name.startswith("/") else f"{PICTURES}/{name}" for name in names]
    program = machine.start("feed", f"/dev/video{LOOPBACK}", encoding, *size, 15, *files)
    time.sleep(0.5)
    assert program.code() is None, program.err()
    return program


# Finding and opening -----------------------------------------------------------------------------------------------------


@check
def no_camera(machine):
    code, found = devices(machine)
    assert (code, found) == (1, []), (code, found)
    contains(refusal(machine), "there is no camera")


@check
def listing(machine):
    first, second = Webcam(machine, 0), Webcam(machine, 1)
    machine.sh("modprobe vivid n_devs=1 node_types=0x1 vid_cap_nr=7")
    # The second one first, so that the order of the nodes is not that of the bus.
    numbers = [second.plug(), first.plug()]
    code, found = devices(machine)
    assert code == 0, code
    names = [(camera["index"], camera["device"]) for camera in found]
    assert names == [(number, f"/dev/video{number}") for number in [*numbers, 7]], names
    for camera in found[:2]:
        assert "Test webcam" in camera["name"], camera
        key = lambda rates: (rates["encoding"], rates["width"])
        assert sorted(camera["formats"], key=key) == WEBCAM, camera
    assert "vivid" in found[2]["name"].lower() and found[2]["formats"], found[2]


@check
def metadata_node(machine):
    number = Webcam(machine).plug()
    contains(refusal(machine, source=f"camera:{number + 1}"), f"video{number + 1}", "metadata")
    contains(refusal(machine, source=f"camera:/dev/video{number + 1}"), "metadata")
    contains(refusal(machine, source="camera:5"), "no such camera", "/dev/video0")


@check
def permission(machine):
    Webcam(machine).plug()
    machine.sh("chown root:video /dev/video*; chmod 660 /dev/video*; chmod -R a+rX /tmp")
    contains(refusal(machine, user="guest"), "permission denied", "video")
    code, events, log = mien(machine, "--frames", 1, user="viewer")
    assert code == 0 and pictures(events), f"in the group of the device: code {code}: {log}"


@check
def busy(machine):
    Webcam(machine).plug()
    other = machine.start("hold", "stream", "/dev/video0", "MJPG", 640, 480)
    wait(lambda: "holding" in other.out(), 10, "the other program does not hold the camera")
    for arguments in ([], ["--size", "1280x720"]):
        contains(refusal(machine, *arguments), "busy", "/dev/video0", "close the other program")
    other.signal("KILL")
    assert mien(machine, "--frames", 1)[0] == 0, "not usable after the other program has gone"
    # A program that only has the device open is no hindrance.
    other = machine.start("hold", "open", "/dev/video0")
    assert mien(machine, "--frames", 1)[0] == 0, "not usable beside a program that does not stream"
    other.signal("KILL")


# Formats -----------------------------------------------------------------------------------------------------------------


@check
def negotiation_of_a_webcam(machine):
    Webcam(machine).plug()
    for arguments, size, words in [
        ([], (640, 480), "640x480 at 30 fps"),
        (["--size", "1280x720"], (1280, 720), "MJPG 1280x720 at 30 fps"),
        (["--format", "mjpg"], (640, 480), "MJPG 640x480 at 30 fps"),
        (["--format", "yuyv"], (640, 480), "YUYV 640x480 at 30 fps"),
        (["--format", "mjpg", "--size", "1280x720", "--fps", 15], (1280, 720), "MJPG 1280x720 at 15 fps"),
        (["--fps", 15], (640, 480), "640x480 at 15 fps"),
    ]:
        code, events, log = mien(machine, "--frames", 1, *arguments)
        assert code == 0 and pictures(events), f"{arguments}: code {code}: {log}"
        contains(log, words)
        assert (pictures(events)[0]["width"], pictures(events)[0]["height"]) == size, events[0]
    for arguments in [
        ["--size", "800x600"],
        ["--fps", 60],
        ["--format", "nv12"],
        ["--format", "yuyv", "--size", "1280x720"],
        ["--size", "8192x8192"],
    ]:
        # Refused with all that the camera offers.
        contains(refusal(machine, *arguments), "/dev/video0", "MJPG", "1280x720", "YUYV", "640x480")
    contains(refusal(machine, "--size", "16384x16384"), "limit of 200 megapixels")


@check
def negotiation_of_vivid(machine):
    """A driver with dozens of formats, most of which nobody decodes, that was left in one of these."""
    machine.sh("modprobe vivid n_devs=1 node_types=0x1 vid_cap_nr=3")
    machine.start("hold", "set", "/dev/video3", "UYVY", 320, 180).wait()
    code, events, log = mien(machine, "--frames", 1)
    assert code == 0 and pictures(events)[0]["width"] == 640, f"code {code}: {log}"
    code, events, log = mien(machine, "--frames", 1, "--size", "1280x720")
    assert code == 0 and pictures(events)[0]["width"] == 1280, f"code {code}: {log}"
    contains(refusal(machine, "--format", "mjpg"), "/dev/video3", "YUYV", "640x480")
    contains(refusal(machine, "--size", "123x45"), "/dev/video3", "640x480")


@check
def every_encoding_shows_the_person(machine):
    """Photos of which the labels are known, through a loopback camera."""
    for encoding, name, mask in [
        ("MJPG", "none-640x480.jpg", "none"),
        ("MJPG", "worn-640x480.jpg", "worn"),
        ("MJPG", "wrong-640x480.jpg", "wrong"),
        ("YUYV", "worn-640x480.yuyv", "worn"),
        ("NV12", "wrong-640x480.nv12", "wrong"),
        ("RGB3", "none-640x480.rgb3", "none"),
        ("BGR3", "wrong-640x480.bgr3", "wrong"),
        ("GREY", "none-640x480.grey", "none"),
    ]:
        feed = loopback(machine, encoding, name)
        code, events, log = mien(machine, "--frames", 3)
        assert code == 0, f"{encoding} {name}: code {code}: {log}"
        contains(log, f"{encoding} 640x480")
        for event in pictures(events):
            labels = [face["mask"]["label"] for face in event["faces"]]
            assert labels == [mask], f"{encoding} {name}: {labels} instead of {mask}"
        feed.signal("KILL")
        feed.wait()


# Pictures ----------------------------------------------------------------------------------------------------------------


@check
def frames_300(machine):
    Webcam(machine).plug()
    for encoding in ("mjpg", "yuyv"):
        program = start(machine, "--format", encoding)
        wait(lambda: len(pictures(program.events())) > 0, 60, "no picture")
        time.sleep(14)
        program.stop()
        events = program.events()
        summary = events[-1]["summary"]
        assert summary["captured"] >= 300, f"{encoding}: fewer than 300 pictures in 14 s: {summary}"
        numbers = [event["frame"] for event in pictures(events)]
        assert numbers == sorted(set(numbers)), f"{encoding}: pictures out of order: {numbers}"
        assert summary["unreadable"] == 0, f"{encoding}: {summary}"


@check
def only_the_newest_after_a_pause(machine):
    """A person who has moved while mien was stopped is not seen where they were."""
    webcam = Webcam(machine, show="left")
    webcam.plug()
    program = start(machine)
    before = fresh(program, 2)[-1]
    program.signal("STOP")
    time.sleep(0.5)
    webcam.tell("show right")
    time.sleep(3.5)
    program.signal("CONT")
    events = [before, *fresh(program, 4)]
    program.stop()
    left = [event["faces"][0]["box"][0] < 245 for event in events]
    assert left[0] and not left[-1], f"the person has not moved: {events}"
    # The picture that was being looked at during the stop may come out late.
    assert sum(left) <= 2, f"pictures from before the pause were shown after it: {events}"
    times = [event["time"] for event in events]
    gap = max(later - earlier for earlier, later in zip(times, times[1:]))
    assert gap >= 3.5, f"a picture taken during the pause was shown (times of capture: {times})"


@check
def damaged_jpegs(machine):
    webcam = Webcam(machine)
    webcam.plug()
    program = start(machine, "--format", "mjpg")
    fresh(program)
    first = program.status()
    for damage in ("cut", "stub", "garbage", "zeros", "some", "size"):
        webcam.tell(f"damage {damage}")
        time.sleep(1.5)
        assert program.code() is None, f"{damage}: mien has ended with {program.code()}: {program.err()}"
        program.events()
        if damage == "size":
            sizes = {event["width"] for event in fresh(program)}
            assert sizes <= {640, 1280}, sizes
        webcam.tell("damage none")
        fresh(program)
    last = program.status()
    program.stop()
    summary = program.events()[-1]["summary"]
    assert summary["unreadable"] >= 10, f"damaged pictures are not counted: {summary}"
    assert last["threads"] <= first["threads"] and last["descriptors"] <= first["descriptors"], (first, last)


# Loss --------------------------------------------------------------------------------------------------------------------


@check
def freeze_and_thaw(machine):
    webcam = Webcam(machine)
    webcam.plug()
    program = start(machine)
    fresh(program)
    webcam.tell("freeze")
    wait(lambda: " is lost: " in program.err(), 30, "a frozen camera is not reported as lost")
    time.sleep(3)
    assert program.err().count(" is lost: ") == 1, f"said more than once: {program.err()}"
    webcam.tell("thaw")
    fresh(program)
    # Unplugged while frozen, and back.
    webcam.tell("freeze")
    time.sleep(4)
    webcam.unplug()
    webcam.plug()
    fresh(program)
    assert program.stop() == 0, program.err()


@check
def unplugged_100_times(machine):
    """The camera comes back each time, every fourth time under another number; nothing grows."""
    webcam = Webcam(machine)
    webcam.plug()
    program = start(machine)
    fresh(program)
    statuses, numbers, slowest = [], set(), 0
    for turn in range(100):
        other = None
        if turn % 4 == 3:
            # Whoever has the old device open keeps its number from being given again.
            other = machine.start("hold", "open", f"/dev/video{machine.nodes()[0]}")
            wait(lambda: "holding" in other.out(), 10, "the other program does not start")
        machine.sh(f"echo turn {turn} > /dev/kmsg")
        webcam.unplug()
        if turn % 10 == 0:
            time.sleep(3)  # long enough for some vain tries
        numbers.add(webcam.plug())
        began = time.monotonic()
        fresh(program, 2)
        slowest = max(slowest, time.monotonic() - began)
        if other:
            other.signal("KILL")
            other.wait()
        if turn % 10 == 9:
            statuses.append(program.status())
    code = program.stop()
    assert code == 0, f"code {code}: {program.err()}"
    assert len(numbers) > 1, f"it always came back under the same number: {numbers}"
    grown(statuses[0], statuses[-1])
    lost = program.err().count(" is lost: ")
    assert lost == 100, f"said that it is lost {lost} times in 100 losses: {program.err()[-2000:]}"
    print(f"   back within {slowest:.1f} s; {statuses[0]} after 10 turns, {statuses[-1]} after 100")


@check
def the_same_one_of_two(machine):
    """Two cameras swap their numbers while mien looks at one: it goes on with that one."""
    first, second = Webcam(machine, 0, "left"), Webcam(machine, 1, "right")
    assert (first.plug(), second.plug()) == (0, 2), "the cameras have other numbers"
    program = start(machine, source="camera:0")
    assert fresh(program, 1)[-1]["faces"][0]["box"][0] < 245
    first.unplug()
    second.unplug()
    assert (second.plug(), first.plug()) == (0, 2), "the cameras have not swapped their numbers"
    events = fresh(program, 3)
    program.stop()
    boxes = [face["box"][0] for event in events for face in event["faces"]]
    assert boxes and all(left < 245 for left in boxes), f"it went on with the other camera: {boxes}"


@check
def a_driver_that_goes(machine):
    machine.sh("modprobe vivid n_devs=1 node_types=0x1 vid_cap_nr=3")
    program = start(machine)
    fresh(program, 1)
    machine.sh("echo vivid.0 > /sys/bus/platform/drivers/vivid/unbind")
    wait(lambda: " is lost: " in program.err(), 30, "the loss is not reported")
    machine.sh("echo vivid.0 > /sys/bus/platform/drivers/vivid/bind")
    fresh(program, 1)
    assert program.stop() == 0, program.err()


@check
def stopping_without_a_camera(machine):
    """SIGINT ends the run at once, also while the camera is away."""
    webcam = Webcam(machine)
    webcam.plug()
    program = start(machine)
    fresh(program, 1)
    webcam.unplug()
    wait(lambda: " is lost: " in program.err(), 30, "the loss is not reported")
    program.signal("INT")
    assert wait(lambda: program.code() is not None, 15, "mien does not stop") and program.code() == 0, program.err()


# The package (last: it leaves its guest full) ---------------------------------------------------------------------------------------------------------------


@check
def a_service_of_systemd(machine):
    """The package's service: ready with the first picture, confined, started anew when its pictures stop."""
    if not (machine.share / "mien.deb").exists():
        raise Skipped("no --deb")
    webcam = Webcam(machine)
    webcam.plug()
    machine.sh("chown root:44 /dev/video*; chmod 660 /dev/video*")
    debian = Debian(machine)
    debian.sh("dpkg --install /root/mien.deb", 240)
    assert debian.systemctl("is-enabled mien")[0] != 0, "an installation enables the service"
    debian.sh("mkdir /etc/systemd/system/mien.service.d")
    debian.sh("printf '[Service]\\nWatchdogSec=12\\nRestartSec=1\\n' > /etc/systemd/system/mien.service.d/sooner.conf")
    debian.sh("printf 'detect-size = 160\\njson = true\\nsave = \"/var/lib/mien\"\\n' >> /etc/mien/mien.toml; systemctl daemon-reload")
    debian.sh("systemctl start mien")
    status = debian.show("StatusText")
    contains(status, "pictures a second")
    process = debian.show("MainPID")
    # The processes of the guest's other namespace have other numbers here.
    identity = debian.sh(f"grep -E '^(Uid|NoNewPrivs|Seccomp|CapEff):' /proc/{process}/status")
    fields = {key: value.split() for key, value in (line.split(":") for line in identity.splitlines())}
    assert fields["Uid"][0] != "0" and fields["NoNewPrivs"] == ["1"] and fields["Seccomp"] == ["2"], fields
    assert int(fields["CapEff"][0], 16) == 0, fields
    assert '"faces"' in debian.sh("cat /var/lib/mien/events.jsonl"), "nothing was saved"

    webcam.tell("freeze")
    wait(lambda: int(debian.show("NRestarts")) >= 1, 90, "the service is not started anew when the camera hangs")
    webcam.tell("thaw")
    wait(lambda: debian.show("ActiveState") == "active", 120, "the service does not come back")
    code, log = debian.run("journalctl --no-pager -u mien")
    contains(log, "is lost: no picture for 2 s")
    debian.sh("systemctl stop mien")
    assert debian.show("Result") == "success", debian.sh("systemctl status mien || true")
    debian.sh("dpkg --purge mien", 240)
    assert debian.run("ls -d /usr/bin/mien /etc/mien /var/lib/mien /var/lib/private/mien")[1].count("No such file") == 4
