defmodule EmbeddedEpmd.LogLevelTest do
  # What `epmd -d -d` is used for: who asks for what, who is refused, and why, at a running system.
  use ExUnit.Case, async: true

  import Support.{Registration, Vm}

  alias EmbeddedEpmd.Boot.Client
  alias Support.Watch

  @localhost {127, 0, 0, 1}

  setup do
    port = free_port()
    name = unique("owner")
    # The level of the logger is higher than what is asked for.
    vm = start_ours(name, port, flags: ~w(-kernel logger_level warning))
    supervise(vm)
    call(vm, Watch, :start)
    :ok = call(vm, Watch, :log)
    call(vm, :logger, :remove_handler, [Logger])
    %{port: port, vm: vm, name: name}
  end

  test "lookups and their outcome are logged for a time", %{vm: vm, port: port, name: name} do
    Client.port("before", @localhost, port, 5_000)
    assert call(vm, EmbeddedEpmd, :put_log_level, [:debug, [for: 60_000]]) == :ok
    Client.port(name, @localhost, port, 5_000)
    Client.port("gone", @localhost, port, 5_000)
    {:ok, _} = Client.names(@localhost, port, 5_000)
    await(vm, {:notice, "logging from level debug on for 60.0 s"})
    assert %{name: ^name, peer: "127.0.0.1:" <> _, port: _} = await(vm, {:debug, "lookup: found"})
    assert %{name: ~s("gone")} = await(vm, {:debug, "lookup: no such name is registered"})
    assert %{request: "list the names"} = await(vm, {:debug, "request"})
    {socket, _} = register("short", port)
    :gen_tcp.close(socket)
    assert %{name: "short"} = await(vm, {:info, "registered"})
    assert %{name: "short", lasted: _} = await(vm, {:info, "unregistered"})
    System.cmd("epmd", ["-port", "#{port}", "-stop", "short"], stderr_to_stdout: true)
    assert %{request: ~s(end the registration of "short"), reason: reason} = await(vm, {:info, "not permitted"})
    assert reason =~ "only with relaxed: true"

    # Another call takes its place, and its time ends.
    assert call(vm, EmbeddedEpmd, :put_log_level, [:debug, [for: 1]]) == :ok
    eventually(fn -> call(vm, :sys, :get_state, [EmbeddedEpmd.Server]).log_level == nil end)
    Client.port("after", @localhost, port, 5_000)
    {socket, _} = register("taken", port)
    assert {_, <<_, 1, _::binary>>} = alive2("taken", port)
    :gen_tcp.close(socket)
    await(vm, {:warning, "registration refused"})
    names = for {_, _, %{name: name}} <- call(vm, Watch, :seen).logged, do: name
    refute ~s("after") in names or ~s("before") in names
    assert call(vm, :logger, :get_module_level) == []
  end

  test "a VM that has joined says where requests are logged", %{port: port} do
    joined = start_ours(unique("joined"), port)
    supervise(joined)
    call(joined, Watch, :start)
    :ok = call(joined, Watch, :log)
    call(joined, :logger, :remove_handler, [Logger])
    eventually(fn -> call(joined, EmbeddedEpmd, :status).role == :joined end)
    :ok = call(joined, EmbeddedEpmd, :put_log_level, [:info, []])
    assert %{what: what} = await(joined, {:notice, ~r/^logging from level info on for 60\.0 s; requests are answered/})
    assert what =~ "by the owner of the port at 127.0.0.1:#{port}"
  end

  test "what is no level, or no time, is a sentence", %{vm: vm} do
    assert_raise ArgumentError, ~r/the log level must be one of .*got: loud/, fn ->
      call(vm, EmbeddedEpmd, :put_log_level, [:loud, []])
    end

    for options <- [[for: 0], [for: 86_400_001], [for: "1"], [til: 1], :soon] do
      assert_raise ArgumentError, ~r/the time of a log level must be \[for: MILLISECONDS\]/, fn ->
        EmbeddedEpmd.put_log_level(:debug, options)
      end
    end

    assert EmbeddedEpmd.put_log_level(:debug) == {:error, :stopped}
  end

  defp await(vm, {level, text}) do
    eventually(fn ->
      Enum.find_value(call(vm, Watch, :seen).logged, fn {l, t, report} -> if l == level and t =~ text, do: report end)
    end)
  end
end
