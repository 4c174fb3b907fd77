# Rows of bin/matrix about what is built, packed and downloaded. A row that needs what another one made takes it from
# its folder of results, or runs that row first.

row_types() { # Apple, FreeBSD, NetBSD, musl, ARM of 32 bits, Windows: the compiler's word, with Debian unstable's Rust
  in_root sid_rust env CARGO_TARGET_DIR=/results/target bin/matrix.d/types
}

row_prebuilt() { # bin/prebuild for every triple; each is loaded, by an emulator if need be
  in_root sid_rust env EMBEDDED_EPMD_CACHE=/cache CARGO_TARGET_DIR=/results/target sh -c \
    'bin/prebuild && rm -rf /results/prebuilt && cp -a prebuilt checksum-*.exs /results/'
}

row_package() { # the package, unpacked: documentation, Dialyzer, and a project that compiles from it with Rust
  in_root sid_rust bin/matrix.d/package
}

row_bare() { # neither Rust nor a compiler: a new project takes the library from a file and from a web server; two nodes
  need_package
  in_root bare bin/matrix.d/bare
}

row_aarch64() { # two VMs of ARM of 64 bits with the prebuilt library, under qemu-user: handover
  need_package
  need_root sid_rust
  need_root aarch64
  export repository qemu=$roots/sid_rust/usr/bin/qemu-aarch64 machine=$roots/aarch64 built=$results/aarch64
  (cd "$results/package" && env MIX_ENV=prod MIX_BUILD_PATH="$built" CARGO_BUILD_TARGET=aarch64-unknown-linux-gnu \
    EMBEDDED_EPMD_BASE_URL="file://$results/prebuilt" RUSTLER_PRECOMPILED_GLOBAL_CACHE_PATH="$built/cache" mix compile)
  export -f in_foreign
  # In a user namespace the kernel has another table of formats, so that nobody else's is changed.
  unshare --user --map-root-user --mount --pid --fork --kill-child bash -euo pipefail -c in_foreign
}

# The package with the sums of the libraries that were made last.
need_package() {
  compgen -G "$results/prebuilt/*.tar.gz" >/dev/null || row_prebuilt
  cmp "$results"/checksum-*.exs "$results"/package/checksum-*.exs || row_package
}

in_foreign() {
  local magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
  local mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
  mount -t tmpfs tmpfs /mnt
  mkdir /mnt/{formats,upper,work,root}
  mount -t binfmt_misc binfmt_misc /mnt/formats
  printf '%s' ":aarch64:M::$magic:$mask:$qemu:F" >/mnt/formats/register
  mount -t overlay overlay -o "lowerdir=$machine,upperdir=/mnt/upper,workdir=/mnt/work" /mnt/root
  mount -t proc proc /mnt/root/proc
  mount --rbind /dev /mnt/root/dev

  cp -r "$built/lib/embedded_epmd" /mnt/root/
  chroot /mnt/root uname -m
  "$repository/bin/matrix.d/hand_over" /embedded_epmd /usr/lib/elixir/lib/elixir/ebin chroot /mnt/root erl
}

# --- Roots ---------------------------------------------------------------------------------------------------------

# Debian has the standard library for other machines as packages of those machines, all for one version of the compiler;
# where one lags behind it is compiled from its source.
equip_sid_rust() { # ROOT, which is a copy of sid
  local machine
  for machine in arm64 armhf riscv64; do chroot_clean "$1" dpkg --add-architecture "$machine"; done
  chroot_clean "$1" apt-get update
  chroot_clean "$1" apt-get install -y --no-install-recommends rustc cargo rust-src binutils{,-mingw-w64-x86-64} \
    python3-venv qemu-user musl musl:arm64 libc6-{arm64,armhf,riscv64}-cross
  for machine in arm64 armhf riscv64; do
    chroot_clean "$1" apt-get install -y --no-install-recommends "libstd-rust-dev:$machine" || true
  done
}

# Unpacked is enough; to configure its packages would take the emulator.
make_aarch64() { # FOLDER
  local package
  debootstrap --foreign --arch=arm64 --variant=minbase --include=erlang-base,erlang-crypto,elixir bookworm "$1" \
    http://deb.debian.org/debian
  # A link to the host's, over which a mount would land there.
  rm -rf "$1/proc"
  mkdir "$1/proc"
  for package in "$1"/var/cache/apt/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$1"
    rm "$package"
  done
}

export -f equip_sid_rust make_aarch64
