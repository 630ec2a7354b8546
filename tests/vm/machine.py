"""A virtual machine with cameras, and the programs in it."""

import json, os, pathlib, select, shlex, shutil, subprocess, time

HERE = pathlib.Path(__file__).resolve().parent
PICTURES = "/tmp/pictures"

QEMU = {
    "amd64": ["qemu-system-x86_64", "-cpu", "max", "-append", "console=ttyS0 quiet panic=-1 no_timer_check"],
    "arm64": ["qemu-system-aarch64", "-M", "virt,gic-version=3", "-cpu", "max", "-append", "console=ttyAMA0 quiet panic=-1"],
}


class MachineError(Exception):
    """The machine itself is at fault, not the program under test."""


class Machine:
    """A guest that runs one shell command at a time. Its /host is the folder `share`."""

    def __init__(self, arch, folder, console):
        self.share = folder / "share"
        command = [
            *QEMU[arch],
            *("-accel", os.environ.get("ACCEL", "tcg"), "-smp", "2", "-m", "1024"),
            *("-nodefaults", "-nographic", "-no-reboot"),
            *("-kernel", folder / "vmlinuz", "-initrd", folder / "initrd"),
            *("-serial", f"file:{console}"),
            *("-device", "virtio-serial", "-chardev", "stdio,id=shell"),
            *("-device", "virtserialport,chardev=shell,name=shell"),
            *("-virtfs", f"local,path={self.share},mount_tag=host,security_model=none"),
        ]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.programs = 0
        if self._line(120) != "ready":
            raise MachineError("the guest does not boot; see console.log")
        # Reading through the share is slow.
        self.sh("cp -r /host/bin /host/pictures /tmp", 120)

    def _line(self, timeout):
        line, deadline = b"", time.monotonic() + timeout
        while not line.endswith(b"\n"):
            if not select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))[0]:
                raise MachineError(f"the guest has not answered for {timeout} s")
            byte = os.read(self.process.stdout.fileno(), 1)
            if not byte:
                raise MachineError("the guest has gone; see console.log")
            line += byte
        return line.decode().strip()

    def run(self, command, timeout=30):
        """Runs a line of shell. Returns its exit code and what it wrote."""
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()
        code = int(self._line(timeout))
        return code, (self.share / "answer").read_text(errors="replace")

    def sh(self, command, timeout=30):
        """As `run`, for commands that must not fail."""
        code, text = self.run(command, timeout)
        if code:
            raise MachineError(f"{command}: exit code {code}: {text.strip()}")
        return text

    def start(self, *arguments, user=None, stdin="/dev/null", stdout=None):
        return Program(self, [str(argument) for argument in arguments], user, stdin, stdout)

    def nodes(self):
        """The numbers of the video devices that there are, metadata nodes included."""
        names = self.sh("ls /sys/class/video4linux 2> /dev/null | grep video || true").split()
        return sorted(int(name.removeprefix("video")) for name in names)

    def off(self):
        self.process.kill()
        self.process.wait()


class Program:
    """A program in the guest, started in the background; its output goes to files in the guest's memory."""

    def __init__(self, machine, arguments, user, stdin, stdout):
        machine.programs += 1
        self.machine = machine
        self.base = f"/tmp/{machine.programs}-{pathlib.Path(arguments[0]).name}"
        self.stdout = stdout or f"{self.base}.out"
        self.read = 0
        command = shlex.join(arguments)
        if user:
            command = shlex.join(["su", "-s", "/bin/sh", user, "-c", f"exec {command}"])
        inner = f"echo $$ > {self.base}.pid; exec {command} <> {stdin} > {self.stdout} 2> {self.base}.err"
        machine.sh(f"( sh -c {shlex.quote(inner)}; echo $? > {self.base}.code ) > /dev/null 2>&1 &")
        wait(lambda: machine.run(f"test -s {self.base}.pid")[0] == 0, 10, f"{arguments[0]} does not start")
        self.pid = int(machine.sh(f"cat {self.base}.pid"))

    def code(self):
        """The exit code, or None while it runs."""
        found, text = self.machine.run(f"cat {self.base}.code")
        return int(text) if found == 0 and text.strip() else None

    def wait(self, seconds=30):
        wait(lambda: self.code() is not None, seconds, f"{self.base} does not end")
        return self.code()

    def signal(self, name):
        self.machine.run(f"kill -{name} {self.pid}")

    def stop(self):
        """Asks it to end, and sees that it does."""
        self.signal("INT")
        return self.wait()

    def out(self):
        return self.machine.sh(f"cat {self.stdout}")

    def err(self):
        return self.machine.sh(f"cat {self.base}.err")

    def events(self):
        """The events written since the last call."""
        text = self.machine.sh(f"tail -c +{self.read + 1} {self.stdout}")
        whole = text[: text.rfind("\n") + 1]
        self.read += len(whole.encode())
        return [json.loads(line) for line in whole.splitlines()]

    def status(self):
        """Resident memory in kB, and the numbers of threads and descriptors."""
        text = self.machine.sh(f"grep -E 'VmRSS|Threads' /proc/{self.pid}/status; ls /proc/{self.pid}/fd | wc -l")
        words = text.split()
        return {"rss": int(words[1]), "threads": int(words[4]), "descriptors": int(words[5])}


class Webcam:
    """An emulated USB camera."""

    def __init__(self, machine, port=0, show="empty", serial=None):
        self.machine, self.port = machine, port
        self.pipe = f"/tmp/webcam{port}"
        machine.sh(f"test -p {self.pipe} || mkfifo {self.pipe}")
        self.program = machine.start("uvccam", PICTURES, port, serial or f"{port:04}", stdin=self.pipe)
        self.tell(f"show {show}")

    def tell(self, command):
        if self.program.code() is not None:
            raise MachineError(f"uvccam has ended: {self.program.err()}")
        self.machine.sh(f"echo {command} > {self.pipe}")

    def plug(self):
        """Returns the camera's number."""
        before = self.machine.nodes()
        self.tell("plug")
        # Two nodes: the pictures and their metadata.
        wait(lambda: len(self.machine.nodes()) >= len(before) + 2, 20, "the webcam does not appear")
        return min(set(self.machine.nodes()) - set(before))

    def unplug(self):
        before = self.machine.nodes()
        self.tell("unplug")
        wait(lambda: len(self.machine.nodes()) < len(before), 20, "the webcam does not go")


def wait(condition, seconds, complaint):
    """Waits until `condition` gives something true, and returns that."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{complaint} within {seconds} s")
        time.sleep(0.05)
    return result


def install(share, mien, pictures):
    """Puts the program under test and the pictures where the guest finds them."""
    shutil.copy(mien, share / "bin/mien")
    shutil.rmtree(share / "pictures", ignore_errors=True)
    shutil.copytree(pictures, share / "pictures")
