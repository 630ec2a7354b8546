"""A Debian in a guest, run by systemd, with mien's package in it."""

import shlex

from machine import wait

ROOT = "/tmp/debian"


class Debian:
    """systemd is process 1 of a namespace; its root is in the guest's memory."""

    def __init__(self, machine):
        self.machine = machine
        machine.sh(f"mkdir -p {ROOT} && mount -t tmpfs -o size=700m,mode=755 debian {ROOT}")
        machine.sh(f"tar xf /host/debian.tar -C {ROOT} && cp /host/mien.deb {ROOT}/root", 120)
        machine.sh("mount -t cgroup2 cgroup2 /sys/fs/cgroup")
        for what in ("dev", "sys"):
            machine.sh(f"mount --rbind /{what} {ROOT}/{what}")
        machine.sh(f"mount -t tmpfs run {ROOT}/run")
        boot = f"mount -t proc proc {ROOT}/proc; exec chroot {ROOT} /lib/systemd/systemd --unit=multi-user.target"
        self.init = machine.start("env", "container=mien", "unshare", "-m", "-p", "-f", "sh", "-c", boot)
        running = lambda: self.systemctl("is-system-running")[1].strip() in ("running", "degraded")
        wait(running, 240, f"systemd does not start: {self.init.err()}")

    def run(self, command, timeout=120):
        """A line of shell inside; its exit code and what it wrote."""
        enter = "nsenter -t $(pidof systemd | tr ' ' '\\n' | sort -n | head -n 1) -m -p -r -w"
        return self.machine.run(f"{enter} /usr/bin/env PATH=/usr/sbin:/usr/bin:/sbin:/bin /bin/sh -c {shlex.quote(command)}", timeout)

    def sh(self, command, timeout=120):
        code, text = self.run(command, timeout)
        assert code == 0, f"{command}: exit code {code}: {text.strip()}"
        return text

    def systemctl(self, arguments):
        return self.run(f"systemctl {arguments}")

    def show(self, name):
        """A property of mien's service."""
        return self.sh(f"systemctl show --value -p {name} mien").strip()
