# The container, from its boot to its end, and what is done in it. To be sourced.

readonly container=/mnt host=ep users=(prod stage other)
leader='' nspawn=''

# --- The container -------------------------------------------------------------------------------------------------

# Debian's services are there, and none runs until a case wants it.
readonly debians=(epmd.socket epmd.service rabbitmq-server.service ejabberd.service)

make_container() { # ROOT
  local machine=$container/root
  # What is written ends with this script's namespace.
  mount -t tmpfs tmpfs "$container"
  # It has to be in memory, or no container of it can be booted again.
  mkdir -p /run/systemd/nspawn
  mount -t tmpfs tmpfs /run/systemd/nspawn
  mkdir "$container"/{upper,work,root}
  mount -t overlay overlay -o "lowerdir=$1,upperdir=$container/upper,workdir=$container/work" "$machine"
  enabled=$(systemctl --root="$machine" is-enabled "${debians[@]}" | paste -sd' ')
  systemctl --quiet --root="$machine" disable "${debians[@]}" 2>/dev/null
  systemctl --quiet --root="$machine" mask apt-daily{,-upgrade}.timer e2scrub_all.timer e2scrub_reap.service \
    fstrim.timer dpkg-db-backup.timer systemd-networkd-wait-online.service
  # As Debian's installer writes it.
  printf '127.0.0.1 localhost\n::1 localhost\n127.0.1.1 %s\n' "$host" >"$machine/etc/hosts"
  echo "$host" >"$machine/etc/hostname"
  rm -f "$machine/etc/resolv.conf"
  local user
  for user in "${users[@]}"; do chroot "$machine" useradd --system --home-dir / --shell /usr/sbin/nologin "$user"; done
  mkdir -p "$machine/opt"
  cp -a "$results/systemd" "$machine/opt/made"
  cp "$repository"/test/support/prober.ex "$repository"/bin/test-systemd.d/*.exs "$machine/opt/made/"
}

boot_container() {
  local folder
  for folder in $(control_groups); do mkdir -p "$folder"; done
  : >"$logs/console"
  boot_in_group &
  nspawn=$!
  await_boot
}

boot_in_group() {
  local folder code=133
  for folder in $(control_groups); do echo "$BASHPID" >"$folder/cgroup.procs"; done
  # With this status it asks to be run again, since the container reboots.
  while ((code == 133)); do
    code=0
    systemd-nspawn --quiet --boot --register=no --keep-unit --private-network --directory="$container/root" \
      --machine="$host" --link-journal=no --timezone=off --resolv-conf=off --console=pipe \
      </dev/null >>"$logs/console" 2>&1 || code=$?
  done
}

# What the container uses of the machine's control groups: one of its own in each hierarchy, beside that of its tests.
control_groups() {
  local controllers path
  while IFS=: read -r _ controllers path; do
    path=${path%/"$group"}/$group
    case $controllers in
      name=systemd) echo "/sys/fs/cgroup/systemd$path" ;;
      memory) echo "/sys/fs/cgroup/memory$path" ;;
      '') if [[ -d /sys/fs/cgroup/unified ]]; then echo "/sys/fs/cgroup/unified$path"; else echo "/sys/fs/cgroup$path"; fi ;;
    esac
  done </proc/self/cgroup
}

remove_control_groups() {
  local folder
  for folder in $(control_groups); do
    [[ ! -d $folder ]] || find "$folder" -depth -type d -exec rmdir {} + 2>/dev/null || true
  done
}

await_boot() {
  leader=''
  await 60 find_leader || stop "The container does not start: $(tail -n 5 "$logs/console")"
  await 90 is_up || stop "The container does not boot: $(inside systemctl list-jobs)"
  let_memory_be_limited
}

# The first process of the only other process namespace.
find_leader() {
  kill -0 "$nspawn" 2>/dev/null || stop "systemd-nspawn ended: $(tail -n 5 "$logs/console")"
  leader=$({ grep -lsE $'^NSpid:\t[0-9]+\t1$' /proc/[0-9]*/status || true; } | cut -d/ -f3)
  [[ $leader ]]
}

is_up() { [[ $(inside systemctl is-system-running 2>/dev/null) == @(running|degraded) ]]; }

# Memory has a hierarchy of its own where the machine has control groups of version 1, which nspawn leaves read-only.
let_memory_be_limited() {
  [[ -d /sys/fs/cgroup/memory ]] || return 0
  nsenter --target "$leader" --mount mount -o remount,rw,bind /sys/fs/cgroup/memory
  inside systemctl daemon-reexec
}

inside() { # COMMAND...
  timeout --kill-after=5 120 nsenter --target "$leader" --all env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/root LC_ALL=C.UTF-8 "$@"
}

# --- Waiting and telling -------------------------------------------------------------------------------------------

await() { # SECONDS COMMAND...
  local deadline=$((SECONDS + $1))
  until "${@:2}"; do
    ((SECONDS < deadline)) || return 1
    sleep 0.1
  done
}

need() { # SECONDS WHAT COMMAND...
  await "$1" "${@:3}" || fail "In $1 s it did not come that $2."
}

figure() { echo "$*" >>"$logs/$case.figures"; }

fail() {
  echo "FAILED: $*"
  echo "$*" >"$logs/$case.failure"
  inside journalctl --no-pager --lines=60 --output=short-precise >"$logs/$case.journal" 2>&1 || true
  exit 1
}

now() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); }
