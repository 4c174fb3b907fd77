defmodule EmbeddedEpmd.DepartedTest do
  # Who came and went is told: by the table and its copies, the log and the doctor.
  use ExUnit.Case, async: true

  import Support.{Registration, Vm}

  alias EmbeddedEpmd.Doctor
  alias EmbeddedEpmd.Doctor.Connection
  alias Support.{Folder, Watch}

  setup do
    port = free_port()
    vm = start_ours(unique("owner"), port, flags: ~w(-kernel logger_level warning))
    supervise(vm)
    call(vm, Watch, :start)
    :ok = call(vm, Watch, :log)
    call(vm, :logger, :remove_handler, [Logger])
    %{port: port, vm: vm, name: unique("loop")}
  end

  test "a name that comes and goes is a warning, with how long and how often", context do
    %{vm: vm, name: name} = context
    once(context)
    assert [%{name: ^name, port: 4711, times: 1}] = departed(vm, 1)
    refute text(vm) =~ name
    assert logged(vm) == []

    once(context)
    [warning] = eventually(fn -> with([] <- logged(vm), do: nil) end)
    assert {:warning, "a node was unregistered right after it had registered, again: " <> _, fields} = warning
    assert %{name: ^name, times: "2", lasted: lasted, within: _} = fields
    assert lasted =~ ~r/^\d\.\d s$/

    once(context)
    assert [%{times: 3, registered: registered, left: left, since: since}] = departed(vm, 3)
    assert DateTime.compare(since, registered) == :lt and DateTime.compare(registered, left) != :gt
    said = ~r"#{name} was registered until \d+(\.\d)? s ago, for \d\.\d s, 3 times in \d+(\.\d)? s\."
    assert text(vm) =~ ~r"warning  #{said.source}\n +Its VM ended, .*\n +Do: Look at its log, and at its erl_crash.dump"
    assert connection(vm, name) =~ ~r"PROBLEM  Port .*: #{said.source}"
    # One that was never there.
    assert connection(vm, "nobody") =~ "the EPMD does not know nobody."
  end

  test "where the crash dump is, is told while a VM of that name lives", %{vm: vm, name: name} = context do
    folder = Folder.new("dump")
    for _ <- 1..2, do: once(context)
    departed(vm, 2)
    # It has not registered yet, as far as this EPMD knows.
    start_stock(name, start_epmd(), env: [{"ERL_CRASH_DUMP", "#{folder}/of_loop.dump"}])
    assert text(vm) =~ "Do: Look at its log, and at its crash dump: #{folder}/of_loop.dump"
  end

  test "copies know it, and one that takes over does", %{vm: vm, port: port, name: name} = context do
    once(context)
    copy = start_ours(unique("copy"), port)
    eventually(fn -> call(copy, EmbeddedEpmd, :status).stands_by end)
    assert departed(copy, 1) == departed(vm, 1)
    once(context)
    assert departed(copy, 2) == departed(vm, 2)
    kill(vm)
    eventually(fn -> call(copy, EmbeddedEpmd, :status).role == :serving end)
    once(context)
    assert [%{name: ^name, times: 3} | _] = departed(copy, 3)
  end

  defp once(%{name: name, port: port}) do
    {socket, _} = register(name, port)
    :ok = :gen_tcp.close(socket)
    eventually(fn -> name not in Enum.map(stock_names(port), & &1.name) end)
  end

  defp departed(vm, times) do
    eventually(fn ->
      {:ok, departed} = call(vm, EmbeddedEpmd, :departed)
      if Enum.any?(departed, &(&1.times == times)), do: departed
    end)
  end

  defp start_epmd do
    port = free_port()
    start_daemon(port)
    port
  end

  defp logged(vm), do: call(vm, Watch, :seen).logged
  defp text(vm), do: Doctor.format(call(vm, EmbeddedEpmd, :examine))
  defp connection(vm, name), do: Connection.format(call(vm, EmbeddedEpmd, :examine, [name <> "@127.0.0.1"]))
end
