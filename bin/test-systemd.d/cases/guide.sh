# What guides/systemd.md says beside its units.

case_recipes() { # what not to do: pkill -x epmd spares our VMs, pkill -f epmd and fuser find them all; ss shows who they are
  install_release prod
  install_release stage
  setting stage User=prod
  start_nodes prod stage
  need 20 "one stands by" has_standbys "$(owner)" 1
  local ours pids
  ours=$(printf '%s\n' "$(main_pid prod)" "$(main_pid stage)" | sort -n | paste -sd' ')
  ! inside pgrep -x epmd || fail "pgrep -x epmd finds something."
  pids=$(inside pgrep -f epmd | sort -n | paste -sd' ')
  [[ " $pids " == *" ${ours% *} "* && " $pids " == *" ${ours#* } "* ]] || fail "pgrep -f epmd finds $pids, and not $ours."
  pids=$(inside ss -Hltnp 'sport = :4369' | grep -o 'pid=[0-9]*' | cut -d= -f2 | sort -nu | paste -sd' ')
  [[ $pids == "$ours" ]] || fail "ss shows $pids, and not $ours."
  figure "pkill -f epmd would end $(wc -w <<<"$ours") VMs, pkill -x epmd none"
}

case_settings() { # ERL_EPMD_PORT in the units: rpc needs the same
  install_release prod
  setting prod Environment=ERL_EPMD_PORT=14369
  start prod
  need 30 "prod serves" journal_has prod "serving the port"
  ! rpc prod 'IO.puts(1)' || fail "rpc works without the port."
  inside env ERL_EPMD_PORT=14369 RELEASE_DISTRIBUTION=sname RELEASE_NODE=prod /opt/prod/bin/prod rpc 'IO.puts(node())' ||
    fail "rpc does not work with the port."
}

case_taken() { # when it does not start: the port is no EPMD's
  install_release prod
  inside systemd-run --quiet --unit=other-holder perl -MIO::Socket::INET -e \
    'push @l, IO::Socket::INET->new(Listen => 9, LocalAddr => "0.0.0.0:4369", ReuseAddr => 1) or die; sleep 1000'
  need 10 "the port is taken" is_taken
  inside systemctl start prod
  need 30 "it is told" journal_has prod "is in use by a program that does not answer as an EPMD"
  figure "$(journal prod | grep -o 'embedded_epmd: .*does not answer as an EPMD' | tail -n 1)"
  # It is tried again, and works when the port is free.
  inside systemctl stop other-holder
  await_node prod
}

is_taken() { [[ $(inside ss -Hltn 'sport = :4369') ]]; }

case_absent() { # when it does not start: an address that is not there yet
  install_release prod
  setting prod Environment=ERL_EPMD_ADDRESS=10.0.0.5
  start prod
  need 30 "it is told" journal_has prod "cannot listen on 10.0.0.5:4369: Cannot assign requested address"
  inside ip address add 10.0.0.5/32 dev lo
  await_node prod
  inside ip address del 10.0.0.5/32 dev lo
}

case_host_address() { # when rpc says nodedown: the address of the host's name is not among ERL_EPMD_ADDRESS
  install_release prod
  setting prod Environment=ERL_EPMD_ADDRESS=127.0.0.1,::1
  start_nodes prod
  ! rpc prod 'IO.puts(1)' || fail "rpc works."
  journal_has prod 127.0.1.1 || fail "The log does not name 127.0.1.1: $(journal prod)"
  inside env RELEASE_DISTRIBUTION=sname RELEASE_NODE=prod /opt/prod/bin/prod eval 'EmbeddedEpmd.doctor()' |
    grep -F 127.0.1.1 || fail "The doctor does not name 127.0.1.1."
  setting prod Environment=ERL_EPMD_ADDRESS=127.0.0.1,127.0.1.1,::1
  inside systemctl restart prod
  await_node prod
  rpc prod 'IO.puts(1)' || fail "rpc does not work with 127.0.1.1."
  figure "$(journal prod | grep -m1 -o 'embedded_epmd: .*127.0.1.1.*')"
}

case_doctor() { # the doctor of a service: what systemd keeps for it, and what would help
  install_release prod
  start_nodes prod
  need 5 "it is told" says prod "FileDescriptorStoreMax= in the unit"
  setting prod FileDescriptorStoreMax=5 Sockets=prod-epmd.socket
  guide_block ListenStream | write_unit prod-epmd.socket
  inside systemctl stop prod
  inside systemctl start prod-epmd.socket
  start_nodes prod
  start_stock 6
  need 20 "it is told" says prod "systemd keeps no more descriptors for this service."
  guide_block FileDescriptorStoreMax | install_drop_in prod zz
  inside systemctl restart prod
  await_node prod
  need 20 "it says what is kept" says prod "systemd keeps the port and the connections of all nodes"
  figure "3 sentences"
}

says() { # NAME SENTENCE
  local said
  said=$(rpc "$1" 'EmbeddedEpmd.doctor()')
  [[ $said == *"$2"* ]] || { echo "$said" && return 1; }
}
