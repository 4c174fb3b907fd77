defmodule EmbeddedEpmd.Systemd.LivesTest do
  # What ends a service, with the same promise each time: no lookup fails, and no stock node registers again.
  use Support.ServiceCase

  import Support.Ending

  @limited ["MemoryMax=250M", "Restart=always"]
  @all_endings [:restart, :crash, :halt, :kill, :memory, :deploy]

  test "one release with the descriptor store: restart, crash, halt, kill, out of memory, another version" do
    install("prod", @limited)
    install_store("prod")
    let_it_restart("prod")
    start_nodes("prod")
    figure(live_through(start_stock(3), 0, @all_endings))
  end

  test "restart, stop, crash, halt, kill, out of memory, another version over two releases of one user" do
    install(["prod", "stage"], @limited)
    setting("stage", "User=prod")
    start_nodes(["prod", "stage"])
    figure(live_through(start_stock(3), 1, [:stop | @all_endings]))
  end

  test "restart, stop, crash, halt, kill, out of memory, another version over two releases of users who name each other" do
    install(["prod", "stage"], @limited)
    name_users(["prod", "stage"])
    start_nodes(["prod", "stage"])
    figure(live_through(start_stock(3), 1, [:stop | @all_endings]))
  end

  test "the host reboots, with one release and with two: all are found at the first try" do
    install("prod")
    install_store("prod")
    inside(~w(systemctl enable --quiet prod))
    reboot()
    await_node("prod")
    assert_rpc("prod")
    install("stage", "User=prod")
    inside(~w(systemctl enable --quiet stage))

    for _ <- 1..3 do
      reboot()
      await_nodes(["prod", "stage"])
      assert_rpc("prod")
      assert_rpc("stage")
      await_standbys(owner(), 1)
    end

    figure("1 + 3 reboots, 7 times rpc at the first try")
  end
end
