defmodule EmbeddedEpmd.Systemd.StandbysTest do
  # Who stands by for whom, between users.
  use Support.ServiceCase

  test "two users, one standby: 20 changes, and no stock node registers again" do
    install(["prod", "stage"])
    name_users(["prod", "stage"])
    start_nodes(["prod", "stage"])
    watched = watch(start_stock(5))

    {_, longest} =
      Enum.reduce(1..20, {owner(), 0}, fn round, {serving, longest} ->
        await_standbys(serving, 1)
        if rem(round, 2) == 1, do: restart(serving), else: kill_all(serving)
        await_nodes(["prod", "stage"])
        looked_up = assert_undisturbed(watched, "round #{round}")
        {if(serving == "prod", do: "stage", else: "prod"), max(longest, looked_up.longest)}
      end)

    asked = stop_watching(watched)
    figure("10 restarts, 10 kills: #{asked} lookups, 0 failed, 5 sockets as before; the longest lookup #{longest} ms")
  end

  test "three releases of two users: owner and first standby are killed at once, 20 times; no stock node registers again" do
    all = ["prod", "stage", "third"]
    install(all, "Restart=always")
    setting("third", "User=stage")
    name_users(all)
    for name <- all, do: let_it_restart(name)
    start_nodes(all)
    watched = watch(start_stock(5))

    longest =
      for round <- 1..20 do
        owner = owner(all)
        await_standbys(owner, 2, 30)
        inside(~w(kill -9 #{main_pid(owner)} #{main_pid(hd(standbys(owner)))}))
        await_nodes(all)
        assert_undisturbed(watched, "round #{round}").longest
      end

    asked = stop_watching(watched)
    figure("20 times: #{asked} lookups, 0 failed, 5 sockets as before; the longest lookup #{Enum.max(longest)} ms")
  end

  test "a user who is not on the list cannot stand by" do
    install("prod")
    install("third", "User=other")
    name_users(["prod"])
    # It names all, and is named by none.
    name_users(["third"], ["prod", "other"])
    start_in_turn(["prod", "third"])
    assert_within(20, role("third") == "joined")
    Process.sleep(5_000)
    assert standbys("prod") == []
    # The list is mended, and it can.
    name_users(["prod"], ["other"])
    restart_node("prod")
    await_node("third")
    await_standbys(owner(["prod", "third"]), 1, 30)
    figure("nobody stands by until the owner names the user as well")
  end

  test "a user cannot register another's name, also while its holder restarts, at each loopback address" do
    install("prod")
    install_store("prod")
    configure("prod", ~S([{reserved_names, [{<<"prod">>, <<"prod">>}, {<<"billing_*">>, [<<"root">>]}]}]))
    start_nodes("prod")
    # A pipe of its own, whose end has it tell.
    inside(~w(mkfifo /run/intruder))
    options = ~w(--uid=other --property=StandardInput=file:/run/intruder)
    intrude = ~w(elixir /opt/made/intruder.exs prod billing_1)
    hold = ["sh", "-c", "exec 3>/run/intruder; while ! test -e /run/enough; do sleep 0.2; done"]
    intruder = Task.async(fn -> start_unit("other-intruder", options, intrude) end)
    pipe = Task.async(fn -> inside(hold) end)
    Process.sleep(3_000)

    for round <- 1..5 do
      if rem(round, 2) == 1, do: restart_node("prod"), else: kill_node("prod")
      assert_rpc("prod")
    end

    inside(~w(touch /run/enough))
    assert_within(30, journal("other-intruder") =~ "refused")
    Task.await_many([intruder, pipe], :infinity)
    said = Enum.join(logged("other-intruder", "refused"), "\n")
    inside(~w(rm -f /run/enough /run/intruder))
    refute said =~ "granted"
    # It was refused at each address.
    assert length(String.split(said, "refused, {")) == 1 + 3, said
    figure(said)
    # Its owner gets it.
    start_unit("stock-billing", ~w(erl -noinput -sname billing_1 -start_epmd false))
    await_node("billing_1")
  end
end
