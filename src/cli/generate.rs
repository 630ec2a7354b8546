//! `mien generate`: what a package ships beside the program, made from the command line's definition.

use std::{fs, path::PathBuf};

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Outcome};

/// Write man pages (man1) and completions (bash, zsh, fish) into a folder, for packages
#[derive(clap::Args)]
pub struct Args {
    /// Made where it is missing
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub fn run(args: Args) -> anyhow::Result<Outcome> {
    let part = |name: &str| -> anyhow::Result<PathBuf> {
        let folder = args.folder.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    };
    clap_mangen::generate_to(Cli::command(), part("man1")?).context("man pages")?;
    for (shell, name) in [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")] {
        clap_complete::generate_to(shell, &mut Cli::command(), "mien", part(name)?).context(name)?;
    }
    Ok(Outcome::Done)
}
