defmodule EmbeddedEpmd.RefusedTest do
  use ExUnit.Case, async: true

  import Support.{Host, Vm}

  alias Support.Watch

  setup do
    %{port: free_port()}
  end

  test "a name that somebody else has got meanwhile is refused, and registered when it is free", %{port: port} do
    name = unique("twice")
    owner = start_ours(unique("owner"), port, alone())
    vm = start_ours(name, port, alone())
    logged = start_log(vm)
    creation = call(vm, :erlang, :system_info, [:creation])

    pid = pid(vm)
    signal(vm, pid, "STOP")
    on_exit(fn -> System.cmd("kill", ["-9", pid], stderr_to_stdout: true) end)
    kill(owner)
    eventually(fn -> stock_names(port) == :none end)
    usurper = start_ours(name, port, alone())
    signal(vm, pid, "CONT")

    eventually(fn -> Enum.any?(logged.(), &refusal?/1) end)
    assert role(vm) == :searching
    assert [%{name: ^name}] = stock_names(port)
    :peer.stop(usurper)
    eventually(fn -> role(vm) == :serving end)
    assert [%{name: ^name}] = stock_names(port)
    assert call(vm, :erlang, :system_info, [:creation]) == creation
  end

  test "a refusal is told once, however often it comes, and each refused connection is closed", %{port: port} do
    # The test itself plays the owner: it grants the name once, and refuses it from then on.
    {:ok, listener} = :gen_tcp.listen(port, [:binary, ip: {127, 0, 0, 1}, active: false, reuseaddr: true])
    booting = Task.async(fn -> grant(listener) end)
    vm = start_ours(unique("refused"), port, alone())
    link = Task.await(booting, 30_000)
    logged = start_log(vm)

    :gen_tcp.close(link)
    for _ <- 1..4, do: refuse(listener)
    eventually(fn -> Enum.any?(logged.(), &refusal?/1) end)
    assert [{:error, _, report}] = Enum.filter(logged.(), &refusal?/1)
    assert report.name == call(vm, :erlang, :node) |> to_string() |> String.split("@") |> hd()
    assert call(vm, :erlang, :system_info, [:creation]) == 77

    :gen_tcp.close(listener)
    eventually(fn -> role(vm) == :serving end)
    assert length(Enum.filter(logged.(), &refusal?/1)) == 1
  end

  # Starts the supervised process; returns a function that returns what it has logged.
  defp start_log(vm) do
    call(vm, Watch, :start)
    :ok = call(vm, Watch, :log)
    supervise(vm)
    fn -> call(vm, Watch, :seen).logged end
  end

  defp refusal?({_, text, _}), do: text =~ "this node's name is registered by another node"

  # Answers ALIVE2 requests (tag 120) with ALIVE2_X_RESP: the creation 77, then refusals. An accepted link stays open.
  defp grant(listener) do
    {:ok, socket} = :gen_tcp.accept(listener, 30_000)

    case :gen_tcp.recv(socket, 0, 5_000) do
      {:ok, <<_::16, 120, _::binary>>} ->
        :ok = :gen_tcp.send(socket, <<118, 0, 77::32>>)
        :ok = :gen_tcp.controlling_process(socket, hd(Process.get(:"$ancestors")))
        socket

      # Before it registers, the VM checks that an EPMD answers.
      {:ok, <<_::16, 122, _::binary>>} ->
        :ok = :gen_tcp.send(socket, <<119, 1>>)
        :gen_tcp.close(socket)
        grant(listener)
    end
  end

  defp refuse(listener) do
    {:ok, socket} = :gen_tcp.accept(listener, 5_000)
    {:ok, <<_::16, 120, _::binary>>} = :gen_tcp.recv(socket, 0, 5_000)
    :ok = :gen_tcp.send(socket, <<118, 1, 0::32>>)
    # Somebody has the name.
    {:ok, asking} = :gen_tcp.accept(listener, 5_000)
    {:ok, <<_::16, 122, name::binary>>} = :gen_tcp.recv(asking, 0, 5_000)
    :ok = :gen_tcp.send(asking, <<119, 0, 1::16, 77, 0, 6::16, 5::16, byte_size(name)::16, name::binary, 0::16>>)
    assert :gen_tcp.recv(socket, 0, 5_000) == {:error, :closed}
  end
end
