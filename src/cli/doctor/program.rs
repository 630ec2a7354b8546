//! This build, the processor it runs on, and its networks.

use std::fmt::Write;

use mien::{
    engine::{self, EngineKind, kernels::InstructionSet},
    models::{Model, ModelError, sha256},
};

use super::{Line, run};

pub fn check() -> Vec<Line> {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    vec![Line::ok("program", format!("mien {}, {arch}-{os}", env!("CARGO_PKG_VERSION"))), kernels(), plain()]
}

/// The kernels for whole numbers that this build holds, and the one that is chosen.
fn kernels() -> Line {
    let names =
        |sets: Vec<InstructionSet>| sets.into_iter().map(InstructionSet::name).collect::<Vec<_>>().join(", ");
    let held = names(InstructionSet::built().collect());
    let here = names(InstructionSet::supported().collect());
    let found = |chosen| {
        format!("{}; {chosen} kernels; here run {here}; this build holds {held}", super::super::bench::cpu())
    };
    match InstructionSet::chosen() {
        Ok(InstructionSet::Portable) => Line::warn(
            "processor",
            found("portable"),
            "a processor with AVX2, or an ARM of 64 bits with a 64-bit system, is several times faster",
        ),
        Ok(chosen) => Line::ok("processor", found(chosen.name())),
        Err(error) => Line::fail("processor", error, "unset MIEN_KERNELS, or name one that is here"),
    }
}

/// What plain tract multiplies with: an old assembler makes a build that lacks the fast ones.
fn plain() -> Line {
    let routines = engine::tract_routines();
    let has = |part: &str| routines.iter().any(|routine| routine.name.contains(part));
    let names: Vec<&str> =
        routines.iter().filter(|routine| routine.runs_here).map(|routine| routine.name.as_str()).collect();
    let found =
        format!("{} routines for whole numbers, of which run here: {}", routines.len(), names.join(", "));
    match cfg!(target_arch = "aarch64") && !has("_dot") {
        true => Line::warn(
            "plain tract",
            found + "; dot products are missing",
            "nothing to do for --engine int8; for --engine tract build with binutils 2.30 or newer",
        ),
        false => Line::ok("plain tract", found),
    }
}

pub fn check_networks(settings: Option<&run::Args>) -> Vec<Line> {
    let folder = settings.and_then(|settings| settings.analyser.models.as_deref());
    let describe = |name: &str, onnx: &[u8], origin: &str| {
        let mut text = format!("{name}, {origin}, {} kB", onnx.len() / 1000);
        // Writing to a text cannot fail.
        let _ = write!(text, ", SHA-256 {} as its card says", &sha256(onnx)[..16]);
        text
    };
    let line = |check: &str, found: Result<String, ModelError>| match found {
        Ok(found) => Line::ok(check, found),
        Err(error) => Line::fail(check, error, "leave --models out to use the built-in networks"),
    };
    let face = Model::face(folder).map(|model| describe(&model.card.name, &model.onnx, &model.origin));
    let attributes =
        Model::attributes(folder).map(|model| describe(&model.card.name, &model.onnx, &model.origin));
    let mut lines = vec![line("detector", face), line("classifier", attributes)];
    if settings.is_some_and(|settings| {
        settings.analyser.engine == EngineKind::Tract && InstructionSet::best() != InstructionSet::Portable
    }) {
        lines.push(Line::warn(
            "engine",
            "plain tract is chosen",
            "--engine int8 is faster here: see mien bench",
        ));
    }
    lines
}
