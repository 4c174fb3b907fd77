defmodule EmbeddedEpmd.ReservedNamesTest do
  # Names that belong to users, with real nodes. Those of a second user are tried in native/epmd_tools/tests/suites/reserved_names.rs.
  use ExUnit.Case, async: true

  import Support.Vm

  alias Support.Watch

  @other 4_711

  setup do
    {user, 0} = System.cmd("id", ["-u"])
    %{port: free_port(), name: unique("prod"), user: user |> String.trim() |> String.to_integer()}
  end

  test "a stock node gets a name of its user's, and no other, and the log says whose it is", context do
    %{port: port, name: name, user: user} = context
    vm = start_ours(unique("owner"), port)
    call(vm, Watch, :start)
    :ok = call(vm, Watch, :log)
    supervise(vm, reserved_names: [{"prod*_1", [@other, user]}, {"prod*", @other}])

    assert {text, 1} = boot(port, name)
    assert text =~ "the name #{name}@127.0.0.1 seems to be in use by another Erlang node"
    reason = "the name belongs to user #{@other}, and user #{user} asks for it"
    eventually(fn -> refusals(vm) != [] end)
    assert [%{name: ^name, reason: ^reason}] = refusals(vm)

    assert {"registered", 0} = boot(port, name <> "_1")
    assert {:ok, %{requests: %{alive2: %{granted: 1, refused: 1}}}} = call(vm, EmbeddedEpmd, :stats)

    assert Enum.any?(
             call(vm, EmbeddedEpmd.Doctor, :examine),
             &(&1.what =~ "users alone: prod*_1 (#{@other}, #{user}), prod* (#{@other})")
           )
  end

  test "a VM whose own name belongs to another user does not boot with it", %{port: port, name: name, user: user} do
    flags = ["-embedded_epmd", "reserved_names", ~s|[{"#{name}","#{@other}"}]|]
    assert {text, 1} = boot(port, name, ours() ++ flags)

    assert text ==
             ~s|embedded_epmd: the name "#{name}" of this node belongs to user #{@other}, and this VM runs as user #{user}: | <>
               "run it as whom the name belongs to, or correct the setting reserved_names\n"
  end

  test "a VM that joins is told that the owner of the port does not register it", %{port: port, name: name} do
    start_ours(unique("owner"), port, flags: ["-embedded_epmd", "reserved_names", ~s|[{"#{name}",#{@other}}]|])
    assert {text, 1} = boot(port, name, ours())

    assert text =~
             "embedded_epmd: this node cannot be registered: 127.0.0.1:#{port} refuses it, and no node has the name: "
  end

  test "a list that comes later must not take this node's own name from it", %{port: port, name: name, user: user} do
    vm = start_ours(name, port)
    hush(vm)
    supervisor = supervise(vm)
    :ok = call(vm, :supervisor, :terminate_child, [supervisor, EmbeddedEpmd])
    assert {:error, reason} = supervise_second(vm, supervisor, reserved_names: [{name, @other}])
    assert inspect(reason) =~ "the name \\\"#{name}\\\" of this node belongs to user #{@other}"
    assert {:ok, _} = supervise_second(vm, supervisor, reserved_names: [{name, user}])
  end

  test "what is no list of names and users stops the VM with one sentence", %{port: port, name: name} do
    for {names, sentence} <- [
          {~s|[{"a b","root"}]|,
           ~s|reserved_names: expected the name of a node without its host, or a pattern such as|},
          {~s|[{"a",""}]|, ~s|config :embedded_epmd, reserved_names must be a list of nodes' names|},
          {~s|\#{"a"=>"root"}|, ~s|config :embedded_epmd, reserved_names must be a list of nodes' names|}
        ] do
      assert {text, 1} = boot(port, name, ours() ++ ["-embedded_epmd", "reserved_names", names])
      assert "embedded_epmd: " <> rest = text
      assert String.starts_with?(rest, sentence) and String.ends_with?(rest, "\n"), text
    end
  end

  defp ours do
    ebins = for app <- [:embedded_epmd, :elixir, :logger], do: Path.join(:code.lib_dir(app), "ebin")
    ["-epmd_module", "Elixir.EmbeddedEpmd.Discovery", "-pa" | ebins]
  end

  # What a node says that is started, and its status: it is registered, or not, and ends.
  defp boot(port, name, flags \\ []) do
    erl = ~w(-noinput -start_epmd false -setcookie test -name #{name}@127.0.0.1 -kernel logger_level critical)
    say = ["-eval", ~s|io:format("registered"), halt().|]
    environment = [{"ERL_EPMD_PORT", "#{port}"}, {"ERL_EPMD_ADDRESS", "127.0.0.1"}, {"ERL_CRASH_DUMP", "/dev/null"}]
    System.cmd("erl", erl ++ flags ++ say, env: environment, stderr_to_stdout: true)
  end

  defp refusals(vm) do
    for {:warning, text, report} <- call(vm, Watch, :seen).logged, text =~ "registration refused", do: report
  end
end
