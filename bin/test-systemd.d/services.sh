# The services of the cases: units as guides/systemd.md gives them, and what is asked of them. To be sourced.

drop_ins=0
readonly guide=$repository/guides/systemd.md units=/etc/systemd/system

# The block of the guide that has a line like this.
guide_block() { # PATTERN
  local block
  block=$(awk -v pattern="$1" '
    /^```/ { if (inside && found) { printf "%s", text; exit } inside = !inside; text = ""; found = 0; next }
    inside { text = text $0 "\n"; if ($0 ~ pattern) found = 1 }' "$guide")
  [[ $block ]] || fail "guides/systemd.md has no block with a line like $1."
  echo "$block"
}

# --- Units ---------------------------------------------------------------------------------------------------------

write_unit() { # FILE, which is read from the input
  inside install -D -m 644 /dev/stdin "$units/$1"
  inside systemctl daemon-reload
}

# The unit of the guide, with the release of a folder of /opt/made.
install_release() { # NAME [FOLDER]
  local release=$1
  [[ $1 == @(prod|stage) ]] || release=stage
  inside ln -sfnT "/opt/made/${2:-ours}/$release" "/opt/$1"
  guide_block '^\[Unit\]' | sed "s/prod/$1/g; s|/bin/$1|/bin/$release|" | write_unit "$1.service"
}

# What stands in the guide for a service, beside the unit.
install_drop_in() { write_unit "$1.service.d/${2:-guide}.conf"; } # NAME [NAME OF THE DROP-IN]

# A case ends a service more often within 10 seconds than systemd lets it start.
let_it_restart() { printf '[Unit]\nStartLimitIntervalSec=0\n' | install_drop_in "$1" limit; } # NAME

setting() { # NAME LINE...
  drop_ins=$((drop_ins + 1))
  printf '%s\n' '[Service]' "${@:2}" | install_drop_in "$1" "set$drop_ins"
}

# Settings of the application, as its config.exs would have them.
configure() { # NAME ERLANG'S PROPERTY LIST
  inside install -D -m 644 /dev/stdin "/opt/config/$1.config" <<<"[{embedded_epmd, $2}]."
  setting "$1" "Environment=RELEASE_SYS_CONFIG=/opt/config/$1"
}

start() { inside systemctl start "$@" || fail "systemctl start $* failed: $(journal "$1" | tail -n 5)"; }
stop_units() { inside systemctl stop "$@"; }

# Starts these, and waits for them.
start_nodes() { # NAME...
  local name
  start "$@"
  for name; do await_node "$name"; done
}

await_node() { need 60 "$1 runs" is_found "$1"; } # NAME

is_found() { [[ $(port_of "$1") ]]; }
# What the EPMD at 127.0.0.1 knows.
port_of() { names | sed -n "s/^name $1 at port //p"; }
names() { inside epmd -names 2>/dev/null || true; }

is_running() { inside test -e "/proc/$1"; } # PID
main_pid() { inside systemctl show --property=MainPID --value "$1"; }
journal() { inside journalctl --no-pager --output=cat --unit="$1" "${@:2}"; } # UNIT OPTION...
journal_has() { journal "$1" | grep -qF -- "$2"; } # UNIT TEXT

rpc() { # NAME EXPRESSION
  local release=/opt/$1
  inside env RELEASE_DISTRIBUTION=sname RELEASE_NODE="$1" sh -c 'exec "$1"/bin/"$(basename "$(readlink "$1")")" rpc "$2"' \
    sh "$release" "$2"
}

role() { rpc "$1" 'IO.puts(EmbeddedEpmd.status().role)' 2>/dev/null; }
has_role() { [[ $(role "$1") == "$2" ]]; } # NAME ROLE
standbys() { rpc "$1" 'IO.puts(Enum.map_join(EmbeddedEpmd.status().standbys, " ", & &1.name))' 2>/dev/null; }
has_standbys() { [[ $(standbys "$1" | wc -w) == "$2" ]]; } # NAME COUNT
# Whose name and creation are in the table.
creations() { # NAME
  rpc "$1" '{:ok, %{nodes: nodes}} = EmbeddedEpmd.subscribe()
    for %{name: name, creation: creation} <- Enum.sort_by(nodes, & &1.name), not (name =~ ~r/^rpc-/), do: IO.puts("#{name} #{creation}")'
}

# --- Nodes of others -----------------------------------------------------------------------------------------------

# Nodes as OTP has them, which start no daemon.
start_stock() { # COUNT
  local n
  stock=()
  for ((n = 1; n <= $1; n++)); do
    inside systemd-run --quiet --unit="stock$n" --setenv=HOME=/root \
      erl -noinput -sname "stock$n" -start_epmd false -setcookie stock
    stock+=("stock$n")
  done
  for n in "${stock[@]}"; do await_node "$n"; done
}

start_c_node() {
  inside systemd-run --quiet --unit=cnode sh -c 'sleep infinity | exec /opt/made/cnode cnode'
  await_node cnode
}

# The sockets over which the nodes of these units are registered: unit, local port, inode.
sockets() { # UNIT...
  local unit all
  all=$(inside ss -Htnpe state established 'dport = :4369')
  for unit; do
    inside cat "/sys/fs/cgroup/systemd/system.slice/$unit.service/cgroup.procs" 2>/dev/null ||
      inside cat "/sys/fs/cgroup/system.slice/$unit.service/cgroup.procs"
  done | while read -r pid; do grep -F "pid=$pid," <<<"$all" || true; done |
    sed -E 's/.* \[?[0-9a-f:.]+\]?:([0-9]+) +\[?[0-9a-f:.]+\]?:4369 .*"([^"]+)".*ino:([0-9]+).*/\2 \1 \3/' | sort
}

# Keeps what these are, in before, for same_sockets.
remember_sockets() { # UNIT...
  remembered=("$@")
  before=$(sockets "$@")
}

same_sockets() { # WHEN
  local found
  found=$(sockets "${remembered[@]}")
  [[ $found == "$before" ]] || fail "$1: the sockets were $before, and are $found"
}

# --- Looking up all the while --------------------------------------------------------------------------------------

start_probe() { # NAME...
  local ebin
  ebin=$(inside sh -c 'echo /opt/made/ours/prod/lib/embedded_epmd-*/ebin')
  coproc PROBE { exec nsenter --target "$leader" --all env -i PATH=/usr/bin:/bin HOME=/root LC_ALL=C.UTF-8 \
    elixir -pa "$ebin" -r /opt/made/prober.ex /opt/made/probe.exs "$@" 2>&1; }
  read_probe 30
  [[ $reply == asking ]] || fail "The prober does not ask: $reply $(timeout 1 cat <&"${PROBE[0]}")"
}

read_probe() { read -r -t "$1" -u "${PROBE[0]}" reply || fail "The prober did not answer: ${reply:-}"; }

# Sets failed, longest (milliseconds) and wrong, of all since the last time.
probed() {
  echo >&"${PROBE[1]}"
  read_probe 30
  read -r failed longest wrong <<<"$reply"
}

none_failed() { # [WHAT]
  probed
  ((failed == 0)) || fail "${1:+$1: }$failed lookups failed: $wrong"
}

# Sets asked.
stop_probe() {
  echo stop >&"${PROBE[1]}"
  read_probe 30
  asked=$reply
  wait "$PROBE_PID" 2>/dev/null || true
}

# --- Between two cases ---------------------------------------------------------------------------------------------

reset_host() {
  local names='prod* stage* third* other* stock* cnode* *epmd* rabbitmq* ejabberd*'
  # shellcheck disable=SC2086 # a list of words
  inside sh -c 'systemctl list-units --all --plain --no-legend "$@" | cut -d" " -f1 >/run/left
    xargs -r systemctl kill --signal=KILL </run/left
    xargs -r systemctl stop </run/left
    systemctl disable --quiet epmd.socket epmd.service
    kill $(pidof epmd)
    cd /etc/systemd/system && rm -rf prod* stage* third* other* epmd* rabbitmq* ejabberd* */prod* */stage* */third*
    systemctl daemon-reload
    systemctl reset-failed
    rm -rf /opt/config
    journalctl --quiet --rotate
    journalctl --quiet --vacuum-time=1s' sh $names >/dev/null 2>&1 || true
}
