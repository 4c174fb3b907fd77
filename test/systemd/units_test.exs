defmodule EmbeddedEpmd.Systemd.UnitsTest do
  # Units of other types, and what a user does with them.
  use Support.ServiceCase

  test "Type=exec and Type=notify: whether the service is ready is for the service to say" do
    install("prod")
    install_store("prod")
    start_nodes("prod")
    assert property("prod", "ActiveState") == "active"
    stop("prod")
    ready = "while ! test -e /run/ready; do sleep 0.1; done; exec systemd-notify --ready"
    started = "ExecStart=/bin/sh -c '(#{ready}) & exec /opt/prod/bin/prod start'"
    setting("prod", ~w(Type=notify NotifyAccess=all TimeoutStartSec=30 ExecStart=) ++ [started])
    inside(~w(systemctl start --no-block prod))
    assert_within(30, journal("prod") =~ "serving the port")
    await_node("prod")
    Process.sleep(2_000)
    assert property("prod", "ActiveState") == "activating"
    inside(~w(touch /run/ready))
    assert_within(10, property("prod", "ActiveState") == "active")
    inside(~w(rm /run/ready))
    figure("active when the service said READY=1, and not before")
  end

  test "Type=notify for a release that never says READY=1, as the guide warns: the start fails" do
    install("prod", ["Type=notify", "TimeoutStartSec=5", "Restart=no"])
    refute inside?(~w(systemctl start prod)), "it started"
    assert property("prod", "Result") == "timeout"
    setting("prod", ["Type=exec", "WatchdogSec=3"])
    start("prod")
    # The watchdog ends it.
    assert_within(30, property("prod", "Result") == "watchdog")
    figure("timeout, watchdog")
  end

  test "TERM to a VM that boots is lost, in OTP: TimeoutStopSec= of the guide ends it after 20 seconds" do
    install("prod")
    start("prod")
    Process.sleep(200)
    lost = milliseconds(fn -> stop("prod") end)
    assert lost < 25_000
    figure("#{lost} ms")
    start_nodes("prod")
    Process.sleep(1_000)
    in_order = milliseconds(fn -> stop("prod") end)
    assert property("prod", "Result") == "success"
    assert in_order < 10_000
    figure("in order #{in_order} ms, without ExecStop=")
  end

  test "init:restart of a VM with a socket unit and a store: the same process serves again, with all nodes" do
    activate_prod()
    install_store("prod")
    await_node("prod")
    stock = start_stock(3)
    before = sockets(stock)
    pid = main_pid("prod")
    rpc("prod", ":init.restart()")
    # It boots again.
    assert_within(30, length(logged("prod", "greets")) >= 2)
    await_node("prod")
    assert main_pid("prod") == pid
    await_nodes(stock)
    figure("#{Enum.count(sockets(stock), &(&1 in before))} of 3 sockets as before")
    # What comes after it finds all of them.
    assert_within(10, stored("prod") >= 3)
    before = sockets(stock)
    inside(~w(kill -9 #{pid}))
    assert_within(30, main_pid("prod") not in ["0", pid])
    await_node("prod")
    assert sockets(stock) == before
  end

  test "systemd-run: another VM joins, and stops in order" do
    install("prod")
    start_nodes("prod")
    variables = for variable <- ~w(DISTRIBUTION=sname NODE=extra TMP=/tmp), do: "--setenv=RELEASE_#{variable}"
    start_unit("other-run", ["--uid=other" | variables], ~w(/opt/made/ours/stage/bin/stage start))
    await_node("extra")
    stop("other-run")
    refute found?("extra"), "it is still known"
  end
end
