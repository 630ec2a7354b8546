//! Python for the tests that compare with its packages.

use std::process::Command;

/// The Python of the virtual environment, or the system's; `None`, said aloud, where it lacks one of `modules` (as
/// `import` takes them).
pub fn python(modules: &str) -> Option<Command> {
    let python =
        std::env::var("VIRTUAL_ENV").map_or("python3".to_owned(), |venv| format!("{venv}/bin/python3"));
    let has = Command::new(&python).args(["-c", &format!("import {modules}")]).output();
    if !has.is_ok_and(|has| has.status.success()) {
        eprintln!("skipped: {python} cannot import {modules}; `make test` installs them");
        return None;
    }
    Some(Command::new(&python))
}
