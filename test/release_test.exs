defmodule EmbeddedEpmd.ReleaseTest.Commands do
  use Support.ReleaseCase, async: true

  import Support.Vm

  alias Support.Release

  # No interface and no addresses, but the setting.
  @closed [{"ERL_AFLAGS", "-embedded_epmd local true"}, {"ERL_EPMD_ADDRESS", nil}]

  for {mode, how, variables} <- [
        {"embedded", "in embedded mode", []},
        {"interactive", "in interactive mode", []},
        {"embedded", "where other hosts reach nothing", @closed}
      ] do
    @tag mode: mode
    @tag variables: variables
    test "every command works #{how}, and there is no epmd", %{release: release} do
      name = release.node
      pid = Release.start(release)
      assert [%{name: ^name, port: distribution}] = stock_names(release.port)
      assert listening(distribution) == ["127.0.0.1"]
      for address <- listening(release.port), do: assert(address =~ ~r/^127\.|^::1$/)

      creation = "IO.puts(:erlang.system_info(:creation))"
      {said, 0} = Release.run(release, "rpc", ["IO.puts(1 + 1); IO.puts(EmbeddedEpmd.status().role); #{creation}"])
      assert ["2", "serving", before] = String.split(said)
      assert Release.run(release, "pid") == {pid <> "\n", 0}
      assert Release.remote(release, ~S|IO.puts("this is #{node()}")|, "this is #{name}@127.0.0.1") == :ok
      assert {"3\n", 0} = Release.run(release, "eval", ["IO.puts(1 + 2)"])

      greeted = Release.greetings(Release.log(release))
      assert {_, 0} = Release.run(release, "restart")
      # The same operating system process boots again, as another incarnation of the node.
      eventually(fn -> Release.greetings(Release.log(release)) > greeted end)
      assert {now, 0} = Release.run(release, "rpc", [creation])
      assert String.trim(now) != before
      assert Release.run(release, "pid") == {pid <> "\n", 0}
      assert {_, 0} = Release.run(release, "stop")
      eventually(fn -> not Release.alive?(pid) end)
      assert stock_names(release.port) == :none

      assert {_, 0} = Release.run(release, "daemon")
      eventually(fn -> Release.greetings(Path.join(release.tmp, "log/erlang.log.1")) > 0 end)
      assert [%{name: ^name}] = stock_names(release.port)
      assert {"2\n", 0} = Release.run(release, "rpc", ["IO.puts(1 + 1)"])
      refute "epmd" in Release.programs(release)
      assert "beam.smp" in Release.programs(release)
      assert {_, 0} = Release.run(release, "stop")
      eventually(fn -> "beam.smp" not in Release.programs(release) end)
    end
  end
end

defmodule EmbeddedEpmd.ReleaseTest do
  use Support.ReleaseCase, async: true

  import Support.{Rounds, Vm}

  alias Support.Release

  test "the name is registered before the applications start", %{release: release} do
    Release.start(release)
    # The application logs the node's name when it starts, so the node was registered before.
    assert File.read!(Release.log(release)) =~ "#{release.node}@127.0.0.1 greets"
  end

  # It boots in half of the time. The commands above are run in both modes.
  @tag mode: "interactive"
  test "init:restart again and again: alive, registered, one thread, no descriptor lost", %{release: release} do
    name = release.node
    pid = Release.start(release)
    log = Release.log(release)
    descriptors = descriptors(pid)

    for boot <- 1..rounds(5, 20) do
      greeted = Release.greetings(log)
      assert {_, 0} = Release.run(release, "rpc", [":init.restart()"])
      eventually(fn -> Release.greetings(log) > greeted end)
      eventually(fn -> match?([%{name: ^name}], stock_names(release.port)) end)
      assert server_threads(pid) == 1, "after boot #{boot}"
    end

    assert Release.run(release, "pid") == {pid <> "\n", 0}
    # The connection of the last rpc may still be closing.
    eventually(fn -> descriptors(pid) <= descriptors end)
  end

  @tag mode: "interactive"
  test "a fast restart never finds its name in use", %{release: release} do
    for _ <- 1..rounds(5, 20) do
      pid = Release.start(release)
      assert {_, 0} = Release.run(release, "stop")
      eventually(fn -> not Release.alive?(pid) end)
    end
  end

  test "a killed service takes nothing with it: the other release answers rpc on the first try", %{release: release} do
    first = release
    second = %{release | node: unique("second"), tmp: release.tmp <> "_second"}
    File.mkdir_p!(second.tmp)
    on_exit(fn -> Release.clean_up(second) end)

    group = Release.start(first)
    Release.start(second)
    assert {"joined\n", 0} = Release.run(second, "rpc", ["IO.puts(EmbeddedEpmd.status().role)"])

    # systemd kills all processes of a control group at once, too.
    {_, 0} = System.cmd("kill", ["-9", "--", "-" <> group])
    assert {"serving\n", 0} = Release.run(second, "rpc", ["IO.puts(EmbeddedEpmd.status().role)"])

    Release.start(first)
    assert {"joined\n", 0} = Release.run(first, "rpc", ["IO.puts(EmbeddedEpmd.status().role)"])
  end

  test "a transport that the node has and its clients lack is named, from outside", %{release: release} do
    release = Map.put(release, :host, "::1")
    [flags] = Path.wildcard(Path.join(release.folder, "prod/releases/*/vm.args"))
    vm_args = Path.join(release.tmp, "vm.args")
    File.write!(vm_args, File.read!(flags) <> "\n-proto_dist \"inet6_tcp\"\n")
    sentence = "The node has -proto_dist inet6_tcp, and remote.vm.args has not."

    # In vm.args alone, and in the environment of the unit alone.
    for {of_unit, of_shell, mark} <- [
          {[{"RELEASE_VM_ARGS", vm_args}, {"ERL_AFLAGS", nil}], [{"RELEASE_VM_ARGS", vm_args}], "PROBLEM  "},
          {[{"ERL_AFLAGS", "-proto_dist inet6_tcp"}], [], "warning  "}
        ] do
      {_, 0} = Release.run(release, "daemon", [], of_unit)
      eventually(fn -> match?([%{name: _}], stock_names(release.port)) end)
      assert {_, 1} = Release.run(release, "rpc", ["IO.puts(1)"], of_shell)
      {text, 0} = Release.run(release, "eval", ["EmbeddedEpmd.doctor()"], [{"ERL_AFLAGS", nil} | of_shell])
      assert text =~ mark <> sentence

      # With the flag on both sides rpc works, and nothing is to be told.
      both = [{"ERL_AFLAGS", "-proto_dist inet6_tcp"}]
      assert {"1\n", 0} = Release.run(release, "rpc", ["IO.puts(1)"], both)
      {text, 0} = Release.run(release, "eval", ["EmbeddedEpmd.doctor()"], both ++ of_shell)
      refute text =~ sentence
      for pid <- Release.processes(release), do: System.cmd("kill", ["-9", pid], stderr_to_stdout: true)
      eventually(fn -> "beam.smp" not in Release.programs(release) end)
    end
  end
end
