//! As with [`neon_dot`](super::neon_dot), but inputs stay unsigned.

use std::arch::{aarch64::*, asm};

use super::{
    Kernel, Strip, Window,
    neon::{finish, load},
};

super::neon_dot::kernel!("neon,i8mm", "usdot", signed: false);
