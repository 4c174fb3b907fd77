//! Keeps the library in memory for the life of the VM.
//!
//! `:init.restart/0` makes the VM unload the library while its thread may still be ending. Unmapping code that a thread
//! still runs would crash the VM.

fn main() {
    let target = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    // macOS needs no flag: its loader never unloads a library with thread-local variables, and this one has some.
    if matches!(target.as_str(), "linux" | "android" | "freebsd" | "netbsd" | "openbsd") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
