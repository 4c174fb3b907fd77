# Roots: Debians of their own, made with debootstrap once, and what runs in a copy of one. To be sourced by a script that has
# `repository` and `stop`; what it leaves to others is in `results`, which is /results in a root.

roots=${EMBEDDED_EPMD_ROOTS:-/var/cache/embedded_epmd/roots}
registry=${CARGO_HOME:-${HOME:-/root}/.cargo}/registry
results=$repository/_build/matrix/results
# What is downloaded once for all checkouts; /cache in a root.
cache=$(dirname "$roots")/build
scratch=''

need_namespaces() {
  ((EUID == 0)) || stop "$0 makes roots and mounts, so it needs root."
  for program in debootstrap unshare git; do
    command -v "$program" >/dev/null || stop "$program is missing. On Debian: apt-get install debootstrap util-linux git"
  done
}

clean_up() { [[ ! $scratch ]] || rm -rf "$scratch"; }

# --- Roots ---------------------------------------------------------------------------------------------------------

readonly base=(ca-certificates curl git procps) \
  equipment=(elixir erlang-nox erlang-dev erlang-src erlang-hex elixir-ex-doc erlang-dialyzer gcc libc6-dev iproute2) \
  service_host=(systemd systemd-sysv libnss-systemd iproute2 elixir erlang-nox erlang-dev gcc libc6-dev rustc-web cargo-web \
    rabbitmq-server ejabberd)

installed_in() { # ROOT
  case $1 in
    bookworm) echo "${base[@]}" ;;
    bare) echo "${base[@]}" elixir erlang-nox ;;
    trixie | sid | sid_rust) echo "${base[@]}" "${equipment[@]}" ;;
    systemd) echo "${base[@]}" "${service_host[@]}" ;;
    aarch64) ;;
    *) return 1 ;;
  esac
}

need_root() { # ROOT
  local packages root=$roots/$1
  packages=$(installed_in "$1") || stop "There is no root called $1."
  if [[ $1 == sid_rust ]]; then need_root sid; fi
  mkdir -p "$roots"
  exec {lock}>"$roots/$1.lock"
  flock "$lock"
  if [[ ! -d $root ]]; then
    echo "Making $root, once; its log is $root.log"
    rm -rf "$root.new"
    # shellcheck disable=SC2086 # a list of words
    in_namespaces make_root "$1" "$root.new" $packages >"$root.log" 2>&1 ||
      { tail -n 20 "$root.log" >&2; stop "It could not be made."; }
    mv "$root.new" "$root"
  fi
  exec {lock}>&-
}

make_root() { # ROOT FOLDER PACKAGES...
  local folder=$2 suite=$1
  case $1 in
    aarch64) make_aarch64 "$folder" && return ;;
    sid_rust)
      cp -a "$roots/sid" "$folder"
      mount_kernel "$folder"
      equip_sid_rust "$folder"
      return
      ;;
    bare) suite=trixie ;;
    systemd) suite=bookworm ;;
  esac
  debootstrap --variant=minbase "$suite" "$folder" http://deb.debian.org/debian
  if [[ $suite != sid ]]; then
    echo "deb http://deb.debian.org/debian-security $suite-security main" >"$folder/etc/apt/sources.list.d/security.list"
  fi
  # A mirror that stands still is good enough where it is for the machine itself.
  apt-config dump Acquire::Check-Valid-Until Acquire::Check-Date >"$folder/etc/apt/apt.conf.d/90mirror"
  mount_kernel "$folder"
  # No service that comes with a package is started: it would be one of this machine.
  install -m 755 /dev/stdin "$folder/usr/sbin/policy-rc.d" <<<$'#!/bin/sh\nexit 101'
  chroot_clean "$folder" apt-get update
  chroot_clean "$folder" apt-get install -y --no-install-recommends "${@:3}"
  chroot_clean "$folder" apt-get clean
}

# --- Running in a copy of a root -----------------------------------------------------------------------------------

in_root() { # ROOT COMMAND...
  local code=0
  need_root "$1"
  scratch=$(mktemp -d "${TMPDIR:-/tmp}/embedded_epmd_matrix.XXXXXX")
  in_namespaces run_in_copy "$scratch" "$roots/$1" "${@:2}" || code=$?
  rm -rf "$scratch"
  scratch=''
  return "$code"
}

# All of it ends with the first process of its namespace, which ends with `unshare`, which ends with us.
in_namespaces() { # FUNCTION ARGUMENT...
  mkdir -p "$results" "$cache"
  export repository registry roots results cache
  export -f make_root run_in_copy mount_kernel chroot_clean
  setpriv --pdeathsig KILL unshare --mount --propagation private --pid --fork --kill-child \
    bash -euo pipefail -c '"$@"' bash "$@"
}

run_in_copy() { # SCRATCH ROOT COMMAND...
  local copy=$1/root
  mkdir "$1/upper" "$1/work" "$copy"
  mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" "$copy"
  mount_kernel "$copy"

  # Crates are downloaded once for all.
  mkdir -p "$registry" "$copy/root/.cargo/registry" "$copy/checkout"
  mount --bind "$registry" "$copy/root/.cargo/registry"
  mkdir "$copy/results" "$copy/cache"
  mount --bind "$results" "$copy/results"
  mount --bind "$cache" "$copy/cache"
  # What git has or would take, as it stands, without its history: nothing here needs that.
  git -C "$repository" ls-files -z --cached --others --exclude-standard |
    tar -C "$repository" --null --files-from=- --ignore-failed-read -c | tar -C "$copy/checkout" --no-same-owner -x
  chroot_clean "$copy" sh -c 'cd /checkout && exec "$@"' sh "${@:3}"
}

mount_kernel() { # ROOT
  mount -t proc proc "$1/proc"
  mount --rbind /sys "$1/sys"
  mount --rbind /dev "$1/dev"
  cp --dereference /etc/resolv.conf /etc/hosts "$1/etc/"
  # The registries may be behind an authority that this machine knows.
  if [[ -d $1/etc/ssl/certs ]]; then cp /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/"; fi
}

chroot_clean() { # ROOT COMMAND...
  chroot "$1" env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    TERM="${TERM:-dumb}" LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
    ${EMBEDDED_EPMD_ROUNDS:+EMBEDDED_EPMD_ROUNDS="$EMBEDDED_EPMD_ROUNDS"} "${@:2}"
}
