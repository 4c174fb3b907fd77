defmodule EmbeddedEpmd.Systemd.GuideTest do
  # What guides/systemd.md says beside its units.
  use Support.ServiceCase

  test "what not to do: pkill -x epmd spares our VMs, pkill -f epmd and fuser find them all; ss shows who they are" do
    install("prod")
    install("stage", "User=prod")
    start_nodes(["prod", "stage"])
    await_standbys(owner(), 1)
    ours = Enum.sort([main_pid("prod"), main_pid("stage")])
    refute inside?(~w(pgrep -x epmd))
    assert ours -- String.split(inside(~w(pgrep -f epmd))) == []
    listeners = inside(~w(ss -Hltnp) ++ ["sport = :4369"])
    assert Enum.sort(for([_, pid] <- Regex.scan(~r/pid=(\d+)/, listeners), uniq: true, do: pid)) == ours
    figure("pkill -f epmd would end #{length(ours)} VMs, pkill -x epmd none")
  end

  test "ERL_EPMD_PORT in the units: rpc needs the same" do
    install("prod", "Environment=ERL_EPMD_PORT=14369")
    start("prod")
    assert_within(30, journal("prod") =~ "serving the port")
    assert {_, 1} = bin("prod", "rpc", "IO.puts(1)")
    assert {"prod@ep\n", 0} = bin("prod", "rpc", "IO.puts(node())", ["ERL_EPMD_PORT=14369"])
  end

  test "when it does not start: the port is no EPMD's" do
    install("prod")

    holder =
      ~S|push @l, IO::Socket::INET->new(Listen => 9, LocalAddr => "0.0.0.0:4369", ReuseAddr => 1) or die; | <>
        "sleep 1000"

    start_unit("other-holder", ["perl", "-MIO::Socket::INET", "-e", holder])
    assert_within(10, listening() != [])
    start("prod")
    assert_within(30, journal("prod") =~ "is in use by a program that does not answer as an EPMD")
    figure(said("prod", ~r/embedded_epmd: .*does not answer as an EPMD/))
    # It is tried again, and works when the port is free.
    stop("other-holder")
    await_node("prod")
  end

  test "when it does not start: an address that is not there yet" do
    install("prod", "Environment=ERL_EPMD_ADDRESS=10.0.0.5")
    start("prod")
    assert_within(30, journal("prod") =~ "cannot listen on 10.0.0.5:4369: Cannot assign requested address")
    inside(~w(ip address add 10.0.0.5/32 dev lo))
    await_node("prod")
    inside(~w(ip address del 10.0.0.5/32 dev lo))
  end

  test "when rpc says nodedown: the address of the host's name is not among ERL_EPMD_ADDRESS" do
    install("prod", "Environment=ERL_EPMD_ADDRESS=127.0.0.1,::1")
    start_nodes("prod")
    assert {_, 1} = bin("prod", "rpc", "IO.puts(1)")
    assert journal("prod") =~ "127.0.1.1"
    figure(said("prod", ~r/embedded_epmd: .*127.0.1.1.*/))
    assert {doctor, 0} = bin("prod", "eval", "EmbeddedEpmd.doctor()")
    assert doctor =~ "127.0.1.1"
    setting("prod", "Environment=ERL_EPMD_ADDRESS=127.0.0.1,127.0.1.1,::1")
    restart_node("prod")
    assert_rpc("prod")
  end

  test "the doctor of a service: what systemd keeps for it, and what would help" do
    install("prod")
    start_nodes("prod")
    assert_within(5, doctor("prod") =~ "FileDescriptorStoreMax= in the unit")
    setting("prod", ["FileDescriptorStoreMax=5", "Sockets=prod-epmd.socket"])
    install_socket("prod")
    stop("prod")
    start("prod-epmd.socket")
    start_nodes("prod")
    start_stock(6)
    assert_within(20, doctor("prod") =~ "systemd keeps no more descriptors for this service.")
    # It comes after what was set before.
    install_store("prod", "zz")
    restart_node("prod")
    assert_within(20, doctor("prod") =~ "systemd keeps the port and the connections of all nodes")
    figure("3 sentences")
  end
end
