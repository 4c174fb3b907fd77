defmodule EmbeddedEpmd.Systemd.ActivationTest do
  # Socket units: listeners that systemd opens.
  use Support.ServiceCase

  test "the guide's socket unit: its addresses, lookups that wait, and children that are told nothing" do
    activate_prod()
    # The first lookup starts the release.
    waited = milliseconds(fn -> await_node("prod") end)
    assert listening() == ["*:4369"]
    refute rpc("prod", ~S|IO.puts(:os.cmd(~c"env"))|) =~ ~r/^LISTEN_/m
    watched = watch(["prod"])
    restart_node("prod")
    # The node itself is unknown until it is back.
    refute looked_up(watched).wrong =~ ~r/econnrefused|timeout/
    asked = stop_watching(watched)
    # Stopped alone it is started again by who asks.
    stop("prod")
    await_node("prod")
    inside(~w(systemctl stop prod-epmd.socket prod))
    Process.sleep(1_000)
    refute found?("prod"), "it was started again, though its socket unit was stopped"
    figure("the first lookup started it, and was answered after #{waited} ms")
    figure("of #{asked} lookups during a restart none was refused")
  end

  test "other addresses and names of a socket unit: one for both families, one for each, loopbacks, another name" do
    units = [
      {~w(ListenStream=4369), ~w(*:4369)},
      {~w(ListenStream=0.0.0.0:4369 ListenStream=[::]:4369 BindIPv6Only=ipv6-only), ~w(0.0.0.0:4369 [::]:4369)},
      {~w(ListenStream=127.0.0.1:4369 ListenStream=127.0.1.1:4369 ListenStream=[::1]:4369),
       ~w(127.0.0.1:4369 127.0.1.1:4369 [::1]:4369)},
      {~w(ListenStream=0.0.0.0:4369 FileDescriptorName=epmd), ~w(0.0.0.0:4369)}
    ]

    for {lines, expected} <- units do
      activate_prod(Enum.join(["[Socket]"] ++ lines ++ ["Service=prod.service", ""], "\n"))

      for time <- ["at first", "after a restart"] do
        restart_node("prod")
        assert {time, lines, listening()} == {time, lines, expected}
      end

      assert {lines, logged("prod", "[error]")} == {lines, []}
      if Enum.any?(expected, &(&1 =~ "[")), do: assert(found?("prod"), "with #{Enum.join(lines, " ")} nobody answers")
      inside(~w(systemctl stop prod-epmd.socket prod))
    end

    figure("#{length(units)} units")
  end

  test "a setting that contradicts the socket unit stops the boot with a sentence" do
    activate_prod()

    for {setting, value} <- [{"ERL_EPMD_PORT", "5000"}, {"ERL_EPMD_ADDRESS", "127.0.0.2"}] do
      remove_settings("prod")
      setting("prod", ["Sockets=prod-epmd.socket", "Environment=#{setting}=#{value}", "Restart=no"])
      start("prod")
      assert_within(20, journal("prod") =~ "but the settings say #{value}")
      figure(said("prod", ~r/embedded_epmd: the socket unit listens.*say [0-9.]+/))
      stop("prod")
    end
  end

  test "two releases, one socket unit: the other joins and stands by, and both go and come 5 times each" do
    activate_prod()
    install("stage", "User=prod")
    await_node("prod")
    start_nodes("stage")
    watched = watch(start_stock(3))

    for round <- 1..5, name <- ["prod", "stage"] do
      await_standbys(owner(), 1)
      if rem(round, 2) == 1, do: restart(name), else: kill_all(name)
      await_node(name)
      assert_undisturbed(watched, "round #{round} of #{name}")
      assert {round, name, listening()} == {round, name, ["*:4369"]}
    end

    figure("10 changes: #{stop_watching(watched)} lookups, 0 failed, 3 sockets as before")
  end

  test "two socket units for one port: systemd refuses the second" do
    activate_prod()
    install_socket("stage")
    install("stage")
    refute inside?(~w(systemctl start stage-epmd.socket)), "systemd opened the port twice"
    assert [refused | _] = logged("stage-epmd.socket", "Address already in use")
    figure(refused)
  end
end
