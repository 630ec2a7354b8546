//! Sources that are programs of their own: camera modules through their makers' tools, or any command. The program
//! writes JPEG pictures, one after the other.

use std::{
    collections::VecDeque,
    io::{self, BufRead, BufReader, Read},
    os::{fd::AsFd, unix::process::CommandExt},
    process::{Child, ChildStderr, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use super::{
    PictureError, SourceError, SourceOptions, jpeg,
    live::{Feed, Limits, Outlet, SLICE},
    mjpeg::{Found, Splitter},
};

/// How long a program may take to end once it is asked to; then it is killed.
const PARTING: Duration = Duration::from_millis(1500);
/// Lines of a program's standard error that are quoted when it fails, and the bytes of a line.
const QUOTED_LINES: usize = 3;
const LONGEST_LINE: u64 = 2000;
/// What a shell returns for a command that it does not find.
const NOT_FOUND: i32 = 127;

/// A program that writes JPEG pictures to its standard output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    name: String,
    /// The first of these that exists is run.
    commands: Vec<&'static str>,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
    limits: Limits,
    /// What to do if it is missing, and if it fails.
    missing: &'static str,
    failed: &'static str,
}

impl Program {
    /// The camera module of a Raspberry Pi; `selector` is the camera's number, where there are two.
    pub fn rpicam(selector: Option<&str>, options: &SourceOptions) -> Result<Self, SourceError> {
        let ((width, height), fps) = wanted(options);
        let mut arguments: Vec<String> =
            ["--timeout", "0", "--nopreview", "--codec", "mjpeg", "--output", "-"].map(String::from).into();
        for (flag, value) in [("--width", width), ("--height", height), ("--framerate", fps)] {
            arguments.extend([flag.to_owned(), value.to_string()]);
        }
        if let Some(camera) = number("rpicam", selector)? {
            arguments.extend(["--camera".to_owned(), camera.to_string()]);
        }
        Ok(Self {
            name: named("rpicam", selector),
            commands: vec!["rpicam-vid", "libcamera-vid"],
            arguments,
            environment: Vec::new(),
            limits: Limits { first: Duration::from_secs(15), next: Duration::from_secs(5) },
            missing: "install it with `sudo apt install rpicam-apps` (libcamera-apps before Raspberry Pi OS Bookworm)",
            failed: "check the camera's ribbon cable, and that `rpicam-hello --list-cameras` lists it",
        })
    }

    /// The camera module of a Jetson; `selector` is the sensor's number, where there are two.
    pub fn nvargus(selector: Option<&str>, options: &SourceOptions) -> Result<Self, SourceError> {
        let ((width, height), fps) = wanted(options);
        let sensor = number("nvargus", selector)?.unwrap_or(0);
        // The source prints to standard output; so the pictures go out through another descriptor.
        let pipeline = format!(
            "exec gst-launch-1.0 -q nvarguscamerasrc sensor-id={sensor} ! 'video/x-raw(memory:NVMM),framerate={fps}/1' \
             ! nvvidconv ! 'video/x-raw,width={width},height={height},format=I420' ! jpegenc ! fdsink fd=3 3>&1 1>&2"
        );
        Ok(Self {
            name: named("nvargus", selector),
            commands: vec!["sh"],
            arguments: vec!["-c".into(), pipeline],
            environment: Vec::new(),
            limits: Limits { first: Duration::from_secs(20), next: Duration::from_secs(5) },
            missing: "install it with `sudo apt install gstreamer1.0-tools gstreamer1.0-plugins-good`",
            failed: "check the camera's ribbon cable; nvarguscamerasrc comes with the package nvidia-l4t-gstreamer, and \
                     `sudo systemctl restart nvargus-daemon` helps where another program crashed",
        })
    }

    /// A shell command. It finds the size and the rate that were asked for, if any, in `WIDTH`, `HEIGHT` and `FPS`.
    pub fn shell(command: Option<&str>, options: &SourceOptions) -> Result<Self, SourceError> {
        let Some(command) = command.filter(|command| !command.trim().is_empty()) else {
            let advice = "give --source 'exec:COMMAND', with a command that writes JPEG pictures to its standard output";
            return Err(SourceError::new("exec:", "there is no command", advice));
        };
        let mut environment = Vec::new();
        if let Some((width, height)) = options.size {
            environment.extend([("WIDTH", width.to_string()), ("HEIGHT", height.to_string())]);
        }
        environment.extend(options.fps.map(|fps| ("FPS", fps.to_string())));
        // The rest of the command may hold a password.
        let word = command.split_whitespace().find(|word| !word.contains('=')).unwrap_or_default();
        Ok(Self {
            name: format!("exec:{word}"),
            commands: vec!["sh"],
            arguments: vec!["-c".into(), command.into()],
            environment,
            limits: Limits { first: Duration::from_secs(15), next: Duration::from_secs(10) },
            missing: "check the command's spelling and the PATH",
            failed: "run the command by itself: it has to write JPEG pictures, one after the other, to its standard \
                     output, and to go on doing so",
        })
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command.args(&self.arguments).envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        command
    }

    fn start(&self) -> Result<Running, SourceError> {
        for name in &self.commands {
            match self.command(name).spawn() {
                Ok(child) => return Ok(Running(child)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(SourceError::new(&self.name, format!("{name}: {error}"), self.failed));
                }
            }
        }
        let names = self.commands.join(" and ");
        Err(SourceError::new(&self.name, format!("{names} not found"), self.missing))
    }

    /// Why it gave no more pictures, with its own last words.
    fn failure(&self, reason: String, complaints: &Complaints) -> SourceError {
        let reason = match complaints.last_lines() {
            lines if lines.is_empty() => reason,
            lines => format!("{reason}, and said: {lines}"),
        };
        SourceError::new(&self.name, reason, self.failed)
    }
}

impl Feed for Program {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn closing_time(&self) -> Duration {
        PARTING + Duration::from_millis(500)
    }

    fn run(&mut self, outlet: &Outlet) -> Result<(), SourceError> {
        let mut running = self.start()?;
        let complaints = Complaints::hear(running.0.stderr.take());
        let Some(output) = running.0.stdout.take() else { return Ok(()) };
        let mut pictures = Splitter::new(Patient(output));
        outlet.describe(format!("{}, live MJPEG", self.name));
        loop {
            match outlet.goes_on() {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(reason) => return Err(self.failure(reason, &complaints)),
            }
            match pictures.next_picture() {
                Ok(Some(Found::Jpeg(bytes))) => {
                    let bytes = bytes.to_vec();
                    outlet.put(Instant::now(), move || jpeg::decode(&bytes));
                }
                Ok(Some(Found::Broken(reason))) => {
                    outlet.put(Instant::now(), move || Err(PictureError::CutShort(reason)));
                }
                Ok(None) => {
                    let status = running.end();
                    complaints.wait();
                    let code = status.as_ref().ok().and_then(|status| status.code());
                    return Err(match status {
                        // The shell has said which command it does not find.
                        Ok(_) if code == Some(NOT_FOUND) => {
                            SourceError::new(&self.name, complaints.last_lines(), self.missing)
                        }
                        Ok(status) => self.failure(format!("it ended ({status})"), &complaints),
                        Err(error) => self.failure(format!("it ended ({error})"), &complaints),
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(self.failure(error.to_string(), &complaints)),
            }
        }
    }
}

fn wanted(options: &SourceOptions) -> ((u32, u32), u32) {
    let request = super::format::Request { encoding: None, size: options.size, fps: options.fps };
    (request.wanted_size(), request.wanted_fps())
}

fn named(scheme: &str, selector: Option<&str>) -> String {
    selector.map_or_else(|| scheme.to_owned(), |selector| format!("{scheme}:{selector}"))
}

fn number(scheme: &str, selector: Option<&str>) -> Result<Option<u32>, SourceError> {
    let Some(selector) = selector else { return Ok(None) };
    selector.parse().map(Some).map_err(|_| {
        let advice = format!("give {scheme}, or {scheme}:0, {scheme}:1 where there are several");
        SourceError::new(format!("{scheme}:{selector}"), "not the number of a camera", advice)
    })
}

/// A child in a process group of its own, which ends with it.
struct Running(Child);

impl Running {
    /// Waits for the end of a child that has closed its output.
    fn end(&mut self) -> io::Result<std::process::ExitStatus> {
        let deadline = Instant::now() + PARTING;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.signal(Signal::SIGKILL);
        self.0.wait()
    }

    fn signal(&self, signal: Signal) {
        // An error says that nobody is left.
        let _ = killpg(Pid::from_raw(self.0.id() as i32), signal);
    }
}

impl Drop for Running {
    /// Asks the child and what it has started to end, kills what does not, and leaves no zombie.
    fn drop(&mut self) {
        self.signal(Signal::SIGTERM);
        // An error says that there is nothing to wait for.
        let _ = self.end();
        self.signal(Signal::SIGKILL);
    }
}

/// Reads from a pipe; where nothing comes for a moment, it gives the error `WouldBlock`.
struct Patient<R>(R);

impl<R: Read + AsFd> Read for Patient<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let timeout = PollTimeout::try_from(SLICE).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], timeout)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            _ => self.0.read(buffer),
        }
    }
}

/// The last lines that a program wrote to its standard error, read on a thread of their own.
struct Complaints {
    lines: Arc<Mutex<VecDeque<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Complaints {
    fn hear(stderr: Option<ChildStderr>) -> Self {
        let lines = Arc::<Mutex<VecDeque<String>>>::default();
        let heard = lines.clone();
        let reader = stderr.map(|stderr| {
            thread::spawn(move || {
                let mut stderr = BufReader::new(stderr);
                let mut line = Vec::new();
                while matches!(stderr.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line), Ok(1..)) {
                    let text = String::from_utf8_lossy(&line).trim().to_owned();
                    line.clear();
                    if text.is_empty() {
                        continue;
                    }
                    log::debug!("{text}");
                    let mut lines = heard.lock().unwrap_or_else(PoisonError::into_inner);
                    lines.push_back(text);
                    if lines.len() > QUOTED_LINES {
                        lines.pop_front();
                    }
                }
            })
        });
        Self { lines, reader }
    }

    /// Waits a moment for the last words of a program that has ended.
    fn wait(&self) {
        let deadline = Instant::now() + 2 * SLICE;
        while self.reader.as_ref().is_some_and(|reader| !reader.is_finished()) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn last_lines(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(String::as_str).collect::<Vec<_>>().join(" / ")
    }
}

#[cfg(test)]
mod tests {
    use super::{super::live::Live, *};
    use std::sync::atomic::AtomicBool;

    fn options() -> SourceOptions {
        SourceOptions { size: Some((1280, 720)), fps: Some(15), ..SourceOptions::default() }
    }

    #[test]
    fn size_rate_and_number_are_passed_on() {
        let pi = Program::rpicam(Some("1"), &options()).unwrap();
        let arguments = pi.arguments.join(" ");
        assert!(arguments.ends_with("--width 1280 --height 720 --framerate 15 --camera 1"), "{arguments}");
        let jetson = Program::nvargus(Some("1"), &options()).unwrap().arguments[1].clone();
        assert!(jetson.contains("sensor-id=1 ") && jetson.contains("framerate=15/1'"), "{jetson}");
        assert!(jetson.contains("width=1280,height=720,"), "{jetson}");
        let error = Program::rpicam(Some("left"), &options()).unwrap_err().to_string();
        assert_eq!(
            error,
            "rpicam:left: not the number of a camera; give rpicam, or rpicam:0, rpicam:1 where there are several"
        );
    }

    #[test]
    fn a_command_is_named_without_its_arguments() {
        let name = |command| Program::shell(Some(command), &options()).unwrap().name;
        assert_eq!(name("curl -u me:secret http://camera"), "exec:curl");
        assert_eq!(name("PASSWORD=secret curl"), "exec:curl");
        assert!(Program::shell(Some("  "), &options()).is_err());
        assert!(Program::shell(None, &options()).is_err());
    }

    #[test]
    fn a_dropped_child_takes_its_own_children_with_it() {
        let command = "trap '' TERM; sleep 600 & echo $!; wait; sleep 600";
        let program = Program::shell(Some(command), &options()).unwrap();
        let mut running = program.start().unwrap();
        let mut line = String::new();
        BufReader::new(running.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let process = format!("/proc/{}", line.trim());
        let is_alive = || {
            // One that nobody has collected yet is dead all the same.
            let status = std::fs::read_to_string(format!("{process}/stat")).unwrap_or_default();
            !status.is_empty() && !status.contains(") Z ")
        };
        assert!(!cfg!(target_os = "linux") || is_alive());
        drop(running);
        let begun = Instant::now();
        while is_alive() {
            assert!(begun.elapsed() < Duration::from_secs(30), "the child's child lives on");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn last_words_are_kept_and_bounded() {
        let command = "for i in 1 2 3 4 5; do echo line $i >&2; done; exit 3";
        let mut program = Program::shell(Some(command), &options()).unwrap();
        let error = Live::open(program.clone(), &AtomicBool::new(false)).err().unwrap();
        assert_eq!(error.reason, "it ended (exit status: 3), and said: line 3 / line 4 / line 5");
        program.arguments[1] = "no-such-command-anywhere".into();
        let error = Live::open(program, &AtomicBool::new(false)).err().unwrap();
        assert!(error.reason.ends_with("not found") && error.advice.contains("PATH"), "{error}");
    }
}
