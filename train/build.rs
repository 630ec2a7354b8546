//! Links libtorch's CUDA half where there is one. No symbol of it is named in our code, so that the linker would leave it
//! out, and libtorch would then say that there are no CUDA devices.

use std::{env, path::Path};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // From torch-sys, which knows where libtorch lies.
    let Ok(folder) = env::var("DEP_TCH_LIBTORCH_LIB") else { return };
    if Path::new(&folder).join("libtorch_cuda.so").exists() {
        println!("cargo:rustc-link-arg=-Wl,--no-as-needed,-L{folder},-ltorch_cuda,--as-needed");
    }
}
