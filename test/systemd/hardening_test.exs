defmodule EmbeddedEpmd.Systemd.HardeningTest do
  # Units that narrow what a service may do.
  use Support.ServiceCase

  import Support.Ending

  @alone ~w(MemoryDenyWriteExecute=yes PrivateUsers=yes ProtectProc=invisible ProcSubset=pid
            SystemCallFilter=@system-service)
  @hardest @alone ++
             ["RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX"] ++
             ~w(NoNewPrivileges=yes ProtectSystem=strict ProtectHome=yes PrivateTmp=yes PrivateDevices=yes)

  test "each of them alone, and all at once: one stands by, and nobody notices its owner's death" do
    units = Enum.map(@alone, &[&1]) ++ [@hardest]

    for lines <- units do
      start_hardened(lines)
      await_standbys(owner(), 1)
      watched = watch(start_stock(1))
      kill(owner())
      assert_undisturbed(watched, lines)
      stop_watching(watched)
      reset()
    end

    figure("#{length(units)} units, 0 failed lookups")
  end

  test "all of them, one release: the store keeps its nodes" do
    install("prod", @hardest ++ ["Restart=always"])
    install_store("prod")
    start_nodes("prod")
    figure(live_through(start_stock(3), 0, [:restart, :kill]))
  end

  test "without AF_UNIX nobody can stand by, and log and doctor say so" do
    start_hardened(["RestrictAddressFamilies=AF_INET AF_INET6"])
    Process.sleep(2_000)
    owner = owner()
    assert standbys(owner) == []
    assert journal(owner) =~ "AF_UNIX"
    assert doctor(owner) =~ "AF_UNIX"
    start_stock(1)

    took =
      milliseconds(fn ->
        kill(owner)
        # It may be back before anybody looks.
        within?(10, fn -> not found?("stock1") end)
        await_node("stock1")
      end)

    figure("the stock node is found again after #{took} ms")
  end

  test "ProtectProc= and ProcSubset= hide from the doctor who owns the port, and it says what to do" do
    install("prod")
    install("stage", ["ProtectProc=invisible", "ProcSubset=pid"])
    start_in_turn(["prod", "stage"])
    assert doctor("stage") =~ "ss -ltnp 'sport = :4369'"
    assert inside(~w(ss -Hltnp) ++ ["sport = :4369"]) =~ "beam"
    figure("the doctor names ss, which tells it")
  end

  test "DynamicUser=: one User=, or a common Group= that both name; one stands by" do
    for name <- ["prod", "stage"] do
      install(name, ~w(DynamicUser=yes User=beam Environment=RELEASE_TMP=/tmp))
      name_users([name], ["beam"])
    end

    start_in_turn(["prod", "stage"])
    await_standbys("prod", 1)
    reset()
    inside(~w(groupadd --force --system nodes))

    for name <- ["prod", "stage"] do
      install(name, ~w(DynamicUser=yes User=dyn-#{name} Group=nodes Environment=RELEASE_TMP=/tmp))
      configure(name, ~S([{hand_over, [{groups, [<<"nodes">>]}]}]))
    end

    start_in_turn(["prod", "stage"])
    await_standbys("prod", 1)
    stock = start_stock(1)
    before = sockets(stock)
    kill("prod")
    assert_within(20, role("stage") == "serving")
    assert sockets(stock) == before
    figure("one User=beam, and a common Group=nodes")
  end

  test "PrivateNetwork=: each unit has a port 4369 of its own" do
    for name <- ["prod", "stage"] do
      install(name, "PrivateNetwork=yes")
      start(name)
    end

    assert_within(30, journal("prod") =~ "serving the port")
    assert_within(30, journal("stage") =~ "serving the port")
    assert listening() == []
    figure("both serve, and the host's port is free")
  end

  # Two releases with these lines beside the guide's unit. Most of these lines give a unit namespaces of its own, so each
  # names its own user.
  defp start_hardened(lines) do
    for name <- ["prod", "stage"] do
      install(name, ["User=prod", "Group=prod" | lines])
      name_users([name], ["prod"])
    end

    start_in_turn(["prod", "stage"])
  end
end
