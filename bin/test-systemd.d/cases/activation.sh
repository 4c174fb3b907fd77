# Socket units: listeners that systemd opens.

# prod with the socket unit of the guide, or with another.
activated() { # [LINE OF THE SOCKET UNIT...]
  install_release prod
  setting prod Sockets=prod-epmd.socket
  guide_block ListenStream >/dev/null
  if (($#)); then printf '%s\n' '[Socket]' "$@" Service=prod.service; else guide_block ListenStream; fi |
    write_unit prod-epmd.socket
  inside systemctl enable --quiet prod-epmd.socket
  inside systemctl restart prod-epmd.socket
}

listening() { inside ss -Hltn 'sport = :4369' | awk '{ print $4 }' | sort | paste -sd' '; }

case_activation() { # the guide's socket unit: its addresses, lookups that wait, and children that are told nothing
  local waited
  activated
  # The first lookup starts the release.
  waited=$(now)
  await_node prod
  waited=$(($(now) - waited))
  [[ $(listening) == "*:4369" ]] || fail "Listening: $(listening)."
  local variables
  variables=$(rpc prod ':os.cmd(~c"env") |> IO.puts()' | grep -c ^LISTEN_ || true)
  ((variables == 0)) || fail "Children are told of $variables variables."
  start_probe prod
  inside systemctl restart prod
  await_node prod
  probed
  # The node itself is unknown until it is back.
  [[ $wrong != *econnrefused* && $wrong != *timeout* ]] || fail "Lookups were refused: $wrong"
  stop_probe
  # Stopped alone it is started again by who asks.
  stop_units prod
  await_node prod
  inside systemctl stop prod-epmd.socket prod
  inside sleep 1
  ! is_found prod || fail "It was started again, though its socket unit was stopped."
  figure "the first lookup started it, and was answered after $waited ms; of $asked lookups during a restart none was refused"
}

case_addresses() { # other addresses and names of a socket unit: one for both families, one for each, loopbacks, another port
  local lines expected
  while IFS='|' read -r lines expected; do
    # shellcheck disable=SC2086 # words
    activated $lines
    inside systemctl restart prod
    await_node prod
    [[ $(listening) == "$expected" ]] || fail "With $lines: $(listening)."
    inside systemctl restart prod
    await_node prod
    [[ $(listening) == "$expected" ]] || fail "With $lines, after a restart: $(listening)."
    ! journal_has prod '[error]' || fail "With $lines: $(journal prod | grep error)"
    [[ $expected != *\[* ]] || inside epmd -names | grep -q '^name prod ' || fail "With $lines nobody answers."
    stop_units prod-epmd.socket prod
  done <<'END'
ListenStream=4369|*:4369
ListenStream=0.0.0.0:4369 ListenStream=[::]:4369 BindIPv6Only=ipv6-only|0.0.0.0:4369 [::]:4369
ListenStream=127.0.0.1:4369 ListenStream=127.0.1.1:4369 ListenStream=[::1]:4369|127.0.0.1:4369 127.0.1.1:4369 [::1]:4369
ListenStream=0.0.0.0:4369 FileDescriptorName=epmd|0.0.0.0:4369
END
  figure "4 units"
}

case_contradiction() { # a setting that contradicts the socket unit stops the boot with a sentence
  local setting
  activated
  for setting in ERL_EPMD_PORT=5000 ERL_EPMD_ADDRESS=127.0.0.2; do
    inside rm -rf "$units/prod.service.d"
    setting prod Sockets=prod-epmd.socket Environment="$setting" Restart=no
    inside systemctl start prod
    need 20 "$setting is told" journal_has prod "but the settings say ${setting#*=}"
    figure "$(journal prod | grep -oE 'embedded_epmd: the socket unit listens.*say [0-9.]+' | tail -n 1)"
    inside systemctl stop prod
  done
}

case_one_socket() { # two releases, one socket unit: the other joins and stands by, and both go and come 5 times each
  local round name
  activated
  install_release stage
  setting stage User=prod
  await_node prod
  start_nodes stage
  start_stock 3
  remember_sockets "${stock[@]}"
  start_probe "${stock[@]}"
  for ((round = 1; round <= 5; round++)); do
    for name in prod stage; do
      need 20 "one stands by" has_standbys "$(owner)" 1
      if ((round % 2)); then inside systemctl restart "$name"; else inside systemctl kill --signal=KILL "$name"; fi
      await_node "$name"
      none_failed "$name"
      same_sockets "Round $round of $name"
      [[ $(listening) == "*:4369" ]] || fail "Listening: $(listening)."
    done
  done
  stop_probe
  figure "10 changes: $asked lookups, 0 failed, 3 sockets as before"
}

case_two_sockets() { # two socket units for one port: systemd refuses the second
  activated
  guide_block ListenStream | sed s/prod/stage/ | write_unit stage-epmd.socket
  install_release stage
  ! inside systemctl start stage-epmd.socket || fail "systemd opened the port twice."
  journal_has stage-epmd.socket "Address already in use" || fail "$(journal stage-epmd.socket)"
  figure "$(journal stage-epmd.socket | grep -m1 'Address already')"
}
