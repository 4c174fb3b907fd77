#!/usr/bin/env bash
# Type checks for systems that are not here, of the library, its tests and the NIF.
#
#   bin/matrix.d/types.sh [TRIPLE...]
#
# It runs wherever Rust has the source of its standard library (Debian's rust-src, `rustup component add rust-src`).
# bin/matrix sources it, for its row.

readonly type_triples=({aarch64,x86_64}-apple-darwin x86_64-unknown-{freebsd,netbsd} x86_64-unknown-linux-musl armv7-unknown-linux-gnueabihf)

row_types() { # Debian unstable's Rust: type checks for macOS, FreeBSD, NetBSD, musl and 32-bit ARM
  in_root sid_rust bin/matrix.d/types.sh
}

check_types() { # [TRIPLE...]
  local triple failed=0 table=()
  if ((!$#)); then set -- "${type_triples[@]}"; fi
  if [[ ! -f $(rustc --print sysroot)/lib/rustlib/src/rust/library/Cargo.lock ]]; then
    echo "This Rust lacks the source of its standard library. On Debian: apt-get install rust-src; with rustup: rustup component add rust-src" >&2
    return 2
  fi
  for triple; do
    echo "== $triple"
    # A stable Rust compiles its own standard library only when it is asked like this. No machine code is made of it.
    if RUSTC_BOOTSTRAP=1 cargo check --workspace --all-targets --locked --target "$triple" --target-dir target/types \
      -Z build-std=std,test --config "target.$triple.rustflags = ['-Z', 'no-codegen']"; then
      table+=("$(printf '%-32s ok' "$triple")")
    else
      table+=("$(printf '%-32s does not compile' "$triple")")
      failed=1
    fi
  done
  printf '\n%s, %s\n' "$(rustc --version)" "$(cargo --version)"
  printf '%s\n' "${table[@]}"
  return "$failed"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  set -euo pipefail
  cd "$(dirname "$0")/../.."
  check_types "$@"
fi
