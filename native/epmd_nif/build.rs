//! Keeps the library in memory for the life of the VM.
//!
//! After `:init.restart/0` the VM unloads the library while a thread of the first life may still be on its way out;
//! unmapping code that a thread runs would end the VM.

fn main() {
    let target = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    // Not on macOS: its linker has no such flag, and its loader never unloads what has thread-local variables, as this has.
    if matches!(target.as_str(), "linux" | "android" | "freebsd" | "netbsd" | "openbsd") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
