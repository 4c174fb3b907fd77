# The descriptor store of a service.

stored() { inside systemctl show --property=NFileDescriptorStore --value "$1"; }

with_store() { # SIZE
  install_release prod
  setting prod FileDescriptorStoreMax="$1" Restart=always
  start_nodes prod
}

case_no_store() { # no store: nodes are back after 2 seconds; it is told once, where systemd hears the service at all
  local set since told
  for set in FileDescriptorStoreMax=0 NotifyAccess=main; do
    install_release prod
    setting prod "$set"
    start_nodes prod
    start_stock 2
    told=$(journal prod | grep -c "has no descriptor store" || true)
    [[ $told == $([[ $set == NotifyAccess* ]] && echo 1 || echo 0) ]] || fail "$set: it was told $told times."
    inside systemctl restart prod
    await_node prod
    since=$(now)
    await_node stock1
    await_node stock2
    figure "$set: told $told times, stock nodes are found $(($(now) - since)) ms after the release"
    reset_host
  done
}

case_small_store() { # a store that is too small keeps what fits, and it is told
  with_store 8
  start_stock 10
  need 10 "it is told" journal_has prod "descriptor store of this service is full"
  [[ $(journal prod | grep -c "descriptor store of this service is full") == 1 ]] || fail "It was told more than once."
  local before kept
  before=$(sockets "${stock[@]}")
  inside kill -9 "$(main_pid prod)"
  await_node prod
  local name
  for name in "${stock[@]}"; do await_node "$name"; done
  kept=$(comm -12 <(echo "$before") <(sockets "${stock[@]}") | wc -l)
  ((kept >= 5)) || fail "$kept of 10 nodes kept their socket."
  figure "of 10 nodes $kept kept their socket, the others registered again; $(stored prod) in a store of 8"
}

case_many() { # 3,000 registrations in the store: all are there after a kill, and after a restart
  local took round
  with_store 10000
  inside systemd-run --quiet --unit=other-many --property=LimitNOFILE=65536 elixir /opt/made/many.exs 3000
  need 60 "3,000 are registered" has_names 3001
  need 60 "they are stored" has_stored prod 3000
  for round in kill restart; do
    took=$(now)
    if [[ $round == kill ]]; then inside kill -9 "$(main_pid prod)"; else inside systemctl restart prod; fi
    await_node prod
    took=$(($(now) - took))
    has_names 3001 || fail "After a $round there are $(names | grep -c ^name)."
    need 60 "they are stored" has_stored prod 3000
    figure "$round: all there after $took ms"
  done
  ! inside journalctl --unit=other-many --output=cat | grep closed || fail "A connection ended."
  figure "$(stored prod) descriptors stored"
}

case_too_many() { # 4,500 registrations: 4,000 are kept, and it is told
  local kept
  with_store 10000
  inside systemd-run --quiet --unit=other-many --property=LimitNOFILE=65536 elixir /opt/made/many.exs 4500
  need 120 "4,500 are registered" has_names 4501
  need 120 "it is told" journal_has prod "no more nodes are stored"
  need 120 "they are stored" has_stored prod 4003
  kept=$(stored prod)
  inside kill -9 "$(main_pid prod)"
  await_node prod
  (($(names | grep -c ^name) == 4001)) || fail "There are $(names | grep -c ^name) names."
  figure "$(names | grep -c ^name) of 4,501 names after a kill, $kept descriptors stored"
}

has_names() { [[ $(names | grep -c ^name) == "$1" ]]; }
has_stored() { (($(stored "$1" || echo 0) >= $2)); }

case_emptied() { # where another release stands by, that one goes on, and the store is emptied
  with_store 100
  start_stock 3
  need 10 "they are stored" has_stored prod 3
  install_release stage
  setting stage User=prod
  start_nodes stage
  need 20 "stage stands by" has_standbys prod 1
  inside kill -9 "$(main_pid prod)"
  await_node prod
  has_role stage serving || fail "stage does not serve."
  need 10 "the store is empty" is_store_empty
  figure "0 descriptors stored beside an owner"
}

is_store_empty() { [[ $(stored prod) == 0 ]]; }
