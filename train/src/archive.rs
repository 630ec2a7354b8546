//! Tar archives of pictures, as the data packs have them.

use std::{collections::HashMap, fs::File, io::Read, path::Path};

use anyhow::{Context, Result};

/// Gives each of several things that share a name one of its own: the second `a.webp` is `a.webp#2`. An archive may hold
/// several files of one name; its table then names them as often, in the same order.
#[derive(Debug, Default)]
pub struct OwnNames(HashMap<String, u32>);

impl OwnNames {
    pub fn next(&mut self, name: &str) -> String {
        let count = self.0.entry(name.to_owned()).or_default();
        *count += 1;
        if *count == 1 { name.to_owned() } else { format!("{name}#{count}") }
    }
}

/// All files of a tar archive in memory, by file name without folders, told apart by [`OwnNames`].
pub fn read_tar(path: &Path) -> Result<HashMap<String, Vec<u8>>> {
    let file = File::open(path).with_context(|| format!("opening the archive {}", path.display()))?;
    let (mut files, mut names) = (HashMap::new(), OwnNames::default());
    for entry in tar::Archive::new(file).entries().with_context(|| format!("reading {}", path.display()))? {
        let mut entry = entry.with_context(|| format!("reading {}", path.display()))?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let Some(name) = entry.path()?.file_name().map(|n| n.to_string_lossy().into_owned()) else {
            continue;
        };
        let mut bytes = Vec::with_capacity(entry.size() as usize);
        entry.read_to_end(&mut bytes).with_context(|| format!("reading {name} in {}", path.display()))?;
        files.insert(names.next(&name), bytes);
    }
    Ok(files)
}
