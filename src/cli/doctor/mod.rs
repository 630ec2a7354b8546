//! `mien doctor`: what a run needs, looked at one by one.

use std::{
    ffi::OsString,
    io::{self, Write},
};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::{Cli, Command, Outcome, config, run};

mod board;
mod cameras;
mod display;
mod program;
mod trial;

/// Look at everything that a run needs: camera, display, processor, networks; then try it for three seconds
///
/// Each line is ok, a warning or a failure, and says what to do. The exit code is 1 if something failed. Opening the
/// camera for the trial may light its lamp.
#[derive(clap::Args)]
pub struct Args {
    /// Write a JSON object to standard output
    #[arg(long)]
    json: bool,
    /// Flags of `mien run` to take into account, such as -- --source camera:1
    #[arg(last = true, value_name = "FLAGS")]
    flags: Vec<OsString>,
}

pub fn run(args: Args) -> anyhow::Result<Outcome> {
    let mut report = Report { schema: 1, lines: Vec::new() };
    let mut out = anstream::stdout().lock();
    let mut say = |lines: Vec<Line>| -> io::Result<()> {
        if !args.json {
            lines.iter().try_for_each(|line| line.write(&mut out))?;
        }
        report.lines.extend(lines);
        Ok(())
    };

    let (settings, line) = settings(args.flags);
    say(program::check())?;
    say(vec![line])?;
    say(program::check_networks(settings.as_ref()))?;
    say(board::check(&board::Root::default()))?;
    say(cameras::check(settings.as_ref()))?;
    say(vec![display::check(settings.as_ref())])?;
    if let Some(settings) = settings {
        say(vec![trial::check(settings)])?;
    }
    let failures = report.count(State::Fail);
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        let warnings = report.count(State::Warn);
        writeln!(out, "\n{failures} failed, {warnings} warned of, {} fine", report.count(State::Ok))?;
    }
    Ok(if failures == 0 { Outcome::Done } else { Outcome::NothingProcessed })
}

/// What `mien run` would be asked with these flags, if that can be told.
fn settings(flags: Vec<OsString>) -> (Option<run::Args>, Line) {
    let words = ["mien".into(), "run".into()].into_iter().chain(flags);
    match config::parse(words) {
        Ok((Cli { command: Command::Run(args) }, read)) => {
            let read: Vec<String> = read.iter().map(|path| path.display().to_string()).collect();
            let found = match read.is_empty() {
                true => "no file; mien config shows what is in force".to_owned(),
                false => format!("{}; mien config shows what is in force", read.join(", ")),
            };
            (Some(args), Line::ok("configuration", found))
        }
        Ok(_) => {
            (None, Line::fail("configuration", "not one of mien run", "give flags of mien run after --"))
        }
        Err(error) => (
            None,
            Line::fail("configuration", error, "correct or remove it; mien run refuses to start with it"),
        ),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Line {
    check: String,
    state: State,
    found: String,
    /// What to do, unless all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Line {
    fn ok(check: impl Into<String>, found: impl ToString) -> Self {
        Self { check: check.into(), state: State::Ok, found: found.to_string(), advice: None }
    }

    fn warn(check: impl Into<String>, found: impl ToString, advice: impl Into<String>) -> Self {
        Self { state: State::Warn, advice: Some(advice.into()), ..Self::ok(check, found) }
    }

    fn fail(check: impl Into<String>, found: impl ToString, advice: impl Into<String>) -> Self {
        Self { state: State::Fail, ..Self::warn(check, found, advice) }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let (word, colour) = match self.state {
            State::Ok => ("ok", AnsiColor::Green),
            State::Warn => ("warn", AnsiColor::Yellow),
            State::Fail => ("FAIL", AnsiColor::Red),
        };
        let style = Style::new().bold().fg_color(Some(colour.into()));
        writeln!(out, "{style}{word:<4}{style:#}  {}: {}", self.check, self.found)?;
        self.advice.iter().try_for_each(|advice| writeln!(out, "      → {advice}"))?;
        // The last line takes seconds: what is known is shown before.
        out.flush()
    }
}

#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    lines: Vec<Line>,
}

impl Report {
    fn count(&self, state: State) -> usize {
        self.lines.iter().filter(|line| line.state == state).count()
    }
}
