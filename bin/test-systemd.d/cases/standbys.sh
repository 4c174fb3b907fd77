# Who stands by for whom, between users.

case_changes() { # two users, one standby: 20 changes, and no stock node registers again
  local round serving worst=0
  install_release prod
  install_release stage
  name_users prod stage
  start_nodes prod stage
  start_stock 5
  remember_sockets "${stock[@]}"
  start_probe "${stock[@]}"
  serving=$(owner)
  for ((round = 1; round <= 20; round++)); do
    need 20 "one stands by for $serving" has_standbys "$serving" 1
    if ((round % 2)); then inside systemctl restart "$serving"; else inside systemctl kill --signal=KILL "$serving"; fi
    serving=$([[ $serving == prod ]] && echo stage || echo prod)
    await_node prod
    await_node stage
    none_failed
    worst=$((longest > worst ? longest : worst))
    same_sockets "Round $round"
  done
  stop_probe
  figure "10 restarts, 10 kills: $asked lookups, 0 failed, 5 sockets as before; the longest lookup $worst ms"
}

case_deaths() { # three releases of two users: owner and first standby are killed at once, 20 times; no stock node registers again
  local round owner first worst=0 name
  for name in prod stage third; do install_release "$name"; done
  setting third User=stage
  name_users prod stage third
  for name in prod stage third; do setting "$name" Restart=always; done
  for name in prod stage third; do let_it_restart "$name"; done
  start_nodes prod stage third
  start_stock 5
  remember_sockets "${stock[@]}"
  start_probe "${stock[@]}"
  for ((round = 1; round <= 20; round++)); do
    for name in prod stage third; do if has_role "$name" serving; then owner=$name; fi; done
    need 30 "two stand by for $owner" has_standbys "$owner" 2
    first=$(standbys "$owner" | cut -d' ' -f1)
    inside kill -9 "$(main_pid "$owner")" "$(main_pid "$first")"
    for name in prod stage third; do await_node "$name"; done
    none_failed
    worst=$((longest > worst ? longest : worst))
    same_sockets "Round $round"
  done
  stop_probe
  figure "20 times: $asked lookups, 0 failed, 5 sockets as before; the longest lookup $worst ms"
}

case_strangers() { # a user who is not on the list cannot stand by
  install_release prod
  install_release third
  setting third User=other
  name_users prod
  # It names all, and is named by none.
  configure third '[{hand_over, [{users, [<<"prod">>, <<"other">>]}]}]'
  start_nodes prod
  start_nodes third
  need 20 "third has joined" has_role third joined
  inside sleep 5
  has_standbys prod 0 || fail "Somebody stands by: $(standbys prod)"
  # The list is mended, and it can.
  configure prod '[{hand_over, [{users, [<<"other">>]}]}]'
  inside systemctl restart prod
  await_node prod
  await_node third
  need 30 "the other user stands by" has_standbys "$(has_role prod serving && echo prod || echo third)" 1
  figure "nobody stands by until the owner names the user as well"
}

case_reserved_names() { # a user cannot register another's name, also while its holder restarts, at each loopback address
  local round said
  install_release prod
  guide_block FileDescriptorStoreMax | install_drop_in prod
  configure prod '[{reserved_names, [{<<"prod">>, <<"prod">>}, {<<"billing_*">>, [<<"root">>]}]}]'
  start_nodes prod
  # A pipe of its own, whose end has it tell.
  inside mkfifo /run/intruder
  inside systemd-run --quiet --unit=other-intruder --uid=other --property=StandardInput=file:/run/intruder \
    elixir /opt/made/intruder.exs prod billing_1 &
  inside sh -c 'exec 3>/run/intruder; while ! test -e /run/enough; do sleep 0.2; done' &
  inside sleep 3
  for ((round = 1; round <= 5; round++)); do
    if ((round % 2)); then inside systemctl restart prod; else inside kill -9 "$(main_pid prod)"; fi
    await_node prod
    [[ $(rpc prod 'IO.puts(node())') == "prod@$host" ]] || fail "bin/prod rpc does not work."
  done
  inside touch /run/enough
  need 30 "the intruder ends" has_told other-intruder refused
  said=$(journal other-intruder | grep refused)
  inside rm -f /run/enough /run/intruder
  [[ $said != *granted* ]] || fail "The intruder was granted a name: $said"
  [[ $(grep -o 'refused, {' <<<"$said" | wc -l) == 3 ]] || fail "The intruder was not refused at each address: $said"
  figure "$said"
  # Its owner gets it.
  inside systemd-run --quiet --unit=stock-billing --setenv=HOME=/root erl -noinput -sname billing_1 -start_epmd false
  await_node billing_1
}

has_told() { journal "$1" | grep -q "$2"; } # UNIT TEXT
