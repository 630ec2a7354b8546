//! `mien config`, and the settings that stand behind the flags.
//!
//! The flags of `mien run` are the only list of what can be set: a key of a file is a flag's name, a variable is
//! `MIEN_` and that name. What files and environment set becomes the flags' defaults, so that one parser checks all.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt,
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches, parser::ValueSource};
use mien::config::{self as file, Key, Kind};
use serde::Serialize;

use super::{Cli, Outcome};

const SYSTEM: &str = "/etc/mien/mien.toml";
/// Variables that are not flags of `mien run`.
const OTHER_VARIABLES: [&str; 1] = ["MIEN_KERNELS"];

/// Show the settings of `mien run` and where each comes from
///
/// Later wins: built in, /etc/mien/mien.toml, ~/.config/mien/mien.toml ($XDG_CONFIG_HOME), the environment
/// (MIEN_DETECT_SIZE for --detect-size), flags. Of the keys of a file, `mien still` takes those that say how faces are
/// looked for. What is printed without --json can be used as a file.
#[derive(clap::Args)]
pub struct Args {
    /// Write a JSON object to standard output
    #[arg(long)]
    json: bool,
    /// Flags of `mien run` to take into account
    #[arg(last = true, value_name = "FLAGS")]
    flags: Vec<OsString>,
}

pub fn run(args: Args) -> anyhow::Result<Outcome> {
    let report = Report::new(&Settings::load()?, args.flags)?;
    let mut out = io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string(&report)?)?,
        false => write!(out, "{report}")?,
    }
    Ok(Outcome::Done)
}

/// The command line with files and environment behind it, and the files that were read.
///
/// Ends the program where the words themselves are wrong.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> anyhow::Result<(Cli, Vec<PathBuf>)> {
    let settings = Settings::load()?;
    let matches = settings.command()?.get_matches_from(words);
    let read = settings.files.into_iter().filter_map(|(path, found)| found.then_some(path));
    Ok((Cli::from_arg_matches(&matches)?, read.collect()))
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "from", rename_all = "lowercase")]
enum Origin {
    #[serde(rename = "built in")]
    BuiltIn,
    File {
        path: PathBuf,
        line: usize,
    },
    Environment {
        variable: String,
    },
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::BuiltIn => f.write_str("built in"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Environment { variable } => f.write_str(variable),
            Origin::Flag => f.write_str("flag"),
        }
    }
}

/// What files and environment set.
#[derive(Debug, Default)]
pub struct Settings {
    /// The files looked for, and whether they were there.
    files: Vec<(PathBuf, bool)>,
    /// By the flag's name, without dashes.
    set: BTreeMap<String, (Vec<String>, Origin)>,
}

impl Settings {
    pub fn load() -> anyhow::Result<Self> {
        let mut settings = Self::default();
        for path in [Some(PathBuf::from(SYSTEM)), user_file()].into_iter().flatten() {
            settings.read(path)?;
        }
        settings.take_environment(std::env::vars_os())?;
        settings.command()?;
        Ok(settings)
    }

    fn read(&mut self, path: PathBuf) -> anyhow::Result<()> {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.files.push((path, false));
                return Ok(());
            }
            Err(error) => {
                return Err(error).with_context(|| format!("configuration {}", path.display()));
            }
        };
        self.take_file(&text, &path)?;
        self.files.push((path, true));
        Ok(())
    }

    fn take_file(&mut self, text: &str, path: &Path) -> anyhow::Result<()> {
        let settings = file::parse(text, &keys())
            .map_err(|error| anyhow!("{}:{}: {}", path.display(), error.line, error.reason))?;
        for setting in settings {
            let origin = Origin::File { path: path.to_owned(), line: setting.line };
            self.set.insert(setting.name, (setting.values, origin));
        }
        Ok(())
    }

    /// An empty variable counts as none.
    fn take_environment(
        &mut self,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> anyhow::Result<()> {
        let keys = keys();
        for (variable, value) in variables.filter(|(_, value)| !value.is_empty()) {
            let Ok(variable) = variable.into_string() else { continue };
            if !variable.starts_with("MIEN_") || OTHER_VARIABLES.contains(&variable.as_str()) {
                continue;
            }
            let Some(key) = keys.iter().find(|key| variable_of(&key.name) == variable) else {
                log::warn!(
                    "{variable} is set, but there is no such setting; mien config shows which there are"
                );
                continue;
            };
            let value = value.into_string().map_err(|value| anyhow!("{variable}: {value:?} is no UTF-8"))?;
            self.set.insert(key.name.clone(), (vec![value], Origin::Environment { variable }));
        }
        Ok(())
    }

    /// The whole command line with these settings as defaults.
    ///
    /// # Errors
    /// When a flag doesn't take the value that is set for it.
    fn command(&self) -> anyhow::Result<Command> {
        let mut command = Cli::command();
        for (name, (values, origin)) in &self.set {
            let default = |arg: Arg| match arg.get_long() == Some(name) {
                true => arg.default_values(values),
                false => arg,
            };
            let single = run_command().mut_args(default);
            single.try_get_matches_from(["run"]).map_err(|error| anyhow!("{origin}: {}", brief(&error)))?;
            command = command.mut_subcommand("run", |run| run.mut_args(default));
            if analyser_flags(&command).contains(name) {
                command = command.mut_subcommand("still", |still| still.mut_args(default));
            }
        }
        Ok(command)
    }

    fn origin(&self, name: &str, source: ValueSource) -> Origin {
        let set = self.set.get(name).map(|(_, origin)| origin.clone());
        if source == ValueSource::CommandLine { Origin::Flag } else { set.unwrap_or(Origin::BuiltIn) }
    }
}

/// `$XDG_CONFIG_HOME/mien/mien.toml`, or the same in `~/.config`.
fn user_file() -> Option<PathBuf> {
    let named = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = named.or_else(|| Some(std::env::home_dir()?.join(".config")));
    folder.map(|folder| folder.join("mien/mien.toml"))
}

fn variable_of(name: &str) -> String {
    format!("MIEN_{}", name.to_uppercase().replace('-', "_"))
}

fn run_command() -> Command {
    let command = Cli::command();
    command.find_subcommand("run").cloned().unwrap_or_default()
}

/// The flags that say how faces are looked for.
fn analyser_flags(command: &Command) -> Vec<String> {
    let run = command.find_subcommand("run");
    let group = run.and_then(|run| run.get_groups().find(|group| group.get_id() == "AnalyserArgs"));
    let (Some(run), Some(group)) = (run, group) else { return Vec::new() };
    let members: Vec<_> = group.get_args().collect();
    let flags = run.get_arguments().filter(|arg| members.contains(&arg.get_id()));
    flags.filter_map(|arg| arg.get_long().map(str::to_owned)).collect()
}

/// A key for each flag of `mien run`.
fn keys() -> Vec<Key> {
    let command = run_command();
    let key = |arg: &Arg| Some(Key { name: arg.get_long()?.to_owned(), kind: kind(arg) });
    command.get_arguments().filter_map(key).collect()
}

fn kind(arg: &Arg) -> Kind {
    let parsed = arg.get_value_parser().type_id();
    let is = |id: std::any::TypeId| parsed == id;
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        Kind::Switch
    } else if is(std::any::TypeId::of::<u32>()) || is(std::any::TypeId::of::<u64>()) {
        Kind::Whole
    } else if is(std::any::TypeId::of::<f32>()) {
        Kind::Number
    } else if matches!(arg.get_action(), ArgAction::Append)
        || arg.get_num_args().is_some_and(|n| n.max_values() > 1)
    {
        Kind::Texts
    } else {
        Kind::Text
    }
}

/// clap's message without its frame.
fn brief(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines: Vec<&str> = text
        .trim_start_matches("error: ")
        .lines()
        .take_while(|line| !line.is_empty())
        .map(str::trim)
        .collect();
    lines.join(" ")
}

#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    files: Vec<FileLine>,
    settings: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct FileLine {
    path: PathBuf,
    found: bool,
}

#[derive(Debug, Serialize)]
struct Line {
    key: String,
    variable: String,
    /// Absent where nothing is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<serde_json::Value>,
    #[serde(flatten)]
    origin: Origin,
}

impl Report {
    fn new(settings: &Settings, flags: Vec<OsString>) -> anyhow::Result<Self> {
        let words = ["mien".into(), "run".into()].into_iter().chain(flags);
        let matches = settings.command()?.get_matches_from(words);
        let (_, run) = matches.subcommand().context("no subcommand")?;
        let line = |arg: &Arg| {
            let (key, id) = (arg.get_long()?.to_owned(), arg.get_id().as_str());
            let origin = run.value_source(id).map_or(Origin::BuiltIn, |source| settings.origin(&key, source));
            Some(Line { variable: variable_of(&key), value: value(run, id, kind(arg)), origin, key })
        };
        Ok(Self {
            schema: 1,
            files: settings.files.iter().cloned().map(|(path, found)| FileLine { path, found }).collect(),
            settings: run_command().get_arguments().filter_map(line).collect(),
        })
    }
}

/// What a flag stands at, as JSON.
fn value(matches: &ArgMatches, id: &str, kind: Kind) -> Option<serde_json::Value> {
    let texts: Vec<String> = matches.get_raw(id)?.map(|value| value.to_string_lossy().into_owned()).collect();
    match (kind, texts.as_slice()) {
        (Kind::Texts, _) => Some(texts.into()),
        (Kind::Text, [text]) => Some(text.clone().into()),
        (_, [text]) => serde_json::from_str(text).ok(),
        _ => None,
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = self.files.iter().map(|file| {
            format!("{} ({})", file.path.display(), if file.found { "read" } else { "not there" })
        });
        writeln!(f, "# {}", files.collect::<Vec<_>>().join(", "))?;
        for line in &self.settings {
            let text = match &line.value {
                Some(value) => format!("{} = {}", line.key, file::to_toml(value)),
                None => format!("# {} =", line.key),
            };
            writeln!(f, "{text:<40} # {}", line.origin)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str, variables: &[(&str, &str)]) -> anyhow::Result<Settings> {
        let mut settings = Settings::default();
        settings.take_file(text, "/etc/mien/mien.toml".as_ref())?;
        settings.take_environment(variables.iter().map(|&(name, value)| (name.into(), value.into())))?;
        settings.command()?;
        Ok(settings)
    }

    fn line(settings: &Settings, flags: &[&str], key: &str) -> (Option<serde_json::Value>, String) {
        let report = Report::new(settings, flags.iter().map(OsString::from).collect()).unwrap();
        let line = report.settings.into_iter().find(|line| line.key == key).unwrap();
        (line.value, line.origin.to_string())
    }

    #[test]
    fn later_wins_and_its_place_is_known() {
        let text = "fps = 10\ndetect-size = 416\nsource = ['a.jpg', 'b.jpg']\nheadless = true\n";
        let mut settings =
            settings(text, &[("MIEN_FPS", "15"), ("MIEN_KERNELS", "x"), ("MIEN_SIZE", "")]).unwrap();
        settings.take_file("\nmin-score = 0.5\nheadless = false", "/home/a/mien.toml".as_ref()).unwrap();
        let line = |flags: &[&str], key| line(&settings, flags, key);
        assert_eq!(line(&[], "detect-size"), (Some(416.into()), "/etc/mien/mien.toml:2".into()));
        assert_eq!(line(&[], "min-score"), (Some(0.5.into()), "/home/a/mien.toml:2".into()));
        assert_eq!(line(&[], "headless"), (Some(false.into()), "/home/a/mien.toml:3".into()));
        assert_eq!(line(&[], "fps"), (Some(15.into()), "MIEN_FPS".into()));
        assert_eq!(line(&["--fps", "20"], "fps"), (Some(20.into()), "flag".into()));
        assert_eq!(line(&["--source", "demo"], "source").0, Some(vec!["demo"].into()));
        assert_eq!(line(&[], "source").0, Some(vec!["a.jpg", "b.jpg"].into()));
        assert_eq!(line(&[], "json"), (Some(false.into()), "built in".into()));
        assert_eq!(line(&[], "size"), (None, "built in".into()));
    }

    #[test]
    fn wrong_values_are_errors_that_name_their_place() {
        let error = |text, variables: &[_]| settings(text, variables).unwrap_err().to_string();
        let said = error("# x\nfps = 0\n", &[]);
        assert!(said.starts_with("/etc/mien/mien.toml:2: invalid value '0' for '--fps <RATE>'"), "{said}");
        let said = error("engine = 'steam'", &[]);
        assert!(said.contains(":1: ") && said.contains("[possible values: int8, tract]"), "{said}");
        let said = error("", &[("MIEN_SIZE", "640")]);
        assert!(said.starts_with("MIEN_SIZE: invalid value '640'"), "{said}");
        assert!(error("\ncolour = 3", &[]).starts_with("/etc/mien/mien.toml:2: unknown key \"colour\""));
    }

    #[test]
    fn still_takes_only_how_faces_are_looked_for() {
        let settings = settings("json = true\nsave = '/nowhere'\nmin-score = 0.25\n", &[]).unwrap();
        let matches = settings.command().unwrap().get_matches_from(["mien", "still", "a.jpg"]);
        let (_, still) = matches.subcommand().unwrap();
        assert_eq!(still.get_one::<f32>("min_score"), Some(&0.25));
        assert!(!still.get_flag("json") && still.get_raw("save").is_none());
    }

    #[test]
    fn what_is_printed_can_be_read_again() {
        let first =
            settings("source = 'a \"quoted\" name'\nfps = 12\nmin-score = 0.3\nlandmarks = true", &[])
                .unwrap();
        let printed = Report::new(&first, vec![]).unwrap().to_string();
        let again = settings(&printed, &[]).unwrap();
        for key in keys() {
            assert_eq!(line(&first, &[], &key.name).0, line(&again, &[], &key.name).0, "{printed}");
        }
    }
}
