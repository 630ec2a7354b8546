//! The machine: which board it is, how its camera connector is read, how hot it is.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::Line;

/// From here on processors of small boards slow down.
const HOT: f32 = 80.0;
/// How long another program may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Where the machine's files are: `/`, or a folder of a test.
pub struct Root(PathBuf);

impl Default for Root {
    fn default() -> Self {
        Self("/".into())
    }
}

impl Root {
    pub fn read(&self, path: &str) -> Option<String> {
        let text = fs::read_to_string(self.0.join(path)).ok()?;
        Some(text.trim_matches(['\0', '\n', ' ']).to_owned())
    }

    fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.0.join(path).exists()
    }

    /// The first of these programs that is installed.
    fn program<'n>(&self, names: &[&'n str]) -> Option<&'n str> {
        let folders = ["usr/local/bin", "usr/bin", "bin"];
        names
            .iter()
            .copied()
            .find(|name| folders.iter().any(|folder| self.exists(Path::new(folder).join(name))))
    }
}

pub fn check(root: &Root) -> Vec<Line> {
    let board = root.read("proc/device-tree/model").or_else(|| {
        let read = |name| root.read(&format!("sys/class/dmi/id/{name}"));
        Some(format!("{} {}", read("sys_vendor")?, read("product_name")?))
    });
    let mut lines = Vec::new();
    if let Some(board) = &board {
        lines.push(Line::ok("board", board));
        lines.extend(connector(root, board));
    }
    lines.extend(heat(root));
    if let Some(flags) = throttled(root) {
        lines.push(throttling(flags));
    }
    lines
}

/// The ribbon-cable (CSI) camera connector of a Raspberry Pi or a Jetson, which no `/dev/video` serves directly.
fn connector(root: &Root, board: &str) -> Option<Line> {
    const CHECK: &str = "camera connector";
    if board.contains("Raspberry Pi") {
        return Some(match root.program(&["rpicam-vid", "libcamera-vid"]) {
            Some(program) => Line::ok(CHECK, format!("{program} is installed, for --source rpicam")),
            None => Line::warn(
                CHECK,
                "rpicam-vid is not installed, which reads a camera on the ribbon cable",
                "sudo apt install rpicam-apps; not needed for a USB camera",
            ),
        });
    }
    if board.contains("Jetson") || root.exists("etc/nv_tegra_release") {
        return Some(if root.program(&["gst-launch-1.0"]).is_none() {
            Line::warn(
                CHECK,
                "gst-launch-1.0 is not installed, which reads a camera on the ribbon cable",
                "sudo apt install gstreamer1.0-tools; not needed for a USB camera",
            )
        } else if !root.exists("tmp/argus_socket") {
            Line::warn(
                CHECK,
                "NVIDIA's camera service is not running",
                "sudo systemctl restart nvargus-daemon; not needed for a USB camera",
            )
        } else {
            Line::ok(CHECK, "gst-launch-1.0 and nvargus-daemon are there, for --source nvargus")
        });
    }
    None
}

/// The hottest of the machine's sensors.
fn heat(root: &Root) -> Option<Line> {
    let zones = fs::read_dir(root.0.join("sys/class/thermal")).ok()?;
    let degrees = |zone: fs::DirEntry| -> Option<f32> {
        Some(fs::read_to_string(zone.path().join("temp")).ok()?.trim().parse::<f32>().ok()? / 1000.0)
    };
    // A sensor that is switched off says nonsense.
    let sensible = |degrees: &f32| (-40.0..150.0).contains(degrees);
    let hottest = zones.flatten().filter_map(degrees).filter(sensible).max_by(f32::total_cmp)?;
    let found = format!("{hottest:.0} °C at the hottest");
    Some(match hottest < HOT {
        true => Line::ok("temperature", found),
        false => Line::warn("temperature", found, "cool it: a hot processor slows down"),
    })
}

/// The Raspberry Pi's own word on power and heat, where there is one.
fn throttled(root: &Root) -> Option<u32> {
    let hexadecimal = |text: &str| u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok();
    if let Some(text) = root.read("sys/devices/platform/soc/soc:firmware/get_throttled") {
        return hexadecimal(&text);
    }
    let program = root.program(&["vcgencmd"])?;
    hexadecimal(answer(program, &["get_throttled"])?.split_once('=')?.1)
}

fn throttling(flags: u32) -> Line {
    const NOW: [(u32, &str); 4] = [
        (0, "too little voltage"),
        (1, "the clock is held down"),
        (2, "throttled"),
        (3, "at the soft limit of temperature"),
    ];
    let said = |shift: u32| {
        let set = NOW.iter().filter(|(bit, _)| flags >> (bit + shift) & 1 == 1);
        set.map(|&(_, what)| what).collect::<Vec<_>>().join(", ")
    };
    let (now, before) = (said(0), said(16));
    let advice = "use the maker's power supply and a short cable, and cool the processor";
    if !now.is_empty() {
        Line::fail("power", format!("now: {now}"), advice)
    } else if !before.is_empty() {
        Line::warn("power", format!("since it was switched on: {before}"), advice)
    } else {
        Line::ok("power", "never throttled since it was switched on")
    }
}

/// What a program writes to standard output; nothing if it fails or takes too long.
fn answer(program: &str, args: &[&str]) -> Option<String> {
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let deadline = Instant::now() + ANSWER_LIMIT;
    while child.try_wait().ok()?.is_none() {
        if Instant::now() > deadline {
            // Either may fail only because it has just ended.
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::{super::State, *};

    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = Root(folder.path().to_owned());
        (folder, root)
    }

    fn line<'l>(lines: &'l [Line], check: &str) -> &'l Line {
        lines.iter().find(|line| line.check == check).unwrap()
    }

    const PI: (&str, &str) = ("proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0");
    const THROTTLED: &str = "sys/devices/platform/soc/soc:firmware/get_throttled";

    #[test]
    fn a_healthy_raspberry_pi() {
        let temperature = ("sys/class/thermal/thermal_zone0/temp", "48312\n");
        let (_folder, root) = machine(&[PI, temperature, (THROTTLED, "0\n"), ("usr/bin/rpicam-vid", "")]);
        let lines = check(&root);
        assert!(lines.len() == 4 && lines.iter().all(|line| line.state == State::Ok), "{lines:?}");
        assert_eq!(line(&lines, "board").found, "Raspberry Pi 4 Model B Rev 1.4");
        assert_eq!(line(&lines, "temperature").found, "48 °C at the hottest");
        assert!(line(&lines, "camera connector").found.contains("--source rpicam"));
    }

    #[test]
    fn a_raspberry_pi_in_trouble() {
        let zones = [
            ("sys/class/thermal/thermal_zone0/temp", "82500"),
            ("sys/class/thermal/thermal_zone1/temp", "-274000"),
        ];
        let (_folder, root) = machine(&[PI, zones[0], zones[1], (THROTTLED, "50005")]);
        let lines = check(&root);
        assert_eq!(line(&lines, "camera connector").state, State::Warn);
        assert!(
            line(&lines, "temperature").found.starts_with("8")
                && line(&lines, "temperature").state == State::Warn
        );
        let power = line(&lines, "power");
        assert_eq!((power.state, power.found.as_str()), (State::Fail, "now: too little voltage, throttled"));
        assert!(power.advice.as_ref().unwrap().contains("power supply"));
        assert_eq!(throttling(0x50000).state, State::Warn);
    }

    #[test]
    fn a_jetson_is_told_what_its_connector_needs() {
        let model = ("proc/device-tree/model", "NVIDIA Jetson Orin Nano Developer Kit");
        let (_folder, root) = machine(&[model]);
        assert!(
            line(&check(&root), "camera connector").advice.as_ref().unwrap().contains("gstreamer1.0-tools")
        );
        let (_folder, root) = machine(&[model, ("usr/bin/gst-launch-1.0", "")]);
        assert!(line(&check(&root), "camera connector").advice.as_ref().unwrap().contains("nvargus-daemon"));
    }

    #[test]
    fn a_machine_that_tells_nothing_has_no_lines() {
        let (_folder, root) = machine(&[]);
        assert!(check(&root).is_empty());
    }
}
