//! Tar archives of pictures, as the data packs have them.

use std::{collections::HashMap, fs::File, io::Read, path::Path};

use anyhow::{Context, Result};

/// All files of a tar archive in memory, by file name without folders.
pub fn read_tar(path: &Path) -> Result<HashMap<String, Vec<u8>>> {
    let file = File::open(path).with_context(|| format!("opening the archive {}", path.display()))?;
    let mut files = HashMap::new();
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
        files.insert(name, bytes);
    }
    Ok(files)
}
