# Others on the host that want an EPMD: Debian's own daemon, RabbitMQ, ejabberd.

case_debian() { # Debian's epmd.socket: enabled with erlang-base; whom its daemon registers is joined, and may be taken away
  [[ $enabled == "enabled enabled enabled enabled" ]] || fail "Debian enables of ${debians[*]}: $enabled"
  inside systemctl start epmd.socket
  install_release prod
  start_nodes prod
  need 20 "prod has joined" has_role prod joined
  inside systemctl --quiet is-active epmd.service || fail "systemd did not start the daemon."
  install_release stage
  start_nodes stage
  start_stock 1
  inside systemctl disable --quiet --now epmd.service epmd.socket
  need 20 "prod or stage serves" has_owner
  local since
  since=$(now)
  await_node stock1
  await_node prod
  await_node stage
  figure "disable --now: prod and stage are joined to the daemon, and one of them takes the port; all are found $(($(now) - since)) ms later"
}

has_owner() { [[ $(owner) ]]; }

case_without() { # a release without the library beside one with it: unknown when that stops, unless epmd.socket is kept
  install_release prod
  install_release stage stock
  start_nodes prod
  start_nodes stage
  stop_units prod
  local said
  ! is_found stage || fail "stage is found."
  said=$(lost_rpc)
  reset_host
  inside systemctl start epmd.socket
  install_release prod
  install_release stage stock
  start_nodes prod
  start_nodes stage
  stop_units prod
  [[ $(rpc stage 'IO.puts(node())') == "stage@$host" ]] || fail "With epmd.socket bin/stage rpc does not work."
  figure "without epmd.socket ${said#*: }; with it found"
}

# Has the only release of ours restart beside a service, and calls the service's tool all the while.
beside() { # ORDER UNIT TOOL...
  local order=$1 unit=$2 round calls=0
  install_release prod
  guide_drop_in prod.service.d | install_drop_in prod epmd
  guide_drop_in epmd.socket.d | write_unit epmd.socket.d/prod.conf
  guide_drop_in epmd.service.d | write_unit epmd.service.d/prod.conf
  # Otherwise it is started by the first question.
  if [[ $order == first ]]; then start_nodes prod; fi
  inside systemctl start "$unit" || fail "$unit does not start: $(journal "$unit" | tail -n 5)"
  await_node prod
  need 90 "its tool works" inside "${@:3}"
  ! inside pidof epmd || fail "There is an epmd daemon."
  for ((round = 1; round <= 3; round++)); do
    inside systemctl restart prod &
    inside "${@:3}" >/dev/null || fail "Round $round: $3 fails while prod restarts."
    wait $!
    inside "${@:3}" >/dev/null || fail "Round $round: $3 fails after prod has restarted."
    calls=$((calls + 2))
  done
  figure "$calls calls of $3 over 3 restarts of prod, which came $order, 0 failed"
  reset_host
}

# The block after the line that names the drop-in's folder.
guide_drop_in() { # FOLDER
  awk -v folder="$1/" 'index($0, folder) { named = 1 } named && /^```/ { if (inside) exit; inside = 1; next } inside' "$guide"
}

case_rabbitmq() { # RabbitMQ of Debian, in both orders: rabbitmqctl does not fail once while the only release of ours restarts
  beside first rabbitmq-server rabbitmqctl status
  beside last rabbitmq-server rabbitmqctl status
}

case_ejabberd() { # ejabberd of Debian, likewise: ejabberdctl
  beside first ejabberd ejabberdctl status
  beside last ejabberd ejabberdctl status
}
